//! JSON-RPC over lines: what rmcp drops without a word is answered or ignored as the protocol has it.

use std::io;

use rmcp::RoleServer;
use rmcp::service::{RxJsonRpcMessage, TxJsonRpcMessage};
use rmcp::transport::Transport;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

/// The longest line that is read, in bytes.
const MAX_LINE: usize = 4 * 1024 * 1024;
/// How many messages may wait for a client that does not read.
const MAX_WAITING: usize = 256;

/// A client at the other end of two pipes.
pub(super) struct LineTransport<R> {
    input: BufReader<R>,
    line: Vec<u8>,
    /// Whether the rest of a line that is too long is left out.
    is_skipping: bool,
    /// Whether a request came, with which the conversation begins.
    has_begun: bool,
    output: Option<mpsc::Sender<Vec<u8>>>,
    /// Writes whole lines one after the other, whichever task they come from.
    writer: JoinSet<()>,
}

impl<R: AsyncRead + Send + Unpin> LineTransport<R> {
    pub(super) fn new(input: R, mut output: impl AsyncWrite + Send + Unpin + 'static) -> Self {
        let (sender, mut lines) = mpsc::channel::<Vec<u8>>(MAX_WAITING);
        let mut writer = JoinSet::new();
        writer.spawn(async move {
            while let Some(line) = lines.recv().await {
                if output.write_all(&line).await.is_err() || output.flush().await.is_err() {
                    return;
                }
            }
        });
        let input = BufReader::new(input);
        Self { input, line: Vec::new(), is_skipping: false, has_begun: false, output: Some(sender), writer }
    }

    /// The next whole line; `None` at the end. May be dropped meanwhile: what was read stays.
    async fn next_line(&mut self) -> Option<Vec<u8>> {
        loop {
            let room = (MAX_LINE + 1).saturating_sub(self.line.len()) as u64;
            let read = (&mut self.input).take(room).read_until(b'\n', &mut self.line).await.ok()?;
            let is_whole = self.line.last() == Some(&b'\n');
            if read == 0 && !is_whole && self.line.len() <= MAX_LINE {
                return None;
            }
            if !is_whole && self.line.len() <= MAX_LINE {
                continue;
            }
            let line = std::mem::take(&mut self.line);
            if std::mem::replace(&mut self.is_skipping, !is_whole) {
                continue;
            }
            return Some(line);
        }
    }

    /// Answers what is no message. A client that does not read its answers misses this one.
    fn refuse(&self, id: &Value, code: i32, message: &str) {
        let error = json!({ "jsonrpc": "2.0", "id": id, "error": { "code": code, "message": message } });
        if let Some(output) = &self.output {
            output.try_send(format!("{error}\n").into_bytes()).ok();
        }
    }

    /// What a line says; `None` where it was refused or is ignored.
    fn message(&mut self, line: &[u8]) -> Option<RxJsonRpcMessage<RoleServer>> {
        if line.trim_ascii().is_empty() {
            return None;
        }
        let Ok(value) = serde_json::from_slice::<Value>(line.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(line)) else {
            self.refuse(&Value::Null, -32700, "this line is no JSON");
            return None;
        };
        let id = value.get("id").filter(|id| id.is_string() || id.is_number()).cloned();
        let is_request = id.is_some() && value.get("method").is_some();
        if !self.has_begun && !is_request && value.is_object() {
            // Notifications and answers to what was never asked.
            return None;
        }
        match serde_json::from_value(value.clone()) {
            Ok(message) => {
                self.has_begun |= is_request;
                Some(message)
            }
            // Notifications of other protocols, such as LSP.
            Err(_) if id.is_none() && value.get("method").is_some_and(Value::is_string) => None,
            Err(_) => {
                let code = if is_request && value.get("params").is_some() { -32602 } else { -32600 };
                self.refuse(&id.unwrap_or_default(), code, "this is no message of the Model Context Protocol");
                None
            }
        }
    }
}

impl<R: AsyncRead + Send + Unpin> Transport<RoleServer> for LineTransport<R> {
    type Error = io::Error;

    fn send(&mut self, message: TxJsonRpcMessage<RoleServer>) -> impl Future<Output = io::Result<()>> + Send + 'static {
        let output = self.output.clone();
        async move {
            let mut line = serde_json::to_vec(&message)?;
            line.push(b'\n');
            let closed = || io::Error::from(io::ErrorKind::NotConnected);
            output.ok_or_else(closed)?.send(line).await.map_err(|_| closed())
        }
    }

    async fn receive(&mut self) -> Option<RxJsonRpcMessage<RoleServer>> {
        loop {
            let line = self.next_line().await?;
            if let Some(message) = self.message(&line) {
                return Some(message);
            }
        }
    }

    async fn close(&mut self) -> io::Result<()> {
        self.output = None;
        while self.writer.join_next().await.is_some() {}
        Ok(())
    }
}
