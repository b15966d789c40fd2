//! ICMP errors about flows of ours, and the errors we owe.

use aya_ebpf::bindings::__sk_buff;
use steer_common::counters::Counter;

use crate::journey::{drop, pass};

/// An ICMP error: translated if it is about a flow of ours.
#[inline(always)]
pub(crate) fn translate_error(_skb: *mut __sk_buff) -> i32 {
    pass(Counter::IcmpPassed)
}

/// The next hop's MTU is too small for the packet.
#[inline(always)]
pub(crate) fn too_big(_skb: *mut __sk_buff) -> i32 {
    drop(Counter::TooBig)
}
