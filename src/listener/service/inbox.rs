//! Received messages, bounded until the listener has time for them.
//!
//! Anyone who may publish on a subject decides how much arrives there. So each subject has its own bounded queue, and
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

/// The room for waiting messages of one subject, in bytes.
const MAX_WAITING_BYTES: usize = 1024 * 1024;

/// What each message takes of that room at least. A usual request has 500 bytes.
const LEAST_BYTES: usize = 4 * 1024;

/// The interval at which dropped messages of a subject are logged.
const WARN_EVERY: Duration = Duration::from_mins(5);

/// The messages of several subjects, in the order of their arrival.
pub(super) struct Inbox {
    pub(super) messages: UnboundedReceiver<QueuedMessage>,
    sender: UnboundedSender<QueuedMessage>,
    server_replied: Arc<Notify>,
    wakers: Vec<Arc<DrainingWaker>>,
}

/// A message. Dropping it frees its room.
#[derive(Debug)]
pub(super) struct QueuedMessage {
    pub(super) subject: Subject,
    pub(super) payload: Vec<u8>,
    _room: OwnedSemaphorePermit,
}

impl Inbox {
    /// Creates an inbox without subscriptions. `server_replied` is notified when the server itself answers a message.
    pub(super) fn new(server_replied: Arc<Notify>) -> Self {
        // Bounded by the queues of the subjects.
        let (sender, messages) = mpsc::unbounded_channel();
        Self { messages, sender, server_replied, wakers: Vec::new() }
    }

    pub(super) async fn subscribe(&mut self, client: &Client, subject: &Subject) -> Result<(), SubscribeError> {
        let subscriber = client.subscribe(subject.to_string()).await?;
        let queue = BoundedQueue::new(subject.clone(), self.sender.clone(), self.server_replied.clone());
        let waker =
            Arc::new(DrainingWaker { subscription: Mutex::new(Some((subscriber, queue))), wakes: AtomicUsize::new(0) });
        waker.empty();
        self.wakers.push(waker);
        Ok(())
    }
}

impl Drop for Inbox {
    fn drop(&mut self) {
        // A waker and its subscription refer to each other.
        for waker in &self.wakers {
            waker.subscription.lock().unwrap_or_else(PoisonError::into_inner).take();
        }
    }
}

/// The waker of a subscription, which empties the client's channel.
struct DrainingWaker {
    subscription: Mutex<Option<(Subscriber, BoundedQueue)>>,
    /// The number of wakes since it was last empty.
    wakes: AtomicUsize,
}

impl Wake for DrainingWaker {
    fn wake(self: Arc<Self>) {
        self.empty();
    }
}

impl DrainingWaker {
    /// Takes all messages from the channel, and registers itself for the next one.
    fn empty(self: &Arc<Self>) {
        // When another thread, or this call itself, uses this waker meanwhile, the loop looks once more.
        let mut wakes = 1;
        if self.wakes.fetch_add(1, Ordering::AcqRel) > 0 {
            return;
        }
        let itself = Waker::from(self.clone());
        loop {
            let mut subscription = self.subscription.lock().unwrap_or_else(PoisonError::into_inner);
            while let Some((subscriber, queue)) = subscription.as_mut() {
                // The cooperative budget of the client's task must not be spent here.
                match pin!(unconstrained(subscriber.next())).poll(&mut Context::from_waker(&itself)) {
                    Poll::Ready(Some(message)) => queue.take(&message),
                    Poll::Ready(None) | Poll::Pending => break,
                }
            }
            drop(subscription);
            match self.wakes.compare_exchange(wakes, 0, Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => return,
                Err(more) => wakes = more,
            }
        }
    }
}

/// The queue of one subject's messages.
struct BoundedQueue {
    subject: Subject,
    room: Arc<Semaphore>,
    sender: UnboundedSender<QueuedMessage>,
    server_replied: Arc<Notify>,
    warnings: RateLimit,
}

impl BoundedQueue {
    fn new(subject: Subject, sender: UnboundedSender<QueuedMessage>, server_replied: Arc<Notify>) -> Self {
        let room = Arc::new(Semaphore::new(MAX_WAITING_BYTES));
        Self { subject, room, sender, server_replied, warnings: RateLimit::new((1, WARN_EVERY)) }
    }

    fn take(&mut self, message: &Message) {
        match message.status {
            Some(StatusCode::NO_RESPONDERS) => self.server_replied.notify_one(),
            // Deployers find out with an empty message whether they may publish here.
            _ if message.payload.is_empty() => tracing::debug!(subject = %self.subject, "an empty message"),
            _ => self.keep(&message.payload),
        }
    }

    fn keep(&mut self, payload: &[u8]) {
        if let Some(room) = self.room_for(payload.len()) {
            let message = QueuedMessage { subject: self.subject.clone(), payload: payload.to_vec(), _room: room };
            // There is no receiver when the listener is about to end.
            self.sender.send(message).ok();
        } else if self.warnings.take() {
            let (subject, bytes) = (&self.subject, payload.len());
            tracing::warn!(%subject, bytes, "dropped messages: over {MAX_REQUEST_BYTES} bytes, or too many are waiting");
        }
    }

    fn room_for(&self, bytes: usize) -> Option<OwnedSemaphorePermit> {
        let bytes = u32::try_from(bytes.max(LEAST_BYTES)).ok().filter(|_| bytes <= MAX_REQUEST_BYTES)?;
        self.room.clone().try_acquire_many_owned(bytes).ok()
    }
}

/// A rate limit: `most` at once, one more each `each`. Senders must not decide how much a host logs or publishes.
#[derive(Debug)]
pub(super) struct RateLimit {
    most: u32,
    each: Duration,
    /// The time at which all permits are there again.
    full_at: Instant,
}

impl RateLimit {
    pub(super) fn new((most, each): (u32, Duration)) -> Self {
        Self { most, each, full_at: Instant::now() }
    }

    pub(super) fn take(&mut self) -> bool {
        let now = Instant::now();
        let full_at = self.full_at.max(now) + self.each;
        let is_left = full_at <= now + self.most * self.each;
        if is_left {
            self.full_at = full_at;
        }
        is_left
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn queue(inbox: &Inbox, subject: &str) -> BoundedQueue {
        BoundedQueue::new(subject.parse().unwrap(), inbox.sender.clone(), inbox.server_replied.clone())
    }

    fn waiting(inbox: &mut Inbox) -> Vec<QueuedMessage> {
        std::iter::from_fn(|| inbox.messages.try_recv().ok()).collect()
    }

    #[tokio::test]
    async fn each_subject_has_a_room_of_its_own_that_does_not_grow() {
        let mut inbox = Inbox::new(Arc::default());
        let (mut flooded, mut quiet) = (queue(&inbox, "deploy.discover"), queue(&inbox, "deploy.discover.prod"));
        for _ in 0..10_000 {
            flooded.keep(b"x");
        }
        quiet.keep(b"who is there?");
        let messages = waiting(&mut inbox);
        assert_eq!(messages.len(), MAX_WAITING_BYTES / LEAST_BYTES + 1);
        assert_eq!(messages.last().unwrap().subject.as_str(), "deploy.discover.prod");
        drop(messages);
        flooded.keep(b"room again");
        assert_eq!(waiting(&mut inbox).len(), 1);
    }

    #[tokio::test]
    async fn long_messages_are_bounded_by_their_bytes_and_too_long_ones_are_not_kept() {
        let mut inbox = Inbox::new(Arc::default());
        let mut queue = queue(&inbox, "deploy.discover");
        queue.keep(&vec![b'x'; MAX_REQUEST_BYTES + 1]);
        assert!(waiting(&mut inbox).is_empty());
        for _ in 0..1_000 {
            queue.keep(&vec![b'x'; MAX_REQUEST_BYTES]);
        }
        let messages = waiting(&mut inbox);
        assert_eq!(messages.iter().map(|message| message.payload.len()).sum::<usize>(), MAX_WAITING_BYTES);
        drop(messages);
        (0..1_000).for_each(|_| queue.keep(b"x"));
        assert_eq!(waiting(&mut inbox).len(), MAX_WAITING_BYTES / LEAST_BYTES);
    }

    #[tokio::test(start_paused = true)]
    async fn it_is_used_up_at_once_and_comes_back_one_by_one() {
        let mut limit = RateLimit::new((3, Duration::from_secs(1)));
        let mut take = |times: usize| (0..times).filter(|_| limit.take()).count();
        assert_eq!(take(10), 3);
        tokio::time::advance(Duration::from_millis(1_900)).await;
        assert_eq!(take(10), 1);
        tokio::time::advance(Duration::from_millis(100)).await;
        assert_eq!(take(10), 1, "the rest of a while is not lost");
        tokio::time::advance(Duration::from_hours(1)).await;
        assert_eq!(take(10), 3, "no more than at once come together");
    }

    #[tokio::test(start_paused = true)]
    async fn a_flood_gets_no_more_than_the_rate() {
        let mut limit = RateLimit::new((10, Duration::from_millis(100)));
        let mut taken = 0;
        for _ in 0..10_000 {
            tokio::time::advance(Duration::from_millis(1)).await;
            taken += usize::from(limit.take());
        }
        assert!((105..=111).contains(&taken), "{taken} in ten seconds");
    }
}
