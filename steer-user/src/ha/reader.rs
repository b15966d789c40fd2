//! What a gateway reads at a store: the streams of the others as they grow, all that one knows when it
//! is met, when messages of it are missing and each time that it wrote it, and who is there.

use std::{collections::HashMap, time::Instant};

use anyhow::{Context as _, Result};
use tokio::{sync::mpsc, time};

use super::{
    link::{self, BEGINNING, Link, Retry, StoreClock, part_name},
    outbox::Beat,
    seal::{Number, Purpose},
    status::ALIVE,
    store::{BLOCK, Connection, Entry},
};

/// How often it is looked who is there.
const ROLL: time::Duration = time::Duration::from_secs(1);
/// The store's clock is asked after so many looks.
const CLOCK_LOOKS: u32 = 10;
/// A gateway that was not heard of for so long is forgotten, seconds.
const FORGOTTEN: u64 = 24 * 3600;
/// Looks after which messages that were told of and did not come are missing.
const PATIENT_LOOKS: u32 = 3;
/// Gateways whose whole state is not there yet, or that were not heard of, are waited for so long: one
/// that lost the store may look for it as late as that.
const OTHERS: time::Duration = time::Duration::from_secs(3);
/// Shortest time between two looks at all that one gateway knows, where the first one was through.
const ALL_AGAIN: time::Duration = time::Duration::from_secs(5);
/// What one gateway heard of another one may have been told so much later, milliseconds.
const SLACK: u64 = 2000;

/// What a store brings, in the order in which it is to be taken.
#[derive(Debug)]
pub(super) enum Inbound {
    /// Rows of a gateway.
    Rows {
        gateway: String,
        /// As [`super::record::read`] wants it.
        text: Vec<u8>,
        /// How long ago it was told, milliseconds.
        age: u64,
        /// How they came.
        way: Way,
    },
    /// A gateway began anew.
    Anew(String),
    /// All was handed on that a gateway knows: of what it did not tell since then it knows nothing.
    Through(String, Instant),
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

/// What one store was read of.
#[derive(Default)]
struct Reader {
    is_synced: bool,
    peers: HashMap<String, Peer>,
}

/// How far another gateway's messages were read.
struct Peer {
    position: String,
    /// The last one.
    last: Number,
    /// Whether something of it was never read.
    misses: bool,
    /// When all that it knows was read last.
    looked: Option<time::Instant>,
    /// Looks since it told of messages, and none came.
    behind: u32,
    /// The last message at the last look.
    at_look: Number,
    /// Which walk its whole state was of that was read.
    all: u32,
    is_alive: bool,
}

impl Default for Peer {
    fn default() -> Self {
        Self {
            position: BEGINNING.to_owned(),
            last: Number::default(),
            misses: true,
            looked: None,
            behind: 0,
            at_look: Number::default(),
            all: 0,
            is_alive: false,
        }
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
    fn order(&self, number: Number) -> Order {
        let next = if number.epoch == self.last.epoch { self.last.sequence + 1 } else { 1 };
        match number.sequence {
            sequence if sequence == next => Order::Next,
            sequence if sequence > next => Order::Gap,
            _ => Order::Replayed,
        }
    }

    /// Notes of which life of its gateway a message is; whether of another one than those before.
    fn meets(&mut self, epoch: u64) -> bool {
        if self.last.epoch == epoch {
            return false;
        }
        let is_anew = self.last.epoch != 0;
        self.last = Number { epoch, sequence: 0 };
        is_anew
    }

    /// It says that it wrote as much: where that does not come, nor anything before it, it is read
    /// from the beginning, for the store began anew with an earlier clock, say.
    fn wrote(&mut self, number: Number) {
        let is_ahead = number.sequence > 0
            && (number.epoch != self.last.epoch || number.sequence > self.last.sequence);
        let is_deaf = is_ahead && self.last == self.at_look;
        self.at_look = self.last;
        self.behind = if is_deaf { self.behind + 1 } else { 0 };
        if self.behind >= PATIENT_LOOKS {
            (self.behind, self.misses) = (0, true);
            BEGINNING.clone_into(&mut self.position);
        }
    }
}

impl Link {
    /// Reads for ever, as long as somebody takes what comes.
    pub(super) async fn read(&self, to: mpsc::Sender<Inbound>) {
        let (mut retry, mut reader) = (Retry::default(), Reader::default());
        while !to.is_closed() {
            let began = time::Instant::now();
            if let Err(error) = self.read_session(&mut reader, &to).await {
                self.note_error(link::Half::Read, &error);
            }
            reader.is_synced = false;
            retry.wait(began).await;
        }
    }

    async fn read_session(&self, reader: &mut Reader, to: &mpsc::Sender<Inbound>) -> Result<()> {
        let mut connection = self.store.connect().await?;
        let mut clock = StoreClock::read(&mut connection).await?;
        if !*self.restored.borrow() {
            self.restore(&mut connection, clock, to).await?;
            self.restored.send_replace(true);
        }
        let began = time::Instant::now();
        let (mut looked, mut looks) = (None::<time::Instant>, 0_u32);
        loop {
            if looked.is_none_or(|at| at.elapsed() >= ROLL) {
                looks += 1;
                if looks.is_multiple_of(CLOCK_LOOKS) {
                    clock = StoreClock::read(&mut connection).await?;
                }
                let is_alone = self.roll(reader, &mut connection, clock, to).await?;
                // What an agent before this one said is old by then.
                if is_alone || began.elapsed().as_secs() < ALIVE {
                    self.note_good(link::Half::Read);
                } else {
                    let why = "another gateway has this one's name: each needs one of its own";
                    self.note_error(link::Half::Read, &anyhow::anyhow!(why));
                }
                looked = Some(time::Instant::now());
            }
            let from = reader.peers.iter();
            let from = from.map(|(gateway, peer)| (gateway.clone(), peer.position.clone()));
            let from = from.collect::<Vec<_>>();
            let (entries, is_all) = connection.read(&from, reader.is_synced).await?;
            for entry in entries {
                self.entry(reader, entry, clock, to).await?;
            }
            let misses = reader.peers.is_empty()
                || reader.peers.values().any(|peer| peer.is_alive && peer.misses);
            if is_all && !reader.is_synced && (!misses || began.elapsed() > OTHERS) {
                reader.is_synced = true;
                to.send(Inbound::Synced(self.number)).await.context("hand rows on")?;
            } else if from.is_empty() || !reader.is_synced {
                time::sleep(BLOCK / 20).await;
            }
        }
    }

    /// Hands on what this gateway knew in an earlier life.
    async fn restore(
        &self,
        connection: &mut Connection,
        clock: StoreClock,
        to: &mpsc::Sender<Inbound>,
    ) -> Result<()> {
        let all = self.contents(connection, &self.name).await?;
        let mut position = BEGINNING.to_owned();
        if let Some((number, contents)) = all {
            let age = clock.since(contents.ended);
            let parts = contents.parts;
            self.parts(connection, &self.name, (number, parts), (age, Way::Caught), to).await?;
            position = contents.position;
        }
        loop {
            let from = [(self.name.clone(), position.clone())];
            let (entries, is_all) = connection.read(&from, false).await?;
            for entry in entries {
                position.clone_from(&entry.id);
                let opened = self.open(Purpose::Batch, &entry.gateway, &entry.message);
                if let Some((_, text)) = opened {
                    self.hand_on(&entry, &text, clock, to).await?;
                }
            }
            if is_all {
                return Ok(());
            }
        }
    }

    /// Looks who is there, and reads what it has not read of them; false where it is another gateway
    /// that has this one's name.
    async fn roll(
        &self,
        reader: &mut Reader,
        connection: &mut Connection,
        clock: StoreClock,
        to: &mpsc::Sender<Inbound>,
    ) -> Result<bool> {
        let mut is_alone = true;
        for (gateway, message) in connection.said().await? {
            let opened = self.open(Purpose::Beat, &gateway, &message);
            let Some((number, text)) = opened else { continue };
            let Ok(beat) = postcard::from_bytes::<Beat>(&text) else { continue };
            let silent = clock.since(beat.at) / 1000;
            if gateway == self.name {
                is_alone &= number.epoch == self.epoch || silent >= ALIVE;
                continue;
            }
            if silent > FORGOTTEN {
                connection.unsay(&gateway).await?;
                reader.peers.remove(&gateway);
                self.shared.lock().peers.remove(&gateway);
                continue;
            }
            let is_alive = silent < ALIVE;
            self.note_peer(&gateway, &beat, is_alive);
            if is_alive {
                to.send(Inbound::Ages(beat.ages.clone())).await.context("hand rows on")?;
            }
            let peer = reader.peers.entry(gateway.clone()).or_default();
            peer.is_alive = is_alive;
            peer.wrote(Number { sequence: beat.sequence, ..number });
            let wants = peer.misses || (beat.all != peer.all && beat.all != 0);
            if wants && peer.looked.is_none_or(|at| at.elapsed() > ALL_AGAIN) {
                self.read_all(peer, connection, (&gateway, number.epoch), clock, to).await?;
            }
        }
        Ok(is_alone)
    }

    /// Hands on all that a gateway knows, in the life of this epoch. Where it is not there yet, or goes
    /// while it is read, it is read at another look.
    async fn read_all(
        &self,
        peer: &mut Peer,
        connection: &mut Connection,
        (gateway, epoch): (&str, u64),
        clock: StoreClock,
        to: &mpsc::Sender<Inbound>,
    ) -> Result<()> {
        let contents = self.contents(connection, gateway).await?;
        let Some((number, contents)) = contents.filter(|(number, _)| number.epoch == epoch) else {
            return Ok(());
        };
        if peer.meets(number.epoch) {
            to.send(Inbound::Anew(gateway.to_owned())).await.context("hand rows on")?;
            peer.misses = true;
        }
        let age = clock.since(contents.ended);
        let way = if peer.misses { Way::Caught } else { Way::Compared };
        let parts = contents.parts;
        if !self.parts(connection, gateway, (number, parts), (age, way), to).await? {
            return Ok(());
        }
        peer.looked = Some(time::Instant::now());
        let began = time::Duration::from_millis(clock.since(contents.began) + SLACK);
        if let Some(began) = Instant::now().checked_sub(began) {
            let through = Inbound::Through(gateway.to_owned(), began);
            to.send(through).await.context("hand rows on")?;
        }
        if std::mem::take(&mut peer.misses) {
            // What it told since is read, once more if need be.
            peer.position = contents.position;
            peer.last = Number { epoch: number.epoch, sequence: contents.sequence };
        }
        peer.all = u32::try_from(number.sequence >> 32).unwrap_or_default();
        Ok(())
    }

    /// Hands on the parts of all that a gateway knows; false where one is not there.
    async fn parts(
        &self,
        connection: &mut Connection,
        gateway: &str,
        (number, parts): (Number, u32),
        (age, way): (u64, Way),
        to: &mpsc::Sender<Inbound>,
    ) -> Result<bool> {
        for n in 0..u64::from(parts) {
            let expected = Number { sequence: number.sequence + n, ..number };
            let name = part_name(gateway, expected);
            let Some(message) = connection.get(Purpose::Part, &name).await? else {
                return Ok(false);
            };
            let opened = self.open(Purpose::Part, gateway, &message);
            let Some((_, text)) = opened.filter(|(number, _)| *number == expected) else {
                return Ok(false);
            };
            let rows = Inbound::Rows { gateway: gateway.to_owned(), text, age, way };
            to.send(rows).await.context("hand rows on")?;
        }
        Ok(true)
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
        if peer.meets(number.epoch) {
            to.send(Inbound::Anew(entry.gateway.clone())).await.context("hand rows on")?;
        }
        match peer.order(number) {
            Order::Replayed => return Ok(()),
            Order::Gap if !peer.misses => {
                peer.misses = true;
                if let Some(peer) = self.shared.lock().peers.get_mut(&entry.gateway) {
                    peer.report.gaps += 1;
                }
            }
            Order::Gap | Order::Next => {}
        }
        peer.last = number;
        self.hand_on(&entry, &text, clock, to).await
    }

    async fn hand_on(
        &self,
        entry: &Entry,
        text: &[u8],
        clock: StoreClock,
        to: &mpsc::Sender<Inbound>,
    ) -> Result<()> {
        let Some((waited, text)) = text.split_first_chunk::<4>() else { return Ok(()) };
        let waited = u64::from(u32::from_be_bytes(*waited)) / 1000;
        let (gateway, text) = (entry.gateway.clone(), text.to_vec());
        let rows =
            Inbound::Rows { gateway, text, age: clock.since(entry.at()) + waited, way: Way::Told };
        to.send(rows).await.context("hand rows on")
    }

    fn note_peer(&self, gateway: &str, beat: &Beat, is_alive: bool) {
        let mut noted = self.shared.lock();
        let peer = noted.peers.entry(gateway.to_owned()).or_default();
        let Beat { version, ready, has, .. } = beat.clone();
        gateway.clone_into(&mut peer.report.name);
        (peer.report.version, peer.report.ready, peer.report.has) = (version, ready, has);
        if is_alive {
            peer.note_heard();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn number(epoch: u64, sequence: u64) -> Number {
        Number { epoch, sequence }
    }

    #[test]
    fn missing_messages_are_noticed_and_replayed_ones_left() {
        let mut peer = Peer { last: number(1, 69), ..Peer::default() };
        for (epoch, sequence, is_anew, expected) in [
            (1, 70, false, Order::Next),
            (1, 71, false, Order::Next),
            (1, 71, false, Order::Replayed),
            (1, 5, false, Order::Replayed),
            (1, 74, false, Order::Gap),
            (1, 75, false, Order::Next),
            // It began anew.
            (2, 1, true, Order::Next),
            (2, 2, false, Order::Next),
            (3, 9, true, Order::Gap),
        ] {
            assert_eq!(peer.meets(epoch), is_anew, "{epoch} {sequence}");
            let order = peer.order(number(epoch, sequence));
            assert_eq!(order, expected, "{epoch} {sequence}");
            if order != Order::Replayed {
                peer.last = number(epoch, sequence);
            }
        }
        assert!(!Peer::default().meets(7), "met first is not begun anew");
    }

    #[test]
    fn a_stream_that_falls_silent_while_its_gateway_goes_on_is_read_from_the_beginning() {
        let at = "5-1".to_owned();
        let met = || {
            let (position, last) = (at.clone(), number(1, 9));
            Peer { position, last, at_look: last, misses: false, ..Peer::default() }
        };
        let mut peer = met();
        for sequence in [9, 10, 11] {
            peer.wrote(number(1, sequence));
            assert!(!peer.misses && peer.position == at);
        }
        peer.wrote(number(1, 12));
        assert_eq!((peer.misses, peer.position.as_str()), (true, BEGINNING));
        // One that is read more slowly than it writes is not silent.
        let mut peer = met();
        for sequence in 10..30 {
            peer.wrote(number(1, 100 * sequence));
            peer.last = number(1, sequence);
            assert!(!peer.misses && peer.position == at);
        }
    }
}
