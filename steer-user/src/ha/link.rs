//! One store, as a gateway uses it: one connection on which it writes, one on which it reads. Either
//! ends at any error and begins anew.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use serde::{Deserialize, Serialize};
use tokio::{sync::mpsc, time};

use super::{
    outbox::{Beat, Item, Outbox},
    record::BATCH_MAX,
    seal::{Number, Purpose, Seal},
    status::{ALIVE, Shared},
    store::{BLOCK, Connection, Entry, MESSAGE_MAX, PATIENCE, Store},
};
use crate::clock;

/// Bytes of its own stream that a gateway keeps at a store.
const LOG_BYTES: usize = 64 << 20;
/// Wait before a store is tried again, at first and at most.
const RETRY: [Duration; 2] = [Duration::from_millis(200), Duration::from_secs(5)];
/// How often it is looked who is there.
const ROLL: Duration = Duration::from_secs(1);
/// A gateway that was not heard of for so long is forgotten, seconds.
const FORGOTTEN: u64 = 24 * 3600;
/// Parts that the state of a gateway may have.
const PARTS_MAX: u32 = 1 << 16;
/// Shortest time between two looks at the whole state of one gateway, but for the first.
const ALL_AGAIN: Duration = Duration::from_secs(20);

/// What a store brings, in the order in which it is to be taken.
#[derive(Debug)]
pub(super) enum Inbound {
    /// Rows of a gateway.
    Rows {
        gateway: String,
        /// As [`super::record::read`] wants it.
        text: Vec<u8>,
        /// How long ago the store got it, milliseconds.
        age: u64,
        /// How they came.
        way: Way,
    },
    /// A gateway began anew.
    Anew(String),
    /// For how long, seconds, a gateway takes the connections of its VIPs.
    Ages(Vec<(String, u32)>),
    /// All was read that the store of this number had.
    Synced(usize),
}

/// How rows came.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Way {
    /// As they were told.
    Told,
    /// As a part of all that a gateway knows, when it was met first, or messages of it were missed.
    Caught,
    /// The same, to see whether anything is missing here.
    Compared,
}

/// What names the parts of all that a gateway knows.
#[derive(Debug, Serialize, Deserialize)]
struct Contents {
    parts: u32,
    /// Where the walk began in the gateway's stream.
    position: String,
    /// When the walk was over, milliseconds of the store's clock.
    at: u64,
}

/// All that the gateway knows, as far as it is written.
struct Writing {
    texts: Arc<Vec<Vec<u8>>>,
    /// Which walk it is of, and where that began in the gateway's stream.
    walk: u32,
    position: String,
    /// When it was over, milliseconds of the store's clock.
    at: u64,
    /// Parts that are written.
    names: Vec<String>,
}

/// The beginning of a stream.
const BEGINNING: &str = "0-0";

/// What both connections to a store need.
#[derive(Debug)]
pub(super) struct Link {
    /// The store's number.
    pub(super) number: usize,
    pub(super) store: Store,
    /// This gateway.
    pub(super) name: String,
    pub(super) epoch: u64,
    pub(super) seal: Arc<Seal>,
    pub(super) outbox: Arc<Outbox>,
    /// Whether this gateway knows nothing of its own.
    pub(super) is_fresh: bool,
    pub(super) shared: Shared,
}

impl Link {
    /// Writes for ever.
    pub(super) async fn write(&self) {
        let mut retry = RETRY[0];
        loop {
            let began = time::Instant::now();
            let ended = self.write_session().await;
            self.outbox.close();
            self.note_error(ended.err());
            retry = if began.elapsed() > RETRY[1] { RETRY[0] } else { (retry * 2).min(RETRY[1]) };
            time::sleep(retry).await;
        }
    }

    fn note_error(&self, error: Option<anyhow::Error>) {
        let text = error.map_or_else(String::new, |error| format!("{error:#}"));
        let mut noted = self.shared.lock();
        let Some(store) = noted.report.stores.get_mut(self.number) else { return };
        if store.error != text && !text.is_empty() {
            log::warn!("store {}: {text}", store.server);
        }
        (store.connected, store.error) = (false, text);
    }

    async fn write_session(&self) -> Result<()> {
        let mut connection = self.store.connect().await?;
        let mut clock = StoreClock::read(&mut connection).await?;
        // What this gateway wrote before, in whichever life, goes once it is written anew.
        let mut old = self.parts(&mut connection).await?;
        self.outbox.open();
        self.note_connected();
        let mut log = Log::default();
        let (mut mark, mut all, mut beats) = (BEGINNING.to_owned(), 0, 0);
        let mut writing = None::<Writing>;
        loop {
            // Parts are written while nothing else waits.
            let item = match &mut writing {
                None => self.outbox.next().await,
                Some(parts) => match self.outbox.take() {
                    Some(item) => item,
                    None => {
                        if self.write_part(&mut connection, parts).await? {
                            connection.remove(&old).await?;
                            (old, all) = (std::mem::take(&mut parts.names), parts.walk);
                            writing = None;
                            self.note_written();
                        }
                        continue;
                    }
                },
            };
            match item {
                Item::Batch(message) => {
                    let keep = log.keep(message.len());
                    log.last = connection.add(&self.name, &message, keep).await?;
                    self.note_written();
                }
                Item::Mark => mark.clone_from(&log.last),
                Item::All(texts, walk) => {
                    // Parts of one that is not through go with those of the one before.
                    old.extend(writing.take().into_iter().flat_map(|parts| parts.names));
                    writing = Some(Writing {
                        texts,
                        walk,
                        position: mark.clone(),
                        at: clock.now(),
                        names: Vec::new(),
                    });
                }
                Item::Beat(beat) => {
                    beats += 1;
                    if beats % 10 == 0 {
                        clock = StoreClock::read(&mut connection).await?;
                    }
                    let beat = Beat { at: clock.now(), all, ..beat };
                    let number = Number { epoch: self.epoch, sequence: beats };
                    let text = postcard::to_stdvec(&beat).context("write how this gateway is")?;
                    let message = self.seal.seal(Purpose::Beat, &self.name, number, &text)?;
                    connection.say(&self.name, &message).await?;
                }
            }
        }
    }

    /// Writes the next part of all that the gateway knows; true when it is through.
    async fn write_part(&self, connection: &mut Connection, parts: &mut Writing) -> Result<bool> {
        let n = u32::try_from(parts.names.len()).context("count parts")?;
        if let Some(text) = parts.texts.get(parts.names.len()) {
            let number = part_number(self.epoch, parts.walk, n);
            let name = part_name(&self.name, number);
            let message = self.seal.seal(Purpose::Part, &self.name, number, text)?;
            connection.put(Purpose::Part, &name, &message).await?;
            parts.names.push(name);
            return Ok(false);
        }
        let Writing { position, at, .. } = parts;
        let contents = Contents { parts: n, position: position.clone(), at: *at };
        let number = part_number(self.epoch, parts.walk, 0);
        let text = postcard::to_stdvec(&contents).context("write contents")?;
        let message = self.seal.seal(Purpose::Contents, &self.name, number, &text)?;
        connection.put(Purpose::Contents, &self.name, &message).await?;
        Ok(true)
    }

    /// The names of the parts that this gateway wrote last.
    async fn parts(&self, connection: &mut Connection) -> Result<Vec<String>> {
        let Some((number, contents)) = self.contents(connection, &self.name).await? else {
            return Ok(Vec::new());
        };
        let name = |n| part_name(&self.name, Number { sequence: number.sequence + n, ..number });
        Ok((0..u64::from(contents.parts)).map(name).collect())
    }

    async fn contents(
        &self,
        connection: &mut Connection,
        gateway: &str,
    ) -> Result<Option<(Number, Contents)>> {
        let Some(message) = connection.get(Purpose::Contents, gateway).await? else {
            return Ok(None);
        };
        let opened = self.open(Purpose::Contents, gateway, &message);
        let read = opened.and_then(|(number, text)| {
            let contents = postcard::from_bytes::<Contents>(&text).ok()?;
            (contents.parts <= PARTS_MAX).then_some((number, contents))
        });
        Ok(read)
    }

    /// Opens a message; one that is none is counted.
    fn open(&self, purpose: Purpose, gateway: &str, message: &[u8]) -> Option<(Number, Vec<u8>)> {
        let fits = message.len() <= MESSAGE_MAX;
        let opened = fits.then(|| self.seal.open(purpose, gateway, message)).flatten();
        if opened.is_none() {
            self.shared.lock().report.refused += 1;
        }
        opened
    }

    fn note_connected(&self) {
        let mut noted = self.shared.lock();
        if let Some(store) = noted.report.stores.get_mut(self.number) {
            log::info!("store {} is reached", store.server);
            (store.connected, store.error) = (true, String::new());
        }
    }

    fn note_written(&self) {
        if let Some(store) = self.shared.lock().report.stores.get_mut(self.number) {
            store.written += 1;
        }
    }

    /// Reads for ever, as long as somebody takes what comes.
    pub(super) async fn read(&self, to: mpsc::Sender<Inbound>) {
        let (mut retry, mut reader) = (RETRY[0], Reader::default());
        while !to.is_closed() {
            let began = time::Instant::now();
            if let Err(error) = self.read_session(&mut reader, &to).await {
                log::debug!("read store {}: {error:#}", self.number);
            }
            reader.synced = false;
            if let Some(store) = self.shared.lock().report.stores.get_mut(self.number) {
                store.synced = false;
            }
            retry = if began.elapsed() > RETRY[1] { RETRY[0] } else { (retry * 2).min(RETRY[1]) };
            time::sleep(retry).await;
        }
    }

    async fn read_session(&self, reader: &mut Reader, to: &mpsc::Sender<Inbound>) -> Result<()> {
        let mut connection = self.store.connect().await?;
        let mut clock = StoreClock::read(&mut connection).await?;
        if self.is_fresh && !reader.restored {
            // What this gateway knew in an earlier life.
            self.restore(&mut connection, clock, to).await?;
            reader.restored = true;
        }
        let (mut looked, mut looks) = (None::<time::Instant>, 0_u32);
        loop {
            if looked.is_none_or(|at| at.elapsed() >= ROLL) {
                looks += 1;
                if looks % 10 == 0 {
                    clock = StoreClock::read(&mut connection).await?;
                }
                self.roll(reader, &mut connection, clock, to).await?;
                looked = Some(time::Instant::now());
            }
            let from = reader.positions();
            let entries = connection.read(&from, reader.synced).await?;
            if entries.is_empty() && !reader.synced {
                reader.synced = true;
                to.send(Inbound::Synced(self.number)).await.context("hand rows on")?;
            } else if from.is_empty() {
                time::sleep(BLOCK / 4).await;
            }
            for entry in entries {
                self.entry(reader, entry, clock, to).await?;
            }
        }
    }

    async fn restore(
        &self,
        connection: &mut Connection,
        clock: StoreClock,
        to: &mpsc::Sender<Inbound>,
    ) -> Result<()> {
        let all = self.read_all(connection, &self.name, Way::Caught, clock, to).await?;
        let mut position = all.map_or_else(|| BEGINNING.to_owned(), |(_, position)| position);
        loop {
            let from = [(self.name.clone(), position.clone())];
            let entries = connection.read(&from, false).await?;
            let Some(last) = entries.last() else { return Ok(()) };
            position.clone_from(&last.id);
            for entry in entries {
                let opened = self.open(Purpose::Batch, &entry.gateway, &entry.message);
                // What this life wrote meanwhile says nothing new.
                if let Some((_, text)) = opened.filter(|(number, _)| number.epoch != self.epoch) {
                    self.hand_on(&entry, text, clock, to).await?;
                }
            }
        }
    }

    /// Looks who is there, and reads what it has not read of them.
    async fn roll(
        &self,
        reader: &mut Reader,
        connection: &mut Connection,
        clock: StoreClock,
        to: &mpsc::Sender<Inbound>,
    ) -> Result<()> {
        for (gateway, message) in connection.said().await? {
            if gateway == self.name {
                continue;
            }
            let opened = self.open(Purpose::Beat, &gateway, &message);
            let Some((_, text)) = opened else { continue };
            let Ok(beat) = postcard::from_bytes::<Beat>(&text) else { continue };
            let silent = clock.now().saturating_sub(beat.at) / 1000;
            if silent > FORGOTTEN {
                connection.unsay(&gateway).await?;
                reader.peers.remove(&gateway);
                continue;
            }
            self.note_peer(&gateway, &beat, silent < ALIVE);
            if silent < ALIVE {
                to.send(Inbound::Ages(beat.ages.clone())).await.context("hand rows on")?;
            }
            let peer = reader.peers.entry(gateway.clone()).or_default();
            let due = peer.looked.is_none_or(|at| at.elapsed() >= ALL_AGAIN);
            let changed = beat.all != peer.all && beat.all != 0;
            if peer.misses || (changed && due) {
                let way = if peer.misses { Way::Caught } else { Way::Compared };
                let all = self.read_all(connection, &gateway, way, clock, to).await?;
                peer.caught_up(all.map(|(_, position)| position));
                peer.all = beat.all;
            }
        }
        Ok(())
    }

    /// Hands on all that a gateway knows; where it was in its stream then.
    async fn read_all(
        &self,
        connection: &mut Connection,
        gateway: &str,
        way: Way,
        clock: StoreClock,
        to: &mpsc::Sender<Inbound>,
    ) -> Result<Option<(Number, String)>> {
        let Some((number, contents)) = self.contents(connection, gateway).await? else {
            return Ok(None);
        };
        let age = clock.now().saturating_sub(contents.at);
        for n in 0..u64::from(contents.parts) {
            let expected = Number { sequence: number.sequence + n, ..number };
            let name = part_name(gateway, expected);
            // The gateway wrote another one meanwhile: that is read next time.
            let Some(message) = connection.get(Purpose::Part, &name).await? else { break };
            let opened = self.open(Purpose::Part, gateway, &message);
            let Some((_, text)) = opened.filter(|(number, _)| *number == expected) else {
                continue;
            };
            let rows = Inbound::Rows { gateway: gateway.to_owned(), text, age, way };
            to.send(rows).await.context("hand rows on")?;
        }
        Ok(Some((number, contents.position)))
    }

    /// Takes a message of a gateway's stream, and notices where some are missing.
    async fn entry(
        &self,
        reader: &mut Reader,
        entry: Entry,
        clock: StoreClock,
        to: &mpsc::Sender<Inbound>,
    ) -> Result<()> {
        let peer = reader.peers.entry(entry.gateway.clone()).or_default();
        peer.position.clone_from(&entry.id);
        let Some((number, text)) = self.open(Purpose::Batch, &entry.gateway, &entry.message) else {
            return Ok(());
        };
        let order = peer.order(number);
        if order == Order::Replayed {
            return Ok(());
        }
        let is_anew = peer.last.is_some_and(|last| last.epoch != number.epoch);
        peer.last = Some(number);
        if is_anew {
            to.send(Inbound::Anew(entry.gateway.clone())).await.context("hand rows on")?;
        }
        if order == Order::Gap {
            peer.misses = true;
            if let Some(peer) = self.shared.lock().peers.get_mut(&entry.gateway) {
                peer.report.gaps += 1;
            }
        }
        self.hand_on(&entry, text, clock, to).await
    }

    async fn hand_on(
        &self,
        entry: &Entry,
        text: Vec<u8>,
        clock: StoreClock,
        to: &mpsc::Sender<Inbound>,
    ) -> Result<()> {
        ensure!(text.len() <= BATCH_MAX + MESSAGE_MAX, "a message of {} bytes", text.len());
        let age = clock.now().saturating_sub(entry.at());
        let rows = Inbound::Rows { gateway: entry.gateway.clone(), text, age, way: Way::Told };
        to.send(rows).await.context("hand rows on")
    }

    fn note_peer(&self, gateway: &str, beat: &Beat, is_alive: bool) {
        let mut noted = self.shared.lock();
        let peer = noted.peers.entry(gateway.to_owned()).or_default();
        let Beat { version, ready, has, .. } = beat.clone();
        peer.report.name = gateway.to_owned();
        (peer.report.version, peer.report.ready, peer.report.has) = (version, ready, has);
        if is_alive {
            peer.note_heard();
        }
    }
}

/// What one store was read of.
#[derive(Default)]
struct Reader {
    /// Whether what this gateway knew in an earlier life was read.
    restored: bool,
    synced: bool,
    peers: HashMap<String, Peer>,
}

impl Reader {
    fn positions(&self) -> Vec<(String, String)> {
        self.peers.iter().map(|(gateway, peer)| (gateway.clone(), peer.position.clone())).collect()
    }
}

/// How far another gateway's messages were read.
struct Peer {
    position: String,
    last: Option<Number>,
    /// Whether something of it was never read.
    misses: bool,
    /// Which walk its whole state was of that was read.
    all: u32,
    looked: Option<time::Instant>,
}

impl Default for Peer {
    fn default() -> Self {
        Self { position: BEGINNING.to_owned(), last: None, misses: true, all: 0, looked: None }
    }
}

/// Where a message stands among those of its gateway.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Order {
    Next,
    /// Some before it were never read.
    Gap,
    /// It was read before.
    Replayed,
}

impl Peer {
    /// All that it knew was read, as of that place in its stream. Where something was missing, what
    /// it told since is read once more.
    fn caught_up(&mut self, position: Option<String>) {
        self.looked = Some(time::Instant::now());
        if let Some(position) = position.filter(|_| self.misses) {
            (self.position, self.last) = (position, None);
        }
        self.misses = false;
    }

    fn order(&self, number: Number) -> Order {
        match self.last {
            Some(last) if last.epoch == number.epoch && number.sequence <= last.sequence => {
                Order::Replayed
            }
            Some(last) if last.epoch == number.epoch => {
                if number.sequence == last.sequence + 1 {
                    Order::Next
                } else {
                    Order::Gap
                }
            }
            // Another life of the gateway, which begins with number 1.
            Some(_) if number.sequence != 1 => Order::Gap,
            // All that it knew was just read.
            Some(_) | None => Order::Next,
        }
    }
}

/// Parts of a walk have numbers of their own.
fn part_number(epoch: u64, walk: u32, part: u32) -> Number {
    Number { epoch, sequence: u64::from(walk) << 32 | u64::from(part) }
}

fn part_name(gateway: &str, number: Number) -> String {
    format!("{gateway}:{:x}:{:x}", number.epoch, number.sequence)
}

/// How far a store's clock is ahead of this machine's, milliseconds.
#[derive(Clone, Copy)]
struct StoreClock(i64);

impl StoreClock {
    async fn read(connection: &mut Connection) -> Result<Self> {
        let time =
            time::timeout(PATIENCE, connection.time()).await.context("ask for the time")??;
        Ok(Self((time as i64).wrapping_sub(own_time())))
    }

    /// Milliseconds of the store's clock.
    fn now(self) -> u64 {
        own_time().wrapping_add(self.0) as u64
    }
}

fn own_time() -> i64 {
    (clock::nanoseconds() / 1_000_000) as i64
}

/// This gateway's own stream.
struct Log {
    /// Lengths of the messages that are kept.
    lengths: VecDeque<usize>,
    bytes: usize,
    /// Where the last message stands.
    last: String,
}

impl Default for Log {
    fn default() -> Self {
        Self { lengths: VecDeque::new(), bytes: 0, last: BEGINNING.to_owned() }
    }
}

impl Log {
    /// How many messages are kept once one of this length is added.
    fn keep(&mut self, length: usize) -> usize {
        self.lengths.push_back(length);
        self.bytes += length;
        while self.bytes > LOG_BYTES {
            self.bytes -= self.lengths.pop_front().unwrap_or(self.bytes);
        }
        self.lengths.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missing_messages_are_noticed_and_replayed_ones_left() {
        let number = |epoch, sequence| Number { epoch, sequence };
        let mut peer = Peer::default();
        for (epoch, sequence, expected) in [
            // Where all that it knows was read first.
            (1, 70, Order::Next),
            (1, 71, Order::Next),
            (1, 71, Order::Replayed),
            (1, 5, Order::Replayed),
            (1, 74, Order::Gap),
            (1, 75, Order::Next),
            // It began anew.
            (2, 1, Order::Next),
            (2, 2, Order::Next),
            (3, 9, Order::Gap),
        ] {
            let order = peer.order(number(epoch, sequence));
            assert_eq!(order, expected, "{epoch} {sequence}");
            if order != Order::Replayed {
                peer.last = Some(number(epoch, sequence));
            }
        }
    }

    #[test]
    fn a_stream_keeps_as_many_messages_as_have_room() {
        let mut log = Log::default();
        assert_eq!((1..=3).map(|_| log.keep(LOG_BYTES / 4)).collect::<Vec<_>>(), [1, 2, 3]);
        assert_eq!(log.keep(LOG_BYTES / 2), 3);
        assert_eq!(log.keep(LOG_BYTES), 1);
    }
}
