//! XDP: raw frames before the kernel made socket buffers of them.

use core::ffi::c_void;

use aya_ebpf::{
    bindings::xdp_md,
    helpers::generated::{bpf_redirect, bpf_xdp_load_bytes, bpf_xdp_store_bytes},
};

use super::{Difference, Hook, Window};

/// An XDP context.
pub(crate) struct Xdp(pub(crate) *mut xdp_md);

impl Hook for Xdp {
    const XDP: bool = true;

    #[inline(always)]
    fn context(&self) -> *mut c_void {
        self.0.cast()
    }

    #[inline(always)]
    fn window(&self) -> Window {
        // SAFETY: the context pointer is the program's argument.
        unsafe { Window::new((*self.0).data as usize, (*self.0).data_end as usize) }
    }

    #[inline(always)]
    fn ingress(&self) -> u32 {
        // SAFETY: as above.
        unsafe { (*self.0).ingress_ifindex }
    }

    /// XDP sees tags among the bytes, and passes such frames.
    #[inline(always)]
    fn vlan(&self) -> u16 {
        0
    }

    #[inline(always)]
    fn load_options(&self, offset: usize, to: *mut u8, len: u32) -> bool {
        // SAFETY: the caller owns 40 bytes at `to`; `len` is at most 40.
        unsafe { bpf_xdp_load_bytes(self.0, offset as u32, to.cast(), len) == 0 }
    }

    #[inline(always)]
    fn store_options(&self, offset: usize, from: *const u8, len: u32) -> bool {
        // SAFETY: as above.
        unsafe { bpf_xdp_store_bytes(self.0, offset as u32, from.cast_mut().cast(), len) == 0 }
    }

    #[inline(always)]
    fn aggregated(&self) -> bool {
        false
    }

    #[inline(always)]
    fn aggregate_len(&self) -> usize {
        0
    }

    #[inline(always)]
    fn finish(&self, at: usize, _v6: bool, difference: Difference, _finished: bool) -> bool {
        self.window().update_sum(at, &difference)
    }

    #[inline(always)]
    fn redirect(&self, ifindex: u32) -> i32 {
        // SAFETY: a helper call without memory.
        unsafe { bpf_redirect(ifindex, 0) as i32 }
    }

    #[inline(always)]
    fn wire_len(&self, ip_len: usize, _header_len: usize) -> usize {
        ip_len
    }
}
