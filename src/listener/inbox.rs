//! What others send to the listener, and how much of it is kept until there is time for it.
//!
//! Anyone who may publish on a subject decides how much arrives there. So each subject has a room of its own that does not
//! grow, and what finds no place in it is gone: a flood on one subject takes nothing from another.
//!
//! The client puts what it reads into a channel for each subscription, and reads on for as long as there is something to
//! read. What it has put there may be as long as the server allows, and keeps the buffer alive that it was read into. A task
//! that empties the channel comes too late for that. So it is emptied in the very moment when the client would wake such a
//! task, and only what is worth keeping is copied: the listener never has more than one long message.

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

/// How many messages the client's own channel of a subscription holds. It is emptied with each that arrives.
pub const SUBSCRIPTION_CAPACITY: usize = 16;

const MAX_WAITING: usize = 256;

/// How many bytes those may have together. A usual request has 500.
const MAX_WAITING_BYTES: usize = 1024 * 1024;

/// How often it is logged, for each subject, that messages were dropped.
const COMPLAIN_EVERY: Duration = Duration::from_mins(5);

/// Messages of several subjects, in the order of their arrival.
pub(super) struct Inbox {
    pub(super) letters: UnboundedReceiver<Letter>,
    sender: UnboundedSender<Letter>,
    echo: Arc<Notify>,
    funnels: Vec<Arc<Funnel>>,
}

/// A message. Its place is free again when it is dropped.
#[derive(Debug)]
pub(super) struct Letter {
    pub(super) subject: Subject,
    pub(super) payload: Vec<u8>,
    _place: [OwnedSemaphorePermit; 2],
}

impl Inbox {
    /// An inbox that receives nothing yet. `echo` hears of each answer of the server itself to what was published.
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
        // A funnel and its subscription know each other.
        for funnel in &self.funnels {
            funnel.mouth.lock().unwrap_or_else(PoisonError::into_inner).take();
        }
    }
}

/// What lets messages through from the client's channel.
struct Funnel {
    mouth: Mutex<Option<(Subscriber, Room)>>,
    /// How often it was woken since it was last empty.
    wakes: AtomicUsize,
}

impl Wake for Funnel {
    fn wake(self: Arc<Self>) {
        self.empty();
    }
}

impl Funnel {
    /// Takes all that is in the channel, and is woken by what comes next.
    fn empty(self: &Arc<Self>) {
        // When it is woken while it works, by another thread or by itself, it looks once more.
        let mut wakes = 1;
        if self.wakes.fetch_add(1, Ordering::AcqRel) > 0 {
            return;
        }
        let itself = Waker::from(self.clone());
        loop {
            let mut mouth = self.mouth.lock().unwrap_or_else(PoisonError::into_inner);
            while let Some((subscriber, room)) = mouth.as_mut() {
                // The client's own share of the thread's time must not run out over this.
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

/// What is kept of the messages to one subject.
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
            // A deployer finds out with it whether it may send to this subject.
            _ if message.payload.is_empty() => tracing::debug!(subject = %self.subject, "an empty message"),
            _ => self.keep(&message.payload),
        }
    }

    fn keep(&mut self, payload: &[u8]) {
        match self.place(payload.len()) {
            Some(place) => {
                let letter = Letter { subject: self.subject.clone(), payload: payload.to_vec(), _place: place };
                // Nobody reads any more when the listener is about to end.
                self.sender.send(letter).ok();
            }
            None => {
                if let Some(before) = self.complaints.take() {
                    let (subject, bytes) = (&self.subject, payload.len());
                    tracing::warn!(
                        %subject, bytes, dropped_before = before,
                        "a message is dropped: it is over {MAX_REQUEST_BYTES} bytes, or too many wait already"
                    );
                }
            }
        }
    }

    fn place(&self, bytes: usize) -> Option<[OwnedSemaphorePermit; 2]> {
        let bytes = u32::try_from(bytes).ok().filter(|_| bytes <= MAX_REQUEST_BYTES)?;
        let place = self.places.clone().try_acquire_owned().ok()?;
        Some([place, self.bytes.clone().try_acquire_many_owned(bytes).ok()?])
    }
}

/// A bound on how often something happens: a number of times at once, and one more each time a while has passed. What others
/// send must not decide how much a host writes, logs or publishes.
#[derive(Debug)]
pub(super) struct Allowance {
    most: u32,
    each: Duration,
    left: u32,
    /// Up to when what was used is given back.
    counted: Instant,
    refused: u64,
}

impl Allowance {
    pub(super) fn new(most: u32, each: Duration) -> Self {
        Self { most, each, left: most, counted: Instant::now(), refused: 0 }
    }

    /// Uses it once, if there is some left: then it returns how often there was none since the last use.
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
        // What is left of a while counts for the next one, unless there is nothing to give back.
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
        // A place without bytes is given back at once.
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
