//! What the stand-in knows, and its way with each packet.

use std::{
    net::{IpAddr, SocketAddr},
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use anyhow::Result;

use super::{
    Action, Cookies,
    connection::{Connection, Out},
    packet::{ACKS, Packet, SYN},
    port::{Port, Received},
};
use crate::{
    l4::Snat,
    topology::{Family, backend, balancer, vip},
};

/// What the thread works on, and tests change.
pub(super) struct Core {
    /// Towards the clients, towards the gateway, and straight from members.
    pub(super) ports: Vec<Port>,
    /// Backends by index, and whether they get new connections.
    pub(super) members: Vec<(usize, bool)>,
    snat: Snat,
    pub(super) cookies: Option<Cookies>,
    pub(super) idle: Option<Duration>,
    connections: Vec<Connection>,
    pub(super) for_others: usize,
}

pub(super) fn locked(core: &Mutex<Core>) -> MutexGuard<'_, Core> {
    core.lock().unwrap_or_else(PoisonError::into_inner)
}

pub(super) fn serve(core: &Mutex<Core>, ends: &AtomicBool) -> Result<()> {
    const TICK_MS: libc::c_int = 5;
    let mut buffer = vec![0; 128 * 1024];
    while !ends.load(Ordering::Relaxed) {
        let poll = |port: &Port| libc::pollfd { fd: port.fd(), events: libc::POLLIN, revents: 0 };
        let mut polled: Vec<_> = locked(core).ports.iter().map(poll).collect();
        // SAFETY: the array lives, and its length is told; sockets are closed by nobody else.
        unsafe { libc::poll(polled.as_mut_ptr(), polled.len() as libc::nfds_t, TICK_MS) };
        locked(core).work(&mut buffer)?;
    }
    Ok(())
}

impl Core {
    pub(super) fn new(ports: Vec<Port>, n_members: usize, snat: Snat) -> Self {
        Self {
            ports,
            members: (0..n_members).map(|index| (index, true)).collect(),
            snat,
            cookies: None,
            idle: None,
            connections: Vec::new(),
            for_others: 0,
        }
    }

    fn work(&mut self, buffer: &mut [u8]) -> Result<()> {
        for index in 0..self.ports.len() {
            // So many at a time, that no side waits for the other.
            for _ in 0..64 {
                match self.ports[index].receive(buffer)? {
                    Received::Ours(packet) if packet.is_tcp() => self.carry(index, packet)?,
                    Received::Ours(_) | Received::Skipped => {}
                    Received::NotOurs => self.for_others += usize::from(index == 1),
                    Received::Nothing => break,
                }
            }
        }
        self.connections.retain(|connection| !connection.is_forgotten());
        let Some(limit) = self.idle else { return Ok(()) };
        for index in 0..self.connections.len() {
            if self.connections[index].is_idle_for(limit) {
                let resets = self.connections[index].reset()?;
                self.send(resets);
            }
        }
        Ok(())
    }

    fn carry(&mut self, from: usize, packet: Packet) -> Result<()> {
        if from != 0 {
            let (near, member) = (packet.destination(), packet.source());
            let of = |c: &&mut Connection| c.near == near && c.member == member;
            let Some(connection) = self.connections.iter_mut().find(of) else { return Ok(()) };
            let out = connection.hear_member(packet)?;
            self.send(out);
            return Ok(());
        }
        let (client, dialled) = (packet.source(), packet.destination());
        self.connections
            .retain(|c| !(c.client == client && c.dialled == dialled && c.is_replaced_by(&packet)));
        let of = |c: &Connection| c.client == client && c.dialled == dialled;
        let known = self.connections.iter().position(of);
        let out = match known {
            Some(index) => self.connections[index].hear_client(packet)?,
            None if packet.any(SYN) && !packet.any(ACKS) => self.open(packet)?,
            None => Vec::new(),
        };
        self.send(out);
        Ok(())
    }

    fn open(&mut self, syn: Packet) -> Result<Vec<Out>> {
        let (client, dialled) = (syn.source(), syn.destination());
        let family = if client.is_ipv4() { Family::V4 } else { Family::V6 };
        let balanced = dialled == vip(family);
        let member = if balanced { self.choose(family, client) } else { dialled };
        let near = if self.snat == Snat::Yes { self.port_for(client, member) } else { client };
        // As the member sees it, there is one of these ports.
        self.connections.retain(|c| c.near != near || c.member != member);
        let mut connection = Connection::new(&syn, near, member);
        let out = match self.cookies {
            Some(cookies) if balanced => connection.answer(cookies)?,
            _ => connection.hear_client(syn)?,
        };
        self.connections.push(connection);
        Ok(out)
    }

    /// The member that the client's address leads to, or the next one that is not marked down.
    fn choose(&self, family: Family, client: SocketAddr) -> SocketAddr {
        let last = match client.ip() {
            IpAddr::V4(ip) => ip.octets()[3],
            IpAddr::V6(ip) => ip.octets()[15],
        };
        let n = self.members.len();
        let from = |step: usize| self.members[(usize::from(last) + step) % n];
        let up = (0..n).map(from).find(|(_, up)| *up).unwrap_or(from(0));
        backend(family, up.0)
    }

    /// The balancer's address with the client's port, or the next one that is free towards the
    /// member.
    fn port_for(&self, client: SocketAddr, member: SocketAddr) -> SocketAddr {
        let own = balancer(if client.is_ipv4() { Family::V4 } else { Family::V6 });
        let free = |near: &SocketAddr| {
            !self.connections.iter().any(|c| c.near == *near && c.member == member)
        };
        let ports = (client.port()..=u16::MAX).chain(1024..client.port());
        let mut nears = ports.map(|port| SocketAddr::new(own, port));
        nears.find(free).unwrap_or(SocketAddr::new(own, client.port()))
    }

    /// A member is down: this becomes of its connections.
    pub(super) fn act_on(&mut self, member: usize, action: Action) -> Result<()> {
        for index in 0..self.connections.len() {
            let Connection { client, dialled, member: at, .. } = self.connections[index];
            let family = if client.is_ipv4() { Family::V4 } else { Family::V6 };
            if at != backend(family, member) || dialled != vip(family) {
                continue;
            }
            match action {
                Action::Nothing => {}
                Action::Drop => self.connections[index].fall_silent(),
                Action::Reselect => {
                    self.connections[index].member = self.choose(family, client);
                }
                Action::Reset => {
                    let resets = self.connections[index].reset()?;
                    self.send(resets);
                }
            }
        }
        Ok(())
    }

    fn send(&self, out: impl IntoIterator<Item = Out>) {
        for packet in out {
            match packet {
                Out::Client(packet) => self.ports[0].send(packet),
                Out::Member(packet) => self.ports[1].send(packet),
            }
        }
    }
}
