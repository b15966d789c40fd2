//! What waits to be written to a store. While a store does not answer nothing waits for it: once it
//! does, all that the gateway knows is written anew, and others see by the numbers of messages that
//! some are missing.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use serde::{Deserialize, Serialize};
use tokio::sync::Notify;

/// As much may wait for a store that is slow, bytes.
const ROOM: usize = 16 << 20;

/// What is written.
#[derive(Clone, Debug)]
pub(super) enum Item {
    /// Rows, sealed.
    Batch(Arc<Vec<u8>>),
    /// Here the walk began whose result comes as [`Item::All`].
    Mark,
    /// All that the gateway knows: its parts as text, and which walk it was.
    All(Arc<Vec<Vec<u8>>>, u32),
    /// How the gateway is.
    Beat(Beat),
}

/// How a gateway is.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub(super) struct Beat {
    /// When it said so, milliseconds of the store's clock.
    pub(super) at: u64,
    pub(super) version: String,
    pub(super) ready: bool,
    /// Sessions, key names and re-homed flows that it has.
    pub(super) has: [u64; 3],
    /// Which walk its whole state at this store is of; 0: of none.
    pub(super) all: u32,
    /// For how long, seconds, it takes the connections of each VIP.
    pub(super) ages: Vec<(String, u32)>,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    queue: Mutex<Queue>,
    wake: Notify,
}

#[derive(Debug, Default)]
struct Queue {
    items: VecDeque<Item>,
    bytes: usize,
    is_open: bool,
    wants_all: bool,
    dropped: u64,
}

impl Outbox {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The store answers: everything is wanted.
    pub(super) fn open(&self) {
        let mut queue = self.lock();
        *queue =
            Queue { is_open: true, wants_all: true, dropped: queue.dropped, ..Queue::default() };
    }

    /// The store does not answer.
    pub(super) fn close(&self) {
        let mut queue = self.lock();
        let lost = queue.items.iter().filter(|item| matches!(item, Item::Batch(_))).count() as u64;
        *queue = Queue { dropped: queue.dropped + lost, ..Queue::default() };
    }

    /// Whether all that the gateway knows is to be written; the walk for it begins now.
    pub(super) fn begin_all(&self) -> bool {
        let mut queue = self.lock();
        let wants = std::mem::take(&mut queue.wants_all) && queue.is_open;
        if wants {
            queue.items.push_back(Item::Mark);
        }
        wants
    }

    /// All that the gateway knows is to be written once more.
    pub(super) fn want_all(&self) {
        self.lock().wants_all = true;
    }

    /// Has it written, unless nobody would.
    pub(super) fn push(&self, item: Item) {
        let mut queue = self.lock();
        if let Item::Batch(message) = &item {
            if !queue.is_open {
                queue.dropped += 1;
                return;
            }
            queue.bytes += message.len();
            if queue.bytes > ROOM {
                queue.drop_batches();
            }
        } else if !queue.is_open {
            return;
        }
        queue.items.push_back(item);
        drop(queue);
        self.wake.notify_one();
    }

    /// What is to be written next.
    pub(super) async fn next(&self) -> Item {
        loop {
            if let Some(item) = self.take() {
                return item;
            }
            self.wake.notified().await;
        }
    }

    /// The same, if there is anything.
    pub(super) fn take(&self) -> Option<Item> {
        self.lock().take()
    }

    /// How many wait, and how many were dropped.
    pub(super) fn counts(&self) -> (u64, u64) {
        let queue = self.lock();
        (queue.items.len() as u64, queue.dropped)
    }
}

impl Queue {
    fn take(&mut self) -> Option<Item> {
        let item = self.items.pop_front()?;
        if let Item::Batch(message) = &item {
            self.bytes -= message.len();
        }
        Some(item)
    }

    fn drop_batches(&mut self) {
        let before = self.items.len();
        self.items.retain(|item| !matches!(item, Item::Batch(_)));
        self.dropped += (before - self.items.len()) as u64;
        (self.bytes, self.wants_all) = (0, true);
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    fn batch(bytes: usize) -> Item {
        Item::Batch(Arc::new(vec![0; bytes]))
    }

    fn all(outbox: &Outbox) -> Vec<Item> {
        std::iter::from_fn(|| outbox.next().now_or_never()).collect()
    }

    #[test]
    fn nothing_waits_for_a_store_that_does_not_answer_and_all_is_wanted_once_it_does() {
        let outbox = Outbox::default();
        outbox.push(batch(9));
        outbox.push(Item::Beat(Beat::default()));
        assert!(!outbox.begin_all());
        assert_eq!(outbox.counts(), (0, 1));
        outbox.open();
        assert!(outbox.begin_all() && !outbox.begin_all());
        outbox.push(batch(9));
        assert!(matches!(all(&outbox)[..], [Item::Mark, Item::Batch(_)]));
        outbox.push(batch(9));
        outbox.close();
        assert_eq!(outbox.counts(), (0, 2));
    }

    #[test]
    fn for_a_slow_store_no_more_waits_than_there_is_room_and_all_is_wanted_again() {
        let outbox = Outbox::default();
        outbox.open();
        assert!(outbox.begin_all());
        (0..4).for_each(|_| outbox.push(batch(ROOM / 4)));
        assert_eq!(outbox.counts(), (5, 0));
        outbox.push(batch(1));
        assert_eq!(outbox.counts(), (2, 4));
        assert!(outbox.begin_all());
        (0..100).for_each(|_| outbox.push(batch(ROOM / 100)));
        assert_eq!(outbox.counts().1, 4, "room was not given back");
    }
}
