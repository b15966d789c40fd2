//! TC: socket buffers, possibly aggregated (GSO), their checksum possibly unfinished.

use core::ffi::c_void;

use aya_ebpf::{
    bindings::__sk_buff,
    helpers::generated::{
        bpf_csum_update, bpf_l4_csum_replace, bpf_redirect, bpf_skb_load_bytes,
        bpf_skb_store_bytes, bpf_skb_vlan_pop, bpf_skb_vlan_push,
    },
};
use steer_common::checksum::fold32;

use super::{Difference, Hook, Window};

/// Let the next program, then the stack, have the packet (TCX_NEXT).
pub(crate) const NEXT: i32 = -1;
/// Drop the packet (TC_ACT_SHOT).
pub(crate) const DROP: i32 = 2;

/// The bits of a VLAN tag that say which VLAN (IEEE 802.1Q 9.6).
const VLAN_ID: u32 = 0xfff;

/// `BPF_F_PSEUDO_HDR` of bpf_l4_csum_replace.
const PSEUDO_HEADER: u64 = 0x10;
/// `BPF_F_IPV6` of bpf_l4_csum_replace (Linux 6.15 and stable branches): the pseudo header's change
/// is not seen by CHECKSUM_COMPLETE, since IPv6 has no header checksum to balance it.
const IPV6: u64 = 0x80;

/// A TC context.
pub(crate) struct Tc(pub(crate) *mut __sk_buff);

impl Tc {
    /// Length of the frame, bytes.
    #[inline(always)]
    pub(crate) fn len(&self) -> usize {
        // SAFETY: the context pointer is the program's argument.
        unsafe { (*self.0).len as usize }
    }

    /// Whether the kernel took a tag of a VLAN off the frame. A tag that names none (a priority
    /// tag, IEEE 802.1Q 9.6) is taken away: the kernel hands such frames to the interface itself.
    #[inline(always)]
    pub(crate) fn tagged(&self) -> bool {
        // SAFETY: as above; a helper call on the program's context.
        unsafe {
            (*self.0).vlan_present != 0
                && ((*self.0).vlan_tci & VLAN_ID != 0 || bpf_skb_vlan_pop(self.0) != 0)
        }
    }

    /// Whether the frame is for another station, or for many: the kernel's own TCP takes neither.
    #[inline(always)]
    pub(crate) fn for_others(&self) -> bool {
        const PACKET_HOST: u32 = 0;
        // SAFETY: as above.
        unsafe { (*self.0).pkt_type != PACKET_HOST }
    }

    /// Whether the frame is for one other station.
    #[inline(always)]
    pub(crate) fn for_another(&self) -> bool {
        const PACKET_OTHERHOST: u32 = 3;
        // SAFETY: as above.
        unsafe { (*self.0).pkt_type == PACKET_OTHERHOST }
    }

    /// Whether the frame has a tag that names no VLAN (a priority tag), or one of a provider's
    /// (IEEE 802.1ad), behind which there may be another.
    #[inline(always)]
    pub(crate) fn oddly_tagged(&self) -> bool {
        const CUSTOMER: u32 = 0x8100_u16.to_be() as u32;
        // SAFETY: as above.
        unsafe {
            (*self.0).vlan_present != 0
                && ((*self.0).vlan_tci & VLAN_ID == 0 || (*self.0).vlan_proto != CUSTOMER)
        }
    }

    /// Gives the frame the tag of a VLAN, 0 for none, in place of the one that it has; the priority
    /// stays. False where that fails. The packet's bytes may have moved then.
    #[inline(always)]
    pub(crate) fn set_vlan(&self, vlan: u16) -> bool {
        if self.vlan() == vlan {
            return true;
        }
        const CUSTOMER: u16 = 0x8100_u16.to_be();
        // SAFETY: as above; helper calls on the program's context.
        unsafe {
            let priority = (*self.0).vlan_tci as u16 & !(VLAN_ID as u16);
            ((*self.0).vlan_present == 0 || bpf_skb_vlan_pop(self.0) == 0)
                && (vlan == 0 || bpf_skb_vlan_push(self.0, CUSTOMER, priority | vlan) == 0)
        }
    }

    /// Tells the kernel of a change to bytes that no checksum in the packet covers. Only
    /// CHECKSUM_COMPLETE has a sum to correct; for all others the helper refuses, which is right.
    #[inline(always)]
    pub(crate) fn uncovered(&self, difference: u64) {
        // SAFETY: a helper call on the program's context.
        unsafe { bpf_csum_update(self.0, fold32(difference)) };
    }

    /// Updates the TCP checksum field at `at` of this packet.
    #[inline(always)]
    pub(crate) fn replace_sums(&self, at: usize, v6: bool, pseudo: u64, segment: u64) -> bool {
        let (at, pseudo, segment) = (at as u32, fold32(pseudo) as u64, fold32(segment) as u64);
        // SAFETY: helper calls on the program's context.
        unsafe {
            if segment != 0 && bpf_l4_csum_replace(self.0, at, 0, segment, 0) != 0 {
                return false;
            }
            if v6 {
                // Kernels that do not know the flag refuse it and change nothing.
                bpf_l4_csum_replace(self.0, at, 0, pseudo, PSEUDO_HEADER | IPV6) == 0
                    || bpf_l4_csum_replace(self.0, at, 0, pseudo, PSEUDO_HEADER) == 0
            } else {
                bpf_l4_csum_replace(self.0, at, 0, pseudo, PSEUDO_HEADER) == 0
            }
        }
    }
}

impl Hook for Tc {
    const XDP: bool = false;

    #[inline(always)]
    fn context(&self) -> *mut c_void {
        self.0.cast()
    }

    #[inline(always)]
    fn window(&self) -> Window {
        // SAFETY: the context pointer is the program's argument.
        unsafe { Window::new((*self.0).data as usize, (*self.0).data_end as usize) }
    }

    #[inline(always)]
    fn ingress(&self) -> u32 {
        // SAFETY: as above.
        unsafe { (*self.0).ingress_ifindex }
    }

    #[inline(always)]
    fn vlan(&self) -> u16 {
        // SAFETY: as above.
        let (present, tag) = unsafe { ((*self.0).vlan_present, (*self.0).vlan_tci) };
        if present != 0 { (tag & VLAN_ID) as u16 } else { 0 }
    }

    #[inline(always)]
    fn load_options(&self, offset: usize, to: *mut u8, len: u32) -> bool {
        // SAFETY: the caller owns 40 bytes at `to`; `len` is at most 40.
        unsafe { bpf_skb_load_bytes(self.0.cast(), offset as u32, to.cast(), len) == 0 }
    }

    #[inline(always)]
    fn store_options(&self, offset: usize, from: *const u8, len: u32) -> bool {
        // SAFETY: as above.
        unsafe { bpf_skb_store_bytes(self.0, offset as u32, from.cast(), len, 0) == 0 }
    }

    #[inline(always)]
    fn aggregated(&self) -> bool {
        // SAFETY: the context pointer is the program's argument.
        unsafe { (*self.0).gso_size != 0 }
    }

    #[inline(always)]
    fn aggregate_len(&self) -> usize {
        if self.aggregated() { self.len() } else { 0 }
    }

    /// A finished checksum is changed in place; all that is left to tell is the sum of
    /// CHECKSUM_COMPLETE. With IPv4 the header's own checksum balances everything but the pseudo
    /// header, with IPv6 nothing balances the hop limit.
    #[inline(always)]
    fn finish(&self, at: usize, v6: bool, difference: Difference, finished: bool) -> bool {
        if finished {
            self.uncovered(if v6 {
                difference.uncovered
            } else {
                !fold32(difference.pseudo) as u64
            });
            return self.window().update_sum(at, &difference);
        }
        if v6 && difference.uncovered != 0 {
            self.uncovered(difference.uncovered);
        }
        self.replace_sums(at, v6, difference.pseudo, difference.segment)
    }

    #[inline(always)]
    fn redirect(&self, ifindex: u32) -> i32 {
        // SAFETY: a helper call without memory.
        unsafe { bpf_redirect(ifindex, 0) as i32 }
    }

    #[inline(always)]
    fn wire_len(&self, ip_len: usize, header_len: usize) -> usize {
        // SAFETY: the context pointer is the program's argument.
        let segment = unsafe { (*self.0).gso_size as usize };
        if segment == 0 { ip_len } else { header_len + segment }
    }
}
