//! Received messages, bounded until the listener has time for them.
//!
//! Anyone who may publish on a subject decides how much arrives there. So each subject has its own bounded room, and
//! messages that do not fit are dropped: a flood on one subject takes nothing from another.
//!
//! The client puts messages into a channel for each subscription as long as there is something to read. Each may be as
//! long as the server allows, and keeps alive the buffer that it was read into. A task that empties the channel would
//! come too late for that. So the channel is emptied inside the waker that the client would wake such a task with, and
//! only short messages are copied: the listener never holds more than one long message.

use std::pin::pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use async_nats::{Client, Message, StatusCode, SubscribeError, Subscriber};
use futures_util::StreamExt;
use tokio::sync::mpsc::{self, UnboundedReceiver, UnboundedSender};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio::task::coop::unconstrained;
use tokio::time::Instant;

use crate::protocol::Subject;
use crate::protocol::request::MAX_REQUEST_BYTES;

/// The capacity of the client's own channel of a subscription. The channel is emptied with each message that arrives.
pub const SUBSCRIPTION_CAPACITY: usize = 16;

const MAX_WAITING: usize = 256;

/// The bound on the bytes of one subject's waiting messages. A usual request has 500.
const MAX_WAITING_BYTES: usize = 1024 * 1024;

/// The interval at which dropped messages of a subject are logged.
const COMPLAIN_EVERY: Duration = Duration::from_mins(5);

/// The messages of several subjects, in the order of their arrival.
pub(super) struct Inbox {
    pub(super) letters: UnboundedReceiver<Letter>,
    sender: UnboundedSender<Letter>,
    echo: Arc<Notify>,
    funnels: Vec<Arc<Funnel>>,
}

/// A message. Dropping it frees its place.
#[derive(Debug)]
pub(super) struct Letter {
    pub(super) subject: Subject,
    pub(super) payload: Vec<u8>,
    _place: [OwnedSemaphorePermit; 2],
}

impl Inbox {
    /// Creates an inbox without subscriptions. `echo` is notified when the server itself answers a message.
    pub(super) fn new(echo: Arc<Notify>) -> Self {
        // Bounded by the rooms of the subjects.
        let (sender, letters) = mpsc::unbounded_channel();
        Self { letters, sender, echo, funnels: Vec::new() }
    }

    pub(super) async fn subscribe(&mut self, client: &Client, subject: &Subject) -> Result<(), SubscribeError> {
        let subscriber = client.subscribe(subject.to_string()).await?;
        let room = Room::new(subject.clone(), self.sender.clone(), self.echo.clone());
        let funnel = Arc::new(Funnel { mouth: Mutex::new(Some((subscriber, room))), wakes: AtomicUsize::new(0) });
        funnel.empty();
        self.funnels.push(funnel);
        Ok(())
    }
}

impl Drop for Inbox {
    fn drop(&mut self) {
        // A funnel and its subscription refer to each other.
        for funnel in &self.funnels {
            funnel.mouth.lock().unwrap_or_else(PoisonError::into_inner).take();
        }
    }
}

/// The waker of a subscription, which empties the client's channel.
struct Funnel {
    mouth: Mutex<Option<(Subscriber, Room)>>,
    /// The number of wakes since it was last empty.
    wakes: AtomicUsize,
}

impl Wake for Funnel {
    fn wake(self: Arc<Self>) {
        self.empty();
    }
}

impl Funnel {
    /// Takes all messages from the channel, and registers itself for the next one.
    fn empty(self: &Arc<Self>) {
        // When another thread, or this call itself, wakes the funnel meanwhile, the loop looks once more.
        let mut wakes = 1;
        if self.wakes.fetch_add(1, Ordering::AcqRel) > 0 {
            return;
        }
        let itself = Waker::from(self.clone());
        loop {
            let mut mouth = self.mouth.lock().unwrap_or_else(PoisonError::into_inner);
            while let Some((subscriber, room)) = mouth.as_mut() {
                // The cooperative budget of the client's task must not be spent here.
                match pin!(unconstrained(subscriber.next())).poll(&mut Context::from_waker(&itself)) {
                    Poll::Ready(Some(message)) => room.take(&message),
                    Poll::Ready(None) | Poll::Pending => break,
                }
            }
            drop(mouth);
            match self.wakes.compare_exchange(wakes, 0, Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => return,
                Err(more) => wakes = more,
            }
        }
    }
}

/// The room for messages of one subject.
struct Room {
    subject: Subject,
    places: Arc<Semaphore>,
    bytes: Arc<Semaphore>,
    sender: UnboundedSender<Letter>,
    echo: Arc<Notify>,
    complaints: Allowance,
}

impl Room {
    fn new(subject: Subject, sender: UnboundedSender<Letter>, echo: Arc<Notify>) -> Self {
        let of = |size| Arc::new(Semaphore::new(size));
        let complaints = Allowance::new(1, COMPLAIN_EVERY);
        Self { subject, places: of(MAX_WAITING), bytes: of(MAX_WAITING_BYTES), sender, echo, complaints }
    }

    fn take(&mut self, message: &Message) {
        match message.status {
            Some(StatusCode::NO_RESPONDERS) => self.echo.notify_one(),
            // Deployers find out with an empty message whether they may publish here.
            _ if message.payload.is_empty() => tracing::debug!(subject = %self.subject, "an empty message"),
            _ => self.keep(&message.payload),
        }
    }

    fn keep(&mut self, payload: &[u8]) {
        if let Some(place) = self.place(payload.len()) {
            let letter = Letter { subject: self.subject.clone(), payload: payload.to_vec(), _place: place };
            // There is no receiver when the listener is about to end.
            self.sender.send(letter).ok();
        } else if let Some(before) = self.complaints.take() {
            let (subject, bytes) = (&self.subject, payload.len());
            tracing::warn!(
                %subject, bytes, dropped_before = before,
                "a message is dropped: it is over {MAX_REQUEST_BYTES} bytes, or too many wait already"
            );
        }
    }

    fn place(&self, bytes: usize) -> Option<[OwnedSemaphorePermit; 2]> {
        let bytes = u32::try_from(bytes).ok().filter(|_| bytes <= MAX_REQUEST_BYTES)?;
        let place = self.places.clone().try_acquire_owned().ok()?;
        Some([place, self.bytes.clone().try_acquire_many_owned(bytes).ok()?])
    }
}

/// A rate limit: `most` at once, one more each `each`. Senders must not decide how much a host logs or publishes.
#[derive(Debug)]
pub(super) struct Allowance {
    most: u32,
    each: Duration,
    left: u32,
    /// The time up to which used permits have been given back.
    counted: Instant,
    refused: u64,
}

impl Allowance {
    pub(super) fn new(most: u32, each: Duration) -> Self {
        Self { most, each, left: most, counted: Instant::now(), refused: 0 }
    }

    /// Takes a permit, if there is one: then returns the number of refusals since the last one.
    pub(super) fn take(&mut self) -> Option<u64> {
        self.refill();
        if let Some(left) = self.left.checked_sub(1) {
            self.left = left;
            return Some(std::mem::take(&mut self.refused));
        }
        self.refused += 1;
        None
    }

    fn refill(&mut self) {
        let passed = self.counted.elapsed().as_nanos().checked_div(self.each.as_nanos()).unwrap_or_default();
        let whole = u32::try_from(passed).unwrap_or(u32::MAX);
        self.left = self.left.saturating_add(whole).min(self.most);
        // The rest of an interval counts for the next permit, unless all are there.
        self.counted = if self.left == self.most { Instant::now() } else { self.counted + self.each * whole };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn room(inbox: &Inbox, subject: &str) -> Room {
        Room::new(subject.parse().unwrap(), inbox.sender.clone(), inbox.echo.clone())
    }

    fn waiting(inbox: &mut Inbox) -> Vec<Letter> {
        std::iter::from_fn(|| inbox.letters.try_recv().ok()).collect()
    }

    #[tokio::test]
    async fn each_subject_has_a_room_of_its_own_that_does_not_grow() {
        let mut inbox = Inbox::new(Arc::default());
        let (mut flooded, mut quiet) = (room(&inbox, "deploy.discover"), room(&inbox, "deploy.discover.prod"));
        for _ in 0..10_000 {
            flooded.keep(b"x");
        }
        quiet.keep(b"who is there?");
        let letters = waiting(&mut inbox);
        assert_eq!(letters.len(), MAX_WAITING + 1);
        assert_eq!(letters.last().unwrap().subject.as_str(), "deploy.discover.prod");
        drop(letters);
        flooded.keep(b"room again");
        assert_eq!(waiting(&mut inbox).len(), 1);
    }

    #[tokio::test]
    async fn long_messages_are_bounded_by_their_bytes_and_too_long_ones_are_not_kept() {
        let mut inbox = Inbox::new(Arc::default());
        let mut room = room(&inbox, "deploy.discover");
        room.keep(&vec![b'x'; MAX_REQUEST_BYTES + 1]);
        assert!(waiting(&mut inbox).is_empty());
        for _ in 0..1_000 {
            room.keep(&vec![b'x'; MAX_REQUEST_BYTES]);
        }
        let letters = waiting(&mut inbox);
        assert_eq!(letters.iter().map(|letter| letter.payload.len()).sum::<usize>(), MAX_WAITING_BYTES);
        // A permit without bytes is returned at once.
        drop(letters);
        (0..1_000).for_each(|_| room.keep(b"x"));
        assert_eq!(waiting(&mut inbox).len(), MAX_WAITING);
    }

    #[tokio::test(start_paused = true)]
    async fn it_is_used_up_at_once_and_comes_back_one_by_one() {
        let mut allowance = Allowance::new(3, Duration::from_secs(1));
        let mut take = |times: usize| (0..times).filter_map(|_| allowance.take()).collect::<Vec<_>>();
        assert_eq!(take(10), [0, 0, 0]);
        tokio::time::advance(Duration::from_millis(1_900)).await;
        assert_eq!(take(10), [7]);
        tokio::time::advance(Duration::from_millis(100)).await;
        assert_eq!(take(10), [9], "the rest of a while is not lost");
        tokio::time::advance(Duration::from_hours(1)).await;
        assert_eq!(take(10).len(), 3, "no more than at once come together");
    }

    #[tokio::test(start_paused = true)]
    async fn a_flood_gets_no_more_than_the_rate() {
        let mut allowance = Allowance::new(10, Duration::from_millis(100));
        let mut taken = 0;
        for _ in 0..10_000 {
            tokio::time::advance(Duration::from_millis(1)).await;
            taken += usize::from(allowance.take().is_some());
        }
        assert!((105..=111).contains(&taken), "{taken} in ten seconds");
    }
}
