//! What one gateway learns all know: sessions, names of ticket keys and re-homed flows go to the
//! other gateways of the cluster by way of stores (Valkey, Redis), each of which has all. Nothing in
//! the path of packets waits for a store.
//!
//! A row says what is so, not what happened ([`record`]): it may come twice, late, or in another
//! order, and all gateways end with the same tables. A message carries rows, is numbered and sealed
//! ([`seal`]). Each gateway writes its own stream and reads those of the others ([`writer`], [`reader`]); where
//! messages are missing, and now and then anyway, all that the other one knows is read, which it
//! writes every few minutes ([`walk`]).

mod flows;
mod link;
mod outbox;
mod reader;
pub mod record;
pub(crate) mod seal;
mod status;
mod store;
mod walk;
mod writer;

use std::{
    collections::{HashMap, HashSet},
    os::fd::AsFd as _,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use aya::maps::{MapData, RingBuf};
use steer_common::shared::{
    FlowKey, JOURNAL_KEY_NAMES, JOURNAL_SESSIONS, JOURNAL_SPLICES, JournalEntry, SessionKey,
};
use tokio::{
    io::{Interest, unix::AsyncFd},
    sync::{mpsc, watch},
    task::JoinSet,
    time::{self, MissedTickBehavior},
};

use self::{
    link::Link,
    outbox::{Batch, Beat, Item, Outbox},
    reader::{Inbound, Way},
    record::{Row, Writer},
    seal::Seal,
    store::Store,
    walk::{Heard, Walker},
};
pub use self::{
    status::{PeerReport, Report, Rows, Shared, StoreReport},
    store::acl,
};
use crate::{
    address::socket,
    clock,
    config::Ha,
    plane::{PinDir, Plane},
    rows::{Names, Told},
    service::Service,
};

/// Rows wait so long for others, at most.
const GATHER: Duration = Duration::from_millis(2);
/// How often the tables are looked through for what the journal does not tell.
const WALK: Duration = Duration::from_secs(5);
/// How often a gateway says that it is there.
const BEAT: Duration = Duration::from_secs(1);
/// How often all that a gateway knows is written.
const ALL: Duration = Duration::from_secs(300);
/// For how long, seconds, the programs go on to note changes where nothing is heard of the agent.
const ANNOUNCED: u32 = 3;
/// Messages of stores that wait to be taken.
const INBOUND: usize = 64;
/// Rows that are taken at a time, before others get a turn.
const TAKEN_AT_ONCE: usize = 128;
/// Stores that do not answer are waited for so long where another one did.
const OTHERS: Duration = Duration::from_secs(5);
/// So long where none did: then there is nothing to be known.
const NOBODY: Duration = Duration::from_secs(30);

/// A VIP that is older is as old, seconds.
const OLDEST: u32 = i32::MAX as u32 / 2;
/// Ages that differ by no more are the same, seconds.
const SAME_AGE: i32 = 2;
/// A gateway has begun for so long.
const YOUNG: Duration = Duration::from_secs(60);

/// Whether what `[ha]` names can be used: keys, certificates and the password are read.
///
/// # Errors
/// With the file that cannot.
pub fn check(ha: &Ha) -> Result<()> {
    Seal::read(&ha.key_file, &ha.cluster)?;
    ha.servers.iter().try_for_each(|server| Store::new(ha, server).map(drop))
}

/// Tells and hears for ever. `is_fresh` says that the gateway's tables were empty: then it hears of
/// itself, too, of what it knew in an earlier life.
///
/// # Errors
/// Where the gateway's maps cannot be opened.
pub async fn run(ha: Ha, dir: PinDir, is_fresh: bool, shared: Shared) -> Result<()> {
    let seal = Arc::new(Seal::read(&ha.key_file, &ha.cluster)?);
    // Another one for each life, and in a status the time of its beginning.
    let epoch = clock::time_of_day() * 1_000_000_000 + clock::nanoseconds() % 1_000_000_000;
    let stores = ha
        .servers
        .iter()
        .map(|server| StoreReport { server: server.to_string(), ..StoreReport::default() });
    shared.lock().report = Report {
        cluster: ha.cluster.clone(),
        name: ha.name.clone(),
        // The programs went on while no agent told them anything.
        ready: !is_fresh,
        why: if is_fresh { "the stores are being read" } else { "its own tables were there" }
            .to_owned(),
        stores: stores.collect(),
        ..Report::default()
    };
    let (to, inbound) = mpsc::channel(INBOUND);
    let (mut tasks, mut outboxes) = (JoinSet::new(), Vec::new());
    for (number, server) in ha.servers.iter().enumerate() {
        let outbox = Arc::new(Outbox::default());
        outboxes.push(Arc::clone(&outbox));
        let link = Arc::new(Link {
            number,
            store: Store::new(&ha, server)?,
            name: ha.name.clone(),
            epoch,
            seal: Arc::clone(&seal),
            outbox,
            restored: watch::Sender::new(!is_fresh),
            failed: Mutex::default(),
            shared: shared.clone(),
        });
        let (reads, to) = (Arc::clone(&link), to.clone());
        tasks.spawn(async move { reads.read(to).await });
        tasks.spawn(async move { link.write().await });
    }
    drop(to);
    let plane = Plane::open(&dir)?;
    let engine = Engine {
        names: Names::read(&plane)?,
        walker: Some(Walker::new(Plane::open(&dir)?)),
        plane,
        sequence: 0,
        writer: Writer::default(),
        since: None,
        outboxes,
        synced: HashSet::new(),
        is_fresh,
        began: Instant::now(),
        told: HashMap::new(),
        heard: HashMap::new(),
        facts: HashMap::new(),
        facts_before: Arc::default(),
        has: [0; 3],
        walks: 0,
        failed: String::new(),
        shared,
    };
    tokio::select! {
        ended = engine.run(Plane::journal(&dir)?, inbound) => ended,
        _ = tasks.join_next() => bail!("a task of a store ended"),
    }
}

/// What has changed and was not told yet.
#[derive(Default)]
struct Changed {
    facts: HashSet<SessionKey>,
    flows: HashSet<FlowKey>,
}

/// What a walk brings.
enum Walked {
    /// All that is known, for these stores.
    All(Vec<Vec<u8>>, Vec<usize>),
    /// What happened since the last look.
    Touched(Vec<Row>),
}

/// A flow that another gateway told of.
struct HeardFlow {
    /// Its last packet, seconds of CLOCK_MONOTONIC.
    seen: u32,
    /// When it was told last.
    told: Instant,
    gateway: String,
}

struct Engine {
    plane: Plane,
    names: Names,
    /// `None` while it walks.
    walker: Option<Walker>,
    /// Of the last batch.
    sequence: u64,
    writer: Writer,
    /// When the first row came that waits.
    since: Option<Instant>,
    outboxes: Vec<Arc<Outbox>>,
    /// Stores all of which was read.
    synced: HashSet<usize>,
    is_fresh: bool,
    began: Instant,
    /// Flows that others were told of, with the client's initial sequence number.
    told: HashMap<FlowKey, u32>,
    /// Flows that others told of.
    heard: HashMap<FlowKey, HeardFlow>,
    /// Sessions and key names that others told of since the last look, and before it.
    facts: HashMap<SessionKey, u32>,
    facts_before: Arc<HashMap<SessionKey, u32>>,
    /// Sessions, key names and re-homed flows, as the last look found them.
    has: [u64; 3],
    walks: u32,
    /// What went wrong last.
    failed: String,
    shared: Shared,
}

impl Engine {
    async fn run(
        mut self,
        mut journal: RingBuf<MapData>,
        mut inbound: mpsc::Receiver<Inbound>,
    ) -> Result<()> {
        let ring = journal.as_fd().try_clone_to_owned().context("wait for the ring of changes")?;
        // SAFETY: the descriptor is owned, and stays the same as long as it is registered.
        let changes = unsafe { AsyncFd::register_with_interest(ring, Interest::READABLE) };
        let changes = changes.context("wait for the ring of changes")?;
        let mut beat = time::interval(BEAT);
        let mut walk = time::interval(WALK);
        let mut all = time::interval(BEAT / 10);
        [&mut beat, &mut walk, &mut all]
            .into_iter()
            .for_each(|turn| turn.set_missed_tick_behavior(MissedTickBehavior::Delay));
        let mut walking = JoinSet::new();
        let mut written = Instant::now();
        loop {
            let flush = self.since.map(|since| since + GATHER);
            let done = tokio::select! {
                () = until(flush) => self.flush(),
                ready = changes.readable() => {
                    // What comes from now on wakes this again.
                    ready.context("wait for the ring of changes")?.clear_ready();
                    let changed = drain(&mut journal);
                    // Those that come together are told together.
                    let told = self.tell(&changed);
                    time::sleep(GATHER / 4).await;
                    told
                }
                Some(walked) = walking.join_next() => {
                    let (walker, walked) = walked.context("look through the tables")?;
                    self.walked(walker, walked)
                }
                Some(came) = inbound.recv() => self.take(came).await,
                _ = beat.tick() => self.beat(),
                _ = walk.tick(), if self.walker.is_some() => {
                    self.look(&mut walking);
                    Ok(())
                }
                _ = all.tick(), if self.walker.is_some() => {
                    if written.elapsed() > ALL {
                        written = Instant::now();
                        self.outboxes.iter().for_each(|outbox| outbox.want_all());
                    }
                    self.look_at_all(&mut walking);
                    Ok(())
                }
            };
            self.note(done);
        }
    }

    /// What goes wrong is said once, and tried again: what was not told or taken the next walks find.
    fn note(&mut self, done: Result<()>) {
        if let Err(error) = done {
            let text = format!("{error:#}");
            if text != self.failed {
                log::error!("ha: {text}");
            }
            self.failed = text;
        }
    }

    /// Tells the programs that changes are wanted, the others that this gateway is there, and who
    /// asks how it goes.
    fn beat(&mut self) -> Result<()> {
        self.plane.set_journaling(clock::seconds() + ANNOUNCED)?;
        self.names = Names::read(&self.plane)?;
        let ready = self.judge();
        let beat = Beat {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            ready,
            has: self.has,
            ages: self.ages()?,
            ..Beat::default()
        };
        let mut noted = self.shared.lock();
        for (outbox, store) in self.outboxes.iter().zip(&mut noted.report.stores) {
            outbox.push(Item::Beat(beat.clone()));
            (store.queued, store.dropped) = outbox.counts();
        }
        Ok(())
    }

    /// Judges whether all is known here that can be. What was known once goes on to count.
    fn judge(&self) -> bool {
        let mut noted = self.shared.lock();
        let (synced, stores) = (self.synced.len(), self.outboxes.len());
        let read = || format!("{synced} of {stores} stores were read");
        let judged = match self.began.elapsed() {
            _ if synced == stores => Some("all stores were read".to_owned()),
            waited if synced > 0 && waited > OTHERS => Some(read()),
            waited if waited > NOBODY => {
                Some("no store could be read: what this gateway learned itself is known".to_owned())
            }
            _ => None,
        };
        let report = &mut noted.report;
        match judged {
            Some(why) => {
                if !report.ready {
                    log::info!("ha: ready: {why}");
                }
                (report.ready, report.why) = (true, why);
            }
            None if !report.ready => report.why = read(),
            None => {}
        }
        for (number, store) in report.stores.iter_mut().enumerate() {
            store.synced = self.synced.contains(&number);
        }
        report.ready
    }

    /// Begins a look for what happened lately.
    fn look(&mut self, walking: &mut JoinSet<(Walker, Result<Walked>)>) {
        let Some(mut walker) = self.walker.take() else { return };
        let facts = Arc::new(std::mem::take(&mut self.facts));
        let before = std::mem::replace(&mut self.facts_before, Arc::clone(&facts));
        let flows = self.heard.iter().map(|(key, flow)| (*key, flow.seen)).collect();
        let heard = Heard { facts: [before, facts], flows };
        walking.spawn_blocking(move || {
            let rows = walker.touched(&heard);
            (walker, rows.map(Walked::Touched))
        });
    }

    /// Begins a look at everything, where a store wants it.
    fn look_at_all(&mut self, walking: &mut JoinSet<(Walker, Result<Walked>)>) {
        let wants = self.outboxes.iter().map(|outbox| outbox.begin_all());
        let wants = (0..).zip(wants).filter(|(_, wants)| *wants).map(|(number, _)| number);
        let wants = wants.collect::<Vec<usize>>();
        if wants.is_empty() {
            return;
        }
        let Some(mut walker) = self.walker.take() else { return };
        walking.spawn_blocking(move || {
            let parts = walker.all();
            (walker, parts.map(|parts| Walked::All(parts, wants)))
        });
    }

    fn walked(&mut self, walker: Walker, walked: Result<Walked>) -> Result<()> {
        self.has = walker.has;
        self.walker = Some(walker);
        match walked.context("look through the tables")? {
            Walked::All(parts, wants) => {
                self.walks += 1;
                let parts = Arc::new(parts);
                for outbox in wants.iter().filter_map(|number| self.outboxes.get(*number)) {
                    outbox.push(Item::All(Arc::clone(&parts), self.walks));
                }
                Ok(())
            }
            Walked::Touched(rows) => rows.iter().try_for_each(|row| self.push(row)),
        }
    }

    /// Tells what stands in the tables now.
    fn tell(&mut self, changed: &Changed) -> Result<()> {
        let now = clock::seconds();
        for key in &changed.facts {
            let row = if let Some(session) = self.plane.sessions.find(key)? {
                self.names.session(key, &session, now)
            } else if let Some(name) = self.plane.key_names.find(key)? {
                self.names.key_name(key, &name, now)
            } else {
                None
            };
            row.map_or(Ok(()), |fact| self.push(&Row::Fact(fact)))?;
        }
        for key in &changed.flows {
            let row = match self.plane.splices.find(key)? {
                Some(flow) => flows::splice(&self.names, key, &flow, now).map(Row::Splice),
                // Of what nobody was told nobody has to be told the end.
                None => self
                    .told
                    .remove(key)
                    .and_then(|isn| flows::name(&self.names, key).map(|name| Row::Over(name, isn))),
            };
            row.map_or(Ok(()), |row| self.push(&row))?;
        }
        Ok(())
    }

    fn push(&mut self, row: &Row) -> Result<()> {
        if let Row::Splice(splice) = row
            && let Ok(key) = flows::key(&self.names, &splice.name)
        {
            self.told.insert(key, splice.numbers.isn);
        }
        self.since.get_or_insert_with(Instant::now);
        self.writer.push(row)?;
        if self.writer.is_full() { self.flush() } else { Ok(()) }
    }

    /// Sends what waits.
    fn flush(&mut self) -> Result<()> {
        let Some(since) = self.since.take() else { return Ok(()) };
        let n = self.writer.n_rows() as u64;
        let text = Arc::new(self.writer.finish()?);
        self.sequence += 1;
        for outbox in &self.outboxes {
            let batch = Batch { sequence: self.sequence, text: Arc::clone(&text), since };
            outbox.push(Item::Batch(batch));
        }
        self.shared.lock().report.rows.told += n;
        Ok(())
    }

    /// Takes what a store brought.
    async fn take(&mut self, came: Inbound) -> Result<()> {
        match came {
            Inbound::Synced(store) => {
                self.synced.insert(store);
                self.judge();
                Ok(())
            }
            Inbound::Anew(gateway) => {
                // What it told in its life before it may not know any more: this gateway tells it.
                self.heard.retain(|_, flow| flow.gateway != gateway);
                Ok(())
            }
            Inbound::Through(gateway, since) => self.forget_untold(&gateway, since),
            Inbound::Ages(ages) => self.grow_old(&ages),
            Inbound::Rows { gateway, text, age, way } => {
                self.take_rows(&gateway, &text, age, way).await
            }
        }
    }

    async fn take_rows(&mut self, gateway: &str, text: &[u8], age: u64, way: Way) -> Result<()> {
        let Ok(read) = record::read(text) else {
            self.shared.lock().report.refused += 1;
            return Ok(());
        };
        let later = u32::try_from(age / 1000).unwrap_or(u32::MAX);
        let (mut rows, mut mended) = (Rows { unknown: read.unknown, ..Rows::default() }, 0);
        let mut failed = Ok(());
        for some in read.rows.chunks(TAKEN_AT_ONCE) {
            let now = clock::seconds();
            for row in some {
                match self.take_row(row, gateway, later, now) {
                    Ok(told) => {
                        mended += u64::from(way == Way::Compared && told == Told::Taken);
                        *rows.of(told) += 1;
                    }
                    Err(error) => failed = Err(error),
                }
            }
            tokio::task::yield_now().await;
        }
        let mut noted = self.shared.lock();
        noted.report.rows.add(&rows);
        noted.report.mended += mended;
        if let Some(peer) = noted.peers.get_mut(gateway) {
            peer.report.rows += read.rows.len() as u64;
            peer.report.unknown += read.unknown;
            if way == Way::Told {
                peer.note_lag(age as f32);
            }
        }
        failed
    }

    /// `later`: seconds since the row was told.
    fn take_row(&mut self, row: &Row, gateway: &str, later: u32, now: u32) -> Result<Told> {
        let Self { plane, names, heard, facts, .. } = self;
        match row {
            Row::Fact(fact) => {
                let fact = fact.clone().older(later);
                let told = names.take(plane, &fact, now)?;
                // What was touched before the last looks is not told anyway.
                if told == Told::Taken && fact.idle < 3 * WALK.as_secs() as u32 {
                    facts.extend(names.stamp(&fact, now));
                }
                Ok(told)
            }
            Row::Splice(splice) => {
                let mut splice = *splice;
                splice.numbers.idle = splice.numbers.idle.saturating_add(later);
                let Ok(key) = flows::key(names, &splice.name) else { return Ok(Told::Elsewhere) };
                let before = plane.splices.find(&key)?;
                let told = flows::take(names, plane, &splice, now)?;
                // What this gateway knows first-hand is its own to tell.
                let is_others = before.is_none() || heard.contains_key(&key);
                let is_there = plane.splices.find(&key)?;
                if let Some(flow) =
                    is_there.filter(|flow| is_others && flows::isn(flow) == splice.numbers.isn)
                {
                    let (gateway, told) = (gateway.to_owned(), Instant::now());
                    heard.insert(key, HeardFlow { seen: flow.seen, told, gateway });
                }
                Ok(told)
            }
            Row::Over(name, isn) => {
                let Ok(key) = flows::key(names, name) else { return Ok(Told::Elsewhere) };
                heard.remove(&key);
                flows::forget(plane, &key, *isn, later, now)
            }
        }
    }

    /// Forgets flows that a gateway told of before then, and does not know any more.
    fn forget_untold(&mut self, gateway: &str, since: Instant) -> Result<()> {
        let Self { plane, heard, .. } = self;
        let mut failed = Ok(());
        heard.retain(|key, flow| {
            let is_told = flow.gateway != gateway || flow.told >= since;
            if !is_told && let Err(error) = flows::forget_untold(plane, key, flow.seen) {
                failed = Err(error);
            }
            is_told
        });
        failed
    }

    /// Connections that are older than this gateway may be the cluster's: a VIP is as old as the
    /// first gateway that took its connections. Only a gateway that just began is as old as the
    /// others say; what its operator did since (`steer leave`) counts.
    fn grow_old(&mut self, ages: &[(String, u32)]) -> Result<()> {
        if !self.is_fresh || self.began.elapsed() > YOUNG {
            return Ok(());
        }
        let now = clock::seconds();
        let older = |service: Service, since: u32| {
            let told = ages.iter().find(|(name, _)| *name == service.to_string())?.1;
            let began = match now.wrapping_sub(told.min(OLDEST)) {
                // 0 stands for one that was always there.
                0 => u32::MAX,
                began => began,
            };
            let by = since.wrapping_sub(began) as i32;
            (since != 0 && by > SAME_AGE).then_some(began)
        };
        let mut vips = self.plane.vips()?;
        let mut is_older = false;
        for (at, vip) in &mut vips {
            if let Some(began) = older(Service::of(at), vip.since) {
                (vip.since, is_older) = (began, true);
            }
        }
        for (number, mut entrance) in self.plane.entrances()? {
            let service = Service::Vip(socket(&entrance.endpoint));
            if let Some(began) = older(service, entrance.since) {
                (entrance.since, is_older) = (began, true);
                self.plane.set_entrance(number, &entrance)?;
            }
        }
        // Entrances are listed with the VIPs.
        if is_older { self.plane.set_vips(&vips) } else { Ok(()) }
    }

    /// For how long this gateway, or one before it, takes the connections of each VIP.
    fn ages(&self) -> Result<Vec<(String, u32)>> {
        let now = clock::seconds();
        let age = |since: u32| if since == 0 { OLDEST } else { clock::age(now, since).min(OLDEST) };
        let vips = self.names.vips.iter().map(|(at, vip)| (at.to_string(), age(vip.since)));
        let entrances = self.plane.entrances()?;
        let entrances =
            entrances.iter().map(|(_, at)| (socket(&at.endpoint).to_string(), age(at.since)));
        Ok(vips.chain(entrances).collect())
    }
}

/// Ready at that time; never, where there is none.
async fn until(at: Option<Instant>) {
    match at {
        Some(at) => time::sleep_until(at.into()).await,
        None => std::future::pending().await,
    }
}

/// Reads all that the programs noted.
fn drain(ring: &mut RingBuf<MapData>) -> Changed {
    let mut changed = Changed::default();
    while let Some(item) = ring.next() {
        if item.len() < size_of::<JournalEntry>() {
            continue;
        }
        // SAFETY: there are enough bytes, and the type is valid for every bit pattern.
        let entry = unsafe { item.as_ptr().cast::<JournalEntry>().read_unaligned() };
        match entry.table {
            JOURNAL_SESSIONS | JOURNAL_KEY_NAMES => {
                changed.facts.insert(entry.session);
            }
            JOURNAL_SPLICES => {
                changed.flows.insert(entry.flow);
            }
            _ => {}
        }
    }
    changed
}
