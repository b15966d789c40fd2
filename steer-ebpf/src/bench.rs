//! Programs that are measured, and the shims that make a program measurable run after run.
//!
//! `BPF_PROG_TEST_RUN` repeats one packet, which a program changes. A shim puts it right again, for
//! another client each time, undoes what the run before did to its flow, and tail-calls the program
//! at hand: one of steer's own, or one that does nothing. The time that a shim takes for itself it
//! notes in `bench`.

use aya_ebpf::{
    bindings::xdp_action::XDP_PASS,
    btf_maps::{Array, ProgramArray},
    helpers::generated::{
        bpf_get_prandom_u32, bpf_ktime_get_ns, bpf_skb_store_bytes, bpf_xdp_store_bytes,
    },
    macros::{btf_map, classifier, xdp},
    programs::{TcContext, XdpContext},
};
use steer_common::{
    checksum::{replaced32, update},
    flow::{State, StateWord},
    shared::{
        Address, BENCH_FRAME, BENCH_NEW_LESSON, BENCH_RESET_FLOW, BENCH_RESET_HANDSHAKE,
        BENCH_RESET_SESSION, Bench,
    },
};

use crate::{
    decide::hello,
    flows::events::copy_flow,
    maps::{FLOWS, HANDSHAKES, SESSIONS},
    scratch::StreamRange,
    verifier::{mask, size},
};

/// The measurement at hand. Written by the benchmark and by the shims.
#[btf_map(name = "bench")]
static BENCH: Array<Bench, 1> = Array::new();
/// The TC program that is measured.
#[btf_map(name = "bench_tc_next")]
static TC_NEXT: ProgramArray<1> = ProgramArray::new();
/// The XDP program that is measured.
#[btf_map(name = "bench_xdp_next")]
static XDP_NEXT: ProgramArray<1> = ProgramArray::new();

/// Measured: the decision on a hello, from the packet to the miss of the last look-up. Nothing is
/// changed.
#[classifier]
pub fn bench_parse(context: TcContext) -> i32 {
    /// Ethernet, IPv4 and TCP headers without options.
    const HEADERS: u32 = 54;
    let Some(scratch) = crate::scratch::scratch() else { return 0 };
    scratch.vip.name_len = 16;
    scratch.range =
        StreamRange { from: HEADERS, len: context.skb.len() - HEADERS, ..StreamRange::default() };
    let flow = &raw mut scratch.flow;
    let held = StateWord::new(State::Established, 0).lock();
    // SAFETY: the scratch space's.
    unsafe { (*flow).word = held.0 };
    scratch.held = held.isn();
    if hello::look_at_packet(context.skb.skb, flow, scratch) {
        hello::decide(flow);
    }
    scratch.range.verdict
}

/// Measured: what it costs to run a program at all.
#[classifier]
pub fn bench_empty(_context: TcContext) -> i32 {
    0
}

/// As [`bench_empty`].
#[xdp]
pub fn bench_empty_xdp(_context: XdpContext) -> u32 {
    XDP_PASS
}

/// Restores the packet and runs the program in `bench_tc_next`.
#[classifier]
pub fn bench_shim_tc(context: TcContext) -> i32 {
    // SAFETY: a helper call with the program's context and a frame of this length.
    restore(|frame, len| unsafe { bpf_skb_store_bytes(context.skb.skb, 0, frame.cast(), len, 0) });
    // SAFETY: the map holds programs of this type.
    unsafe { TC_NEXT.tail_call(&context, 0) };
    0
}

/// Restores the packet and runs the program in `bench_xdp_next`.
#[xdp]
pub fn bench_shim_xdp(context: XdpContext) -> u32 {
    // SAFETY: as above.
    restore(|frame, len| unsafe {
        bpf_xdp_store_bytes(context.ctx, 0, frame.cast_mut().cast(), len)
    });
    // SAFETY: as above.
    unsafe { XDP_NEXT.tail_call(&context, 0) };
    XDP_PASS
}

/// Undoes what the run before did, chooses a client and stores the frame.
#[inline(always)]
fn restore(store: impl FnOnce(*const u8, u32) -> i64) {
    // SAFETY: a helper call without arguments.
    let start = unsafe { bpf_ktime_get_ns() };
    let Some(bench) = BENCH.get_ptr_mut(0) else { return };
    // SAFETY: a map value that only the benchmark uses, between its runs.
    let bench = unsafe { &mut *bench };
    undo(bench);
    // SAFETY: a helper call without arguments.
    let random = unsafe { bpf_get_prandom_u32() } & bench.mask;
    let words = bench.key.client.words();
    let client = (bench.client | random).to_be();
    bench.key.client = Address::from_words([words[0], words[1], words[2], client]);
    put(bench, bench.client_at, client);
    if bench.id_at != 0 {
        put(bench, bench.id_at, random.to_be());
    }
    if let Some(len) = size::<BENCH_FRAME>(bench.frame_len as usize) {
        store((&raw const bench.frame).cast(), len);
    }
    bench.runs += 1;
    // SAFETY: as above.
    bench.own += unsafe { bpf_ktime_get_ns() } - start;
}

#[inline(always)]
fn undo(bench: &mut Bench) {
    if bench.reset & BENCH_NEW_LESSON != 0 {
        // SAFETY: the first eight bytes of an array of 32, unaligned.
        unsafe { bench.flow.follow.lesson.as_mut_ptr().cast::<u64>().write_unaligned(bench.runs) };
    }
    if bench.reset & BENCH_RESET_FLOW != 0
        && let Some(flow) = FLOWS.get_ptr_mut(&bench.key)
    {
        // SAFETY: whole records.
        unsafe { copy_flow(flow, &raw const bench.flow) };
    }
    if bench.reset & BENCH_RESET_HANDSHAKE != 0 {
        let _ = HANDSHAKES.remove(&bench.key);
    }
    if bench.reset & BENCH_RESET_SESSION != 0 {
        let _ = SESSIONS.remove(&bench.session_key);
    }
}

/// Writes a word into the frame, at an even offset, and corrects its TCP checksum.
#[inline(always)]
fn put(bench: &mut Bench, at: u32, word: u32) {
    let at = mask::<{ BENCH_FRAME as i32 - 1 }>(at as usize);
    let check_at = mask::<{ BENCH_FRAME as i32 - 1 }>(bench.check_at as usize);
    // SAFETY: the offsets are below the frame's length, and behind the frame there is room.
    unsafe {
        let (at, check) = (
            bench.frame.as_mut_ptr().add(at).cast::<u32>(),
            bench.frame.as_mut_ptr().add(check_at).cast::<u16>(),
        );
        let difference = replaced32(at.read_unaligned(), word);
        at.write_unaligned(word);
        check.write_unaligned(update(check.read_unaligned(), difference));
    }
}
