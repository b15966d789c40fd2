//! Tells the other gateways what this one learns: as the programs note it, and as walks over the tables
//! find it.

use std::{
    collections::HashSet,
    os::fd::AsFd as _,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use aya::maps::{MapData, RingBuf};
use steer_common::shared::{
    FlowKey, JOURNAL_KEY_NAMES, JOURNAL_SESSIONS, JOURNAL_SPLICES, JournalEntry, SessionKey,
};
use tokio::{
    io::{Interest, unix::AsyncFd},
    sync::mpsc,
    task::JoinSet,
    time::{self, MissedTickBehavior},
};

use super::{
    age, flows,
    memory::{Found, Memory},
    outbox::{Batch, Beat, Item, Outbox},
    reader::Inbound,
    record::{Row, Writer},
    status::Shared,
    walk::Walker,
};
use crate::{clock, plane::Plane, rows::Names};

/// Rows wait so long for others, at most.
const GATHER: Duration = Duration::from_millis(2);
/// How often the tables are looked through for what the journal does not tell.
pub(super) const WALK: Duration = Duration::from_secs(5);
/// How often a gateway says that it is there.
const BEAT: Duration = Duration::from_secs(1);
/// How often all that a gateway knows is written.
const ALL: Duration = Duration::from_secs(300);
/// For how long, seconds, the programs go on to note changes where nothing is heard of the agent.
const ANNOUNCED: u32 = 3;
/// Stores that do not answer are waited for so long where another one did.
const OTHERS: Duration = Duration::from_secs(5);
/// So long where none did: then there is nothing to be known.
const NOBODY: Duration = Duration::from_secs(30);

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
    /// What happened since the last look, which flows are there, and when the look began.
    Touched(Vec<Row>, Found, Instant),
}

/// Tells what this gateway learns, and takes what the others tell ([`super::taking`]).
pub(super) struct Engine {
    pub(super) plane: Plane,
    pub(super) names: Names,
    /// `None` while it walks.
    pub(super) walker: Option<Walker>,
    /// Of the last batch.
    pub(super) sequence: u64,
    pub(super) writer: Writer,
    /// When the first row came that waits.
    pub(super) since: Option<Instant>,
    pub(super) outboxes: Vec<Arc<Outbox>>,
    /// Stores all of which was read.
    pub(super) synced: HashSet<usize>,
    pub(super) is_fresh: bool,
    pub(super) began: Instant,
    pub(super) memory: Memory,
    /// Sessions, key names and re-homed flows, as the last look found them.
    pub(super) has: [u64; 3],
    pub(super) walks: u32,
    /// What went wrong last.
    pub(super) failed: String,
    pub(super) shared: Shared,
}

impl Engine {
    /// Tells and takes for ever.
    ///
    /// # Errors
    /// Where the ring cannot be waited for.
    pub(super) async fn run(
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
            ages: age::told(&self.plane)?,
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
    pub(super) fn judge(&self) -> bool {
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
        let heard = self.memory.begin_look();
        walking.spawn_blocking(move || {
            let began = Instant::now();
            let touched = walker.touched(&heard);
            (walker, touched.map(|(rows, found)| Walked::Touched(rows, found, began)))
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
            Walked::Touched(rows, found, began) => {
                self.memory.end_look(&found, began);
                rows.iter().try_for_each(|row| self.push(row))
            }
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
                    .memory
                    .take_told(key)
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
            self.memory.note_told(key, splice.numbers.isn);
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
