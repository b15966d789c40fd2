//! Where the lab's agents pin: a directory per agent and process, on a BPF file system that is
//! there.

use std::{
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result};
use nix::sys::statfs::{FsType, statfs};

use crate::process;

const BPF_FS: &str = "/sys/fs/bpf";
/// BPF_FS_MAGIC of linux/magic.h.
const BPF_FS_MAGIC: FsType = FsType(0xcafe_4a11);
const PREFIX: &str = "steer-lab-";

/// The pin directory of this process's agent `number`.
pub(super) fn directory(number: u32) -> PathBuf {
    Path::new(BPF_FS).join(format!("{PREFIX}{}-{number}", std::process::id()))
}

/// Mounts the BPF file system where it is missing, and removes what labs that were killed left
/// there.
pub(super) fn prepare() -> Result<()> {
    let lock = fs::File::create("/run/steer-lab.lock").context("open the lab's lock")?;
    lock.lock().context("wait for other labs")?;
    if statfs(BPF_FS).context("look at /sys/fs/bpf")?.filesystem_type() != BPF_FS_MAGIC {
        process::run(Command::new("mount").args(["-t", "bpf", "bpf", BPF_FS]))
            .context("mount the BPF file system")?;
    }
    sweep()
}

fn sweep() -> Result<()> {
    for entry in fs::read_dir(BPF_FS).context("list /sys/fs/bpf")? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let owner = name.strip_prefix(PREFIX).and_then(|rest| rest.split('-').next());
        if owner.is_some_and(|pid| !alive(pid)) {
            drop(fs::remove_dir_all(entry.path()));
        }
    }
    Ok(())
}

fn alive(pid: &str) -> bool {
    fs::metadata(format!("/proc/{pid}")).is_ok_and(|entry| entry.uid() == 0)
}
