//! Moves that the compiler must not see through, so that the proof the verifier needs stands right
//! before the use.
//!
//! Each is one real instruction (an empty asm would break BTF line info).

/// Keeps the lower bits of `x` and gives the verifier that bound. `M` is a mask.
#[inline(always)]
pub(crate) fn mask<const M: i32>(x: usize) -> usize {
    let mut r = x;
    // SAFETY: one register, no memory, no flags.
    unsafe { core::arch::asm!("{0} &= {1}", inout(reg) r, const M, options(pure, nomem, nostack)) };
    r
}

/// A copy of `x` of which the compiler knows nothing: comparisons of it survive, arithmetic on it
/// is not reordered.
#[inline(always)]
pub(crate) fn opaque(x: usize) -> usize {
    let mut r = x;
    // SAFETY: one register, no memory, no flags.
    unsafe { core::arch::asm!("{0} = {0}", inout(reg) r, options(pure, nomem, nostack)) };
    r
}

/// Keeps the compiler from moving what reads or writes memory across it.
#[inline(always)]
pub(crate) fn barrier() {
    // SAFETY: one register, which is not changed; that memory is, the compiler has to assume.
    unsafe { core::arch::asm!("{0} = {0}", inout(reg) 0u64 => _, options(nostack)) };
}

/// The constant `N`, unknown to the compiler (which would unroll a loop of it) and known to the
/// verifier.
#[inline(always)]
pub(crate) fn limit<const N: i32>() -> u32 {
    let r: u64;
    // SAFETY: one register, no memory, no flags.
    unsafe { core::arch::asm!("{0} = {1}", out(reg) r, const N, options(pure, nomem, nostack)) };
    r as u32
}

/// A helper's size argument in `1..=MAX`, or `None`. (A test against 0 does not raise the lower
/// bound before Linux 6.8, so `x - 1` is compared and 1 added again.)
#[inline(always)]
pub(crate) fn size<const MAX: usize>(x: usize) -> Option<u32> {
    let below = opaque(x.wrapping_sub(1));
    if below >= MAX { None } else { Some(below as u32 + 1) }
}
