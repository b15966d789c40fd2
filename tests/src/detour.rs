//! A detour for what clients send to the VIP: a rule drops, delays, repeats, reorders or changes
//! it, frame by frame.
//!
//! The clients' route to the VIP leads into a second veth pair of their own namespace; a thread
//! reads the frames at its far end and sends them out of eth0, byte for byte as the clients' kernel
//! would have. The kernel believes that everything was sent at once.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

use anyhow::Result;

use crate::{
    frames::{Tap, Twins},
    pieces::fragments,
    scenario::Run,
    topology::{Family, Lab, mac_text, vip},
};

/// How long a thread waits before it looks whether it shall end, or lets go what nothing followed.
const TICK: Duration = Duration::from_millis(20);

/// What a rule is told of a frame.
#[derive(Clone, Copy, Debug)]
pub struct Seen {
    /// How many frames with data came before, for one that has data.
    pub data: Option<usize>,
    /// How many came before, whatever they hold.
    pub number: usize,
    /// The TCP flags that tell its kind apart.
    pub syn: bool,
}

/// What becomes of a frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fate {
    /// It goes on.
    Pass,
    /// It is lost.
    Drop,
    /// It goes on so many times.
    Copies(usize),
    /// It goes on behind the next one.
    AfterNext,
    /// It goes on after a pause, and so does all behind it.
    Late(Duration),
    /// It goes on with its last byte changed.
    Corrupt,
    /// It goes on twice at the same time, from two CPUs.
    FromBothCpus,
    /// It goes on in fragments of its datagram, the last one first; of this many bytes (a multiple
    /// of eight) at the most.
    FragmentsReversed(usize),
    /// It waits for the next one; both go on at the same time, from two CPUs.
    BesideNext,
}

/// A detour; ends when dropped.
pub struct Detour<'a> {
    run: &'a Run,
    ends: Arc<AtomicBool>,
    thread: Option<JoinHandle<Result<()>>>,
}

impl<'a> Detour<'a> {
    /// Leads the clients' packets to the VIP through `rule` from now on.
    ///
    /// # Errors
    /// When `ip` or `ethtool` refuses.
    pub fn start(run: &'a Run, rule: impl FnMut(Seen) -> Fate + Send + 'static) -> Result<Self> {
        let client = run.lab.client();
        client.ip(&links(&run.lab))?;
        client.tool("ethtool -K detour0 tx off tso off gso off")?;
        let road = Road {
            from: Tap::open(client, "detour1")?,
            to: Tap::open(client, "eth0")?,
            twins: Twins::start(client, "eth0")?,
            gate: run.lab.client_link().1,
            rule,
            n_frames: 0,
            n_data: 0,
            n_cut: 0,
            held: None,
            beside: None,
        };
        let ends = Arc::new(AtomicBool::new(false));
        let thread = std::thread::spawn({
            let ends = ends.clone();
            move || road.serve(&ends)
        });
        client.ip(&routes(&run.lab))?;
        Ok(Self { run, ends, thread: Some(thread) })
    }
}

impl Drop for Detour<'_> {
    fn drop(&mut self) {
        self.ends.store(true, Ordering::Relaxed);
        // The routes go with their interface.
        drop(self.run.lab.client().ip("link del detour0\n"));
        drop(self.thread.take().map(JoinHandle::join));
    }
}

/// The far end has an address of its own, so that the clients' stack ignores what arrives there for
/// the gateway.
pub(crate) fn links(lab: &Lab) -> String {
    let clients = mac_text(lab.client_link().0);
    format!(
        "link add detour0 address {clients} type veth peer name detour1\n\
         link set detour1 up\nlink set detour0 up\n"
    )
}

/// Clients' packets to a VIP leave by detour0, addressed to the gateway or the balancer before it.
pub(crate) fn routes(lab: &Lab) -> String {
    let gate = mac_text(lab.client_link().1);
    let route = |family| {
        let vip = vip(family).ip();
        format!(
            "neigh add {vip} lladdr {gate} dev detour0 nud permanent\nroute add {vip} dev detour0\n"
        )
    };
    route(Family::V4) + &route(Family::V6)
}

struct Road<R> {
    from: Tap,
    to: Tap,
    twins: Twins,
    gate: [u8; 6],
    rule: R,
    n_frames: usize,
    n_data: usize,
    n_cut: u16,
    held: Option<Vec<u8>>,
    beside: Option<Vec<u8>>,
}

impl<R: FnMut(Seen) -> Fate> Road<R> {
    fn serve(mut self, ends: &AtomicBool) -> Result<()> {
        while !ends.load(Ordering::Relaxed) {
            let for_gate = |frame: &[u8]| frame.starts_with(&self.gate);
            match self.from.await_frame(TICK, for_gate)? {
                Some(frame) => self.judge(frame)?,
                None => {
                    self.held = self.held.take().or(self.beside.take());
                    self.let_go()?;
                }
            }
        }
        Ok(())
    }

    fn judge(&mut self, mut frame: Vec<u8>) -> Result<()> {
        let seen = self.look(&frame);
        if let Some(first) = self.beside.take() {
            return self.twins.send([first, frame]);
        }
        match (self.rule)(seen) {
            Fate::Pass => self.go_on(&frame)?,
            Fate::Drop => {}
            Fate::Copies(n) => (0..n).try_for_each(|_| self.go_on(&frame))?,
            Fate::AfterNext => {
                self.held = Some(frame);
                return Ok(());
            }
            Fate::Late(pause) => {
                std::thread::sleep(pause);
                self.go_on(&frame)?;
            }
            Fate::Corrupt => {
                if let Some(last) = frame.last_mut() {
                    *last ^= 1;
                }
                self.go_on(&frame)?;
            }
            Fate::FragmentsReversed(len) => {
                self.n_cut = self.n_cut.wrapping_add(1);
                let cuts: Vec<_> =
                    (1..ip_payload_len(&frame).div_ceil(len)).map(|n| n * len).collect();
                fragments(&frame, &cuts, self.n_cut)
                    .iter()
                    .rev()
                    .try_for_each(|piece| self.go_on(piece))?;
            }
            Fate::FromBothCpus => self.twins.send([frame.clone(), frame])?,
            Fate::BesideNext => self.beside = Some(frame),
        }
        self.let_go()
    }

    fn let_go(&mut self) -> Result<()> {
        self.held.take().map_or(Ok(()), |frame| self.go_on(&frame))
    }

    /// As on a wire, what a full queue has no room for is lost.
    fn go_on(&self, frame: &[u8]) -> Result<()> {
        self.to.pour(&[frame]).map(drop)
    }

    fn look(&mut self, frame: &[u8]) -> Seen {
        let (len, syn) = payload_len(frame);
        let seen = Seen { data: (len != 0).then_some(self.n_data), number: self.n_frames, syn };
        self.n_data += usize::from(len != 0);
        self.n_frames += 1;
        seen
    }
}

/// Bytes behind a plain IP header.
fn ip_payload_len(frame: &[u8]) -> usize {
    frame.len() - if frame[14] >> 4 == 4 { 14 + 20 } else { 14 + 40 }
}

/// Length of a TCP segment's payload, and whether it is a SYN; `etherparse` judges, not steer's own
/// parser.
fn payload_len(frame: &[u8]) -> (usize, bool) {
    let Ok(sliced) = etherparse::SlicedPacket::from_ethernet(frame) else { return (0, false) };
    match sliced.transport {
        Some(etherparse::TransportSlice::Tcp(tcp)) => (tcp.payload().len(), tcp.syn()),
        _ => (0, false),
    }
}
