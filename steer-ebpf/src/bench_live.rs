//! Measured on live frames: `steer_xdp` beside the least that XDP can do with a frame.
//!
//! The kernel hands the same pages to the program again and again and never writes them anew, so
//! each program here first restores what the run before it rewrote. `tests/src/bench/live` runs
//! them and knows what restoring costs.

use aya_ebpf::{
    bindings::xdp_action::{XDP_ABORTED, XDP_DROP, XDP_PASS, XDP_TX},
    btf_maps::{Array, PerCpuArray, ProgramArray},
    helpers::generated::bpf_redirect,
    macros::{btf_map, classifier, xdp},
    programs::{TcContext, XdpContext},
};

use crate::hook::{Window, xdp::Xdp};

/// Words of a frame of IPv4 that are restored, and the half-word behind them: headers of 14, 20 and
/// 32 bytes.
const V4_WORDS: usize = 16;
/// The same of IPv6: headers of 14, 40 and 32 bytes.
const V6_WORDS: usize = 21;

/// The frame as it comes, and one whose first three words are the Ethernet addresses that a
/// redirected frame leaves with.
#[btf_map(name = "live_frames")]
static LIVE_FRAMES: Array<[u32; V6_WORDS + 1], 2> = Array::new();
/// Interface that frames are redirected to, and the length of the frames that the sinks count.
#[btf_map(name = "live_numbers")]
static LIVE_NUMBERS: Array<u32, 2> = Array::new();
/// Frames that came to a sink.
#[btf_map(name = "live_sunk")]
static LIVE_SUNK: PerCpuArray<u64, 1> = PerCpuArray::new();
/// The program behind [`live_next`].
#[btf_map(name = "live_next_program")]
static LIVE_NEXT: ProgramArray<1> = ProgramArray::new();

/// What a run on live frames costs without any program worth the name; also the end of
/// [`live_next`] where that is measured alone.
#[xdp]
pub fn live_nothing(_context: XdpContext) -> u32 {
    XDP_DROP
}

/// What restoring costs, above [`live_nothing`].
#[xdp]
pub fn live_drop(context: XdpContext) -> u32 {
    restored(&context, XDP_DROP)
}

/// The bare way back.
#[xdp]
pub fn live_tx(context: XdpContext) -> u32 {
    restored(&context, XDP_TX)
}

/// Frames go up the stack: forwarding, with or without netfilter.
#[xdp]
pub fn live_pass(context: XdpContext) -> u32 {
    restored(&context, XDP_PASS)
}

/// The bare redirect: Ethernet addresses written, nothing read.
#[xdp]
pub fn live_redirect(context: XdpContext) -> u32 {
    let hook = Xdp(context.ctx);
    let mut window = hook_window(&hook);
    let (Some(addresses), Some(out)) = (LIVE_FRAMES.get(1), LIVE_NUMBERS.get(0)) else {
        return XDP_ABORTED;
    };
    if !restore(&mut window) {
        return XDP_ABORTED;
    }
    let Some(head) = window.words_mut::<3>(0) else { return XDP_ABORTED };
    for i in 0..3 {
        head[i] = addresses[i];
    }
    // SAFETY: a helper call without memory.
    unsafe { bpf_redirect(*out, 0) as u32 }
}

/// Restores and goes on with the program in `live_next_program`: `steer_xdp` as it was released.
#[xdp]
pub fn live_next(context: XdpContext) -> u32 {
    if restored(&context, XDP_PASS) == XDP_PASS {
        // SAFETY: nothing is held that the call would not return to release.
        unsafe { LIVE_NEXT.tail_call(&context, 0) };
    }
    XDP_ABORTED
}

/// Only makes an interface one that takes live frames: a driver has its receive queues ready while
/// a program is attached.
#[xdp]
pub fn live_open(_context: XdpContext) -> u32 {
    XDP_PASS
}

/// The far end of what XDP sends.
#[xdp]
pub fn live_sink(context: XdpContext) -> u32 {
    if is_counted((context.data_end() - context.data()) as u32) { XDP_DROP } else { XDP_PASS }
}

/// The far end of what the stack sends.
#[classifier]
pub fn live_sink_tc(context: TcContext) -> i32 {
    const DROP: i32 = 2;
    const NEXT: i32 = -1;
    if is_counted(context.skb.len()) { DROP } else { NEXT }
}

/// Counts a frame of the measured length.
#[inline(always)]
fn is_counted(len: u32) -> bool {
    if LIVE_NUMBERS.get(1) != Some(&len) {
        return false;
    }
    if let Some(sunk) = LIVE_SUNK.get_ptr_mut(0) {
        // SAFETY: per-CPU memory.
        unsafe { *sunk += 1 };
    }
    true
}

#[inline(always)]
fn restored(context: &XdpContext, action: u32) -> u32 {
    if restore(&mut hook_window(&Xdp(context.ctx))) { action } else { XDP_ABORTED }
}

#[inline(always)]
fn hook_window(hook: &Xdp) -> Window {
    use crate::hook::Hook as _;
    hook.window()
}

/// Writes the headers anew.
#[inline(always)]
pub(crate) fn restore(window: &mut Window) -> bool {
    let Some(frame) = LIVE_FRAMES.get(0) else { return false };
    if window.len() >= V6_WORDS * 4 + 2 {
        restore_words::<V6_WORDS>(window, frame)
    } else {
        restore_words::<V4_WORDS>(window, frame)
    }
}

#[inline(always)]
fn restore_words<const N: usize>(window: &mut Window, frame: &[u32; V6_WORDS + 1]) -> bool {
    let Some(words) = window.words_mut::<N>(0) else { return false };
    for i in 0..N {
        words[i] = frame[i];
    }
    // The half-word behind them, with the one before it: both as they lie in memory.
    let Some(last) = window.words_mut::<1>(N * 4 - 2) else { return false };
    let (before, behind) = (frame[N - 1].to_ne_bytes(), frame[N].to_ne_bytes());
    *last = [u32::from_ne_bytes([before[2], before[3], behind[0], behind[1]])];
    true
}
