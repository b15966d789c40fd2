//! The programs of steer: `steer_xdp` and `steer_tc`, both attached to the ingress of every managed
//! interface.
//!
//! Follow a packet: [`journey`] has it read and classified ([`packet`]); [`forward`] sends what is
//! settled. What needs several packets out or a decision goes on in TC: a flow begins in
//! [`handshake`], [`decide`] reads its hello, [`rehome`] moves it, [`learn`] reads what its backend
//! answers, and [`flows`] is what is known of it.
#![no_std]
#![no_main]
#![feature(core_intrinsics)]
#![expect(internal_features, reason = "compare-and-swap exists for BPF only as an intrinsic")]
#![feature(asm_experimental_arch)]
#![expect(
    clippy::needless_borrows_for_generic_args,
    reason = "a key given by value is copied to the stack"
)]
#![expect(
    clippy::needless_range_loop,
    clippy::manual_memcpy,
    reason = "constant indices keep bounds that the verifier sees; slices would become calls of memcpy"
)]
#![expect(
    missing_docs,
    unreachable_pub,
    reason = "the program macros write public functions without documentation"
)]

#[cfg(feature = "bench")]
mod bench;
#[cfg(feature = "bench")]
mod bench_live;
#[cfg(feature = "bench")]
mod bench_scale;
mod change;
mod decide;
mod flows;
mod forward;
mod handshake;
mod hook;
mod journey;
mod learn;
mod maps;
mod packet;
mod port;
mod rehome;
mod scratch;
mod stage;
mod verifier;

use aya_ebpf::{
    bindings::xdp_action::{XDP_DROP, XDP_PASS},
    macros::{classifier, xdp},
    programs::{TcContext, XdpContext},
};

use crate::{hook::xdp::Xdp, journey::Outcome, maps::count};

/// XDP: what needs one packet out. All else goes on to TC.
#[xdp]
pub fn steer_xdp(context: XdpContext) -> u32 {
    match journey::xdp(&Xdp(context.ctx)) {
        Outcome::Pass(reason) => {
            count(reason);
            XDP_PASS
        }
        Outcome::Drop(reason) => {
            count(reason);
            XDP_DROP
        }
        Outcome::Sent(action) => action as u32,
    }
}

/// TC: everything.
#[classifier]
#[inline(always)]
pub fn steer_tc(context: TcContext) -> i32 {
    journey::tc(context.skb.skb)
}

#[cfg(not(test))]
#[panic_handler]
fn panic(_: &core::panic::PanicInfo) -> ! {
    loop {}
}

/// What the kernel is told: one of the names that it takes for GPL-compatible, so that every helper
/// may be called.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
