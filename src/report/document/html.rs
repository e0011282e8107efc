//! Renders a rollout as a self-contained HTML page: no script, no network, no font.

use jiff::tz::TimeZone;

use super::{DisplayDuration, Document};
use crate::rollout::summary::HostState;

const STYLE: &str = "
:root{color-scheme:light dark;--ink:#1c2024;--dim:#60646c;--page:#fff;--line:#d9d9e0;--good:#1f7a43;--bad:#c62a2f;--wait:#9a5b00;--band:#eef0f3}
@media(prefers-color-scheme:dark){:root{--ink:#edeef0;--dim:#a3a7b0;--page:#111113;--line:#363a3f;--good:#4cc38a;--bad:#ff6369;--wait:#ffb224;--band:#202225}}
*{box-sizing:border-box}
body{margin:0;background:var(--page);color:var(--ink);font:16px/1.5 system-ui,sans-serif}
main{max-width:1100px;margin:0 auto;padding:1rem}
h1{font-size:1.5rem;margin:.5rem 0}h2{font-size:1.1rem;margin:2rem 0 .5rem}
h1,h2,dd,p,td:last-child{overflow-wrap:anywhere}
dl{display:grid;grid-template-columns:max-content 1fr;gap:.1rem 1rem;margin:0}
dt,th,.dim{color:var(--dim);font-weight:400}dd{margin:0}
svg{display:block;width:100%;margin-top:.5rem}svg text{fill:var(--ink);font-size:13px}svg .dim{fill:var(--dim)}
.band{fill:var(--band)}.good{color:var(--good);fill:var(--good)}.bad{color:var(--bad);fill:var(--bad)}.wait{color:var(--wait);fill:var(--wait)}
table{border-collapse:collapse;width:100%}th{text-align:left}
th,td{padding:.3rem .8rem .3rem 0;border-bottom:1px solid var(--line);vertical-align:top}
pre{overflow-x:auto;background:var(--band);padding:.6rem;margin:.3rem 0;font-size:.85rem}
summary{cursor:pointer;margin-top:.5rem}
@media(max-width:600px){thead{display:none}tr{display:block;padding:.4rem 0;border-bottom:1px solid var(--line)}td{display:block;border:0;padding:0;overflow-wrap:anywhere}td:empty{display:none}td:first-child{font-weight:600}}
";

/// The height of a row on the time line, in pixels.
const ROW: usize = 32;

pub fn html(document: &Document<'_>, zone: &TimeZone) -> String {
    let (title, outcome) = (escape(&format!("Rollout {}", document.name())), document.outcome());
    let mut page = vec![format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width,initial-scale=1\">\n\
         <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none';style-src 'unsafe-inline'\">\n\
         <title>{title} {outcome}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<main>\n<h1>{title} {}</h1>\n<dl>",
        marked(&outcome)
    )];
    page.extend(document.header(zone).iter().map(|(title, fact)| format!("<dt>{title}</dt><dd>{}</dd>", escape(fact))));
    page.push(format!("</dl>\n<h2>Time line</h2>\n{}", time_line(document)));
    for wave in document.waves() {
        let (waves, name, verdict) = (document.summary.waves.len(), escape(&wave.name), marked(&wave.verdict()));
        page.push(format!("<section>\n<h2>{}/{waves} {name} {verdict}</h2>\n<table>", wave.index));
        page.push("<thead><tr><th>host<th>state<th>took<th>commit<th>says</tr></thead>\n<tbody>".to_owned());
        let mut logs = Vec::new();
        for host in document.hosts(wave.index) {
            let [name, status, took, commits, says] = host.cells(zone);
            let cells = [escape(&name), marked(&status), took, escape(&commits), escape(&says)];
            page.push(format!("<tr><td>{}</td></tr>", cells.join("</td><td>")));
            let log = escape(&host.log());
            if !log.is_empty() {
                let name = escape(&name);
                logs.push(format!("<details open><summary>log of {name}</summary><pre>{log}</pre></details>"));
            }
        }
        page.push("</tbody>\n</table>".to_owned());
        page.append(&mut logs);
        page.push("</section>".to_owned());
    }
    page.join("\n") + "\n</main>\n</body>\n</html>\n"
}

/// Draws the waves that began and the hosts that were asked, each as a bar from its start to its end.
fn time_line(document: &Document<'_>) -> String {
    let mut bars = Vec::new();
    for wave in document.waves().filter(|wave| wave.view.began_at.is_some()) {
        let label = format!("{} {}: {}", wave.index, wave.name, wave.verdict());
        bars.push((label, "band", wave.view.began_at, wave.view.ended_at));
        for host in document.hosts(wave.index) {
            if host.view.sent_at.is_some() && host.view.state != HostState::Pending {
                let label = format!("{} {}, {}", host.view.name, host.status(), host.took.unwrap_or_default());
                bars.push((label, class(host.facts.status), host.view.sent_at, host.view.ended_at));
            }
        }
    }
    let took = document.took(document.summary.began_at, None);
    let seconds = |took: Option<DisplayDuration>| took.map_or(0.0, |took| took.0.as_secs_f64());
    let whole = seconds(took).max(0.001);
    let percent = |took| (seconds(took) / whole * 100.0).clamp(0.0, 100.0);
    let mut svg = vec![format!(
        "<svg role=\"img\" aria-label=\"Time line of waves and hosts\" height=\"{}\">\n\
         <text class=\"dim\" x=\"0\" y=\"12\">0s</text><text class=\"dim\" x=\"100%\" y=\"12\" text-anchor=\"end\">{}</text>",
        (bars.len() + 1) * ROW,
        took.map(|took| took.to_string()).unwrap_or_default()
    )];
    for (index, (label, class, from, to)) in bars.into_iter().enumerate() {
        let x = percent(document.took(document.summary.began_at, from));
        let width = percent(document.took(from, to)).max(0.3);
        let y = (index + 1) * ROW + 8;
        svg.push(format!(
            "<text x=\"0\" y=\"{}\">{}</text><rect class=\"{class}\" x=\"{x:.2}%\" y=\"{y}\" width=\"{width:.2}%\" height=\"8\" rx=\"2\"/>",
            y - 6,
            escape(&label)
        ));
    }
    svg.join("\n") + "\n</svg>"
}

fn marked(state: &str) -> String {
    format!("<span class=\"{}\">{}</span>", class(state), escape(state))
}

/// Returns the CSS class of a state, by the state's first word.
fn class(state: &str) -> &'static str {
    match state.split([':', ' ', '_']).next().unwrap_or_default() {
        "completed" | "current" | "succeeded" => "good",
        "failed" | "rejected" | "unreachable" | "timed" | "could" | "interrupted" | "cut" => "bad",
        "skipped" | "pending" | "not" => "dim",
        _ => "wait",
    }
}

/// Escapes foreign text for HTML, both between tags and in attributes.
pub(super) fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            _ => escaped.push(character),
        }
    }
    escaped
}
