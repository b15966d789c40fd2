//! A stand-in for a balancer, made of raw packets, for what nftables cannot do; it stands where
//! that of [`crate::l4`] does ([`crate::scenario::Scenario::behind_stand_in`]).
//!
//! It balances by source address, translates what was dialled (and the source, where told) and
//! routes connections that dial a backend themselves. Its kernel answers ARP and does nothing else:
//! all TCP passes this thread, nothing but TCP does, and what belongs to no connection is dropped.

mod connection;
mod core;
mod packet;
mod port;

use std::{
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

use anyhow::{Context, Result};

use self::{
    core::{Core, locked, serve},
    port::Port,
};
use crate::{
    l4::Snat,
    netns::NetNs,
    topology::{Lab, OUTSIDE, mac, mac_text},
};

/// How it answers clients in the members' place, before it opens a member.
#[derive(Clone, Copy, Debug)]
pub struct Cookies {
    /// The window of its answer.
    pub window: u16,
    /// The hello that waited is the first that the member gets; else it follows right behind a bare
    /// acknowledgement.
    pub glued: bool,
}

/// What becomes of the connections of a member that is marked down (service-down-action of an F5).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Action {
    /// They go on.
    Nothing,
    /// Both sides are reset.
    Reset,
    /// They are carried no longer, and nobody is told.
    Drop,
    /// Their packets go to another member, which knows nothing of them.
    Reselect,
}

/// A running stand-in; ends when dropped.
pub struct Balancer<'a> {
    lab: &'a Lab,
    ns: &'a NetNs,
    core: Arc<Mutex<Core>>,
    ends: Arc<AtomicBool>,
    thread: Option<JoinHandle<Result<()>>>,
}

impl<'a> Balancer<'a> {
    /// Begins to balance.
    ///
    /// # Errors
    /// Where there is no balancer's place in the lab, or a tool refuses.
    pub fn start(lab: &'a Lab, snat: Snat) -> Result<Self> {
        let ns = lab.balancer().context("no balancer stands in front of the gateway")?;
        for path in ["ipv4/ip_forward", "ipv6/conf/all/forwarding"] {
            ns.sysctl(path, "0")?;
        }
        for path in ["ipv4/conf/eth0/arp_notify", "ipv6/conf/eth0/ndisc_notify"] {
            ns.sysctl(path, "1")?;
        }
        // The kernel would reset what comes to its own address.
        ns.nft("table inet steer_lab_balancer {\n chain mute {\n  type filter hook input priority 0\n  meta l4proto tcp drop\n }\n}\n")?;
        let (client, own) = lab.client_link();
        let ports = vec![
            Port::open(ns, OUTSIDE, own, client)?,
            Port::open(ns, "eth0", mac(0, 2), mac(0, 1))?,
        ];
        let core = Arc::new(Mutex::new(Core::new(ports, lab.n_backends(), snat)));
        let ends = Arc::new(AtomicBool::new(false));
        let thread = std::thread::spawn({
            let (core, ends) = (core.clone(), ends.clone());
            move || serve(&core, &ends)
        });
        Ok(Self { lab, ns, core, ends, thread: Some(thread) })
    }

    /// Resets connections that nobody said anything on for so long.
    pub fn reset_idle(&self, limit: Option<Duration>) {
        self.core().idle = limit;
    }

    /// Answers SYNs itself from now on.
    pub fn answer_itself(&self, cookies: Option<Cookies>) {
        self.core().cookies = cookies;
    }

    /// A member gets no new connections any more, and this becomes of those that it has.
    ///
    /// # Errors
    /// When a packet cannot be made.
    pub fn mark_down(&self, member: usize, action: Action) -> Result<()> {
        let mut core = self.core();
        core.members[member].1 = false;
        core.act_on(member, action)
    }

    /// Another unit takes over, which knows all connections: frames towards the gateway come from
    /// another station, which says so (gratuitous ARP) and is the only one that listens.
    ///
    /// # Errors
    /// When `ip` refuses.
    pub fn fail_over(&self) -> Result<()> {
        const OTHER_UNIT: [u8; 6] = [0x02, 0x57, 0xee, 0xfa, 0x11, 0x02];
        let mut core = self.core();
        core.ports[1].own = OTHER_UNIT;
        self.ns.ip(&format!("link set eth0 address {}\n", mac_text(OTHER_UNIT)))
    }

    /// Frames of the gateway that were meant for another station than the balancer's.
    pub fn n_for_others(&self) -> usize {
        self.core().for_others
    }

    /// A member's answers come straight to the balancer from now on, by a link of their own.
    ///
    /// # Errors
    /// When `ip` refuses.
    pub fn return_directly(&self, member: usize) -> Result<()> {
        let (own, far, name) = (mac(100 + member, 1), mac(100 + member, 2), format!("way{member}"));
        let (near, to) = (mac_text(own), mac_text(far));
        self.lab.backend(member).ip(&format!(
            "link add around address {to} type veth peer name {name} address {near} netns {}\n\
             link set around up\n\
             addr add 10.4.{member}.2/24 dev around\naddr add fd00:4:{member}::2/64 dev around nodad\n\
             neigh add 10.4.{member}.1 lladdr {near} dev around nud permanent\n\
             neigh add fd00:4:{member}::1 lladdr {near} dev around nud permanent\n\
             route replace default via 10.4.{member}.1\nroute replace ::/0 via fd00:4:{member}::1\n",
            self.ns.path()
        ))?;
        self.ns.ip(&format!("link set {name} up\n"))?;
        let port = Port::open(self.ns, &name, own, far)?;
        self.core().ports.push(port);
        Ok(())
    }

    fn core(&self) -> MutexGuard<'_, Core> {
        locked(&self.core)
    }
}

impl Drop for Balancer<'_> {
    fn drop(&mut self) {
        self.ends.store(true, Ordering::Relaxed);
        if let Some(Ok(Err(error))) = self.thread.take().map(JoinHandle::join) {
            eprintln!("the balancer ended: {error:#}");
        }
    }
}
