//! Incremental Internet checksums (RFC 1071, RFC 1624).
//!
//! Sums are kept as the memory holds the words (no byte swapping), so the same code serves either
//! endianness.

/// Folds a sum of 16- or 32-bit words to 16 bits.
#[inline(always)]
pub const fn fold(sum: u64) -> u16 {
    let s = (sum & 0xffff_ffff) + (sum >> 32);
    let s = (s & 0xffff) + (s >> 16);
    let s = (s & 0xffff) + (s >> 16);
    let s = (s & 0xffff) + (s >> 16);
    s as u16
}

/// Folds a sum to 32 bits, as the kernel's checksum helpers want it.
#[inline(always)]
pub const fn fold32(sum: u64) -> u32 {
    let s = (sum & 0xffff_ffff) + (sum >> 32);
    ((s & 0xffff_ffff) + (s >> 32)) as u32
}

/// The change that replacing `old` by `new` makes to a sum (RFC 1624 3, equation 3).
#[inline(always)]
pub const fn replaced32(old: u32, new: u32) -> u64 {
    (!old) as u64 + new as u64
}

/// As [`replaced32`], for 16-bit words.
#[inline(always)]
pub const fn replaced16(old: u16, new: u16) -> u64 {
    (!old) as u64 + new as u64
}

/// A checksum field (as memory holds it) after its data changed by `difference`, a sum of fewer
/// than 2^31 changes.
#[inline(always)]
pub const fn update(field: u16, difference: u64) -> u16 {
    !fold((!field) as u64 + difference)
}
