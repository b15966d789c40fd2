//! The two hooks as one: what a packet program may do with the packet it was given.
//!
//! Every cast of a packet pointer stands in this file.

pub(crate) mod tc;
pub(crate) mod xdp;

use core::ffi::c_void;

use aya_ebpf::{
    bindings::bpf_fib_lookup,
    helpers::generated::{bpf_check_mtu, bpf_fib_lookup as fib},
};
use steer_common::{checksum::update, wire::Packet};

use crate::verifier::{mask, opaque};

/// Offsets that the programs read directly lie below this bound (a transport header at most 255
/// bytes deep, behind it its options).
const REACH: i32 = 0x1ff;

/// The linear bytes of a packet, readable and writable in place until the next helper that moves
/// them.
pub(crate) struct Window {
    start: usize,
    end: usize,
}

impl Window {
    /// The bytes between two packet pointers of a context.
    #[inline(always)]
    pub(crate) fn new(start: usize, end: usize) -> Self {
        Self { start, end }
    }

    /// How many bytes can be reached.
    #[inline(always)]
    pub(crate) fn len(&self) -> usize {
        self.end - self.start
    }

    #[inline(always)]
    fn at(&self, offset: usize, len: usize) -> Option<usize> {
        let at = opaque(self.start + mask::<REACH>(offset));
        if at + len > self.end { None } else { Some(at) }
    }

    /// `N` 32-bit words at `offset`, as they lie in memory, to be changed in place.
    #[inline(always)]
    pub(crate) fn words_mut<const N: usize>(&mut self, offset: usize) -> Option<&mut [u32; N]> {
        let at = self.at(offset, N * 4)?;
        // SAFETY: `at .. at + 4 * N` lies before the packet's end, checked just above; the verifier
        // checks it again. The window is borrowed mutably, so there is no other reference. Words in
        // packets need no alignment: the machines that run this JIT load unaligned words, and the
        // verifier demands alignment where one does not.
        Some(unsafe { &mut *(at as *mut [u32; N]) })
    }

    /// Brings the finished TCP checksum at `offset` up to date; false where it lies beyond the
    /// linear bytes.
    #[inline(always)]
    pub(crate) fn update_sum(&mut self, offset: usize, difference: &Difference) -> bool {
        let Some(at) = self.at(offset, 2) else { return false };
        // SAFETY: as in `words_mut`.
        let field = unsafe { &mut *(at as *mut u16) };
        *field = update(*field, difference.pseudo + difference.segment);
        true
    }
}

impl Packet for Window {
    #[inline(always)]
    fn words<const N: usize>(&self, offset: usize) -> Option<[u32; N]> {
        let at = self.at(offset, N * 4)?;
        // SAFETY: as in `words_mut`, and shared while the window is borrowed.
        Some(unsafe { *(at as *const [u32; N]) })
    }

    #[inline(always)]
    fn be16(&self, offset: usize) -> Option<u16> {
        let at = self.at(offset, 2)?;
        // SAFETY: as above.
        Some(u16::from_be(unsafe { *(at as *const u16) }))
    }
}

/// What a change did to the sums of a packet, in memory order (see `steer_common::checksum`).
#[derive(Clone, Copy)]
pub(crate) struct Difference {
    /// Of the pseudo header (RFC 9293 3.1).
    pub(crate) pseudo: u64,
    /// Of the TCP header and payload.
    pub(crate) segment: u64,
    /// Of bytes that no checksum in the packet covers (IPv6 hop limit).
    pub(crate) uncovered: u64,
}

/// An MTU as next hops have it: none that matters is larger.
#[inline(always)]
pub(crate) fn saturate(mtu: u32) -> u16 {
    if mtu > u16::MAX as u32 { u16::MAX } else { mtu as u16 }
}

/// What XDP and TC have in common.
pub(crate) trait Hook {
    /// The program's argument.
    fn context(&self) -> *mut c_void;
    /// The packet's linear bytes.
    fn window(&self) -> Window;
    /// Interface the packet came in by.
    fn ingress(&self) -> u32;
    /// The VLAN whose tag the kernel took off the frame; 0: none.
    fn vlan(&self) -> u16;
    /// Copies `len` (1..=40) bytes at `offset` to `to`; false where the packet is shorter.
    fn load_options(&self, offset: usize, to: *mut u8, len: u32) -> bool;
    /// Copies `len` (1..=40) bytes back.
    fn store_options(&self, offset: usize, from: *const u8, len: u32) -> bool;
    /// MTU of an interface, bytes; 0 where it cannot be known.
    #[inline(always)]
    fn mtu(&self, ifindex: u32) -> u16 {
        let mut mtu = 0;
        // SAFETY: a number on the stack, which the helper replaces by the MTU.
        let checked = unsafe { bpf_check_mtu(self.context(), ifindex, &mut mtu, 0, 0) };
        if checked < 0 { 0 } else { saturate(mtu) }
    }
    /// Asks the forwarding table; 0 or one of `BPF_FIB_LKUP_RET_*`.
    #[inline(always)]
    fn fib(&self, params: *mut bpf_fib_lookup) -> i32 {
        // SAFETY: `params` is a whole structure in a map value.
        unsafe { fib(self.context(), params, size_of::<bpf_fib_lookup>() as i32, 0) as i32 }
    }
    /// Whether the packet is several segments in one.
    fn aggregated(&self) -> bool;
    /// Length of the frame, bytes, if the packet is several segments in one; else 0.
    fn aggregate_len(&self) -> usize;
    /// Brings the TCP checksum at `at` up to date; false where the packet cannot be changed.
    /// `finished` says that it is the sum of all its segment.
    fn finish(&self, at: usize, v6: bool, difference: Difference, finished: bool) -> bool;
    /// Sends the packet, its Ethernet header already written, out of an interface; the action to
    /// return.
    fn redirect(&self, ifindex: u32) -> i32;
    /// Largest IP packet on the wire that this packet will become, bytes, given its own IP length.
    fn wire_len(&self, ip_len: usize, header_len: usize) -> usize;
    /// Whether this is XDP.
    const XDP: bool;
}
