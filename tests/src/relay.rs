//! A long way between clients and gateway: every TCP frame, in both directions, comes late by a
//! time that varies, so that frames overtake each other.
//!
//! Frames are taken off by packet sockets: those of the clients from a veth pair that their route
//! to the VIP leads into (as [`crate::detour`] does), those for the clients from eth0, whose own
//! delivery is suppressed. For links without offloads, which carry frames as the wire does.

use std::{
    cmp::Reverse,
    collections::BinaryHeap,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use anyhow::Result;

use crate::{
    detour,
    frames::Tap,
    loss::Loss,
    scenario::Run,
    topology::{Lab, mac_text},
};

/// How long a thread waits before it looks whether it shall end; packet sockets wait no shorter
/// than a timer tick.
const TICK: Duration = Duration::from_millis(20);
const SHORTEST: Duration = Duration::from_millis(1);

/// How long a frame is under way: so long at least, and at most so much longer.
#[derive(Clone, Copy, Debug)]
pub struct Delay {
    /// The least.
    pub least: Duration,
    /// How much longer it may be, by chance.
    pub spread: Duration,
}

/// A long way; ends when dropped.
pub struct Relay<'a> {
    run: &'a Run,
    ends: Arc<AtomicBool>,
    overtaken: Arc<AtomicUsize>,
    threads: Vec<JoinHandle<Result<()>>>,
    _silence: Loss<'a>,
}

impl<'a> Relay<'a> {
    /// Makes the way long from now on.
    ///
    /// # Errors
    /// When `ip`, `ethtool` or `nft` refuses.
    pub fn start(run: &'a Run, delay: Delay) -> Result<Self> {
        let client = run.lab.client();
        client.ip(&(detour::links(&run.lab) + &links_back(&run.lab)))?;
        for interface in ["detour0", "back0", "back1"] {
            client.tool(&format!("ethtool -K {interface} tx off tso off gso off gro off"))?;
        }
        let (ends, overtaken) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let way = |from, to, receiver| {
            let way =
                Way { from: Tap::open(client, from)?, to: Tap::open(client, to)?, receiver, delay };
            let (ends, overtaken) = (ends.clone(), overtaken.clone());
            anyhow::Ok(std::thread::spawn(move || way.serve(&ends, &overtaken)))
        };
        let (clients, gate) = run.lab.client_link();
        let threads = vec![way("detour1", "eth0", gate)?, way("eth0", "back1", clients)?];
        let silence = Loss::incoming(client, "meta l4proto tcp")?;
        client.ip(&detour::routes(&run.lab))?;
        Ok(Self { run, ends, overtaken, threads, _silence: silence })
    }

    /// How many frames were overtaken by a later one.
    pub fn overtaken(&self) -> usize {
        self.overtaken.load(Ordering::Relaxed)
    }
}

impl Drop for Relay<'_> {
    fn drop(&mut self) {
        self.ends.store(true, Ordering::Relaxed);
        // The routes go with their interface.
        drop(self.run.lab.client().ip("link del detour0\nlink del back0\n"));
        for thread in self.threads.drain(..) {
            drop(thread.join());
        }
    }
}

/// What comes out of back1 arrives at back0, for the clients' own address.
fn links_back(lab: &Lab) -> String {
    let clients = mac_text(lab.client_link().0);
    format!(
        "link add back0 address {clients} type veth peer name back1\nlink set back1 up\nlink set back0 up\n"
    )
}

/// One direction.
struct Way {
    from: Tap,
    to: Tap,
    receiver: [u8; 6],
    delay: Delay,
}

/// A frame under way: when it is due, and its place among those that came.
type Due = Reverse<(Instant, usize, Vec<u8>)>;

impl Way {
    fn serve(self, ends: &AtomicBool, overtaken: &AtomicUsize) -> Result<()> {
        let (mut under_way, mut number, mut newest, mut chance) =
            (BinaryHeap::<Due>::new(), 0, 0, 1_u64);
        while !ends.load(Ordering::Relaxed) {
            let until = under_way
                .peek()
                .map_or(TICK, |Reverse((due, ..))| due.saturating_duration_since(Instant::now()));
            let ours = |frame: &[u8]| frame.starts_with(&self.receiver) && is_tcp(frame);
            if let Some(frame) = self.from.await_frame(until.clamp(SHORTEST, TICK), ours)? {
                // Lehmer's generator (Park and Miller, 1988).
                chance = chance * 48_271 % 0x7fff_ffff;
                let late = self.delay.spread.mul_f64(chance as f64 / f64::from(0x7fff_ffff));
                under_way.push(Reverse((Instant::now() + self.delay.least + late, number, frame)));
                number += 1;
            }
            while under_way.peek().is_some_and(|Reverse((due, ..))| *due <= Instant::now()) {
                let Some(Reverse((_, number, frame))) = under_way.pop() else { break };
                overtaken.fetch_add(usize::from(number < newest), Ordering::Relaxed);
                newest = newest.max(number);
                self.to.send(&frame)?;
            }
        }
        Ok(())
    }
}

fn is_tcp(frame: &[u8]) -> bool {
    let sliced = etherparse::SlicedPacket::from_ethernet(frame);
    sliced.is_ok_and(|sliced| matches!(sliced.transport, Some(etherparse::TransportSlice::Tcp(_))))
}
