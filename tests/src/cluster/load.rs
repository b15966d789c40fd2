//! What goes on while a gateway fails: transfers and idle connections, on flows that were re-homed
//! and on others, clients that come back all the time, and clients that have a session and wait.

use std::{
    io::{self, ErrorKind},
    sync::{
        OnceLock,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};

use super::Cluster;
use crate::{
    client::{Client, Connection, Dial, Handshake},
    payload,
    scenario::{N_SOURCES, Run},
};

/// How fast servers send, a second.
pub(super) const RATE: &str = "500k";
/// Bytes of a transfer: some seconds of it.
const FILE: usize = 3_000_000;
/// Between the pieces of an upload, which are 16 KiB.
const PACE: Duration = Duration::from_millis(30);
/// A transfer that stands still for so long is dead: longer than an outage and the pause that a
/// kernel makes behind it before it repeats.
const PATIENCE: Duration = Duration::from_secs(8);
/// How long a client that comes back waits.
const SHORT_PATIENCE: Duration = Duration::from_secs(5);
/// Between two visits of a client that comes back all the time.
const PAUSE: Duration = Duration::from_millis(50);
/// How far the next address of such a client is from its last.
const STRIDE: usize = 23;

/// How much goes on.
#[derive(Clone, Copy, Debug)]
pub struct Load {
    /// What connections do that last.
    pub ways: &'static [Way],
    /// Connections of each of those ways on flows that were re-homed, and as many on others.
    pub transfers: usize,
    /// Clients that have a session and offer it for the first time behind the failover.
    pub sessions: usize,
    /// Clients that come back all the time.
    pub visitors: usize,
}

/// What a connection does while the gateway fails.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Way {
    /// The server sends.
    Download,
    /// The client sends.
    Upload,
    /// Nobody says anything; behind the failover the client asks for a page.
    Idle,
}

impl Way {
    /// All of them.
    pub const ALL: &[Self] = &[Self::Download, Self::Upload, Self::Idle];

    /// For people and programs.
    pub fn word(self) -> &'static str {
        match self {
            Self::Download => "downloads",
            Self::Upload => "uploads",
            Self::Idle => "idle",
        }
    }
}

/// What became of connections of one way.
#[derive(Clone, Debug)]
pub struct Flows {
    /// What they did.
    pub way: Way,
    /// Whether they were re-homed.
    pub rehomed: bool,
    /// Those that came to their end behind the failover.
    pub went_on: usize,
    /// Those that broke, or stood still.
    pub died: usize,
    /// Bytes that arrived.
    pub bytes: usize,
    /// Bytes that arrived and are not those that were sent, and records that TLS refused.
    pub wrong: usize,
    /// Why some died.
    pub samples: Vec<String>,
}

/// What became of sessions that were known before.
#[derive(Clone, Copy, Default, Debug)]
pub struct Sessions {
    /// Clients that offered one.
    pub offered: usize,
    /// Resumed, by the backend that held it.
    pub resumed: usize,
    /// Answered by a full handshake.
    pub full: usize,
    /// Visits that failed.
    pub errors: usize,
}

/// When a visit was made.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Phase {
    /// It ended before the gateway failed.
    Before,
    /// Between the others.
    During,
    /// It began when the other gateway was active.
    After,
}

/// Visits of one phase by clients that come back all the time.
#[derive(Clone, Copy, Default, Debug)]
pub struct Visits {
    /// That offered a session.
    pub offered: usize,
    /// Resumed.
    pub resumed: usize,
    /// That failed.
    pub errors: usize,
}

/// What those who make the load and those who let a gateway fail tell each other.
#[derive(Default)]
pub(super) struct Stage {
    under_way: AtomicUsize,
    /// When the gateway failed.
    pub(super) failed: OnceLock<Instant>,
    /// When the other one was active.
    pub(super) taken_over: OnceLock<Instant>,
    pub(super) stop: AtomicBool,
}

impl Stage {
    pub(super) fn n_under_way(&self) -> usize {
        self.under_way.load(Ordering::Acquire)
    }

    fn is_over(&self) -> bool {
        self.stop.load(Ordering::Acquire)
    }

    fn phase(&self, begun: Instant, ended: Instant) -> Phase {
        if self.taken_over.get().is_some_and(|at| begun > *at) {
            Phase::After
        } else if self.failed.get().is_none_or(|at| ended < *at) {
            Phase::Before
        } else {
            Phase::During
        }
    }
}

/// Which backend each client's address leads to.
pub struct Firsts(Vec<usize>);

impl Firsts {
    /// Tries every address.
    ///
    /// # Errors
    /// When a visit fails.
    pub fn find(cluster: &Cluster) -> Result<Self> {
        let (run, stranger) = (&cluster.run, cluster.new_client()?);
        let found = run.at_once(N_SOURCES, 4, |source| {
            let client = stranger.sibling();
            Ok((source, run.backend_named(&client.visit(&run.dial(source))?.server)?))
        });
        let mut found = found.context("find where addresses lead")?;
        found.sort_unstable();
        Ok(Self(found.into_iter().map(|(_, backend)| backend).collect()))
    }

    /// The address number `n` of those that lead to such a backend, around.
    fn that(&self, n: usize, wanted: impl Fn(usize) -> bool) -> Result<usize> {
        let fit: Vec<_> = (0..self.0.len()).filter(|source| wanted(self.0[*source])).collect();
        ensure!(!fit.is_empty(), "no address leads to such a backend: {:?}", self.0);
        Ok(fit[n % fit.len()])
    }
}

/// A connection that is to survive.
pub(super) struct Job {
    pub(super) way: Way,
    pub(super) rehomed: bool,
    client: Client,
    dial: Dial,
    backend: usize,
    number: usize,
}

/// What came of one.
pub(super) struct Done {
    bytes: usize,
    wrong: usize,
    error: Option<String>,
}

impl Job {
    /// Puts the servers' files where they are, and gives those clients a session whose flows are to
    /// be re-homed.
    pub(super) fn prepare(cluster: &Cluster, firsts: &Firsts, load: &Load) -> Result<Vec<Self>> {
        let (run, body, model) = (&cluster.run, body(), cluster.new_client()?);
        run.servers.iter().try_for_each(|server| server.put("file", &body).map(drop))?;
        let kinds = load.ways.iter().flat_map(|way| [(*way, true), (*way, false)]);
        let all = kinds.flat_map(|kind| (0..load.transfers).map(move |_| kind));
        all.enumerate()
            .map(|(number, (way, rehomed))| {
                let backend = number % run.servers.len();
                let client = model.sibling();
                let home = firsts.that(number, |first| first == backend)?;
                let source = if rehomed {
                    run.lab.client().run(|| accept(&client, &run.dial(home)))?;
                    firsts.that(number, |first| first != backend)?
                } else {
                    home
                };
                let dial = Dial { timeout: PATIENCE, ..run.dial(source) };
                Ok(Self { way, rehomed, client, dial, backend, number })
            })
            .collect()
    }

    /// Does it, in the clients' namespace; its connection is under way when `stage` hears of it.
    pub(super) fn run(&self, run: &Run, stage: &Stage) -> Result<Done> {
        run.lab.client().enter()?;
        let mut connection = self.client.connect(&self.dial)?;
        let Handshake { resumed, server, .. } = &connection.handshake;
        let at = run.backend_named(server)?;
        ensure!(
            *resumed == self.rehomed && at == self.backend,
            "{} is at backend {at} instead of {}, resumed: {resumed}",
            self.way.word(),
            self.backend
        );
        let mut done = Done { bytes: 0, wrong: 0, error: None };
        let transferred = match self.way {
            Way::Download => self.download(&mut connection, stage, &mut done),
            Way::Upload => self.upload(&mut connection, run, stage, &mut done),
            Way::Idle => idle(&mut connection, stage),
        };
        if let Err(error) = transferred {
            done.wrong += usize::from(is_refused_record(&error));
            done.error = Some(format!("{error:#}"));
        }
        Ok(done)
    }

    fn download(&self, connection: &mut Connection, stage: &Stage, done: &mut Done) -> Result<()> {
        let body = body();
        let answer = connection.get_each("/slow/file", |piece| {
            if done.bytes == 0 {
                stage.under_way.fetch_add(1, Ordering::AcqRel);
            }
            done.wrong += payload::n_wrong(piece, body.get(done.bytes..).unwrap_or_default());
            done.bytes += piece.len();
        })?;
        ensure!(answer.len == body.len(), "{} of {} bytes came", answer.len, body.len());
        Ok(())
    }

    fn upload(
        &self,
        connection: &mut Connection,
        run: &Run,
        stage: &Stage,
        done: &mut Done,
    ) -> Result<()> {
        let (body, name) = (body(), format!("up-{}", self.number));
        let mut told = false;
        connection.put_watched(&format!("/files/{name}"), &body, |sent| {
            if sent > 0 && !told {
                told = true;
                stage.under_way.fetch_add(1, Ordering::AcqRel);
            }
            thread::sleep(PACE);
        })?;
        let came = run.servers[self.backend].uploaded_bytes(&name)?;
        (done.bytes, done.wrong) = (came.len(), payload::n_wrong(&came, &body));
        ensure!(came.len() == body.len(), "{} of {} bytes came", came.len(), body.len());
        Ok(())
    }
}

/// Gives a client a session that its backend has accepted once, so that its key is known where the
/// session itself cannot be.
fn accept(client: &Client, home: &Dial) -> Result<Handshake> {
    client.visit(home)?;
    client.visit(home)
}

fn idle(connection: &mut Connection, stage: &Stage) -> Result<()> {
    connection.keep_open(true);
    connection.ask()?;
    stage.under_way.fetch_add(1, Ordering::AcqRel);
    while stage.taken_over.get().is_none() && !stage.is_over() {
        thread::sleep(Duration::from_millis(20));
    }
    connection.ask()
}

fn body() -> Vec<u8> {
    payload::bytes(FILE, 11)
}

/// Whether TLS says that a record is not what its peer sealed: by what rustls calls invalid data, be
/// it a record or the peer's alert about one.
fn is_refused_record(error: &anyhow::Error) -> bool {
    let io = error.chain().find_map(|cause| cause.downcast_ref::<io::Error>());
    io.is_some_and(|error| error.kind() == ErrorKind::InvalidData)
}

/// Sums up what became of jobs of one kind.
pub(super) fn sum(way: Way, rehomed: bool, done: &[(&Job, Done)]) -> Flows {
    let none = Flows { way, rehomed, went_on: 0, died: 0, bytes: 0, wrong: 0, samples: Vec::new() };
    let of_kind = done.iter().filter(|(job, _)| job.way == way && job.rehomed == rehomed);
    of_kind.fold(none, |mut flows, (_, done)| {
        flows.bytes += done.bytes;
        flows.wrong += done.wrong;
        match &done.error {
            None => flows.went_on += 1,
            Some(error) => {
                flows.died += 1;
                flows.samples.push(error.clone());
            }
        }
        flows
    })
}

/// A client that has a session and waits.
pub struct Holder {
    client: Client,
    owner: usize,
    /// An address that leads elsewhere.
    away: usize,
}

impl Holder {
    /// Gives so many clients a session each, at all backends in turn.
    ///
    /// # Errors
    /// When a visit fails.
    pub fn prepare(cluster: &Cluster, firsts: &Firsts, n: usize) -> Result<Vec<Self>> {
        let (run, model) = (&cluster.run, cluster.new_client()?);
        run.at_once(n, 4, |number| {
            let (client, owner) = (model.sibling(), number % run.servers.len());
            let home = firsts.that(number, |first| first == owner)?;
            let seen = accept(&client, &run.dial(home))?;
            ensure!(seen.resumed, "not even at home: {seen:?}");
            ensure!(run.backend_named(&seen.server)? == owner, "{} answered", seen.server);
            Ok(Self { client, owner, away: firsts.that(number, |first| first != owner)? })
        })
    }

    /// All of them come back, each by an address that leads elsewhere.
    ///
    /// # Errors
    /// When the lab breaks; what clients see is counted.
    pub fn return_all(cluster: &Cluster, holders: &[Self]) -> Result<Sessions> {
        let run = &cluster.run;
        let seen = run.at_once(holders.len(), 8, |number| {
            let holder = &holders[number];
            let dial = Dial { timeout: SHORT_PATIENCE, ..run.dial(holder.away) };
            Ok(holder.client.visit(&dial).map(|seen| {
                seen.resumed && run.backend_named(&seen.server).ok() == Some(holder.owner)
            }))
        })?;
        Ok(seen.into_iter().fold(Sessions::default(), |mut sessions, seen| {
            sessions.offered += 1;
            match seen {
                Ok(true) => sessions.resumed += 1,
                Ok(false) => sessions.full += 1,
                Err(_) => sessions.errors += 1,
            }
            sessions
        }))
    }
}

/// A client that comes back all the time until the stage is over, every time from another address.
pub(super) fn visit(cluster: &Cluster, number: usize, stage: &Stage) -> Result<[Visits; 3]> {
    let run = &cluster.run;
    run.lab.client().enter()?;
    let (client, mut seen) = (cluster.new_client()?, [Visits::default(); 3]);
    let mut count = 0;
    while !stage.is_over() {
        let source = (number + count * STRIDE) % N_SOURCES;
        count += 1;
        let begun = Instant::now();
        let visit = client.visit(&Dial { timeout: SHORT_PATIENCE, ..run.dial(source) });
        let of_phase = &mut seen[stage.phase(begun, Instant::now()) as usize];
        match visit {
            Ok(handshake) => {
                of_phase.offered += usize::from(handshake.offered);
                of_phase.resumed += usize::from(handshake.resumed);
            }
            Err(_) => of_phase.errors += 1,
        }
        thread::sleep(PAUSE);
    }
    Ok(seen)
}

/// Adds up, phase by phase.
pub(super) fn add(mut all: [Visits; 3], more: [Visits; 3]) -> [Visits; 3] {
    for (all, more) in all.iter_mut().zip(more) {
        all.offered += more.offered;
        all.resumed += more.resumed;
        all.errors += more.errors;
    }
    all
}
