//! Where a client's data is kept that no backend has seen yet.

use aya_ebpf::{bindings::__sk_buff, helpers::generated::bpf_skb_load_bytes};
use steer_common::shared::{PENDING_MAX, PENDING_SLACK, Pending};

use crate::{
    maps::PENDING,
    scratch::{Scratch, spare},
    verifier::{limit, opaque, size},
};

/// Copies `len` bytes at `from` of the packet to `data[offset ..]` of the buffer. 0, or -1 where
/// they are not there.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn store_in_buffer(
    skb: *mut __sk_buff,
    buffer: *mut Pending,
    offset: u32,
    from: u32,
    len: u32,
) -> i32 {
    if buffer.is_null() {
        return -1;
    }
    let (mut done, len) = (0u32, len);
    for _ in 0..limit::<{ PENDING_MAX.div_ceil(PENDING_SLACK) as i32 }>() {
        let left = len.wrapping_sub(done) as usize;
        let piece = if left > PENDING_SLACK { PENDING_SLACK } else { left };
        let Some(n) = size::<PENDING_SLACK>(piece) else { break };
        let at = opaque((offset + done) as usize);
        if at > PENDING_MAX {
            return -1;
        }
        // SAFETY: `at + n` is at most PENDING_MAX + PENDING_SLACK, the array's size.
        unsafe {
            let to = (&raw mut (*buffer).data).cast::<u8>().add(at);
            if bpf_skb_load_bytes(skb.cast(), from + done, to.cast(), n) != 0 {
                return -1;
            }
        }
        done += n;
    }
    0
}

/// Makes a buffer of this CPU empty and puts it into `pending`; false where the table refuses.
#[inline(always)]
pub(crate) fn new_buffer(scratch: &Scratch) -> bool {
    let Some(buffer) = spare() else { return false };
    // SAFETY: per-CPU memory.
    unsafe {
        (*buffer).ranges = Default::default();
        (*buffer).needed = 0;
        (*buffer).grown_at = scratch.now;
        PENDING.insert(&scratch.key, &*buffer, 0).is_ok()
    }
}
