//! Programs of another user on the gateway, or of one with a part of root's rights.

use std::{
    env, fs, os::unix::fs::PermissionsExt as _, path::Path, path::PathBuf, process::Command,
};

use anyhow::{Context, Result};
use nix::unistd::{Gid, Uid, chown};
use tempfile::TempDir;

/// Nobody.
const USER: u32 = 65_534;

/// A copy of steer where every user can run it, and a place for their files.
pub(crate) struct Bystander {
    place: TempDir,
}

impl Bystander {
    pub(crate) fn new() -> Result<Self> {
        let place = tempfile::tempdir()?;
        fs::set_permissions(place.path(), fs::Permissions::from_mode(0o755))?;
        fs::copy(binary()?, place.path().join("steer")).context("copy steer")?;
        Ok(Self { place })
    }

    /// A directory of theirs.
    pub(crate) fn own(&self, directory: &Path) -> Result<()> {
        fs::create_dir(directory).with_context(|| format!("create {}", directory.display()))?;
        Ok(chown(directory, Some(Uid::from_raw(USER)), Some(Gid::from_raw(USER)))?)
    }

    /// Where they may read.
    pub(crate) fn path(&self) -> &Path {
        self.place.path()
    }

    /// A program as run by them, with these capabilities and no other: `bpf`.
    pub(crate) fn command(&self, program: impl AsRef<Path>, capabilities: &[String]) -> Command {
        let only = capabilities.iter().map(|name| format!(",+{name}")).collect::<String>();
        let mut command = Command::new("setpriv");
        command.args([
            format!("--reuid={USER}"),
            format!("--regid={USER}"),
            "--clear-groups".to_owned(),
        ]);
        for set in ["inh-caps", "ambient-caps", "bounding-set"] {
            command.arg(format!("--{set}=-all{only}"));
        }
        // Another user's death signal is forgotten: it is set by a setpriv of theirs.
        command
            .args(["setpriv", "--pdeathsig", "KILL"])
            .arg(program.as_ref())
            .current_dir(self.path());
        command
    }

    /// Steer as run by them.
    pub(crate) fn steer(&self, capabilities: &[String]) -> Command {
        self.command(self.path().join("steer"), capabilities)
    }
}

/// The program that the lab's agents run.
pub(crate) fn binary() -> Result<PathBuf> {
    let beside = env::current_exe()?.ancestors().nth(2).map(|directory| directory.join("steer"));
    env::var_os("STEER_BIN")
        .map(PathBuf::from)
        .or(beside)
        .filter(|path| path.exists())
        .context("no binary steer")
}
