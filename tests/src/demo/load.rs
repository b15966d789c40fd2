//! The reconnecting clients: each gets a session, then offers it again and again, every time from
//! another address.

use std::{
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};

use super::progress;
use crate::{
    client::Client,
    scenario::{N_SOURCES, Run},
};

/// How far the next address of a client is from its last: coprime to the number of addresses, so
/// that it sees all.
const STRIDE: usize = 23;

/// So many failures tell all there is to tell: the clients stop.
const ENOUGH_ERRORS: usize = 40;
/// How often people hear how far it is.
const TELL: Duration = Duration::from_secs(2);

/// How many clients, how often, how many at a time.
#[derive(Clone, Copy, Debug)]
pub struct Load {
    /// Simulated clients, each with a session of its own.
    pub clients: usize,
    /// Reconnects in all.
    pub reconnects: usize,
    /// Clients at work at a time.
    pub parallel: usize,
}

/// What the clients saw.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    /// All connections, first ones included.
    pub connections: usize,
    /// Connections that offered a session.
    pub reconnects: usize,
    /// Of those, resumed in the client's own view.
    pub resumed: usize,
    /// Of those, answered by the backend that held the session.
    pub on_owner: usize,
    /// Connections that failed, and answers that contradict the certificate.
    pub errors: usize,
    /// The first few failures.
    pub samples: Vec<String>,
    times: Vec<Duration>,
}

impl Load {
    /// Refuses numbers that make no sense.
    pub(super) fn check(&self) -> Result<()> {
        ensure!(self.clients > 0 && self.parallel > 0, "at least one client at a time");
        ensure!(self.reconnects >= self.clients, "at least one reconnect per client");
        Ok(())
    }

    /// Lets all clients do their visits; their failures are counted, not returned.
    ///
    /// # Errors
    /// When the lab breaks.
    pub fn run(&self, run: &Run, name: &str) -> Result<Tally> {
        let model = run.new_client()?;
        let crowd = Crowd {
            load: self,
            run,
            model: &model,
            next: AtomicUsize::new(0),
            total: Mutex::default(),
        };
        thread::scope(|scope| {
            let workers: Vec<_> =
                (0..self.parallel).map(|_| scope.spawn(|| crowd.work())).collect();
            let mut told = Instant::now();
            while !workers.iter().all(thread::ScopedJoinHandle::is_finished) {
                thread::sleep(Duration::from_millis(10));
                if told.elapsed() > TELL {
                    told = Instant::now();
                    let Tally { connections, errors, .. } = *crowd.total();
                    progress(&format!("{name}: {connections} connections so far, {errors} errors"));
                }
            }
            workers.into_iter().try_for_each(|worker| {
                worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
            })
        })?;
        let mut total = std::mem::take(&mut *crowd.total());
        total.times.sort_unstable();
        progress(&format!(
            "{name}: {} of {} resumed, {} errors",
            total.resumed, total.reconnects, total.errors
        ));
        Ok(total)
    }

    /// How many reconnects are this client's.
    fn share(&self, number: usize) -> usize {
        self.reconnects / self.clients + usize::from(number < self.reconnects % self.clients)
    }
}

/// The clients at work.
struct Crowd<'a> {
    load: &'a Load,
    run: &'a Run,
    model: &'a Client,
    next: AtomicUsize,
    total: Mutex<Tally>,
}

impl Crowd<'_> {
    fn total(&self) -> MutexGuard<'_, Tally> {
        self.total.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One worker: takes clients until there are no more.
    fn work(&self) -> Result<()> {
        self.run.lab.client().enter()?;
        loop {
            let number = self.next.fetch_add(1, Ordering::Relaxed);
            if number >= self.load.clients {
                return Ok(());
            }
            self.live(&self.model.sibling(), number);
        }
    }

    /// The life of one client: a first visit, then its share of the reconnects.
    fn live(&self, client: &Client, number: usize) {
        let mut owner = None;
        for visit in 0..=self.load.share(number) {
            if self.total().errors >= ENOUGH_ERRORS {
                return;
            }
            let seen = client.visit(&self.run.dial((number + visit * STRIDE) % N_SOURCES));
            let mut total = self.total();
            total.connections += 1;
            match seen {
                Ok(handshake) => {
                    total.note(&handshake, owner.as_deref());
                    owner = Some(handshake.server);
                }
                Err(error) => total.fail(format!("client {number}, visit {visit}: {error:#}")),
            }
        }
    }
}

impl Tally {
    /// The time that `percent` of the reconnecting handshakes stay below.
    pub(super) fn percentile(&self, percent: usize) -> Duration {
        let index = (self.times.len() * percent / 100).min(self.times.len().saturating_sub(1));
        self.times.get(index).copied().unwrap_or_default()
    }

    fn note(&mut self, handshake: &crate::client::Handshake, owner: Option<&str>) {
        if !handshake.offered {
            return;
        }
        self.reconnects += 1;
        self.resumed += usize::from(handshake.resumed);
        self.on_owner += usize::from(owner == Some(handshake.server.as_str()));
        self.times.push(handshake.time);
    }

    fn fail(&mut self, what: String) {
        self.errors += 1;
        if self.samples.len() < 3 {
            self.samples.push(what);
        }
    }
}
