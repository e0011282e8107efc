//! The audit: one JSON line for each call of a tool, refused ones too.
//!
//! The file is opened anew for each line, so that it may be moved away while the server runs, and each line is one write,
//! so that several servers can share it. A line tells of a call that is over: its outcome is part of it.

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use jiff::Timestamp;
use miette::Diagnostic;
use rustix::fs::OFlags;
use serde::Serialize;
use serde_json::{Map, Value};
use thiserror::Error;
use tokio::time::Instant;

use super::scrub::Scrubber;
use crate::private_dir::{self, PrivateDirError};

/// The longest string that is recorded of an argument, in characters; a host name may have 253.
const MAX_TEXT: usize = 256;
/// The most members of an argument that are recorded, and how deep it is followed. No tool takes a nested one.
const MAX_MEMBERS: usize = 16;
const MAX_DEPTH: usize = 3;

/// The permission bits of anybody but the owner.
const OTHERS: u32 = 0o077;

/// Where calls are recorded.
#[derive(Debug)]
pub struct Audit {
    /// None where nobody asked for a record.
    file: Option<PathBuf>,
    scrubber: Scrubber,
    clock: fn() -> Timestamp,
    /// Whether the last line is not on record.
    is_failing: AtomicBool,
}

/// Why calls cannot be recorded.
#[derive(Debug, Error, Diagnostic)]
pub enum AuditError {
    /// The file cannot be written.
    #[error("the audit file {0} cannot be written: {1}")]
    #[diagnostic(help("no call is answered that could not be recorded: --audit-file names another file"))]
    Unwritable(PathBuf, #[source] io::Error),
    /// Somebody else could put another file in its place, or write to it.
    #[error(transparent)]
    #[diagnostic(transparent)]
    Untrusted(PrivateDirError),
    /// Others than its owner may read or change the file.
    #[error("others than its owner may read or change the audit file {0}")]
    #[diagnostic(help("chmod 600 {}", .0.display()))]
    Shared(PathBuf),
}

/// A call that is under way. It is recorded when it ends, and as `abandoned` when nobody says how.
#[derive(Debug)]
pub struct Entry {
    audit: Arc<Audit>,
    begun: Instant,
    line: Line,
}

/// What is told of a call.
#[derive(Debug, Serialize)]
struct Line {
    /// When the call came.
    at: Timestamp,
    tool: String,
    arguments: Value,
    /// What the client calls itself. Anybody can call himself anything.
    client: Option<String>,
    /// The process, which is one session of one client.
    pid: u32,
    #[serde(flatten)]
    ending: Ending,
    /// How long the call took, in milliseconds.
    ms: u128,
}

/// How a call ended, and what it was about as far as it came.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Ending {
    /// What came of it.
    pub outcome: Outcome,
    /// The code that its error begins with.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub code: Option<String>,
    /// The most powerful tier that it was for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tier: Option<String>,
    /// The deployment or rollout that it began or asked about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// The commit that it was for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub commit: Option<String>,
    /// How a person agreed to it: `given`, or `waived` where none is asked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub approval: Option<&'static str>,
}

/// What came of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// It did what it was for.
    Ok,
    /// It was refused or failed: `isError`, or an error of the protocol.
    Error,
    /// A person is asked first.
    Asked,
    /// It was not waited for to its end.
    Abandoned,
}

impl Ending {
    /// An ending of which no more is known.
    pub const fn of(outcome: Outcome) -> Self {
        Self { outcome, code: None, tier: None, id: None, commit: None, approval: None }
    }
}

impl Audit {
    /// Makes sure that calls can be recorded, in `file` if there is to be a record. The file is created for its owner alone.
    pub fn open(file: Option<PathBuf>, scrubber: Scrubber, clock: fn() -> Timestamp) -> Result<Arc<Self>, AuditError> {
        if let Some(path) = &file {
            let unwritable = |error| AuditError::Unwritable(path.clone(), error);
            let permissions = append_to(path)?.metadata().map_err(unwritable)?.permissions();
            if permissions.mode() & OTHERS != 0 {
                return Err(AuditError::Shared(path.clone()));
            }
        }
        Ok(Arc::new(Self { file, scrubber, clock, is_failing: AtomicBool::new(false) }))
    }

    /// Begins to record a call.
    pub(super) fn begin(
        self: &Arc<Self>,
        tool: &str,
        arguments: Option<&Map<String, Value>>,
        client: Option<&str>,
    ) -> Entry {
        let arguments = arguments.cloned().map_or(Value::Null, Value::Object);
        let line = Line {
            at: (self.clock)(),
            tool: self.short(tool),
            arguments: self.bounded(arguments, MAX_DEPTH),
            client: client.map(|name| self.short(name)),
            pid: std::process::id(),
            ending: Ending::of(Outcome::Abandoned),
            ms: 0,
        };
        Entry { audit: Arc::clone(self), begun: Instant::now(), line }
    }

    /// Whether the last call could not be recorded. Until one can be again, nothing may be done that should be on record.
    pub fn is_failing(&self) -> bool {
        self.is_failing.load(Ordering::Relaxed)
    }

    fn write(&self, line: &Line) {
        let Some(path) = &self.file else { return };
        // Not a map with keys that are no strings, and so it cannot fail; an empty line would say that it did.
        let mut text = serde_json::to_string(line).unwrap_or_default();
        text.push('\n');
        let unwritable = |error| AuditError::Unwritable(path.clone(), error);
        let written = append_to(path).and_then(|mut file| file.write_all(text.as_bytes()).map_err(unwritable));
        self.is_failing.store(written.is_err(), Ordering::Relaxed);
        if let Err(error) = written {
            tracing::error!(
                "the audit file cannot be written, and no tool that changes anything runs until it can: {error}"
            );
        }
    }

    fn short(&self, text: &str) -> String {
        let clean = self.scrubber.clean(text);
        match clean.char_indices().nth(MAX_TEXT) {
            Some((end, _)) => format!("{}…", clean.get(..end).unwrap_or_default()),
            None => clean,
        }
    }

    /// What an assistant wrote, as far as it is recorded.
    fn bounded(&self, value: Value, depth: usize) -> Value {
        match value {
            Value::String(text) => Value::String(self.short(&text)),
            Value::Array(_) | Value::Object(_) if depth == 0 => Value::String("…".to_owned()),
            Value::Array(values) => {
                values.into_iter().take(MAX_MEMBERS).map(|value| self.bounded(value, depth - 1)).collect()
            }
            Value::Object(members) => {
                let members = members.into_iter().take(MAX_MEMBERS);
                members.map(|(name, value)| (self.short(&name), self.bounded(value, depth - 1))).collect()
            }
            Value::Null | Value::Bool(_) | Value::Number(_) => value,
        }
    }
}

impl Entry {
    /// Records how the call ended.
    pub fn end(mut self, ending: Ending) {
        self.line.ending = Ending {
            code: ending.code.map(|text| self.audit.short(&text)),
            tier: ending.tier.map(|text| self.audit.short(&text)),
            id: ending.id.map(|text| self.audit.short(&text)),
            commit: ending.commit.map(|text| self.audit.short(&text)),
            ..ending
        };
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.line.ms = self.begun.elapsed().as_millis();
        self.audit.write(&self.line);
    }
}

fn append_to(path: &Path) -> Result<File, AuditError> {
    let opened = private_dir::file(path, OFlags::WRONLY | OFlags::APPEND | OFlags::CREATE);
    opened.map_err(|error| match error {
        PrivateDirError::Io(path, error) => AuditError::Unwritable(path, error),
        error => AuditError::Untrusted(error),
    })
}

#[cfg(test)]
mod tests {
    use std::fs;

    use serde_json::json;

    use super::*;

    fn noon() -> Timestamp {
        "2026-11-23T12:00:00Z".parse().unwrap()
    }

    fn audit(file: &Path) -> Arc<Audit> {
        Audit::open(Some(file.to_owned()), Scrubber::new(["/secret/key".to_owned()]), noon).unwrap()
    }

    fn call(audit: &Arc<Audit>, arguments: &Value) -> Entry {
        audit.begin("deploy", arguments.as_object(), Some("test 1.0"))
    }

    /// The recorded lines without the number of this process.
    fn lines(file: &Path) -> String {
        fs::read_to_string(file).unwrap().replace(&format!(r#""pid":{}"#, std::process::id()), r#""pid":1"#)
    }

    #[tokio::test(start_paused = true)]
    async fn a_line_tells_who_asked_for_what_and_what_came_of_it() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("audit.jsonl");
        let audit = audit(&file);
        let entry = call(&audit, &json!({"hostname": "ns1", "branch": "main"}));
        tokio::time::advance(std::time::Duration::from_millis(1500)).await;
        entry.end(Ending {
            tier: Some("prod".to_owned()),
            id: Some("4f".to_owned()),
            commit: Some("8c1f0e2".to_owned()),
            approval: Some("given"),
            ..Ending::of(Outcome::Ok)
        });
        call(&audit, &json!({})).end(Ending { code: Some("wrong_tier".to_owned()), ..Ending::of(Outcome::Error) });
        drop(audit.begin("no_such_tool", None, None));
        insta::assert_snapshot!(lines(&file), @r#"
        {"at":"2026-11-23T12:00:00Z","tool":"deploy","arguments":{"branch":"main","hostname":"ns1"},"client":"test 1.0","pid":1,"outcome":"ok","tier":"prod","id":"4f","commit":"8c1f0e2","approval":"given","ms":1500}
        {"at":"2026-11-23T12:00:00Z","tool":"deploy","arguments":{},"client":"test 1.0","pid":1,"outcome":"error","code":"wrong_tier","ms":0}
        {"at":"2026-11-23T12:00:00Z","tool":"no_such_tool","arguments":null,"client":null,"pid":1,"outcome":"abandoned","ms":0}
        "#);
        assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn what_an_assistant_writes_is_cleaned_and_cut() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("audit.jsonl");
        let audit = audit(&file);
        let seed = nkeys::KeyPair::new_user().seed().unwrap();
        let members: Map<String, Value> = (0..100).map(|n| (format!("{n:03}\x1b[0m"), json!(n))).collect();
        call(&audit, &json!({
            "branch": "x\u{1b}[2J\u{202e}\n{\"tool\":\"forged\"}", "seed": seed, "url": "https://u:p@h", "path": "/secret/key",
            "long": "é".repeat(10_000), "deep": [[[[["x"]]]]], "many": members,
        }))
        .end(Ending { code: Some("a".repeat(300)), ..Ending::of(Outcome::Error) });
        let text = fs::read_to_string(&file).unwrap();
        assert_eq!(text.lines().count(), 1);
        assert!(text.len() < 4096, "{}", text.len());
        let line: Value = serde_json::from_str(&text).unwrap();
        let of = |name: &str| line["arguments"][name].clone();
        assert_eq!(of("branch"), "x\n{\"tool\":\"forged\"}");
        assert_eq!((of("seed"), of("url"), of("path")), (json!("<seed>"), json!("https://h"), json!("<key file>")));
        assert_eq!(of("long").as_str().unwrap().chars().count(), MAX_TEXT + 1);
        assert_eq!(of("deep"), json!([["…"]]));
        assert_eq!(of("many").as_object().unwrap().len(), MAX_MEMBERS);
    }

    #[test]
    fn a_file_that_cannot_be_kept_is_refused_at_the_start() {
        let folder = tempfile::tempdir().unwrap();
        let open = |file: PathBuf| Audit::open(Some(file), Scrubber::default(), noon).unwrap_err().to_string();
        let shared = folder.path().join("shared");
        fs::write(&shared, "").unwrap();
        fs::set_permissions(&shared, fs::Permissions::from_mode(0o640)).unwrap();
        let shown = |error: String| error.replace(folder.path().to_str().unwrap(), "FOLDER");
        insta::assert_snapshot!(shown(open(shared)), @"others than its owner may read or change the audit file FOLDER/shared");
        insta::assert_snapshot!(shown(open(folder.path().join("missing/audit"))), @"the audit file FOLDER/missing cannot be written: No such file or directory (os error 2)");
        insta::assert_snapshot!(shown(open(folder.path().to_owned())), @"FOLDER is a folder where a file has to be");
        let open_to_all = folder.path().join("open");
        fs::create_dir(&open_to_all).unwrap();
        fs::set_permissions(&open_to_all, fs::Permissions::from_mode(0o777)).unwrap();
        insta::assert_snapshot!(shown(open(open_to_all.join("audit"))), @"FOLDER/open can be written to by other users");
        fs::set_permissions(&open_to_all, fs::Permissions::from_mode(0o1777)).unwrap();
        Audit::open(Some(open_to_all.join("audit")), Scrubber::default(), noon).unwrap();
        std::os::unix::fs::symlink(open_to_all.join("audit"), folder.path().join("link")).unwrap();
        insta::assert_snapshot!(shown(open(folder.path().join("link"))), @"FOLDER/link is a link where a file has to be");
    }

    #[test]
    fn it_is_known_whether_the_last_line_is_on_record_and_a_file_may_be_moved_away() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("logs/audit.jsonl");
        fs::create_dir(folder.path().join("logs")).unwrap();
        let audit = audit(&file);
        fs::rename(folder.path().join("logs"), folder.path().join("old")).unwrap();
        assert!(!audit.is_failing());
        call(&audit, &json!({})).end(Ending::of(Outcome::Ok));
        assert!(audit.is_failing());
        fs::create_dir(folder.path().join("logs")).unwrap();
        call(&audit, &json!({})).end(Ending::of(Outcome::Ok));
        assert!(!audit.is_failing());
        assert_eq!(lines(&file).lines().count(), 1);
    }

    #[test]
    fn without_a_file_nothing_is_recorded() {
        let audit = Audit::open(None, Scrubber::default(), noon).unwrap();
        call(&audit, &json!({})).end(Ending::of(Outcome::Ok));
        assert!(!audit.is_failing());
    }
}
