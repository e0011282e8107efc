//! Tests the lines between a client and the program: invalid messages, and the end of the program.

use std::process::ExitStatus;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::process::{Child, ChildStdin, ChildStdout};

use super::client::command;
use crate::apply::stage::{self, order, until};
use crate::support::lab::Lab;
use crate::support::rebuild::GATE;
use crate::support::wait;

/// The program, and its pipes.
struct Program {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Program {
    fn start(lab: &Lab) -> Self {
        let mut child = command(lab, &[]).spawn().unwrap();
        let (input, output) = (child.stdin.take().unwrap(), BufReader::new(child.stdout.take().unwrap()));
        Self { child, input, output }
    }

    async fn say(&mut self, line: &[u8]) {
        self.input.write_all(line).await.unwrap();
        self.input.write_all(b"\n").await.unwrap();
    }

    async fn request(&mut self, id: u64, method: &str, params: Value) {
        self.say(json!({ "jsonrpc": "2.0", "id": id, "method": method, "params": params }).to_string().as_bytes())
            .await;
    }

    async fn hear(&mut self) -> Value {
        let mut line = String::new();
        wait::event("the program says something", self.output.read_line(&mut line)).await.unwrap().unwrap();
        serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error} in {line:?}"))
    }

    async fn greet(&mut self) {
        let client = json!({ "name": "bare", "version": "1" });
        let hello = json!({ "protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": client });
        self.request(0, "initialize", hello).await;
        assert_eq!(self.hear().await["result"]["protocolVersion"], "2025-06-18");
    }

    async fn ends(&mut self) -> ExitStatus {
        wait::event("the program ends", self.child.wait()).await.unwrap().unwrap()
    }
}

#[tokio::test]
async fn what_is_no_message_is_answered_or_ignored() {
    let lab = stage::empty(&[]).await;
    let mut program = Program::start(&lab);
    // A message that is no request neither begins nor ends a conversation.
    program.say(br#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#).await;
    program.say(br#"{"jsonrpc":"2.0","id":7,"result":{}}"#).await;
    program.say(b"").await;
    program.say(b"hello?").await;
    let refused = program.hear().await;
    assert_eq!((&refused["id"], &refused["error"]["code"]), (&Value::Null, &json!(-32700)));
    program.greet().await;

    for (line, id, code) in [
        (&b"{"[..], Value::Null, -32700),
        (b"\xff\xfe", Value::Null, -32700),
        (b"[]", Value::Null, -32600),
        (b"{\"jsonrpc\":\"2.0\",\"id\":\"x\"}", json!("x"), -32600),
        (br#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":7}}"#, json!(1), -32602),
        (br#"{"jsonrpc":"2.0","id":2,"method":"tools/call","params":"x"}"#, json!(2), -32602),
        (
            br#"{"jsonrpc":"2.0","id":3,"method":"tools/call","params":{"name":"deploy","arguments":[]}}"#,
            json!(3),
            -32602,
        ),
        (br#"{"jsonrpc":"2.0","id":4,"method":"prompts/list","params":{}}"#, json!(4), -32601),
        (br#"{"jsonrpc":"2.0","id":5,"method":"no/such"}"#, json!(5), -32601),
    ] {
        program.say(line).await;
        let refused = program.hear().await;
        let line = String::from_utf8_lossy(line);
        assert_eq!((&refused["id"], &refused["error"]["code"]), (&id, &json!(code)), "{line}: {refused}");
    }
    // An endless line is skipped, and the next one counts.
    let flood = vec![b'x'; 5 * 1024 * 1024];
    program.say(&flood).await;
    assert_eq!(program.hear().await["error"]["code"], -32700);
    program.request(6, "tools/list", json!({})).await;
    assert_eq!(program.hear().await["id"], 6);
}

#[tokio::test]
async fn the_end_of_input_and_signals_end_the_program_in_good_order() {
    let lab = stage::lab(&["test.test1"]).await;
    order(&lab, &["test1"], GATE);
    for signal in [None, Some(Signal::TERM), Some(Signal::INT)] {
        let mut program = Program::start(&lab);
        program.greet().await;
        let arguments = json!({ "hostname": "test1", "branch": "main" });
        program.request(1, "tools/call", json!({ "name": "deploy", "arguments": arguments })).await;
        until(&lab, "test1 start").await;
        let began = Instant::now();
        match signal {
            None => program.input.shutdown().await.unwrap(),
            Some(signal) => {
                let pid = Pid::from_raw(program.child.id().unwrap().try_into().unwrap()).unwrap();
                kill_process(pid, signal).unwrap();
            }
        }
        if signal.is_none() {
            let (child, input) = (&mut program.child, program.input);
            drop(input);
            assert!(wait::event("the program ends", child.wait()).await.unwrap().unwrap().success());
        } else {
            assert!(program.ends().await.success());
        }
        assert!(began.elapsed() < Duration::from_secs(7), "{signal:?}: {:?}", began.elapsed());
    }
    stage::open(&lab, "test1");
    super::client::over(&lab).await;
}
