//! What almost every test of a fault does: a client has a session at one backend, offers it where
//! its flows go to another, data flows, and steer's counters and those of all kernels are judged.

use std::{
    io::ErrorKind,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use steer_common::counters::Counter;

use crate::{
    agent::{Agent, Counts},
    client::{Client, Dial, Handshake},
    kernel_counters::KernelCounters,
    payload,
    scenario::Run,
};

/// The backend that holds the session.
pub const OWNER: usize = 0;
/// The backend that the client's address leads to.
pub const FIRST: usize = 1;

/// Size of the file that every backend has, bytes: more than any initial window.
const FILE: usize = 300_000;

/// What kernels count of connections that do not end by both sides' FIN.
const ENDINGS: [&str; 6] = [
    "Tcp.EstabResets",
    "Tcp.OutRsts",
    "TcpExt.TCPAbortOnClose",
    "TcpExt.TCPAbortOnData",
    "TcpExt.TCPAbortOnTimeout",
    "TcpExt.TCPChallengeACK",
];

/// A client with a session of backend [`OWNER`], and a dial from an address whose flows go to
/// backend [`FIRST`].
pub struct Case<'a> {
    /// The lab.
    pub run: &'a Run,
    /// The running steer.
    pub steer: Agent<'a>,
    /// The client.
    pub client: Client,
    /// Dials the VIP.
    pub dial: Dial,
    /// Dials the VIP from an address whose flows go to [`OWNER`].
    pub home: Dial,
    sum: String,
    kernels: Vec<KernelCounters>,
    counts: Counts,
}

impl<'a> Case<'a> {
    /// Starts steer and gives a client its session.
    ///
    /// # Errors
    /// When something does not come up.
    pub fn start(run: &'a Run) -> Result<Self> {
        let client = run.new_client()?;
        Self::start_with(run, client)
    }

    /// As [`Case::start`] with a client of the test's own.
    ///
    /// # Errors
    /// When something does not come up.
    pub fn start_with(run: &'a Run, client: Client) -> Result<Self> {
        let body = payload::bytes(FILE, 7);
        for server in &run.servers {
            server.put("file", &body)?;
        }
        let steer = run.agent()?;
        let (home, dial) = (run.dial(run.source_of(OWNER)?), run.dial(run.source_of(FIRST)?));
        let (kernels, counts) = (run.kernels()?, steer.counts()?);
        let mut case =
            Self { run, steer, client, dial, sum: payload::sha256(&body), home, kernels, counts };
        case.renew()?;
        Ok(case)
    }

    /// Gives the client a new session of [`OWNER`], and counts from here.
    ///
    /// # Errors
    /// When the visit fails or ends elsewhere.
    pub fn renew(&mut self) -> Result<()> {
        self.client.forget();
        let handshake = self.fetch(&self.home)?;
        ensure!(
            self.run.backend_named(&handshake.server)? == OWNER,
            "the session is of {}",
            handshake.server
        );
        self.count_from_here()
    }

    /// Forgets what was counted.
    ///
    /// # Errors
    /// When counters cannot be read.
    pub fn count_from_here(&mut self) -> Result<()> {
        (self.kernels, self.counts) = (self.run.kernels()?, self.steer.counts()?);
        Ok(())
    }

    /// Downloads a file on a new connection, whole, until the server closes it.
    ///
    /// # Errors
    /// What the client sees as an error, and when the file is not what was sent.
    pub fn fetch(&self, dial: &Dial) -> Result<Handshake> {
        self.fetch_with(&self.client, dial)
    }

    /// As [`Case::fetch`], for another client.
    ///
    /// # Errors
    /// As [`Case::fetch`].
    pub fn fetch_with(&self, client: &Client, dial: &Dial) -> Result<Handshake> {
        let (handshake, sum) = self.run.connect(client, dial, |connection| {
            let sum = connection.get("/files/file")?.sha256;
            connection.finish()?;
            Ok(sum)
        })?;
        ensure!(sum == self.sum, "the file arrived changed");
        Ok(handshake)
    }

    /// Uploads a file on a new connection to [`OWNER`].
    ///
    /// # Errors
    /// What the client sees as an error, and when the file is not what was sent.
    pub fn upload(&self, dial: &Dial, body: &[u8]) -> Result<Handshake> {
        let (handshake, ()) = self.run.connect(&self.client, dial, |connection| {
            connection.put("/files/up", body)?;
            connection.finish()
        })?;
        ensure!(
            self.run.servers[OWNER].uploaded("up")? == payload::sha256(body),
            "the upload arrived changed"
        );
        Ok(handshake)
    }

    /// Fetches with the session offered, and expects it to be resumed by its owner on a re-homed
    /// flow.
    ///
    /// # Errors
    /// As [`Case::fetch`].
    #[track_caller]
    pub fn moves(&self, dial: &Dial) -> Result<Handshake> {
        let handshake = self.fetch(dial)?;
        assert!(handshake.offered && handshake.resumed, "not resumed: {handshake:?}");
        assert_eq!(self.run.backend_named(&handshake.server)?, OWNER, "not by its owner");
        Ok(handshake)
    }

    /// Fetches with the session offered, and expects a full handshake with the first backend.
    ///
    /// # Errors
    /// As [`Case::fetch`].
    #[track_caller]
    pub fn stays(&self, dial: &Dial) -> Result<Handshake> {
        let handshake = self.fetch(dial)?;
        assert!(
            handshake.offered && !handshake.resumed,
            "resumed, or nothing offered: {handshake:?}"
        );
        assert_eq!(self.run.backend_named(&handshake.server)?, FIRST, "not by the first backend");
        Ok(handshake)
    }

    /// Detaches steer in the middle of a download on a re-homed flow, whose client only listens, and
    /// expects that client to be reset.
    ///
    /// # Errors
    /// When the flow does not move, or its client hears of something else, or of nothing.
    pub fn detach_in_a_download(&self) -> Result<()> {
        let dial = Dial { timeout: Duration::from_secs(5), ..self.dial.clone() };
        let mut detached = None;
        let fetched = self.run.connect(&self.client, &dial, |connection| {
            ensure!(connection.handshake.resumed, "not resumed");
            connection.get_watched("/slow/file", |read| {
                if read > 50_000 && detached.is_none() {
                    detached = Some(self.steer.steer("detach"));
                }
            })
        });
        detached.context("it was over before")??;
        let error = fetched.err().context("it was whole")?;
        ensure!(is_any(&error, &[ErrorKind::ConnectionReset]), "{error:#}");
        Ok(())
    }

    /// Visits `/` so many times at once, every time with the session the client has now.
    ///
    /// # Errors
    /// The first error that any of them sees.
    pub fn visit_at_once(&self, n: usize, dial: &Dial) -> Result<Vec<Handshake>> {
        self.run.at_once(n, n, |_| self.run.visit(&self.client, dial))
    }

    /// How much one of steer's counters grew.
    ///
    /// # Errors
    /// When `steer stats` fails.
    #[track_caller]
    pub fn counted(&self, counter: Counter) -> Result<u64> {
        let now = self.steer.count(counter)?;
        Ok(now - self.counts.of(counter).unwrap_or_default())
    }

    /// Expects some of steer's counters to have grown by so much.
    ///
    /// # Errors
    /// When `steer stats` fails.
    #[track_caller]
    pub fn expect(&self, expected: &[(Counter, u64)]) -> Result<()> {
        let now = self.steer.counts()?;
        for (counter, growth) in expected {
            let of = |counts: &Counts| counts.of(*counter).unwrap_or_default();
            assert_eq!(
                of(&now) - of(&self.counts),
                *growth,
                "{}: {}",
                counter.word(),
                self.grown(&now)
            );
        }
        Ok(())
    }

    /// Expects no kernel at any end to have met a wrong checksum, timestamp or SACK, neither client
    /// nor owner to have been reset, and the first backend to have been reset `n_moved` times: once
    /// for each flow that moved.
    ///
    /// # Errors
    /// When /proc cannot be read.
    #[track_caller]
    pub fn unharmed(&self, n_moved: i64) -> Result<()> {
        self.unharmed_but_for_resets()?;
        let resets = |end, name| self.kernel(end, name);
        // A client has its answer by its length. What then still lies in its socket (TLS's goodbye,
        // where the last read ended right before it) makes its own kernel reset the connection.
        let own = resets(0, "TcpExt.TCPAbortOnClose")?;
        let client = resets(0, "Tcp.EstabResets")? - own;
        let owner = resets(OWNER + 1, "Tcp.EstabResets")?;
        assert!(
            client <= 0 && owner <= own,
            "resets of the client's and the owner's connections: {client}, {owner}; {}; of steer: {}",
            self.grown_in_kernels()?,
            self.grown(&self.steer.counts()?)
        );
        // On two CPUs a reset may overtake the acknowledgement that would have established the
        // connection.
        let early = resets(FIRST + 1, "TcpExt.EmbryonicRsts")?;
        let first = early + resets(FIRST + 1, "Tcp.EstabResets")?;
        assert_eq!(
            first, n_moved,
            "resets of the first backend's connections, {early} of them early"
        );
        Ok(())
    }

    /// As [`Case::unharmed`], whoever was reset.
    ///
    /// # Errors
    /// When /proc cannot be read.
    #[track_caller]
    pub fn unharmed_but_for_resets(&self) -> Result<()> {
        for (end, (after, before)) in self.run.kernels()?.iter().zip(&self.kernels).enumerate() {
            let harm = after.since(before).harm();
            assert_eq!(harm, None, "of end {end} (0: the clients)");
        }
        Ok(())
    }

    /// How much a kernel's counter grew: end 0 is the clients, end `i + 1` backend `i`.
    ///
    /// # Errors
    /// When /proc cannot be read.
    pub fn kernel(&self, end: usize, name: &str) -> Result<i64> {
        Ok(self.run.kernels()?[end].since(&self.kernels[end]).of(name))
    }

    /// Waits until one of steer's counters has grown by at least so much.
    ///
    /// # Errors
    /// When it does not within the limit.
    pub fn await_count(&self, counter: Counter, least: u64, limit: Duration) -> Result<()> {
        let end = Instant::now() + limit;
        while self.counted(counter)? < least {
            ensure!(Instant::now() < end, "{} does not reach {least}", counter.word());
        }
        Ok(())
    }

    /// What every end's kernel says of endings that are no orderly ones, for the message of a
    /// failure.
    fn grown_in_kernels(&self) -> Result<String> {
        let kernels = self.run.kernels()?;
        let ends = kernels.iter().zip(&self.kernels).enumerate().map(|(end, (after, before))| {
            let grown = after.since(before);
            let of = |name: &&str| grown.of(name) != 0;
            let named = ENDINGS.iter().filter(|name| of(name));
            let named = named.map(|name| format!("{name} {}", grown.of(name)));
            format!("end {end}: {}", named.collect::<Vec<_>>().join(", "))
        });
        Ok(ends.collect::<Vec<_>>().join("; "))
    }

    /// Every counter that grew, for the message of a failure.
    #[must_use]
    pub fn grown(&self, now: &Counts) -> String {
        let grown = |counter: &Counter| {
            let growth = now.of(*counter)? - self.counts.of(*counter).unwrap_or_default();
            (growth != 0).then(|| format!("{} {growth}", counter.word()))
        };
        Counter::ALL.iter().filter_map(grown).collect::<Vec<_>>().join(", ")
    }
}

/// Whether a client's error is one of these.
#[must_use]
pub fn is_any(error: &anyhow::Error, kinds: &[ErrorKind]) -> bool {
    let io = error.chain().find_map(|cause| cause.downcast_ref::<std::io::Error>());
    io.is_some_and(|error| kinds.contains(&error.kind()))
}
