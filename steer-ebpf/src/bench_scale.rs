//! Measured at scale: a look-up in a table of millions, and backends' handshakes of as many flows.
//!
//! A session ID is its number, eight times over; `tests/src/bench/scale` fills the tables and runs
//! these.

use aya_ebpf::{
    bindings::xdp_action::{XDP_ABORTED, XDP_PASS},
    btf_maps::Array,
    helpers::generated::bpf_get_prandom_u32,
    macros::{btf_map, classifier, xdp},
    programs::{TcContext, XdpContext},
};
use steer_common::session::Kind;

use crate::{
    bench_live::restore,
    hook::{Hook as _, Window, xdp::Xdp},
    maps::SESSIONS,
    scratch::{Scratch, scratch},
};

/// How many sessions are asked for (of one, always the same), how many were not found, and the
/// number of the next flow.
#[btf_map(name = "scale_numbers")]
static SCALE_NUMBERS: Array<u32, 3> = Array::new();
const N_SESSIONS: u32 = 0;
const MISSED: u32 = 1;
const NEXT_FLOW: u32 = 2;

/// Makes the key of a session picked at random: what [`scale_lookup`] costs without its look-up.
#[classifier]
pub fn scale_key(_context: TcContext) -> i32 {
    picked().is_some() as i32
}

/// Looks such a session up.
#[classifier]
pub fn scale_lookup(_context: TcContext) -> i32 {
    let Some(scratch) = picked() else { return 0 };
    // SAFETY: only asked whether it is there.
    if unsafe { SESSIONS.get(&scratch.session) }.is_some() {
        return 1;
    }
    if let Some(missed) = SCALE_NUMBERS.get_ptr_mut(MISSED) {
        // SAFETY: an array's element; the programs run on one CPU.
        unsafe { *missed += 1 };
    }
    0
}

#[inline(always)]
fn picked() -> Option<&'static mut Scratch> {
    let (scratch, n) = (scratch()?, *SCALE_NUMBERS.get(N_SESSIONS)?);
    // SAFETY: a helper call without arguments.
    let random = unsafe { bpf_get_prandom_u32() };
    let number = ((random as u64 * n as u64) >> 32) as u32;
    let key = &mut scratch.session;
    (key.vip, key.kind, key.len) = (0, Kind::SessionId as u8, 32);
    let words = (&raw mut key.bytes).cast::<[u32; 8]>();
    // SAFETY: 32 bytes, four behind the start of a type aligned to four.
    unsafe { *words = [number; 8] };
    Some(scratch)
}

/// The handshake of the next flow's backend goes up to `steer_tc`: restored, with a client and a
/// session ID of its own. Checksums stay those of the frame: nobody on its way reads them.
#[xdp]
pub fn scale_handshake(context: XdpContext) -> u32 {
    let Some(next) = SCALE_NUMBERS.get_ptr_mut(NEXT_FLOW) else { return XDP_ABORTED };
    // SAFETY: an array's element; the program runs on one CPU.
    let number = unsafe {
        let number = *next;
        *next = number.wrapping_add(1);
        number
    };
    let mut window = Xdp(context.ctx).window();
    if restore(&mut window) && addressed(&mut window, number).is_some() {
        XDP_PASS
    } else {
        XDP_ABORTED
    }
}

/// Enters the client's address and port, and the session ID behind 66 bytes of headers and 44 of a
/// ServerHello.
#[inline(always)]
fn addressed(window: &mut Window, number: u32) -> Option<()> {
    const DESTINATION: usize = 30;
    const PORT: usize = 36;
    const SESSION_ID: usize = 110;
    *window.words_mut::<1>(DESTINATION)? = [(0x0a80_0000 + (number >> 14)).to_be()];
    // The word holds the upper half of the sequence number, too.
    let [word] = window.words_mut::<1>(PORT)?;
    *word = (u32::from_be(*word) & 0xffff | (0x4000 + (number & 0x3fff)) << 16).to_be();
    *window.words_mut::<8>(SESSION_ID)? = [number; 8];
    Some(())
}
