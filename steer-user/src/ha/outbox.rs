//! What waits to be written to a store. While a store does not answer nothing waits for it: once it
//! does, all that the gateway knows is written anew, and others see by the numbers of messages that
//! some are missing.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use serde::{Deserialize, Serialize};
use tokio::sync::Notify;

/// As much may wait for a store that is slow, bytes.
const ROOM: usize = 16 << 20;

/// What is written.
#[derive(Clone, Debug)]
pub(super) enum Item {
    /// Rows.
    Batch(Batch),
    /// Here the walk began whose result comes as [`Item::All`], and when.
    Mark(Instant),
    /// All that the gateway knows: its parts as text, and which walk it was.
    All(Arc<Vec<Vec<u8>>>, u32),
    /// How the gateway is.
    Beat(Beat),
}

/// Rows that are told together.
#[derive(Clone, Debug)]
pub(super) struct Batch {
    /// Its number among those of the gateway.
    pub(super) sequence: u64,
    /// As [`super::record`] writes it.
    pub(super) text: Arc<Vec<u8>>,
    /// When its first row was noted.
    pub(super) since: Instant,
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
    /// The number of its last batch at this store.
    pub(super) sequence: u64,
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
            queue.items.push_back(Item::Mark(Instant::now()));
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
        if let Item::Batch(batch) = &item {
            if !queue.is_open {
                queue.dropped += 1;
                return;
            }
            if queue.bytes + batch.text.len() > ROOM {
                queue.drop_batches();
            }
            queue.bytes += batch.text.len();
        } else if !queue.is_open {
            return;
        }
        queue.items.push_back(item);
        drop(queue);
        self.wake.notify_one();
    }

    /// What is to be written next, as much as there is, up to so many.
    pub(super) async fn next(&self, n: usize) -> Vec<Item> {
        loop {
            let items = self.take(n);
            if !items.is_empty() {
                return items;
            }
            self.wake.notified().await;
        }
    }

    /// The same, without waiting.
    pub(super) fn take(&self, n: usize) -> Vec<Item> {
        let mut queue = self.lock();
        (0..n).map_while(|_| queue.take()).collect()
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
        if let Item::Batch(batch) = &item {
            self.bytes -= batch.text.len();
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
        let text = Arc::new(vec![0; bytes]);
        Item::Batch(Batch { sequence: 1, text, since: Instant::now() })
    }

    fn all(outbox: &Outbox) -> Vec<Item> {
        outbox.next(usize::MAX).now_or_never().unwrap_or_default()
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
        assert!(matches!(all(&outbox)[..], [Item::Mark(_), Item::Batch(_)]));
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
        assert_eq!(all(&outbox).len(), 3);
        (0..100).for_each(|_| outbox.push(batch(ROOM / 100)));
        assert_eq!((all(&outbox).len(), outbox.counts()), (100, (0, 4)), "room was not given back");
    }
}
