//! The programs as the agent loads them, run on packets without any link (`BPF_PROG_TEST_RUN`).
//!
//! The binary `verify` reads what the verifier counted; `tests/programs.rs` fills the maps and
//! judges what comes out.

use std::{
    fs, io,
    os::fd::{AsFd, AsRawFd},
    path::PathBuf,
    process::Command,
    sync::atomic::{AtomicU32, Ordering},
};

use anyhow::{Context, Result, bail};
use aya::{
    maps::MapInfo,
    programs::{ProgramInfo, loaded_programs},
};
use steer_user::{
    config::Sizes,
    plane::{PinDir, Plane, Programs},
};

use crate::process;

/// Names of the two programs.
pub const TC: &str = "steer_tc";
/// As [`TC`].
pub const XDP: &str = "steer_xdp";

/// Both programs in the kernel, their maps pinned in a directory of their own; gone when this is
/// dropped.
pub struct Loaded {
    /// Their maps.
    pub plane: Plane,
    pins: Pins,
    tc: ProgramInfo,
    xdp: ProgramInfo,
    _programs: Programs,
}

impl Loaded {
    /// Loads both programs of the object that `steer` embeds.
    ///
    /// # Errors
    /// With the verifier's words when it refuses one of them.
    pub fn load(sizes: &Sizes) -> Result<Self> {
        process::require_root()?;
        let pins = Pins::new()?;
        let programs = Programs::load(&pins.0, sizes)?;
        let plane = Plane::open(&pins.0)?;
        let flows = MapInfo::from_pin(pins.0.map("flows")).context("look at the map flows")?.id();
        let (tc, xdp) = (with_map(TC, flows)?, with_map(XDP, flows)?);
        Ok(Self { plane, pins, tc, xdp, _programs: programs })
    }

    /// Instructions that the verifier walked, by program.
    ///
    /// # Errors
    /// When the kernel does not tell (before 5.16).
    pub fn verified_instructions(&self) -> Result<[(&'static str, u32); 2]> {
        let count = |info: &ProgramInfo| {
            info.verified_instruction_count().context("this kernel does not tell")
        };
        Ok([(TC, count(&self.tc)?), (XDP, count(&self.xdp)?)])
    }

    /// Where a map is pinned.
    pub fn pin(&self, map: &str) -> PathBuf {
        self.pins.0.map(map)
    }
}

/// One of the two programs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Program {
    /// `steer_tc` on a packet whose checksum nobody vouches for (CHECKSUM_NONE).
    Tc,
    /// `steer_tc` on a packet that came with the sum of all its bytes (CHECKSUM_COMPLETE); the
    /// kernel compares that sum with the packet again afterwards.
    TcComplete,
    /// `steer_xdp`.
    Xdp,
}

/// What a program did with a packet.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Ran {
    /// The action it returned.
    pub action: i32,
    /// The frame as it left it.
    pub frame: Vec<u8>,
}

impl Loaded {
    /// Runs a program on a frame that came in by this interface of the calling thread's network
    /// namespace (XDP: by its loopback).
    ///
    /// # Errors
    /// When the kernel refuses; EBADMSG says that the sum of [`Program::TcComplete`] went wrong.
    pub fn run(&self, program: Program, frame: &[u8], ifindex: u32) -> Result<Ran> {
        let info = if program == Program::Xdp { &self.xdp } else { &self.tc };
        let fd = info.fd().context("open the program")?;
        let mut out = vec![0u8; ROOM];
        // SKB contexts name the interface (`ingress_ifindex`, `ifindex`, words 9 and 10 of
        // __sk_buff).
        let mut context = [0u32; SK_BUFF_WORDS];
        context[9..11].fill(ifindex);
        let mut attributes = TestRun {
            program: fd.as_fd().as_raw_fd().cast_unsigned(),
            data_in: frame.as_ptr() as u64,
            size_in: frame.len() as u32,
            data_out: out.as_mut_ptr() as u64,
            size_out: out.len() as u32,
            repeat: 1,
            ..TestRun::default()
        };
        if program != Program::Xdp {
            attributes.context_in = context.as_ptr() as u64;
            attributes.context_size_in = size_of_val(&context) as u32;
        }
        if program == Program::TcComplete {
            attributes.flags = CHECKSUM_COMPLETE;
        }
        // SAFETY: the structure is what the kernel calls `bpf_attr.test`, its pointers and sizes
        // name live memory.
        let done = unsafe {
            libc::syscall(libc::SYS_bpf, PROG_TEST_RUN, &raw mut attributes, size_of::<TestRun>())
        };
        if done != 0 {
            return Err(io::Error::last_os_error()).with_context(|| format!("run {program:?}"));
        }
        out.truncate(attributes.size_out as usize);
        Ok(Ran { action: attributes.action.cast_signed(), frame: out })
    }
}

/// Room for what comes out, bytes.
const ROOM: usize = 16 * 1024;
/// Words of `struct __sk_buff`.
const SK_BUFF_WORDS: usize = 48;
/// BPF_PROG_TEST_RUN.
const PROG_TEST_RUN: libc::c_int = 10;
/// BPF_F_TEST_SKB_CHECKSUM_COMPLETE. aya's `TestRun` has no place for it.
const CHECKSUM_COMPLETE: u32 = 4;

/// `bpf_attr.test` (linux/bpf.h).
#[repr(C)]
#[derive(Default)]
struct TestRun {
    program: u32,
    action: u32,
    size_in: u32,
    size_out: u32,
    data_in: u64,
    data_out: u64,
    repeat: u32,
    duration: u32,
    context_size_in: u32,
    context_size_out: u32,
    context_in: u64,
    context_out: u64,
    flags: u32,
    cpu: u32,
    batch_size: u32,
    zero: u32,
}

/// Finds the program of this name that uses a map.
///
/// # Errors
/// When there is none.
pub fn with_map(name: &str, map: u32) -> Result<ProgramInfo> {
    for info in loaded_programs() {
        // Programs of others come and go meanwhile.
        let Ok(info) = info else { continue };
        if info.name_as_str() == Some(name)
            && matches!(info.map_ids(), Ok(Some(ids)) if ids.contains(&map))
        {
            return Ok(info);
        }
    }
    bail!("the kernel does not list {name}, loaded just now")
}

/// A pin directory of this process's own.
struct Pins(PinDir);

impl Pins {
    fn new() -> Result<Self> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        const BPF_FS: &str = "/sys/fs/bpf";
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        // The lab sweeps such names when their process is gone.
        let dir =
            PinDir::new(format!("{BPF_FS}/steer-lab-{}-programs-{number}", std::process::id()));
        if dir.create().is_err() {
            process::run(Command::new("mount").args(["-t", "bpf", "bpf", BPF_FS]))?;
            dir.create()?;
        }
        Ok(Self(dir))
    }
}

impl Drop for Pins {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(self.0.root()) {
            eprintln!("remove {}: {error}", self.0.root().display());
        }
    }
}
