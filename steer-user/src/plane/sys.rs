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

const BPF_MAP_GET_NEXT_KEY: libc::c_long = 4;
const BPF_OBJ_GET: libc::c_long = 7;
const BPF_OBJ_GET_INFO_BY_FD: libc::c_long = 15;
const BPF_PROG_QUERY: libc::c_long = 16;
const BPF_MAP_LOOKUP_BATCH: libc::c_long = 24;
const BPF_MAP_UPDATE_BATCH: libc::c_long = 26;
const BPF_LINK_DETACH: libc::c_long = 34;
/// `enum bpf_attach_type`.
const BPF_TCX_INGRESS: u32 = 46;

/// Entries asked for at once, and the bytes they may take; more entries than a hash bucket holds in
/// any case.
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

/// Calls `each` with every entry of a hash map or an array, some at a time; in between entries may
/// be removed.
pub(super) fn lookup_all<K: Pod, V: Pod>(
    map: BorrowedFd<'_>,
    each: &mut dyn FnMut(&[K], &[V]),
) -> io::Result<()> {
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
        // SAFETY: both buffers hold `count` entries of the map's own sizes (checked by aya when it
        // was opened).
        let outcome = unsafe { bpf(BPF_MAP_LOOKUP_BATCH, &mut attr) };
        let ended = match outcome {
            Ok(_) => false,
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => true,
            Err(error) => return Err(error),
        };
        if let (Some(keys), Some(values)) =
            (keys.get(..attr.count as usize), values.get(..attr.count as usize))
        {
            each(keys, values);
        }
        if ended {
            return Ok(());
        }
        (position, first) = (next, false);
    }
}

/// Every key of a hash map, whatever its values are.
pub(super) fn keys<K: Pod>(map: BorrowedFd<'_>) -> io::Result<Vec<K>> {
    #[repr(C)]
    struct NextAttr {
        map_fd: u32,
        _zero: u32,
        key: u64,
        next: u64,
    }
    let mut keys: Vec<K> = Vec::new();
    loop {
        let mut next = zeroed::<K>(1);
        let key = keys.last().map_or(0, |key| (&raw const *key) as u64);
        let mut attr = NextAttr {
            map_fd: map.as_raw_fd() as u32,
            _zero: 0,
            key,
            next: next.as_mut_ptr() as u64,
        };
        // SAFETY: both pointers are those of keys of the map's size, as the caller made sure, or
        // zero.
        match unsafe { bpf(BPF_MAP_GET_NEXT_KEY, &mut attr) } {
            Ok(_) => keys.append(&mut next),
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => return Ok(keys),
            Err(error) => return Err(error),
        }
    }
}

/// Writes many entries with one call. Where one of them fails nothing behind it is written; how
/// many were is told.
pub(super) fn update_all<K: Pod, V: Pod>(
    map: BorrowedFd<'_>,
    keys: &[K],
    values: &[V],
) -> (usize, io::Result<()>) {
    debug_assert_eq!(keys.len(), values.len());
    if keys.is_empty() {
        return (0, Ok(()));
    }
    let mut attr = BatchAttr {
        keys: keys.as_ptr() as u64,
        values: values.as_ptr() as u64,
        count: keys.len().min(values.len()) as u32,
        map_fd: map.as_raw_fd() as u32,
        ..Default::default()
    };
    // SAFETY: both slices hold `count` entries, the kernel only reads them.
    let done = unsafe { bpf(BPF_MAP_UPDATE_BATCH, &mut attr) }.map(|_| ());
    (attr.count as usize, done)
}

/// The index of an interface in this network namespace.
pub(super) fn ifindex(interface: &str) -> Option<u32> {
    let name = CString::new(interface).ok()?;
    // SAFETY: `name` ends with zero and outlives the call.
    let index = unsafe { libc::if_nametoindex(name.as_ptr()) };
    (index != 0).then_some(index)
}

/// The name of an interface in this network namespace.
pub(super) fn ifname(index: u32) -> Option<String> {
    let mut name = [0; libc::IF_NAMESIZE];
    // SAFETY: the buffer has room for every name and its final zero.
    let found = unsafe { libc::if_indextoname(index, name.as_mut_ptr().cast()) };
    if found.is_null() {
        return None;
    }
    Some(std::ffi::CStr::from_bytes_until_nul(&name).ok()?.to_string_lossy().into_owned())
}

/// What the kernel says of a pinned link.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Link {
    /// Its own number.
    pub(super) id: u32,
    /// The number of its program.
    pub(super) program: u32,
    /// The interface that it is attached to; 0: that interface is gone, or somebody detached it.
    pub(super) ifindex: u32,
}

/// Looks at a pinned link of XDP or tcx.
pub(super) fn link(pin: &Path) -> io::Result<Link> {
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
    Ok(Link { id: info.id, program: info.program, ifindex: info.ifindex })
}

/// Programs that are asked for at once at an interface; the kernel has room for 64
/// (`BPF_MPROG_MAX`).
const QUERIED: usize = 64;

/// The programs at the TC ingress of an interface in the order in which they run, each with its
/// link, if it has one.
pub(super) fn tcx_ingress(ifindex: u32) -> io::Result<Vec<(u32, u32)>> {
    /// `bpf_attr.query` (linux/bpf.h).
    #[repr(C)]
    struct QueryAttr {
        target: u32,
        attach_type: u32,
        flags: u32,
        attach_flags: u32,
        programs: u64,
        count: u32,
        _zero: u32,
        program_flags: u64,
        links: u64,
        link_flags: u64,
        revision: u64,
    }
    let (mut programs, mut links) = ([0_u32; QUERIED], [0_u32; QUERIED]);
    let mut attr = QueryAttr {
        target: ifindex,
        attach_type: BPF_TCX_INGRESS,
        flags: 0,
        attach_flags: 0,
        programs: programs.as_mut_ptr() as u64,
        count: QUERIED as u32,
        _zero: 0,
        program_flags: 0,
        links: links.as_mut_ptr() as u64,
        link_flags: 0,
        revision: 0,
    };
    // SAFETY: both arrays hold `count` numbers and outlive the call.
    unsafe { bpf(BPF_PROG_QUERY, &mut attr) }?;
    Ok(programs.into_iter().zip(links).take(attr.count as usize).collect())
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

/// The bytes of a value.
pub(super) fn bytes<T: Pod>(value: &T) -> &[u8] {
    // SAFETY: `Pod` types are plain bytes, and the slice lives as long as the value.
    unsafe { std::slice::from_raw_parts((&raw const *value).cast(), mem::size_of::<T>()) }
}

/// Calls bpf(2).
///
/// # Safety
///
/// `attr` must be what `command` expects, and every pointer in it valid for what the command does
/// with it.
unsafe fn bpf<T>(command: libc::c_long, attr: &mut T) -> io::Result<i32> {
    // SAFETY: as promised by the caller.
    let result =
        unsafe { libc::syscall(libc::SYS_bpf, command, attr as *mut T, mem::size_of::<T>()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result as i32) }
}

fn zeroed<T: Pod>(len: usize) -> Vec<T> {
    // SAFETY: `Pod` types are valid for every bit pattern, zero included.
    (0..len).map(|_| unsafe { mem::zeroed() }).collect()
}
