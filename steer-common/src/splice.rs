//! The arithmetic of a splice: what changes in a segment between a client and an owner it was
//! re-homed to.
//!
//! The client speaks to the first backend's sequence numbers, timestamps and window scale; the
//! owner has its own.

use crate::{
    shared::{Flow, Translation, options},
    wire::tcp::{Edits, Offer, flags},
};

/// Bits of [`options`] that ends agree to by options of their SYNs.
pub const AGREED: u8 = options::SACK | options::TIMESTAMPS | options::WINDOW_SCALE;

/// Option edits for segments from the client to the owner.
#[inline(always)]
pub fn to_owner(by: &Translation) -> Edits {
    Edits { ts_value: 0, ts_echo: by.ts_delta.wrapping_neg(), sack: by.delta.wrapping_neg() }
}

/// Option edits for segments from the owner to the client. SACK edges are the client's own numbers:
/// unchanged.
#[inline(always)]
pub fn to_client(by: &Translation) -> Edits {
    Edits { ts_value: by.ts_delta, ts_echo: 0, sack: 0 }
}

/// A window of the owner in the first backend's scale (RFC 7323 2.2); never from open to closed.
#[inline(always)]
pub fn rescale_window(window: u16, owner_scale: u8, first_scale: u8) -> u16 {
    let bytes = (window as u32) << (owner_scale & 15);
    let scaled = bytes >> (first_scale & 15);
    if scaled == 0 && window != 0 {
        return 1;
    }
    if scaled > u16::MAX as u32 { u16::MAX } else { scaled as u16 }
}

/// The bit of ECN where a SYN with these flags asks for it (RFC 3168 6.1.1).
#[inline(always)]
pub fn ecn_offered(bits: u8) -> u8 {
    const ECN_SETUP: u8 = flags::ECE | flags::CWR;
    if bits & ECN_SETUP == ECN_SETUP { options::ECN } else { 0 }
}

/// ECN is agreed on where the SYN-ACK sets ECE and not CWR (RFC 3168 6.1.1).
#[inline(always)]
pub fn ecn_agreed(bits: u8, offered: u8) -> u8 {
    if bits & (flags::ECE | flags::CWR) == flags::ECE { offered & options::ECN } else { 0 }
}

/// Whether the owner's SYN-ACK lets it take the flow: it agreed to exactly what the first backend
/// agreed to, and takes segments as large as the client was told. `largest` is the largest MSS that
/// the owner has told anybody lately: a smaller one in this SYN-ACK is what the owner knows of the
/// path to this client, and no limit of what it takes.
#[inline(always)]
pub fn compatible(flow: &Flow, agreed: u8, mss: u16, largest: u16) -> bool {
    agreed == flow.agreed && (mss >= flow.advertised_mss || largest >= flow.advertised_mss)
}

/// Enters the owner's side of the splice into `flow`.
#[inline(always)]
pub fn open(flow: &mut Flow, owner_isn: u32, offer: &Offer) {
    flow.owner_isn = owner_isn;
    flow.owner_scale = offer.scale;
    flow.delta = flow.first_isn.wrapping_sub(owner_isn);
    // RFC 7323 3.2: the client echoes what it saw; translated, the owner sees its own clock.
    flow.ts_delta = flow.first_ts.wrapping_sub(offer.ts);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_open_window_never_closes() {
        assert_eq!(rescale_window(1, 0, 7), 1);
        assert_eq!(rescale_window(0, 7, 0), 0);
        assert_eq!(rescale_window(500, 7, 7), 500);
        assert_eq!(rescale_window(1000, 10, 7), 8000);
        assert_eq!(rescale_window(60000, 14, 0), u16::MAX);
    }
}
