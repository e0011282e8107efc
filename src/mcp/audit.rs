//! Writes the audit log: the calls of assistants, one JSON object a line.
//!
//! A call of a tool that writes has two lines: `begun`, without which it does not start, and `ended`. A server that is killed
//! leaves only `begun`. Every other call has only `ended`, even one that is refused or malformed. The file is opened for each
//! line, so that log rotation may move it, and each line is one write, so that several servers can share the file.

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use jiff::Timestamp;
use miette::Diagnostic;
use rmcp::ErrorData;
use rmcp::model::{CallToolResponse, CallToolResult};
use rustix::fs::OFlags;
use serde::Serialize;
use serde_json::Value;
use thiserror::Error;
use tokio::time::Instant;

use super::redact::Redactor;
use crate::private_dir::{self, PrivateDirError};

/// The limit of a recorded string, in bytes. A host name may have 253.
const MAX_TEXT: usize = 256;
/// The limits of members and of nesting in recorded arguments. No tool takes a nested argument.
const MAX_MEMBERS: usize = 16;
const MAX_DEPTH: usize = 3;

/// The permission bits of all users but the owner.
const OTHERS: u32 = 0o077;

#[derive(Debug)]
pub(super) struct Audit {
    /// `None` without an audit.
    file: Option<PathBuf>,
    redactor: Redactor,
    clock: fn() -> Timestamp,
    calls: AtomicU64,
}

#[derive(Debug, Error, Diagnostic)]
pub enum AuditError {
    #[error("the audit file {0} cannot be written: {1}")]
    #[diagnostic(help("what an assistant asks for has to be on record: --audit-file names another file"))]
    Unwritable(PathBuf, #[source] io::Error),
    /// Another user could put another file in its place, or write to it.
    #[error(transparent)]
    #[diagnostic(transparent)]
    Untrusted(PrivateDirError),
    #[error("other users than its owner may read or change the audit file {0}")]
    #[diagnostic(help("chmod 600 {}", .0.display()))]
    Shared(PathBuf),
}

/// A running call. Dropping it records its end: `abandoned`, unless [`AuditEntry::end_with`] was called.
#[derive(Debug)]
pub(super) struct AuditEntry<'a> {
    audit: &'a Audit,
    began: Instant,
    line: AuditLine,
    /// The facts about the call that are known so far.
    facts: Mutex<CallFacts>,
}

#[derive(Debug, Serialize)]
struct AuditLine {
    at: Timestamp,
    /// `begun` or `ended`.
    event: &'static str,
    /// The number of the call in this process.
    call: u64,
    /// The process serves one session of one client.
    pid: u32,
    tool: String,
    arguments: Value,
    /// The name that the client gives itself, which proves nothing.
    client: Option<String>,
    #[serde(flatten)]
    facts: Option<CallFacts>,
    /// The duration in milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    ms: Option<u128>,
}

#[derive(Debug, Clone, Default, Serialize)]
pub(super) struct CallFacts {
    /// `ok`, `error`, `asked` when the client has to ask a person first, or `abandoned` when the call was dropped.
    outcome: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) code: Option<String>,
    /// The highest tier of the targets.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) tier: Option<String>,
    /// The rollout that the call began or asked about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) state: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) commit: Option<String>,
    /// `given` by a person, or `waived` by the settings.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) approval: Option<&'static str>,
}

impl Audit {
    /// Checks that `file` can be written and is private. Creates it for its owner alone.
    pub(super) fn open(
        file: Option<PathBuf>,
        redactor: Redactor,
        clock: fn() -> Timestamp,
    ) -> Result<Self, AuditError> {
        if let Some(path) = &file {
            let unwritable = |error| AuditError::Unwritable(path.clone(), error);
            let permissions = append_to(path)?.metadata().map_err(unwritable)?.permissions();
            if permissions.mode() & OTHERS != 0 {
                return Err(AuditError::Shared(path.clone()));
            }
        }
        Ok(Self { file, redactor, clock, calls: AtomicU64::new(0) })
    }

    /// Starts the entry of a call. Its end is always recorded, its beginning only by [`AuditEntry::begin`].
    pub(super) fn entry(&self, tool: &str, arguments: Value, client: Option<&str>) -> AuditEntry<'_> {
        let tier = arguments.get("tier").and_then(Value::as_str).map(|tier| self.short(tier));
        let line = AuditLine {
            at: (self.clock)(),
            event: "ended",
            call: self.calls.fetch_add(1, Ordering::Relaxed) + 1,
            pid: std::process::id(),
            tool: self.short(tool),
            arguments: self.bounded(arguments, MAX_DEPTH),
            client: client.map(|name| self.short(name)),
            facts: None,
            ms: None,
        };
        let facts = Mutex::new(CallFacts { tier, ..CallFacts::default() });
        AuditEntry { audit: self, began: Instant::now(), line, facts }
    }

    fn write(&self, line: &AuditLine) -> Result<(), AuditError> {
        let Some(path) = &self.file else { return Ok(()) };
        let mut text = serde_json::to_string(line).expect("a line has string keys only, so this cannot fail");
        text.push('\n');
        append_to(path)?.write_all(text.as_bytes()).map_err(|error| AuditError::Unwritable(path.clone(), error))
    }

    fn short(&self, text: &str) -> String {
        self.redactor.first(text, MAX_TEXT)
    }

    /// Cuts arguments to the limits.
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

impl AuditEntry<'_> {
    /// Records the beginning of the call. When that fails, the call must not start.
    pub(super) fn begin(&mut self) -> Result<(), AuditError> {
        self.line.event = "begun";
        let written = self.audit.write(&self.line);
        self.line.event = "ended";
        written
    }

    pub(super) fn facts(&self) -> MutexGuard<'_, CallFacts> {
        self.facts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn end_with(mut self, answer: &Result<CallToolResponse, ErrorData>) {
        let mut end = CallFacts { outcome: "ok", ..self.facts().clone() };
        match answer {
            Ok(CallToolResponse::Complete(result)) if result.is_error == Some(true) => {
                (end.outcome, end.code) = ("error", code(result));
            }
            Ok(CallToolResponse::Complete(result)) => {
                let member = |name| result.structured_content.as_ref()?.get(name)?.as_str().map(str::to_owned);
                end.id = member("rollout_id").or(end.id);
                end.state = member("state");
                end.commit = member("commit").or(end.commit);
            }
            Ok(CallToolResponse::InputRequired(_)) => end.outcome = "asked",
            Ok(_) => {}
            Err(error) => (end.outcome, end.code) = ("error", Some(format!("protocol {}", error.code.0))),
        }
        self.line.facts = Some(end);
    }
}

impl Drop for AuditEntry<'_> {
    fn drop(&mut self) {
        self.line.at = (self.audit.clock)();
        self.line.facts.get_or_insert_with(|| CallFacts { outcome: "abandoned", ..CallFacts::default() });
        self.line.ms = Some(self.began.elapsed().as_millis());
        if let Err(error) = self.audit.write(&self.line) {
            tracing::error!("the end of a call is not on record: {error}");
        }
    }
}

/// Reads the code from the text of an error.
fn code(result: &CallToolResult) -> Option<String> {
    let text = &result.content.first()?.as_text()?.text;
    text.split_once(": ").map(|(code, _)| code.to_owned())
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

    use serde_json::{Map, json};

    use super::*;

    fn noon() -> Timestamp {
        "2026-11-23T12:00:00Z".parse().unwrap()
    }

    fn audit(file: &Path) -> Audit {
        Audit::open(Some(file.to_owned()), Redactor::new(["/secret/key".to_owned()]), noon).unwrap()
    }

    fn call<'a>(audit: &'a Audit, arguments: &Value) -> AuditEntry<'a> {
        audit.entry("deploy", arguments.clone(), Some("test 1.0"))
    }

    /// Reads the lines, with 1 in place of the id of this process.
    fn lines(file: &Path) -> String {
        fs::read_to_string(file).unwrap().replace(&format!(r#""pid":{}"#, std::process::id()), r#""pid":1"#)
    }

    #[tokio::test(start_paused = true)]
    async fn a_line_says_what_was_asked_for_and_what_came_of_it() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("audit.jsonl");
        let audit = audit(&file);
        let mut entry = call(&audit, &json!({"hostname": "ns1", "branch": "main"}));
        entry.begin().unwrap();
        tokio::time::advance(std::time::Duration::from_millis(1500)).await;
        entry.line.facts = Some(CallFacts {
            outcome: "ok",
            tier: Some("prod".to_owned()),
            id: Some("4f".to_owned()),
            state: Some("failed".to_owned()),
            commit: Some("8c1f0e2".to_owned()),
            approval: Some("given"),
            code: None,
        });
        drop(entry);
        let refused = CallFacts { outcome: "error", code: Some("wrong_tier".to_owned()), ..CallFacts::default() };
        call(&audit, &json!({})).line.facts = Some(refused);
        drop(audit.entry("no_such_tool", Value::Null, None));
        insta::assert_snapshot!(lines(&file), @r#"
        {"at":"2026-11-23T12:00:00Z","event":"begun","call":1,"pid":1,"tool":"deploy","arguments":{"branch":"main","hostname":"ns1"},"client":"test 1.0"}
        {"at":"2026-11-23T12:00:00Z","event":"ended","call":1,"pid":1,"tool":"deploy","arguments":{"branch":"main","hostname":"ns1"},"client":"test 1.0","outcome":"ok","tier":"prod","id":"4f","state":"failed","commit":"8c1f0e2","approval":"given","ms":1500}
        {"at":"2026-11-23T12:00:00Z","event":"ended","call":2,"pid":1,"tool":"deploy","arguments":{},"client":"test 1.0","outcome":"error","code":"wrong_tier","ms":0}
        {"at":"2026-11-23T12:00:00Z","event":"ended","call":3,"pid":1,"tool":"no_such_tool","arguments":null,"client":null,"outcome":"abandoned","ms":0}
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
        let mut entry = call(
            &audit,
            &json!({
                "branch": "x\u{1b}[2J\u{202e}\n{\"tool\":\"forged\"}", "seed": seed, "url": "https://u:p@h", "path": "/secret/key",
                "long": "é".repeat(10_000), "deep": [[[[["x"]]]]], "many": members,
            }),
        );
        entry.line.facts = Some(CallFacts { code: Some("a".repeat(300)), ..CallFacts::default() });
        drop(entry);
        let text = fs::read_to_string(&file).unwrap();
        assert_eq!(text.lines().count(), 1);
        assert!(text.len() < 4096, "{}", text.len());
        let line: Value = serde_json::from_str(&text).unwrap();
        let of = |name: &str| line["arguments"][name].clone();
        assert_eq!(of("branch"), "x\n{\"tool\":\"forged\"}");
        assert_eq!((of("seed"), of("url"), of("path")), (json!("<seed>"), json!("https://h"), json!("<key file>")));
        assert_eq!(of("long").as_str().unwrap().len(), MAX_TEXT + "…".len());
        assert_eq!(of("deep"), json!([["…"]]));
        assert_eq!(of("many").as_object().unwrap().len(), MAX_MEMBERS);
    }

    #[test]
    fn a_file_that_cannot_be_kept_is_refused_at_the_start() {
        let folder = tempfile::tempdir().unwrap();
        let open = |file: PathBuf| Audit::open(Some(file), Redactor::default(), noon).unwrap_err().to_string();
        let shared = folder.path().join("shared");
        fs::write(&shared, "").unwrap();
        fs::set_permissions(&shared, fs::Permissions::from_mode(0o640)).unwrap();
        let shown = |error: String| error.replace(folder.path().to_str().unwrap(), "FOLDER");
        insta::assert_snapshot!(shown(open(shared)), @"other users than its owner may read or change the audit file FOLDER/shared");
        insta::assert_snapshot!(shown(open(folder.path().join("missing/audit"))), @"the audit file FOLDER/missing cannot be written: No such file or directory (os error 2)");
        insta::assert_snapshot!(shown(open(folder.path().to_owned())), @"FOLDER is a folder, and not a file");
        let open_to_all = folder.path().join("open");
        fs::create_dir(&open_to_all).unwrap();
        fs::set_permissions(&open_to_all, fs::Permissions::from_mode(0o777)).unwrap();
        insta::assert_snapshot!(shown(open(open_to_all.join("audit"))), @"FOLDER/open can be written to by other users");
        fs::set_permissions(&open_to_all, fs::Permissions::from_mode(0o1777)).unwrap();
        Audit::open(Some(open_to_all.join("audit")), Redactor::default(), noon).unwrap();
        std::os::unix::fs::symlink(open_to_all.join("audit"), folder.path().join("link")).unwrap();
        insta::assert_snapshot!(shown(open(folder.path().join("link"))), @"FOLDER/link is a link, and not a file");
    }

    #[test]
    fn a_call_does_not_begin_that_cannot_be_recorded_and_a_file_may_be_moved_away() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("logs/audit.jsonl");
        fs::create_dir(folder.path().join("logs")).unwrap();
        let audit = audit(&file);
        fs::rename(folder.path().join("logs"), folder.path().join("old")).unwrap();
        call(&audit, &json!({})).begin().unwrap_err();
        fs::create_dir(folder.path().join("logs")).unwrap();
        call(&audit, &json!({})).begin().unwrap();
        assert_eq!(lines(&file).lines().count(), 2, "begun and ended");
    }

    #[test]
    fn without_a_file_nothing_is_recorded() {
        let audit = Audit::open(None, Redactor::default(), noon).unwrap();
        call(&audit, &json!({})).begin().unwrap();
    }
}
