//! The system calls that aya does not have: batches, and what a pinned link is attached to.

use std::{
    ffi::CString,
    io, mem,
    os::{
        fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd},
        unix::ffi::OsStrExt as _,
    },
    path::Path,
};

use aya::Pod;

const BPF_OBJ_GET: libc::c_long = 7;
const BPF_OBJ_GET_INFO_BY_FD: libc::c_long = 15;
const BPF_MAP_LOOKUP_BATCH: libc::c_long = 24;
const BPF_MAP_UPDATE_BATCH: libc::c_long = 26;
const BPF_LINK_DETACH: libc::c_long = 34;

/// Entries asked for at once, and the bytes they may take; more entries than a hash bucket holds in any case.
const BATCH: usize = 4096;
const BATCH_BYTES: usize = 1 << 20;

/// `union bpf_attr` of the batch commands.
#[repr(C)]
#[derive(Default)]
struct BatchAttr {
    in_batch: u64,
    out_batch: u64,
    keys: u64,
    values: u64,
    count: u32,
    map_fd: u32,
    elem_flags: u64,
    flags: u64,
}

/// Calls `each` with every entry of a hash map, some at a time; in between entries may be removed.
pub(super) fn lookup_all<K: Pod, V: Pod>(map: BorrowedFd<'_>, each: &mut dyn FnMut(&[K], &[V])) -> io::Result<()> {
    let batch = BATCH.min(BATCH_BYTES / mem::size_of::<V>().max(1));
    let (mut keys, mut values) = (zeroed::<K>(batch), zeroed::<V>(batch));
    let (mut position, mut next, mut first) = (0_u64, 0_u64, true);
    loop {
        let mut attr = BatchAttr {
            in_batch: if first { 0 } else { (&raw mut position) as u64 },
            out_batch: (&raw mut next) as u64,
            keys: keys.as_mut_ptr() as u64,
            values: values.as_mut_ptr() as u64,
            count: batch as u32,
            map_fd: map.as_raw_fd() as u32,
            ..Default::default()
        };
        // SAFETY: both buffers hold `count` entries of the map's own sizes (checked by aya when it was opened).
        let outcome = unsafe { bpf(BPF_MAP_LOOKUP_BATCH, &mut attr) };
        let ended = match outcome {
            Ok(_) => false,
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => true,
            Err(error) => return Err(error),
        };
        if let (Some(keys), Some(values)) = (keys.get(..attr.count as usize), values.get(..attr.count as usize)) {
            each(keys, values);
        }
        if ended {
            return Ok(());
        }
        (position, first) = (next, false);
    }
}

/// Writes many entries with one call.
pub(super) fn update_all<K: Pod, V: Pod>(map: BorrowedFd<'_>, keys: &[K], values: &[V]) -> io::Result<()> {
    debug_assert_eq!(keys.len(), values.len());
    let mut attr = BatchAttr {
        keys: keys.as_ptr() as u64,
        values: values.as_ptr() as u64,
        count: keys.len().min(values.len()) as u32,
        map_fd: map.as_raw_fd() as u32,
        ..Default::default()
    };
    // SAFETY: both slices hold `count` entries, the kernel only reads them.
    unsafe { bpf(BPF_MAP_UPDATE_BATCH, &mut attr) }.map(|_| ())
}

/// The index of an interface in this network namespace.
pub(super) fn ifindex(interface: &str) -> Option<u32> {
    let name = CString::new(interface).ok()?;
    // SAFETY: `name` ends with zero and outlives the call.
    let index = unsafe { libc::if_nametoindex(name.as_ptr()) };
    (index != 0).then_some(index)
}

/// The interface that a pinned link is attached to; 0 when that interface is gone.
pub(super) fn link_ifindex(pin: &Path) -> io::Result<u32> {
    /// Head of `struct bpf_link_info`; for XDP and tcx the interface stands first in its union.
    #[repr(C)]
    #[derive(Default)]
    struct LinkInfo {
        kind: u32,
        id: u32,
        program: u32,
        _padding: u32,
        ifindex: u32,
        _rest: [u32; 27],
    }
    #[repr(C)]
    struct InfoAttr {
        fd: u32,
        len: u32,
        info: u64,
    }
    let link = open_pin(pin)?;
    let mut info = LinkInfo::default();
    let len = mem::size_of::<LinkInfo>() as u32;
    let mut attr = InfoAttr { fd: link.as_raw_fd() as u32, len, info: (&raw mut info) as u64 };
    // SAFETY: `info` has `len` bytes and outlives the call.
    unsafe { bpf(BPF_OBJ_GET_INFO_BY_FD, &mut attr) }?;
    Ok(info.ifindex)
}

/// Detaches a pinned link at once, whoever else holds it.
pub(super) fn detach_link(pin: &Path) -> io::Result<()> {
    let link = open_pin(pin)?;
    let mut attr = link.as_raw_fd() as u32;
    // SAFETY: the attribute is the descriptor alone.
    unsafe { bpf(BPF_LINK_DETACH, &mut attr) }.map(|_| ())
}

fn open_pin(pin: &Path) -> io::Result<OwnedFd> {
    #[repr(C)]
    struct PinAttr {
        path: u64,
        fd: u32,
        flags: u32,
    }
    let path = CString::new(pin.as_os_str().as_bytes())?;
    let mut attr = PinAttr { path: path.as_ptr() as u64, fd: 0, flags: 0 };
    // SAFETY: `path` ends with zero and outlives the call.
    let fd = unsafe { bpf(BPF_OBJ_GET, &mut attr) }?;
    // SAFETY: the kernel has just given us this descriptor.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Calls bpf(2).
///
/// # Safety
///
/// `attr` must be what `command` expects, and every pointer in it valid for what the command does with it.
unsafe fn bpf<T>(command: libc::c_long, attr: &mut T) -> io::Result<i32> {
    // SAFETY: as promised by the caller.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, attr as *mut T, mem::size_of::<T>()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result as i32) }
}

fn zeroed<T: Pod>(len: usize) -> Vec<T> {
    // SAFETY: `Pod` types are valid for every bit pattern, zero included.
    (0..len).map(|_| unsafe { mem::zeroed() }).collect()
}
