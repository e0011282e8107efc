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

/// The limit of a recorded name, in bytes.
const MAX_NAME: usize = 256;
/// The limit of recorded arguments, in bytes of JSON. Longer ones become a text that is cut.
const MAX_ARGUMENTS: usize = 2048;

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
    line: Mutex<AuditLine>,
}

#[derive(Debug, Serialize)]
pub(super) struct AuditLine {
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
    /// `ok`, `error`, `asked` when the client has to ask a person first, or `abandoned` when the call was dropped.
    #[serde(skip_serializing_if = "Option::is_none")]
    outcome: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    code: Option<String>,
    /// The highest tier of the targets.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) tier: Option<String>,
    /// The rollout that the call began or asked about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    state: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) commit: Option<String>,
    /// `given` by a person, or `waived` by the settings.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) approval: Option<&'static str>,
    /// The duration in milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    ms: Option<u128>,
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
        let name = |name: &str| self.redactor.first(name, MAX_NAME);
        let arguments = self.redactor.clean_value(arguments);
        let json = arguments.to_string();
        let line = AuditLine {
            at: (self.clock)(),
            event: "ended",
            call: self.calls.fetch_add(1, Ordering::Relaxed) + 1,
            pid: std::process::id(),
            tool: name(tool),
            client: client.map(name),
            outcome: None,
            code: None,
            tier: arguments.get("tier").and_then(Value::as_str).map(name),
            id: None,
            state: None,
            commit: None,
            approval: None,
            ms: None,
            arguments: if json.len() > MAX_ARGUMENTS {
                self.redactor.first(&json, MAX_ARGUMENTS).into()
            } else {
                arguments
            },
        };
        AuditEntry { audit: self, began: Instant::now(), line: Mutex::new(line) }
    }

    fn write(&self, line: &AuditLine) -> Result<(), AuditError> {
        let Some(path) = &self.file else { return Ok(()) };
        let mut text = serde_json::to_string(line).expect("a line has string keys only, so this cannot fail");
        text.push('\n');
        append_to(path)?.write_all(text.as_bytes()).map_err(|error| AuditError::Unwritable(path.clone(), error))
    }
}

impl AuditEntry<'_> {
    /// Records the beginning of the call. When that fails, the call must not start.
    pub(super) fn begin(&self) -> Result<(), AuditError> {
        let mut line = self.line();
        line.event = "begun";
        let written = self.audit.write(&line);
        line.event = "ended";
        written
    }

    pub(super) fn line(&self) -> MutexGuard<'_, AuditLine> {
        self.line.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn end_with(self, answer: &Result<CallToolResponse, ErrorData>) {
        let mut line = self.line();
        line.outcome = Some("ok");
        match answer {
            Ok(CallToolResponse::Complete(result)) if result.is_error == Some(true) => {
                (line.outcome, line.code) = (Some("error"), code(result));
            }
            Ok(CallToolResponse::Complete(result)) => {
                let member = |name| result.structured_content.as_ref()?.get(name)?.as_str().map(str::to_owned);
                line.id = member("rollout_id").or(line.id.take());
                line.state = member("state");
                line.commit = member("commit").or(line.commit.take());
            }
            Ok(CallToolResponse::InputRequired(_)) => line.outcome = Some("asked"),
            Ok(_) => {}
            Err(error) => {
                (line.outcome, line.code) = (Some("error"), Some(format!("protocol {}", error.code.0)));
            }
        }
    }
}

impl Drop for AuditEntry<'_> {
    fn drop(&mut self) {
        let mut line = self.line();
        line.at = (self.audit.clock)();
        line.outcome.get_or_insert("abandoned");
        line.ms = Some(self.began.elapsed().as_millis());
        if let Err(error) = self.audit.write(&line) {
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

    use serde_json::json;

    use super::*;
    use crate::mcp::answer::ToolError;

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
        let entry = call(&audit, &json!({"hostname": "ns1", "branch": "main"}));
        entry.begin().unwrap();
        tokio::time::advance(std::time::Duration::from_millis(1500)).await;
        entry.line().tier = Some("prod".to_owned());
        entry.line().approval = Some("given");
        let data = json!({"rollout_id": "4f", "state": "failed", "commit": "8c1f0e2"});
        entry.end_with(&Ok(CallToolResult::structured(data).into()));
        let error = ToolError::new("wrong_tier", "ns1 is a host of prod").into_response();
        call(&audit, &json!({})).end_with(&Ok(error));
        // The client does not wait for the end of this call.
        let left = call(&audit, &json!({"tier": "test"}));
        left.line().id = Some("5e".to_owned());
        drop(left);
        insta::assert_snapshot!(lines(&file), @r#"
        {"at":"2026-11-23T12:00:00Z","event":"begun","call":1,"pid":1,"tool":"deploy","arguments":{"branch":"main","hostname":"ns1"},"client":"test 1.0"}
        {"at":"2026-11-23T12:00:00Z","event":"ended","call":1,"pid":1,"tool":"deploy","arguments":{"branch":"main","hostname":"ns1"},"client":"test 1.0","outcome":"ok","tier":"prod","id":"4f","state":"failed","commit":"8c1f0e2","approval":"given","ms":1500}
        {"at":"2026-11-23T12:00:00Z","event":"ended","call":2,"pid":1,"tool":"deploy","arguments":{},"client":"test 1.0","outcome":"error","code":"wrong_tier","ms":0}
        {"at":"2026-11-23T12:00:00Z","event":"ended","call":3,"pid":1,"tool":"deploy","arguments":{"tier":"test"},"client":"test 1.0","outcome":"abandoned","tier":"test","id":"5e","ms":0}
        "#);
        assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn what_an_assistant_writes_is_cleaned_and_cut() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("audit.jsonl");
        let audit = audit(&file);
        let seed = nkeys::KeyPair::new_user().seed().unwrap();
        let mut arguments = json!({
            "branch": "x\u{1b}[2J\u{202e}\n{\"tool\":\"forged\"}", "seed": seed, "url": "https://u:p@h", "path": "/secret/key",
        });
        drop(call(&audit, &arguments));
        arguments["long"] = "é".repeat(10_000).into();
        drop(audit.entry(&"a".repeat(300), arguments, None));
        let text = fs::read_to_string(&file).unwrap();
        let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let [whole, cut] = lines.as_slice() else { panic!("{text}") };
        let of = |name: &str| whole["arguments"][name].clone();
        assert_eq!(of("branch"), "x\n{\"tool\":\"forged\"}");
        assert_eq!((of("seed"), of("url"), of("path")), (json!("<seed>"), json!("https://h"), json!("<key file>")));
        let arguments = cut["arguments"].as_str().unwrap();
        assert!(arguments.len() < MAX_ARGUMENTS + 10 && arguments.starts_with(r#"{"branch":"x\n"#), "{arguments}");
        assert_eq!(cut["tool"].as_str().unwrap().len(), MAX_NAME + "…".len());
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
        insta::assert_snapshot!(shown(open(folder.path().to_owned())), @"FOLDER is not a file");
        let open_to_all = folder.path().join("open");
        fs::create_dir(&open_to_all).unwrap();
        fs::set_permissions(&open_to_all, fs::Permissions::from_mode(0o777)).unwrap();
        insta::assert_snapshot!(shown(open(open_to_all.join("audit"))), @"FOLDER/open can be written to by other users");
        fs::set_permissions(&open_to_all, fs::Permissions::from_mode(0o1777)).unwrap();
        Audit::open(Some(open_to_all.join("audit")), Redactor::default(), noon).unwrap();
        std::os::unix::fs::symlink(open_to_all.join("audit"), folder.path().join("link")).unwrap();
        insta::assert_snapshot!(shown(open(folder.path().join("link"))), @"FOLDER/link is not a file");
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
