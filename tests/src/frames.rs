//! Frames on an interface as they are: what no kernel would send, and what really arrived.

use std::{
    io::{self, IoSliceMut, Read},
    mem,
    os::fd::AsRawFd as _,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
        mpsc,
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow};
use nix::{
    errno::Errno,
    net::if_::if_nametoindex,
    sched::{CpuSet, sched_setaffinity},
    sys::socket::{ControlMessageOwned, MsgFlags, recvmsg, setsockopt, sockopt},
    unistd::Pid,
};
use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use crate::netns::NetNs;

/// An AF_PACKET socket on one interface: sends whole frames, sees all that pass there.
pub struct Tap {
    socket: Socket,
}

impl Tap {
    /// Opens one on an interface of a namespace.
    ///
    /// # Errors
    /// When the interface does not exist, or without CAP_NET_RAW.
    pub fn open(ns: &NetNs, interface: &str) -> Result<Self> {
        ns.run(|| {
            let index = if_nametoindex(interface).with_context(|| format!("find {interface}"))?;
            let protocol = Protocol::from(i32::from(ALL_PROTOCOLS.to_be()));
            let socket = Socket::new(Domain::PACKET, Type::RAW, Some(protocol))
                .context("open a packet socket")?;
            socket.bind(&link_address(index)?).context("bind a packet socket")?;
            Ok(Self { socket })
        })
    }

    /// Lets many frames wait to be received, each with the time at which the kernel saw it.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn enlarge(&self) -> Result<()> {
        const ROOM: usize = 64 << 20;
        setsockopt(&self.socket, sockopt::RcvBufForce, &ROOM)
            .context("enlarge the buffer of a packet socket")?;
        setsockopt(&self.socket, sockopt::ReceiveTimestampns, &true).context("ask for times")
    }

    /// Receives a frame, after [`Tap::enlarge`], and how long after 1970 the kernel saw it; `None`
    /// where none comes within `limit`.
    ///
    /// # Errors
    /// When the socket breaks.
    pub fn receive(&self, limit: Duration, buffer: &mut [u8]) -> Result<Option<(Duration, usize)>> {
        self.socket.set_read_timeout(Some(limit))?;
        let mut control = nix::cmsg_space!(libc::timespec);
        let mut pieces = [IoSliceMut::new(buffer)];
        let received = recvmsg::<()>(
            self.socket.as_raw_fd(),
            &mut pieces,
            Some(&mut control),
            MsgFlags::empty(),
        );
        let message = match received {
            Ok(message) => message,
            Err(Errno::EAGAIN | Errno::EINTR) => return Ok(None),
            Err(error) => return Err(error).context("receive a frame"),
        };
        let at = message.cmsgs()?.find_map(|control| match control {
            ControlMessageOwned::ScmTimestampns(at) => Some(at),
            _ => None,
        });
        let at = at.context("a frame without a time")?;
        Ok(Some((Duration::new(at.tv_sec() as u64, at.tv_nsec() as u32), message.bytes)))
    }

    /// Sends one frame.
    ///
    /// # Errors
    /// When the interface is down or the frame too long.
    pub fn send(&self, frame: &[u8]) -> Result<()> {
        self.socket.send(frame).map(drop).context("send a frame")
    }

    /// Sends frames as fast as they go, and returns how many went: those that a queue has no room
    /// for are lost.
    ///
    /// # Errors
    /// As [`Tap::send`].
    pub fn pour(&self, frames: &[impl AsRef<[u8]>]) -> Result<usize> {
        let mut n_sent = 0;
        for frame in frames {
            match self.socket.send(frame.as_ref()) {
                Ok(_) => n_sent += 1,
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => {}
                Err(error) => return Err(error).context("send a frame"),
            }
        }
        Ok(n_sent)
    }

    /// Waits for a frame that `wanted` accepts; what this socket's own host sent counts too.
    ///
    /// # Errors
    /// When the socket breaks.
    pub fn await_frame(
        &self,
        limit: Duration,
        wanted: impl Fn(&[u8]) -> bool,
    ) -> Result<Option<Vec<u8>>> {
        let end = Instant::now() + limit;
        let mut buffer = vec![0; 128 * 1024];
        while let Some(left) =
            end.checked_duration_since(Instant::now()).filter(|left| !left.is_zero())
        {
            self.socket.set_read_timeout(Some(left))?;
            match (&self.socket).read(&mut buffer) {
                Ok(n) if wanted(&buffer[..n]) => return Ok(Some(buffer[..n].to_vec())),
                Ok(_) => {}
                // The time is up, or a signal came.
                Err(error)
                    if matches!(
                        error.kind(),
                        io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted
                    ) => {}
                Err(error) => return Err(error).context("receive a frame"),
            }
        }
        Ok(None)
    }
}

impl Tap {
    /// As [`Tap::await_frame`], where frames have the tag of their VLAN (IEEE 802.1Q), which the
    /// kernel takes off them: bytes 12 to 15.
    ///
    /// # Errors
    /// As [`Tap::await_frame`].
    pub fn await_tagged(
        &self,
        limit: Duration,
        wanted: impl Fn(&[u8]) -> bool,
    ) -> Result<Option<Vec<u8>>> {
        self.tell_tags()?;
        let end = Instant::now() + limit;
        let mut buffer = vec![0; 128 * 1024];
        while let Some(left) =
            end.checked_duration_since(Instant::now()).filter(|left| !left.is_zero())
        {
            self.socket.set_read_timeout(Some(left))?;
            if let Some(frame) = self.receive_tagged(&mut buffer)?.filter(|frame| wanted(frame)) {
                return Ok(Some(frame));
            }
        }
        Ok(None)
    }

    /// Has the kernel tell of each frame which tag it took off (PACKET_AUXDATA of packet(7)).
    fn tell_tags(&self) -> Result<()> {
        let on: libc::c_int = 1;
        // SAFETY: an open socket, and a number of which the kernel is told the size.
        let set = unsafe {
            libc::setsockopt(
                self.socket.as_raw_fd(),
                libc::SOL_PACKET,
                libc::PACKET_AUXDATA,
                (&raw const on).cast(),
                size_of_val(&on) as libc::socklen_t,
            )
        };
        if set == 0 { Ok(()) } else { Err(io::Error::last_os_error()).context("ask for tags") }
    }

    fn receive_tagged(&self, buffer: &mut [u8]) -> Result<Option<Vec<u8>>> {
        /// `TP_STATUS_VLAN_VALID` of linux/if_packet.h.
        const HAS_TAG: u32 = 1 << 4;
        let mut control = nix::cmsg_space!(libc::tpacket_auxdata);
        let mut pieces = [IoSliceMut::new(buffer)];
        let fd = self.socket.as_raw_fd();
        let received = recvmsg::<()>(fd, &mut pieces, Some(&mut control), MsgFlags::empty());
        let message = match received {
            Ok(message) => message,
            Err(Errno::EAGAIN | Errno::EINTR) => return Ok(None),
            Err(error) => return Err(error).context("receive a frame"),
        };
        let told = message.cmsgs()?.find_map(|control| match control {
            ControlMessageOwned::Unknown(other) => Some(other.data_bytes),
            _ => None,
        });
        let (told, len) = (told.context("a frame without what was asked for")?, message.bytes);
        // `struct tpacket_auxdata`: three words, two half-words, tag and EtherType.
        let word = |at: usize| u32::from_ne_bytes(told[at..at + 4].try_into().unwrap_or_default());
        let half = |at: usize| u16::from_ne_bytes([told[at], told[at + 1]]);
        let mut frame = buffer[..len].to_vec();
        if word(0) & HAS_TAG != 0 {
            let tag = [half(18).to_be_bytes(), half(16).to_be_bytes()].concat();
            frame.splice(12..12, tag);
        }
        Ok(Some(frame))
    }
}

/// Two threads, each on a CPU of its own, that send two frames at the same time: what the receiver
/// does with them it does on two CPUs.
pub struct Twins {
    jobs: [mpsc::Sender<Vec<u8>>; 2],
    done: mpsc::Receiver<Result<()>>,
}

impl Twins {
    /// Starts them; they end when this is dropped.
    ///
    /// # Errors
    /// As [`Tap::open`].
    pub fn start(ns: &NetNs, interface: &str) -> Result<Self> {
        let (done, both_done) = mpsc::channel();
        let ready = Arc::new(AtomicUsize::new(0));
        let twin = |cpu| {
            let (tap, done, ready) = (Tap::open(ns, interface)?, done.clone(), ready.clone());
            let (job, jobs) = mpsc::channel::<Vec<u8>>();
            thread::spawn(move || {
                let pinned = pin_to(cpu);
                for (round, frame) in (1..).zip(jobs) {
                    meet(&ready, round);
                    let sent = pinned
                        .as_ref()
                        .map_or_else(|error| Err(anyhow!("{error:#}")), |()| tap.send(&frame));
                    if done.send(sent).is_err() {
                        return;
                    }
                }
            });
            anyhow::Ok(job)
        };
        Ok(Self { jobs: [twin(0)?, twin(1)?], done: both_done })
    }

    /// Sends two frames, and waits until both are sent.
    ///
    /// # Errors
    /// As [`Tap::send`], and when there are no two CPUs.
    pub fn send(&self, frames: [Vec<u8>; 2]) -> Result<()> {
        for (job, frame) in self.jobs.iter().zip(frames) {
            job.send(frame).context("a sender has ended")?;
        }
        (0..2).try_for_each(|_| self.done.recv().context("a sender has ended")?)
    }
}

/// Binds the calling thread to a CPU.
///
/// # Errors
/// When there is no such CPU for this process.
pub fn pin_to(cpu: usize) -> Result<()> {
    let mut one = CpuSet::new();
    one.set(cpu).context("name a CPU")?;
    sched_setaffinity(Pid::from_raw(0), &one).with_context(|| format!("run on CPU {cpu}"))
}

/// Waits, awake, until the other of two threads is here for the `round`th time as well; the first
/// round is 1.
pub fn meet(here: &AtomicUsize, round: usize) {
    here.fetch_add(1, Ordering::SeqCst);
    while here.load(Ordering::SeqCst) < 2 * round {
        std::hint::spin_loop();
    }
}

/// ETH_P_ALL: every frame, in and out.
pub(crate) const ALL_PROTOCOLS: u16 = 0x0003;

pub(crate) fn link_address(index: u32) -> Result<SockAddr> {
    let address = libc::sockaddr_ll {
        sll_family: libc::AF_PACKET as u16,
        sll_protocol: ALL_PROTOCOLS.to_be(),
        sll_ifindex: index.cast_signed(),
        sll_hatype: 0,
        sll_pkttype: 0,
        sll_halen: 0,
        sll_addr: [0; 8],
    };
    // SAFETY: sockaddr_storage is larger than and at least as aligned as any sockaddr; the length
    // says how much counts.
    let (_, storage) = unsafe {
        SockAddr::try_init(|storage, len| {
            storage.cast::<libc::sockaddr_ll>().write(address);
            *len = mem::size_of::<libc::sockaddr_ll>() as libc::socklen_t;
            Ok(())
        })
    }?;
    Ok(storage)
}
