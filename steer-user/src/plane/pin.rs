//! The pin directory: one state of one gateway, `PIN_DIR/v<layout>`.

use std::{
    ffi::CString,
    fs::{self, DirBuilder, File},
    io,
    os::{
        fd::AsRawFd as _,
        unix::{
            ffi::OsStrExt as _,
            fs::{DirBuilderExt as _, PermissionsExt as _},
        },
    },
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};
use steer_common::shared::LAYOUT_VERSION;

use super::attach::Kind;

/// `f_type` of a BPF file system (linux/magic.h).
const BPF_FS_MAGIC: i64 = 0xcafe_4a11;
/// Only the agent's own user looks at pins.
const MODE: u32 = 0o700;
/// End of a map's name while a map of another size is being filled.
pub(super) const NEXT: &str = "_new";
/// The BPF file system takes no dots in names (`bpf_lookup` in kernel/bpf/inode.c), VLAN interfaces have them; the
/// kernel allows no colon in an interface's name.
const DOT: (&str, &str) = (".", ":");

/// The directory that holds the pins.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PinDir {
    root: PathBuf,
}

/// Held by the one agent of a pin directory; the kernel releases it when the agent ends, however it ends.
#[derive(Debug)]
pub struct Lock {
    _directory: File,
}

impl PinDir {
    /// The state below `root` (`PIN_DIR`).
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// The `PIN_DIR` itself.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The directory of this layout.
    pub fn state(&self) -> PathBuf {
        self.root.join(format!("v{LAYOUT_VERSION}"))
    }

    /// Where a map is pinned.
    pub fn map(&self, name: &str) -> PathBuf {
        self.state().join(name)
    }

    /// Where a link is pinned.
    pub fn link(&self, interface: &str, kind: Kind) -> PathBuf {
        self.state().join(format!("link_{}_{}", file_name(interface), kind.word()))
    }

    /// Every pinned link with its interface and kind.
    pub fn links(&self) -> Vec<(String, Kind, PathBuf)> {
        let parse = |path: PathBuf| {
            let name = path.file_name()?.to_str()?.strip_prefix("link_")?.to_owned();
            let (interface, kind) = name.rsplit_once('_')?;
            Some((interface_name(interface), Kind::from_word(kind)?, path))
        };
        let mut links = children(&self.state()).into_iter().filter_map(parse).collect::<Vec<_>>();
        links.sort_by(|a, b| a.2.cmp(&b.2));
        links
    }

    /// Whether there is a state.
    pub fn exists(&self) -> bool {
        self.state().is_dir()
    }

    /// Refuses where there is no state to work on.
    pub fn require(&self) -> Result<()> {
        if self.exists() {
            return Ok(());
        }
        self.refuse_other_layouts()?;
        bail!("nothing is pinned at {}: no gateway runs here (start one with `steer agent`)", self.root.display())
    }

    /// Makes the directory; `true` if it was not there.
    pub fn create(&self) -> Result<bool> {
        self.refuse_other_layouts()?;
        let fresh = !self.exists();
        require_bpf_fs(&self.root)?;
        let made = DirBuilder::new().recursive(true).mode(MODE).create(self.state());
        made.with_context(|| format!("create {}", self.state().display()))?;
        // Whoever may open it could hold the lock; and one that an older version made was open to all.
        let private = fs::set_permissions(self.state(), fs::Permissions::from_mode(MODE));
        private.with_context(|| format!("make {} private", self.state().display()))?;
        Ok(fresh)
    }

    fn refuse_other_layouts(&self) -> Result<()> {
        let ours = self.state();
        match layouts(&self.root).into_iter().find(|path| *path != ours) {
            Some(other) => bail!(
                "{} holds the state of another version of steer (this one has layout v{LAYOUT_VERSION}): \
                 run `steer detach` first, which ends its flows, or use another pin_dir",
                other.display()
            ),
            None => Ok(()),
        }
    }

    /// Becomes the one agent of this directory; `None` if there is one.
    pub fn lock(&self) -> Result<Option<Lock>> {
        let directory = File::open(self.state()).with_context(|| format!("open {}", self.state().display()))?;
        // SAFETY: the descriptor is open for the whole call.
        let locked = unsafe { libc::flock(directory.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB) } == 0;
        if locked {
            return Ok(Some(Lock { _directory: directory }));
        }
        match io::Error::last_os_error() {
            error if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
            error => Err(error).with_context(|| format!("lock {}", self.state().display())),
        }
    }

    /// Whether an agent holds this directory.
    pub fn agent_runs(&self) -> bool {
        self.exists() && matches!(self.lock(), Ok(None))
    }

    /// Removes every layout's pins and the directory itself where it is empty then.
    pub fn remove(&self) -> Result<()> {
        for layout in layouts(&self.root) {
            fs::remove_dir_all(&layout).with_context(|| format!("remove {}", layout.display()))?;
        }
        match fs::remove_dir(&self.root) {
            Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            other => other.with_context(|| format!("remove {}", self.root.display())),
        }
    }
}

/// The name that an interface has in the names of pins.
pub(super) fn file_name(interface: &str) -> String {
    interface.replace(DOT.0, DOT.1)
}

/// The interface of such a name.
pub(super) fn interface_name(file_name: &str) -> String {
    file_name.replace(DOT.1, DOT.0)
}

/// The directories `v<number>` below a pin directory.
fn layouts(root: &Path) -> Vec<PathBuf> {
    let is_layout = |path: &PathBuf| {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        name.strip_prefix('v').is_some_and(|number| number.parse::<u32>().is_ok())
    };
    children(root).into_iter().filter(is_layout).collect()
}

fn children(directory: &Path) -> Vec<PathBuf> {
    fs::read_dir(directory).into_iter().flatten().flatten().map(|entry| entry.path()).collect()
}

/// Refuses a place where nothing can be pinned.
fn require_bpf_fs(path: &Path) -> Result<()> {
    let existing = path.ancestors().find(|path| path.exists()).unwrap_or(Path::new("/"));
    let name = CString::new(existing.as_os_str().as_bytes()).context("read the pin directory's name")?;
    // SAFETY: an all-zero statfs is valid, and the kernel fills it.
    let mut found: libc::statfs = unsafe { std::mem::zeroed() };
    // SAFETY: `name` ends with zero and both outlive the call.
    let failed = unsafe { libc::statfs(name.as_ptr(), &mut found) } != 0;
    if failed || found.f_type != BPF_FS_MAGIC {
        bail!(
            "{} is on no BPF file system; mount one (mount -t bpf bpf /sys/fs/bpf) or set pin_dir to a place on one",
            path.display()
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pins_of_vlan_interfaces_have_names_without_dots() {
        let pin = PinDir::new("/sys/fs/bpf/steer").link("eth0.100", Kind::Tc);
        assert_eq!(pin, Path::new(&format!("/sys/fs/bpf/steer/v{LAYOUT_VERSION}/link_eth0:100_tc")));
        assert_eq!(interface_name("eth0:100"), "eth0.100");
    }
}
