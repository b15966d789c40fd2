//! The servers of conversations, and how clients dial them.

use std::{
    collections::HashMap,
    io::{self, Read, Write},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

use anyhow::{Context, Result};
use socket2::{Domain, Protocol, Socket, Type};

use super::{Conversation, PATIENCE, Who, end::End, wait_for};
use crate::{
    netns::NetNs,
    topology::{Family, Lab, backend},
};

/// Servers, and the conversations whose client has come to one of them.
#[derive(Default)]
pub struct Peers {
    arrived: Arc<Mutex<HashMap<u64, Arrived>>>,
    doors: Mutex<Vec<Door>>,
    next: AtomicU64,
}

/// A conversation whose client has told which one it is.
pub(super) struct Arrived {
    pub(super) end: End,
    pub(super) server: usize,
    pub(super) from: SocketAddr,
}

/// A listening socket; closed when dropped.
struct Door {
    server: usize,
    closed: Arc<AtomicBool>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Peers {
    /// One at every backend of a lab, both families, named by the backend's index.
    ///
    /// # Errors
    /// When a port is taken.
    pub fn start(lab: &Lab) -> Result<Self> {
        let peers = Self::default();
        for index in 0..lab.n_backends() {
            for family in [Family::V4, Family::V6] {
                peers.listen(lab.backend(index), backend(family, index), index)?;
            }
        }
        Ok(peers)
    }

    /// One more server.
    ///
    /// # Errors
    /// When the address or port cannot be had.
    pub fn listen(&self, ns: &NetNs, address: SocketAddr, server: usize) -> Result<()> {
        let listener = ns.run(|| {
            let socket =
                Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
            socket.set_reuse_address(true)?;
            socket.bind(&address.into()).with_context(|| format!("listen at {address}"))?;
            socket.listen(1024)?;
            Ok(TcpListener::from(socket))
        })?;
        listener.set_nonblocking(true)?;
        let (closed, arrived) = (Arc::new(AtomicBool::new(false)), self.arrived.clone());
        let closes = closed.clone();
        let thread = thread::spawn(move || {
            while !closes.load(Ordering::Relaxed) {
                match listener.accept() {
                    Ok((stream, from)) => {
                        let arrived = arrived.clone();
                        thread::spawn(move || receive(stream, from, server, &arrived));
                    }
                    Err(_) => thread::sleep(Duration::from_millis(2)),
                }
            }
        });
        self.doors().push(Door { server, closed, thread: Some(thread) });
        Ok(())
    }

    /// Nobody listens there any more; conversations go on.
    pub fn close(&self, server: usize) {
        self.doors().retain(|door| door.server != server);
    }

    /// Dials from an address and port (0: any) inside a namespace.
    ///
    /// # Errors
    /// When the connection is refused, nothing answers, or it comes to no server of ours.
    pub fn dial(&self, ns: &NetNs, source: SocketAddr, target: SocketAddr) -> Result<Conversation> {
        let stream = ns.run(|| connect(source, target))?;
        self.begin(stream)
    }

    /// As [`Peers::dial`], from whatever address the kernel chooses.
    ///
    /// # Errors
    /// As [`Peers::dial`].
    pub fn dial_from_anywhere(&self, ns: &NetNs, target: SocketAddr) -> Result<Conversation> {
        let anywhere =
            if target.is_ipv4() { IpAddr::V4([0; 4].into()) } else { IpAddr::V6([0; 16].into()) };
        self.dial(ns, (anywhere, 0).into(), target)
    }

    fn begin(&self, mut stream: TcpStream) -> Result<Conversation> {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        stream.write_all(&id.to_be_bytes()).context("say which conversation it is")?;
        let client = End::new(stream, id, Who::Client)?;
        let arrived = wait_for(PATIENCE, "the server hears of the conversation", || {
            Ok(self.arrived().remove(&id))
        })?;
        Ok(Conversation::new(client, arrived))
    }

    fn arrived(&self) -> std::sync::MutexGuard<'_, HashMap<u64, Arrived>> {
        self.arrived.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn doors(&self) -> std::sync::MutexGuard<'_, Vec<Door>> {
        self.doors.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Door {
    fn drop(&mut self) {
        self.closed.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}

/// Waits for the client to tell which conversation it is. A health check tells nothing.
fn receive(
    mut stream: TcpStream,
    from: SocketAddr,
    server: usize,
    arrived: &Mutex<HashMap<u64, Arrived>>,
) {
    let mut id = [0; 8];
    let told = stream.set_nonblocking(false).and_then(|()| stream.read_exact(&mut id));
    let id = u64::from_be_bytes(id);
    if let (Ok(()), Ok(end)) = (told, End::new(stream, id, Who::Server)) {
        arrived
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(id, Arrived { end, server, from });
    }
}

/// Connects, for a time that allows for one lost SYN.
fn connect(source: SocketAddr, target: SocketAddr) -> Result<TcpStream> {
    const LIMIT: Duration = Duration::from_secs(5);
    let socket = Socket::new(Domain::for_address(target), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(source.port() != 0)?;
    socket.bind(&source.into()).with_context(|| format!("bind to {source}"))?;
    let connected: io::Result<()> = socket.connect_timeout(&target.into(), LIMIT);
    connected.with_context(|| format!("connect from {source} to {target}"))?;
    Ok(socket.into())
}
