//! Tests the HTML report in a browser, light and dark, on a phone and on a desktop.

use std::fs;
use std::io;
use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;

use crate::apply::stage::{self, order};
use crate::operator;
use crate::support::skip::skip;

const WIDTHS: [u64; 2] = [400, 1400];

/// A script that opens the page in a frame of each width, and records what can be seen: the text, its width, the
/// background, and which short words are broken.
const LOOK: &str = "
<script>onload = () => {
  const seen = [...document.querySelectorAll('iframe')].map(frame => {
    const page = frame.contentDocument, broken = [];
    const walker = page.createTreeWalker(page.querySelector('main'), NodeFilter.SHOW_TEXT);
    while (walker.nextNode()) {
      for (const word of walker.currentNode.data.matchAll(/\\S+/g)) {
        const range = page.createRange();
        range.setStart(walker.currentNode, word.index);
        range.setEnd(walker.currentNode, word.index + word[0].length);
        const lines = new Set([...range.getClientRects()].map(rectangle => rectangle.top));
        if (lines.size > 1 && word[0].length <= 24 && !/[-\\/]/.test(word[0])) broken.push(word[0]);
      }
    }
    const style = getComputedStyle(page.body);
    return { text: page.body.innerText, width: page.documentElement.scrollWidth, background: style.backgroundColor, broken };
  });
  document.querySelector('pre').textContent = JSON.stringify(seen);
}</script>";

#[tokio::test]
async fn the_page_can_be_read_on_a_phone_and_on_a_desk_by_day_and_by_night() {
    let lab = stage::lab(&["test.test1", "prod.ns1.dns"]).await;
    let store_path = format!("/nix/store/1a2b3c4d5e6f-nginx-{}.drv", "x".repeat(150));
    order(
        &lab,
        &["ns1"],
        &format!("echo building {store_path}; echo 'error: builder for {store_path} failed' >&2; exit 1"),
    );
    let plan = "revision = 'main'\n[[wave]]\ntargets = 'test.all'\n[[wave]]\ntargets = 'prod.role.dns'\n";
    stage::apply(&lab, plan).ended().await.unwrap().expect(1);
    let page = operator::run(&lab, &["report"]).await.unwrap().expect(0).stdout;
    let folder = tempfile::tempdir().unwrap();
    let escaped = page.replace('&', "&amp;").replace('"', "&quot;");
    let frame = |width| format!("<iframe width={width} height=1000 style='border:0' srcdoc=\"{escaped}\"></iframe>");
    let file = folder.path().join("look.html");
    fs::write(&file, format!("<!doctype html>{}<pre></pre>{LOOK}", WIDTHS.map(frame).concat())).unwrap();
    for (scheme, background) in [(1, "rgb(255, 255, 255)"), (0, "rgb(17, 17, 19)")] {
        let Some(seen) = look(folder.path(), &file, scheme) else { return };
        for (page, width) in seen.as_array().unwrap().iter().zip(WIDTHS) {
            assert_eq!(page["width"], width, "it is wider than its window: {page}");
            assert_eq!(page["background"], background);
            assert_eq!(page["broken"].as_array().unwrap(), &[] as &[Value], "words are broken at {width}");
            let text = page["text"].as_str().unwrap();
            for told in [
                "failed",
                "1/2 test-all succeeded",
                "2/2 prod-role-dns failed",
                "test1",
                "completed",
                "ns1",
                "Time line",
            ] {
                assert!(text.contains(told), "{told:?} cannot be seen at {width}: {text}");
            }
        }
    }
}

/// Returns what a browser shows that prefers dark (0) or light (1), or `None` if there is no browser.
fn look(folder: &Path, file: &Path, scheme: u8) -> Option<Value> {
    let mut browser = Command::new("chromium");
    browser
        .args(["--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--dump-dom"])
        .env("HOME", folder);
    browser.arg(format!("--user-data-dir={}", folder.join("profile").display()));
    browser.arg(format!("--blink-settings=preferredColorScheme={scheme}"));
    let output: Output = match browser.arg(format!("file://{}", file.display())).output() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            skip("there is no chromium here");
            return None;
        }
        output => output.unwrap(),
    };
    let document = String::from_utf8_lossy(&output.stdout);
    let seen = document.split_once("<pre>").and_then(|(_, rest)| rest.split_once("</pre>")).unwrap_or_default().0;
    let seen = seen.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&");
    Some(serde_json::from_str(&seen).unwrap_or_else(|error| panic!("{error}: {document}")))
}
