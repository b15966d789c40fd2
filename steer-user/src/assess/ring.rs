//! Packets of an interface as the kernel sees them: a packet socket with a ring of blocks that both
//! share (packet(7), `TPACKET_V3`). Nothing is attached, and the interface needs no address.

use std::{
    io, mem,
    os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
    ptr::{self, NonNull},
    slice,
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use libc::{c_int, c_void, socklen_t};

use crate::inspect::capture::Packet;

/// Length of a block, bytes: no frame is longer.
const BLOCK: usize = 1 << 20;
/// Blocks: a second of a gigabit's worth of handshakes, a quarter of a second of bulk.
const BLOCKS: usize = 32;
/// What the kernel lays out frames by; blocks hold frames of any length all the same.
const FRAME: usize = 1 << 11;
/// A block that is not full is handed over after so many milliseconds.
const RETIRE: u32 = 60;
/// ETH_P_ALL: every frame, in and out.
const ALL_PROTOCOLS: u16 = 0x0003;
/// How a VLAN's tag is called where the kernel does not say.
const VLAN: u16 = 0x8100;

/// Where things stand in a block (`struct tpacket_block_desc`) and in a packet's header (`struct
/// tpacket3_hdr`), bytes. Numbers are in the machine's own order.
mod at {
    pub(super) const STATUS: usize = 8;
    pub(super) const N_PACKETS: usize = 12;
    pub(super) const FIRST: usize = 16;
    pub(super) const NEXT: usize = 0;
    pub(super) const SECONDS: usize = 4;
    pub(super) const NANOSECONDS: usize = 8;
    pub(super) const CAPTURED: usize = 12;
    pub(super) const LEN: usize = 16;
    pub(super) const PACKET_STATUS: usize = 20;
    pub(super) const MAC: usize = 24;
    pub(super) const TCI: usize = 32;
    pub(super) const TPID: usize = 36;
}

/// An interface being listened to.
pub(super) struct Ring {
    socket: OwnedFd,
    blocks: NonNull<u8>,
    next: usize,
    link: u16,
    /// A frame with the tag that the kernel took out of it.
    tagged: Vec<u8>,
}

impl Ring {
    /// Listens to an interface, promiscuously, until it is dropped.
    ///
    /// # Errors
    /// When there is no such interface, its frames are of a kind that is not read, or without
    /// CAP_NET_RAW.
    pub(super) fn open(interface: &str) -> Result<Self> {
        let socket = socket().context("open a packet socket (needs CAP_NET_RAW)")?;
        let (index, kind) =
            look_up(&socket, interface).with_context(|| format!("find interface {interface}"))?;
        let Some(link) = link_type(kind) else {
            bail!("interface {interface}: frames of its type {kind} are not read")
        };
        set(&socket, libc::PACKET_VERSION, &(libc::tpacket_versions::TPACKET_V3 as c_int))
            .context("ask for TPACKET_V3")?;
        let request = libc::tpacket_req3 {
            tp_block_size: BLOCK as u32,
            tp_block_nr: BLOCKS as u32,
            tp_frame_size: FRAME as u32,
            tp_frame_nr: (BLOCK / FRAME * BLOCKS) as u32,
            tp_retire_blk_tov: RETIRE,
            tp_sizeof_priv: 0,
            tp_feature_req_word: 0,
        };
        set(&socket, libc::PACKET_RX_RING, &request).context("make a ring for packets")?;
        let blocks = map(&socket).context("map the ring for packets")?;
        let ring = Self { socket, blocks, next: 0, link, tagged: Vec::new() };
        ring.bind(index).with_context(|| format!("listen to {interface}"))?;
        let all = libc::packet_mreq {
            mr_ifindex: index,
            mr_type: libc::PACKET_MR_PROMISC as u16,
            mr_alen: 0,
            mr_address: [0; 8],
        };
        set(&ring.socket, libc::PACKET_ADD_MEMBERSHIP, &all)
            .with_context(|| format!("make {interface} promiscuous"))?;
        Ok(ring)
    }

    fn bind(&self, index: c_int) -> io::Result<()> {
        let address = libc::sockaddr_ll {
            sll_family: libc::AF_PACKET as u16,
            sll_protocol: ALL_PROTOCOLS.to_be(),
            sll_ifindex: index,
            sll_hatype: 0,
            sll_pkttype: 0,
            sll_halen: 0,
            sll_addr: [0; 8],
        };
        // SAFETY: the pointer is to an address of that length, which outlives the call.
        let bound = unsafe {
            libc::bind(
                self.socket.as_raw_fd(),
                (&raw const address).cast(),
                mem::size_of_val(&address) as socklen_t,
            )
        };
        done(bound).map(drop)
    }

    /// Hands the packets of the next block to `take`, if one comes within `patience`.
    ///
    /// # Errors
    /// When the socket breaks; that its interface is down is none.
    pub(super) fn read(
        &mut self,
        patience: Duration,
        mut take: impl FnMut(&Packet<'_>),
    ) -> Result<()> {
        if self.status().load(Ordering::Acquire) & libc::TP_STATUS_USER == 0 {
            return self.wait(patience);
        }
        // SAFETY: the block lies in the mapping, which lives as long as `self`; until its status
        // says otherwise the kernel does not write to it.
        let block = unsafe { slice::from_raw_parts(self.block().as_ptr(), BLOCK) };
        let mut packet_at = number(block, at::FIRST) as usize;
        for _ in 0..number(block, at::N_PACKETS) {
            let Some(header) = block.get(packet_at..) else { break };
            if let Some(packet) = packet(header, self.link, &mut self.tagged) {
                take(&packet);
            }
            let next = number(header, at::NEXT) as usize;
            if next == 0 {
                break;
            }
            packet_at += next;
        }
        self.status().store(libc::TP_STATUS_KERNEL, Ordering::Release);
        self.next = (self.next + 1) % BLOCKS;
        Ok(())
    }

    /// Hands over what has passed already.
    ///
    /// # Errors
    /// As [`Ring::read`].
    pub(super) fn drain(&mut self, mut take: impl FnMut(&Packet<'_>)) -> Result<()> {
        // By then a block that is not full is handed over.
        std::thread::sleep(Duration::from_millis(2 * u64::from(RETIRE)));
        (0..BLOCKS).try_for_each(|_| self.read(Duration::ZERO, &mut take))
    }

    /// Packets that the kernel dropped since this was asked last.
    pub(super) fn n_dropped(&self) -> u64 {
        // SAFETY: all zeros are a value of this type.
        let mut counts: libc::tpacket_stats_v3 = unsafe { mem::zeroed() };
        let mut len = mem::size_of_val(&counts) as socklen_t;
        // SAFETY: the pointers are to a value of that length and to the length; both outlive the
        // call.
        let got = unsafe {
            libc::getsockopt(
                self.socket.as_raw_fd(),
                libc::SOL_PACKET,
                libc::PACKET_STATISTICS,
                (&raw mut counts).cast(),
                &raw mut len,
            )
        };
        if got == 0 { counts.tp_drops.into() } else { 0 }
    }

    /// Waits for a block.
    fn wait(&self, patience: Duration) -> Result<()> {
        let mut poll =
            libc::pollfd { fd: self.socket.as_raw_fd(), events: libc::POLLIN, revents: 0 };
        // SAFETY: one structure, which outlives the call.
        let n = unsafe { libc::poll(&raw mut poll, 1, patience.as_millis() as c_int) };
        match done(n) {
            Err(error) if error.kind() != io::ErrorKind::Interrupted => {
                Err(error).context("wait for packets")
            }
            // An interface that went down says so at once, each time.
            Ok(_) if poll.revents & libc::POLLERR != 0 => {
                std::thread::sleep(patience);
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// The block that comes next.
    fn block(&self) -> NonNull<u8> {
        // SAFETY: `next` is below the number of blocks that are mapped.
        unsafe { self.blocks.add(self.next * BLOCK) }
    }

    /// Whose that block is.
    fn status(&self) -> &AtomicU32 {
        // SAFETY: an aligned word of the mapping, which lives as long as `self`; the kernel writes
        // it as a whole.
        unsafe { self.block().add(at::STATUS).cast::<AtomicU32>().as_ref() }
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        // SAFETY: what was mapped, in its whole length; nobody refers to it any more.
        unsafe { libc::munmap(self.blocks.as_ptr().cast(), BLOCK * BLOCKS) };
    }
}

/// Reads a packet behind its header.
fn packet<'a>(header: &'a [u8], link: u16, tagged: &'a mut Vec<u8>) -> Option<Packet<'a>> {
    /// The addresses in front of a tag.
    const ADDRESSES: usize = 12;
    let from = usize::from(short(header, at::MAC));
    let bytes = header.get(from..)?.get(..number(header, at::CAPTURED) as usize)?;
    let time = u64::from(number(header, at::SECONDS)) * 1_000_000_000
        + u64::from(number(header, at::NANOSECONDS));
    let status = number(header, at::PACKET_STATUS);
    let mut wire_len = number(header, at::LEN);
    let bytes = match bytes.split_at_checked(ADDRESSES) {
        Some((addresses, behind)) if status & libc::TP_STATUS_VLAN_VALID != 0 => {
            let known = status & libc::TP_STATUS_VLAN_TPID_VALID != 0;
            let kind = if known { short(header, at::TPID) } else { VLAN };
            let number = number(header, at::TCI) as u16;
            tagged.clear();
            tagged.extend_from_slice(addresses);
            tagged.extend_from_slice(&kind.to_be_bytes());
            tagged.extend_from_slice(&number.to_be_bytes());
            tagged.extend_from_slice(behind);
            wire_len += 4;
            tagged.as_slice()
        }
        _ => bytes,
    };
    Some(Packet { link, time: Some(time), wire_len, bytes })
}

fn number(bytes: &[u8], at: usize) -> u32 {
    let number = bytes.get(at..).and_then(|rest| rest.first_chunk());
    number.map_or(0, |number| u32::from_ne_bytes(*number))
}

fn short(bytes: &[u8], at: usize) -> u16 {
    let number = bytes.get(at..).and_then(|rest| rest.first_chunk());
    number.map_or(0, |number| u16::from_ne_bytes(*number))
}

/// The link type of an interface's frames, by its type (ARPHRD of <linux/if_arp.h>).
fn link_type(kind: u16) -> Option<u16> {
    const ETHERNET: u16 = 1;
    const RAW: u16 = 101;
    const RADIOTAP: u16 = 127;
    match kind {
        libc::ARPHRD_ETHER | libc::ARPHRD_LOOPBACK => Some(ETHERNET),
        // Their packets come without a header of theirs.
        libc::ARPHRD_PPP
        | libc::ARPHRD_TUNNEL
        | libc::ARPHRD_TUNNEL6
        | libc::ARPHRD_SIT
        | libc::ARPHRD_IPGRE
        | libc::ARPHRD_NONE => Some(RAW),
        libc::ARPHRD_IEEE80211_RADIOTAP => Some(RADIOTAP),
        _ => None,
    }
}

/// Number and type (ARPHRD) of an interface of this network namespace, which /sys may not show.
fn look_up(socket: &OwnedFd, interface: &str) -> io::Result<(c_int, u16)> {
    // SAFETY: all zeros are a value of this type.
    let mut request: libc::ifreq = unsafe { mem::zeroed() };
    // The last byte is zero.
    let room = request.ifr_name.len() - 1;
    if interface.is_empty() || interface.len() > room || interface.contains('\0') {
        return Err(io::ErrorKind::NotFound.into());
    }
    for (to, from) in request.ifr_name.iter_mut().zip(interface.bytes()) {
        *to = from as libc::c_char;
    }
    let mut ask = |what| {
        // SAFETY: the pointer is to a request with a name, which outlives the call.
        done(unsafe { libc::ioctl(socket.as_raw_fd(), what, &raw mut request) })?;
        Ok::<_, io::Error>(request.ifr_ifru)
    };
    // SAFETY: these are the members that the kernel fills in at these requests.
    unsafe {
        let index = ask(libc::SIOCGIFINDEX)?.ifru_ifindex;
        Ok((index, ask(libc::SIOCGIFHWADDR)?.ifru_hwaddr.sa_family))
    }
}

fn socket() -> io::Result<OwnedFd> {
    // Nothing is received until it is bound.
    // SAFETY: no pointers.
    let socket = unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0) };
    // SAFETY: a descriptor that was just made and nobody else has.
    done(socket).map(|socket| unsafe { OwnedFd::from_raw_fd(socket) })
}

fn set<T>(socket: &OwnedFd, option: c_int, value: &T) -> io::Result<()> {
    // SAFETY: the pointer is to a value of that length, which outlives the call.
    let set = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_PACKET,
            option,
            ptr::from_ref(value).cast::<c_void>(),
            mem::size_of::<T>() as socklen_t,
        )
    };
    done(set).map(drop)
}

fn map(socket: &OwnedFd) -> io::Result<NonNull<u8>> {
    // SAFETY: a new mapping, wherever the kernel wants it.
    let mapped = unsafe {
        libc::mmap(
            ptr::null_mut(),
            BLOCK * BLOCKS,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_SHARED,
            socket.as_raw_fd(),
            0,
        )
    };
    match NonNull::new(mapped) {
        Some(mapped) if mapped.as_ptr() != libc::MAP_FAILED => Ok(mapped.cast()),
        _ => Err(io::Error::last_os_error()),
    }
}

fn done(result: c_int) -> io::Result<c_int> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A packet's header as the kernel writes it, and its bytes 40 bytes behind its beginning.
    fn header(status: u32, bytes: &[u8]) -> Vec<u8> {
        let mut header = vec![0; 40];
        let mut put =
            |at: usize, number: &[u8]| header[at..at + number.len()].copy_from_slice(number);
        put(at::SECONDS, &7u32.to_ne_bytes());
        put(at::NANOSECONDS, &9u32.to_ne_bytes());
        put(at::CAPTURED, &(bytes.len() as u32).to_ne_bytes());
        put(at::LEN, &100u32.to_ne_bytes());
        put(at::PACKET_STATUS, &status.to_ne_bytes());
        put(at::MAC, &40u16.to_ne_bytes());
        put(at::TCI, &0x6005u32.to_ne_bytes());
        put(at::TPID, &0x88a8u16.to_ne_bytes());
        [&header, bytes].concat()
    }

    #[test]
    fn a_packet_is_what_the_kernel_says() {
        let (bytes, mut tagged) = ([3; 20], Vec::new());
        let told = header(0, &bytes);
        let packet = packet(&told, 1, &mut tagged).unwrap();
        let whole = Packet { link: 1, time: Some(7_000_000_009), wire_len: 100, bytes: &bytes };
        assert_eq!(packet, whole);
    }

    #[test]
    fn a_tag_that_the_kernel_took_out_is_put_back() {
        let (bytes, mut tagged) = ([3; 20], Vec::new());
        for (status, kind) in [
            (libc::TP_STATUS_VLAN_VALID, [0x81, 0]),
            (libc::TP_STATUS_VLAN_VALID | libc::TP_STATUS_VLAN_TPID_VALID, [0x88, 0xa8]),
        ] {
            let told = header(status, &bytes);
            let packet = packet(&told, 1, &mut tagged).unwrap();
            let tag = [kind, [0x60, 5]].concat();
            assert_eq!(packet.bytes, [&[3; 12][..], &tag, &[3; 8]].concat());
            assert_eq!(packet.wire_len, 104);
        }
    }

    #[test]
    fn lengths_that_lie_end_with_the_block() {
        let mut told = header(0, &[3; 20]);
        told.truncate(45);
        assert_eq!(packet(&told, 1, &mut Vec::new()), None);
        assert_eq!(packet(&[], 1, &mut Vec::new()).map(|packet| packet.bytes.len()), Some(0));
    }
}
