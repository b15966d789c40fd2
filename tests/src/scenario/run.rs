//! A lab with its backends up, and what tests do in it.

use std::{
    net::{IpAddr, SocketAddr, TcpStream},
    panic::resume_unwind,
    sync::Arc,
    thread,
};

use anyhow::{Context, Result, bail, ensure};

use crate::{
    agent::{Agent, Settings},
    client::{Client, Connection, Dial, Handshake, Offer},
    kernel_counters::KernelCounters,
    nginx::Nginx,
    pki::Pki,
    topology::{self, Family, Lab, source, vip},
};

/// How many source addresses the clients have.
pub const N_SOURCES: usize = 64;

/// A lab with its backends up.
pub struct Run {
    /// What clients dial.
    pub family: Family,
    /// What [`Run::agent`] will configure.
    pub steer: Settings,
    /// The backends' servers; they stop before their namespaces go.
    pub servers: Vec<Nginx>,
    /// The certificates.
    pub pki: Arc<Pki>,
    /// The network.
    pub lab: Lab,
}

impl Run {
    /// Starts steer.
    ///
    /// # Errors
    /// With the agent's own words when it does not come up.
    pub fn agent(&self) -> Result<Agent<'_>> {
        Agent::start(&self.lab, &self.steer)
    }

    /// A client without a session.
    ///
    /// # Errors
    /// When rustls refuses the certificates.
    pub fn new_client(&self) -> Result<Client> {
        Client::new(&self.pki)
    }

    /// A client without a session, whose sessions will be of this kind.
    ///
    /// # Errors
    /// When rustls refuses the certificates.
    pub fn new_client_offering(&self, offer: Offer) -> Result<Client> {
        Client::offering(&self.pki, offer)
    }

    /// The VIP.
    pub fn vip(&self) -> SocketAddr {
        vip(self.family)
    }

    /// A client's address; `index` counts around.
    pub fn source(&self, index: usize) -> IpAddr {
        source(self.family, index % N_SOURCES)
    }

    /// A dial of the VIP from a client's address.
    pub fn dial(&self, source: usize) -> Dial {
        Dial::new(self.source(source), self.vip())
    }

    /// Visits `/` once.
    ///
    /// # Errors
    /// What the client sees as an error.
    pub fn visit(&self, client: &Client, dial: &Dial) -> Result<Handshake> {
        self.lab.client().run(|| client.visit(dial))
    }

    /// Shakes hands and does `work` on the connection, all inside the clients' namespace.
    ///
    /// # Errors
    /// What the client sees as an error.
    pub fn connect<T: Send>(
        &self,
        client: &Client,
        dial: &Dial,
        work: impl FnOnce(&mut Connection) -> Result<T> + Send,
    ) -> Result<(Handshake, T)> {
        self.lab.client().run(|| {
            let mut connection = client.connect(dial)?;
            let done = work(&mut connection)?;
            Ok((connection.handshake, done))
        })
    }

    /// Does a job so many times, each with its number, `parallel` of them at a time, inside the
    /// clients' namespace.
    ///
    /// # Errors
    /// That of the first worker that failed, when all have ended.
    ///
    /// # Panics
    /// When a job does.
    pub fn at_once<T: Send>(
        &self,
        n: usize,
        parallel: usize,
        job: impl Fn(usize) -> Result<T> + Sync,
    ) -> Result<Vec<T>> {
        let work = |first: usize| -> Result<Vec<T>> {
            self.lab.client().enter()?;
            (first..n).step_by(parallel).map(&job).collect()
        };
        let done: Vec<_> = thread::scope(|scope| {
            let workers: Vec<_> =
                (0..parallel).map(|first| scope.spawn(move || work(first))).collect();
            workers
                .into_iter()
                .map(|worker| worker.join().unwrap_or_else(|panic| resume_unwind(panic)))
                .collect()
        });
        Ok(done.into_iter().collect::<Result<Vec<_>>>()?.into_iter().flatten().collect())
    }

    /// So many connections to the VIP that are open and silent, from all addresses in turn.
    ///
    /// # Errors
    /// When one of them fails.
    pub fn hold(&self, n: usize) -> Result<Vec<TcpStream>> {
        let dial = |number: usize| self.dial(number).say(b"").context("hold a connection");
        self.lab.client().run(|| (0..n).map(dial).collect())
    }

    /// Index of the backend with this name.
    ///
    /// # Errors
    /// When there is none.
    pub fn backend_named(&self, name: &str) -> Result<usize> {
        (0..self.lab.n_backends())
            .find(|index| self.pki.server(*index).name == name)
            .with_context(|| format!("no backend is named {name}"))
    }

    /// A source address whose new flows go to this backend, found by trying with clients that have
    /// no session.
    ///
    /// # Errors
    /// When no address leads there, or a visit fails.
    pub fn source_of(&self, backend: usize) -> Result<usize> {
        self.source_that(|first| first == backend)
    }

    /// A source address whose new flows go to another backend than this one.
    ///
    /// # Errors
    /// When no address leads elsewhere, or a visit fails.
    pub fn source_not_of(&self, backend: usize) -> Result<usize> {
        self.source_that(|first| first != backend)
    }

    fn source_that(&self, wanted: impl Fn(usize) -> bool) -> Result<usize> {
        let stranger = self.new_client()?;
        let mut seen = std::collections::BTreeMap::<String, usize>::new();
        for source in 0..N_SOURCES {
            stranger.forget();
            let handshake = self.visit(&stranger, &self.dial(source))?;
            *seen.entry(handshake.server.clone()).or_default() += 1;
            if wanted(self.backend_named(&handshake.server)?) {
                return Ok(source);
            }
        }
        bail!("no source address leads to such a backend: {seen:?}")
    }

    /// Gives `client` a session of this backend, through the VIP.
    ///
    /// # Errors
    /// When a visit fails or ends elsewhere.
    pub fn session_at(&self, client: &Client, backend: usize) -> Result<()> {
        client.forget();
        let handshake = self.visit(client, &self.dial(self.source_of(backend)?))?;
        ensure!(
            self.backend_named(&handshake.server)? == backend,
            "the session is of {}",
            handshake.server
        );
        Ok(())
    }

    /// Gives `client` a session of backend 0 and offers it from an address whose flows go to
    /// another backend.
    ///
    /// # Errors
    /// What the client sees as an error.
    pub fn resume_elsewhere(&self, client: &Client) -> Result<Handshake> {
        self.session_at(client, 0)?;
        let handshake = self.visit(client, &self.dial(self.source_not_of(0)?))?;
        ensure!(handshake.offered, "the client had no session to offer");
        Ok(handshake)
    }

    /// The kernel counters of a backend.
    ///
    /// # Errors
    /// When /proc cannot be read.
    pub fn backend_counters(&self, index: usize) -> Result<KernelCounters> {
        KernelCounters::read(self.lab.backend(index))
    }

    /// The kernel counters of all ends: the clients' first, then the backends' in order.
    ///
    /// # Errors
    /// When /proc cannot be read.
    pub fn kernels(&self) -> Result<Vec<KernelCounters>> {
        let backends = (0..self.lab.n_backends()).map(|index| self.backend_counters(index));
        std::iter::once(self.client_counters()).chain(backends).collect()
    }

    /// The kernel counters of the clients.
    ///
    /// # Errors
    /// When /proc cannot be read.
    pub fn client_counters(&self) -> Result<KernelCounters> {
        KernelCounters::read(self.lab.client())
    }

    /// Where a backend itself listens.
    pub fn backend_address(&self, index: usize) -> SocketAddr {
        topology::backend(self.family, index)
    }
}
