//! Translates the client's events, and tries the permissions of a key: the server reports refusals only, as events.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_nats::{ClientError, Event, ServerError};
use futures_util::StreamExt;
use thiserror::Error;
use tokio::sync::mpsc::{self, UnboundedReceiver, UnboundedSender};
use tokio::task::yield_now;
use tokio::time::timeout;
use uuid::Uuid;

use super::Bus;
pub use crate::nats_config::Operation;
use crate::nats_config::Permission;
use crate::protocol::{DiscoveryRequest, ReplySubject};
use crate::text::safe;

/// The client's text for a refused key.
const REFUSED: &str = "authorization violation";

/// How long the server may take to answer a trial of permissions.
const ANSWERED_WITHIN: Duration = Duration::from_secs(5);

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BusEvent {
    /// Reconnected, with all subscriptions. Messages that were published in between may be lost.
    Up,
    /// Disconnected. The client would buffer a message and send it later.
    Down,
    Refused(Violation),
    /// A subscription's buffer was full, and at least one message is lost.
    SlowConsumer,
    LockedOut,
    /// Any other error as text, such as a failed attempt to reconnect.
    Error(String),
}

#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("this credential may not {} to {subject}", operation.verb())]
pub struct Violation {
    pub operation: Operation,
    /// As the server spells it, without control characters.
    pub subject: String,
}

impl Violation {
    /// Parses the server's text: `Permissions Violation for Publish to "deploy.prod.all"`, or `for Subscription to "x"
    /// using queue "q"`.
    fn parse(text: &str) -> Option<Self> {
        let what = strip_prefix_ignoring_case(text, "permissions violation for ")?;
        let (operation, rest) = if let Some(rest) = strip_prefix_ignoring_case(what, "publish") {
            (Operation::Publish, rest)
        } else {
            (Operation::Subscribe, strip_prefix_ignoring_case(what, "subscription")?)
        };
        let subject = match rest.split_once('"') {
            Some((_, quoted)) => quoted.split('"').next(),
            None => rest.split_whitespace().nth(1),
        };
        Some(Self { operation, subject: safe(subject.unwrap_or_default()) })
    }
}

fn strip_prefix_ignoring_case<'a>(text: &'a str, prefix: &str) -> Option<&'a str> {
    let (start, rest) = text.split_at_checked(prefix.len())?;
    start.eq_ignore_ascii_case(prefix).then_some(rest)
}

#[derive(Debug)]
pub struct Events {
    events: UnboundedReceiver<BusEvent>,
    is_full: Arc<AtomicBool>,
}

impl Events {
    /// Receives the next event; `None` once the client is gone.
    pub async fn recv(&mut self) -> Option<BusEvent> {
        let event = self.events.recv().await?;
        Some(self.taken(event))
    }

    fn try_recv(&mut self) -> Option<BusEvent> {
        let event = self.events.try_recv().ok()?;
        Some(self.taken(event))
    }

    /// The next lost message causes a new event.
    fn taken(&self, event: BusEvent) -> BusEvent {
        if event == BusEvent::SlowConsumer {
            self.is_full.store(false, Ordering::Relaxed);
        }
        event
    }

    /// Returns the events that the server caused before the last message that was received: the client passes them to
    /// another task than the messages that came after them.
    pub async fn before_last_message(&mut self) -> Vec<BusEvent> {
        for _ in 0..2 {
            yield_now().await;
        }
        std::iter::from_fn(|| self.try_recv()).collect()
    }
}

pub(super) struct Translator {
    events: UnboundedSender<BusEvent>,
    connected_before: AtomicBool,
    /// Whether a `SlowConsumer` event waits to be received. The client reports each of any number of lost messages.
    is_full: Arc<AtomicBool>,
}

impl Translator {
    pub(super) fn new() -> (Self, Events) {
        let (sender, events) = mpsc::unbounded_channel();
        let is_full = Arc::new(AtomicBool::new(false));
        let translator =
            Self { events: sender, connected_before: AtomicBool::new(false), is_full: Arc::clone(&is_full) };
        (translator, Events { events, is_full })
    }

    pub(super) fn on_event(&self, event: Event) {
        if let Some(event) = self.translate(event) {
            // The receiver is gone when the owner of the connection is shutting down.
            self.events.send(event).ok();
        }
    }

    fn translate(&self, event: Event) -> Option<BusEvent> {
        Some(match event {
            // The caller knows of the first connect.
            Event::Connected if !self.connected_before.swap(true, Ordering::Relaxed) => return None,
            Event::Connected => BusEvent::Up,
            Event::Disconnected => BusEvent::Down,
            Event::SlowConsumer(_) | Event::ServerError(ServerError::SlowConsumer(_)) => {
                return (!self.is_full.swap(true, Ordering::Relaxed)).then_some(BusEvent::SlowConsumer);
            }
            Event::ServerError(ServerError::Other(text)) => match Violation::parse(&text) {
                Some(violation) => BusEvent::Refused(violation),
                None => BusEvent::Error(format!("the server says: {}", safe(&text))),
            },
            Event::ServerError(ServerError::AuthorizationViolation) => {
                BusEvent::Error("the server no longer accepts this key".to_owned())
            }
            Event::ClientError(ClientError::Other(error)) if error == REFUSED => BusEvent::LockedOut,
            Event::ClientError(ClientError::Other(error)) => {
                BusEvent::Error(format!("cannot reconnect: {}", safe(&error)))
            }
            Event::ClientError(error) => BusEvent::Error(safe(&error.to_string())),
            Event::LameDuckMode | Event::Draining | Event::Closed => return None,
        })
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tried {
    pub refused: Vec<Permission>,
    /// Whether the key may use subjects outside of this program.
    pub beyond: bool,
}

impl Bus {
    /// Tries to publish or subscribe to these subjects. The error says why the trial failed.
    ///
    /// No listener takes a published message for a request: it is empty, or a roll call on a subject that begins with
    /// `discover`.
    pub async fn try_out(&mut self, permissions: &[Permission], discover: &str) -> Result<Tried, String> {
        let disconnected = |_| "the connection was lost".to_owned();
        let mut subscribers = Vec::new();
        for (operation, subject) in permissions {
            let (message, subject) = (payload(subject, discover), subject.clone());
            match operation {
                Operation::Subscribe => {
                    subscribers.push(self.client.subscribe(subject).await.map_err(|error| error.to_string())?);
                }
                Operation::Publish => self.client.publish(subject, message.into()).await.map_err(disconnected)?,
            }
        }
        // The server handles messages in order. It refuses the last one or sends it back; either way, all earlier
        // refusals have arrived before that.
        let last = format!("homelab-deploy.{}", Uuid::new_v4());
        let mut echo = self.client.subscribe(last.clone()).await.map_err(|error| error.to_string())?;
        self.client.publish(last.clone(), Vec::new().into()).await.map_err(disconnected)?;
        let mut refused = Vec::new();
        let answered = async {
            loop {
                tokio::select! {
                    Some(_) = echo.next() => return Ok(true),
                    event = self.events.recv() => match event {
                        Some(BusEvent::Refused(violation)) if violation.subject == last => return Ok(false),
                        Some(BusEvent::Refused(violation)) => refused.push((violation.operation, violation.subject)),
                        Some(BusEvent::Up | BusEvent::SlowConsumer | BusEvent::LockedOut | BusEvent::Error(_)) => {}
                        Some(BusEvent::Down) | None => return Err("the connection was lost".to_owned()),
                    },
                }
            }
        };
        let beyond =
            timeout(ANSWERED_WITHIN, answered).await.map_err(|_| "the server does not answer".to_owned())??;
        for event in self.events.before_last_message().await {
            if let BusEvent::Refused(violation) = event {
                refused.push((violation.operation, violation.subject));
            }
        }
        Ok(Tried { refused, beyond })
    }
}

fn payload(subject: &str, discover: &str) -> Vec<u8> {
    if subject.starts_with(discover) {
        // Listeners log a warning about any other message there.
        return DiscoveryRequest { reply_to: ReplySubject::single(Uuid::new_v4()), tier: None, per_host: true }
            .to_bytes();
    }
    Vec::new()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn violation(text: &str) -> Option<String> {
        Violation::parse(text).map(|violation| violation.to_string())
    }

    #[test]
    fn violations_are_read_in_each_of_the_servers_forms() {
        let cases = [
            (
                r#"Permissions Violation for Publish to "deploy.prod.all""#,
                "this credential may not publish to deploy.prod.all",
            ),
            (r#"permissions violation for publish to "Deploy.X""#, "this credential may not publish to Deploy.X"),
            (
                r#"Permissions Violation for Subscription to "deploy.>""#,
                "this credential may not subscribe to deploy.>",
            ),
            (
                r#"Permissions Violation for Subscription to "a.b" using queue "q""#,
                "this credential may not subscribe to a.b",
            ),
            ("Permissions Violation for Publish to a.b", "this credential may not publish to a.b"),
            (r#"Permissions Violation for Publish with Reply of "_R_.x""#, "this credential may not publish to _R_.x"),
        ];
        for (text, expected) in cases {
            assert_eq!(violation(text).as_deref(), Some(expected), "{text}");
        }
        let escapes = "Permissions Violation for Publish to \"a\u{1b}[2J.\u{202e}b\"";
        assert_eq!(violation(escapes).as_deref(), Some("this credential may not publish to a.b"));
        for other in ["", "Stale Connection", "permissions violation", "Permissions Violation for Ünsinn to x"] {
            assert_eq!(violation(other), None, "{other}");
        }
    }

    #[test]
    fn that_a_subscription_was_full_is_told_once_until_it_is_heard() {
        let (translator, mut events) = Translator::new();
        for _ in 0..3 {
            translator.on_event(Event::SlowConsumer(1));
        }
        assert_eq!(events.try_recv(), Some(BusEvent::SlowConsumer));
        assert_eq!(events.try_recv(), None);
        translator.on_event(Event::SlowConsumer(1));
        assert_eq!(events.try_recv(), Some(BusEvent::SlowConsumer));
    }

    #[test]
    fn only_reconnects_are_up_and_nothing_is_lost() {
        let (translator, mut events) = Translator::new();
        let server = |text: &str| Event::ServerError(ServerError::Other(text.to_owned()));
        let client = |kind: async_nats::ConnectErrorKind| Event::ClientError(ClientError::Other(kind.to_string()));
        for event in [
            Event::Connected,
            Event::Disconnected,
            Event::Connected,
            Event::SlowConsumer(3),
            Event::SlowConsumer(3),
            server("Stale\u{1b}]0;title\u{7} Connection"),
            server(r#"Permissions Violation for Publish to "x""#),
            client(async_nats::ConnectErrorKind::Io),
            client(async_nats::ConnectErrorKind::AuthorizationViolation),
        ] {
            translator.on_event(event);
        }
        let heard: Vec<_> = std::iter::from_fn(|| events.try_recv()).collect();
        let refused = Violation { operation: Operation::Publish, subject: "x".to_owned() };
        assert_eq!(
            heard,
            [
                BusEvent::Down,
                BusEvent::Up,
                BusEvent::SlowConsumer,
                BusEvent::Error("the server says: Stale Connection".to_owned()),
                BusEvent::Refused(refused),
                BusEvent::Error("cannot reconnect: IO error".to_owned()),
                BusEvent::LockedOut,
            ]
        );
    }

    #[test]
    fn a_roll_call_is_sent_where_roll_calls_are_made() {
        for subject in ["fleet.here", "fleet.here.prod"] {
            assert!(DiscoveryRequest::parse(&payload(subject, "fleet.here")).is_ok());
        }
        assert_eq!(payload("deploy.prod.x", "fleet.here"), Vec::<u8>::new());
    }
}
