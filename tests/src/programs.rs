//! The programs as the agent loads them, run on packets without any link (`BPF_PROG_TEST_RUN`).
//!
//! The binary `verify` reads what the verifier counted; `tests/programs.rs` fills the maps and judges what comes out.

use std::{
    fs,
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

/// Both programs in the kernel, their maps pinned in a directory of their own; gone when this is dropped.
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
        let count = |info: &ProgramInfo| info.verified_instruction_count().context("this kernel does not tell");
        Ok([(TC, count(&self.tc)?), (XDP, count(&self.xdp)?)])
    }

    /// Where a map is pinned.
    pub fn pin(&self, map: &str) -> PathBuf {
        self.pins.0.map(map)
    }
}

/// Finds the program of this name that uses a map.
fn with_map(name: &str, map: u32) -> Result<ProgramInfo> {
    for info in loaded_programs() {
        // Programs of others come and go meanwhile.
        let Ok(info) = info else { continue };
        if info.name_as_str() == Some(name) && matches!(info.map_ids(), Ok(Some(ids)) if ids.contains(&map)) {
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
        let dir = PinDir::new(format!("{BPF_FS}/steer-lab-{}-programs-{number}", std::process::id()));
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
