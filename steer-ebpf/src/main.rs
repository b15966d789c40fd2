//! The programs of steer: `steer_xdp` and `steer_tc`, both attached to the ingress of every managed
//! interface.
//!
//! Follow a packet: [`journey`] has it read and classified ([`read`]), [`deliver`] forwards what is
//! settled; what needs several packets out or a decision goes on in TC to [`client`] or [`server`],
//! which ask the state machine of `steer-common` and let [`rehome`], [`emit`] and [`learn`] carry
//! it out.
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
mod buffer;
mod certificate;
mod client;
mod deliver;
mod direct;
mod emit;
mod foreign;
mod forward;
mod fragment;
mod hello;
mod hook;
mod icmp;
mod journey;
mod key_names;
mod learn;
mod legs;
mod lock;
mod maps;
mod offers;
mod options;
mod read;
mod read_hello;
mod rebuild;
mod rehome;
mod resegment;
mod server;
mod sources;
mod stage;
mod stamps;
mod sums;
mod syn;
mod syn_ack;
mod too_big;
mod traces;
mod unknown;
mod verdict;
mod verifier;
mod vouched;

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
