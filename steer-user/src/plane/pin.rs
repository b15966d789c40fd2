//! The pin directory: one state of one gateway, `PIN_DIR/v<layout>`.
//!
//! A state that is to take the place of one of another layout is made aside first, as
//! `PIN_DIR/next`, and gets its name by one rename: until then an older version of steer, which
//! starts beside no other layout, still starts.
//!
//! Beside maps and links it holds what other processes must know of the gateway, in the only forms
//! that the BPF file system takes besides pins: a symbolic link `socket` to the agent's control
//! socket, one `netns` that names the network namespace, one `made` to the topmost directory that
//! was made to hold `PIN_DIR`, where any was, a directory `managed_<interface>` for each interface
//! of the configuration, and one `bridge_of_<bridge>` for each of its bridges.

mod lock;
mod marks;

use std::{
    ffi::CString,
    fs::{self, DirBuilder},
    io,
    os::unix::{
        ffi::OsStrExt as _,
        fs::{DirBuilderExt as _, PermissionsExt as _, symlink},
    },
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};
pub use lock::{Lock, WatchLock};
use steer_common::shared::LAYOUT_VERSION;

use super::{attach::Kind, carry};

/// `f_type` of a BPF file system (linux/magic.h).
const BPF_FS_MAGIC: i64 = 0xcafe_4a11;
/// The state that is being made beside one of another layout. No layout's name, so that older
/// versions do not see it.
const ASIDE: &str = "next";
/// Only the agent's own user looks at pins.
const MODE: u32 = 0o700;
/// End of a map's name while a map of another size is being filled.
pub(super) const NEXT: &str = "_new";
/// The BPF file system takes no dots in names (`bpf_lookup` in kernel/bpf/inode.c), VLAN interfaces
/// have them; the kernel allows no colon in an interface's name.
const DOT: (&str, &str) = (".", ":");
/// Points to the topmost directory that was made to hold the root, where that is not the root
/// itself.
const MADE: &str = "made";
/// The directory that holds the pins.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PinDir {
    root: PathBuf,
    layout: u32,
    is_aside: bool,
}

impl PinDir {
    /// The state below `root` (`PIN_DIR`).
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into(), layout: LAYOUT_VERSION, is_aside: false }
    }

    /// The same state while it is made beside one of another layout.
    pub(crate) fn aside(&self) -> Self {
        Self { is_aside: true, ..self.clone() }
    }

    /// Gives a state that was made aside its name.
    pub(crate) fn take_place(&self) -> Result<Self> {
        let own = Self { is_aside: false, ..self.clone() };
        if self.is_aside {
            let (from, to) = (self.state(), own.state());
            fs::rename(&from, &to)
                .with_context(|| format!("rename {} to {}", from.display(), to.display()))?;
        }
        Ok(own)
    }

    /// Removes a state that was made aside and got no name: nobody uses it.
    pub(crate) fn remove_aside(&self) -> Result<()> {
        self.aside().remove_state()
    }

    /// The states of other layouts than this one's, the oldest first.
    pub(super) fn others(&self) -> Vec<Self> {
        self.layouts().into_iter().filter(|dir| dir.layout != self.layout).collect()
    }

    /// The states of every layout that is there, this program's own among them or not.
    pub fn layouts(&self) -> Vec<Self> {
        let mut found = layouts(&self.root)
            .into_iter()
            .map(|(layout, _)| Self { root: self.root.clone(), layout, is_aside: false })
            .collect::<Vec<_>>();
        found.sort_by_key(|dir| dir.layout);
        found
    }

    /// The version of the map layouts that this state has.
    pub fn layout(&self) -> u32 {
        self.layout
    }

    /// The `PIN_DIR` itself.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The directory of this layout.
    pub fn state(&self) -> PathBuf {
        self.root.join(if self.is_aside { ASIDE.to_owned() } else { format!("v{}", self.layout) })
    }

    /// Refuses names of directories to be made that the BPF file system would refuse.
    ///
    /// # Errors
    /// With the name.
    pub fn refuse_dots(&self) -> Result<()> {
        let missing = self.root.ancestors().take_while(|path| !path.exists());
        let name =
            missing.filter_map(|path| path.file_name()?.to_str()).find(|name| name.contains('.'));
        name.map_or(Ok(()), |name| {
            bail!(
                "pin_dir is {}: the BPF file system takes no dot in a name ({name})",
                self.root.display()
            )
        })
    }

    /// Refuses a place that is on no BPF file system.
    ///
    /// # Errors
    /// With the place.
    pub fn require_bpf_fs(&self) -> Result<()> {
        require_bpf_fs(&self.root)
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
        if let Some(other) = self.others().first() {
            return Err(carry::refusal(other));
        }
        bail!(
            "nothing is pinned at {}: no gateway runs here (start one with `steer agent`)",
            self.root.display()
        )
    }

    /// Makes the directory; `true` if it was not there.
    pub fn create(&self) -> Result<bool> {
        let fresh = !self.exists();
        require_bpf_fs(&self.root)?;
        self.make()?;
        Ok(fresh)
    }

    fn make(&self) -> Result<()> {
        let topmost =
            self.root.ancestors().take_while(|path| !path.exists()).last().map(Path::to_owned);
        let made = DirBuilder::new().recursive(true).mode(MODE).create(self.state());
        made.with_context(|| format!("create {}", self.state().display()))?;
        // Whoever may open it could hold the lock; and one that an older version made was open to
        // all.
        let private = fs::set_permissions(self.state(), fs::Permissions::from_mode(MODE));
        private.with_context(|| format!("make {} private", self.state().display()))?;
        if let Some(topmost) = topmost.filter(|topmost| *topmost != self.root) {
            self.point(MADE, &topmost)?;
        }
        Ok(())
    }

    /// Removes every pin of this layout. A place where something is mounted stays, empty.
    pub(super) fn remove_state(&self) -> Result<()> {
        for child in children(&self.state()) {
            let is_directory = fs::symlink_metadata(&child).is_ok_and(|found| found.is_dir());
            let removed =
                if is_directory { fs::remove_dir_all(&child) } else { fs::remove_file(&child) };
            removed.with_context(|| format!("remove {}", child.display()))?;
        }
        remove_empty(&self.state())
    }

    /// Removes every layout's pins and the directory itself where it is empty then, and so those
    /// above it that were made for it.
    pub fn remove(&self) -> Result<()> {
        let layouts = self.layouts();
        let made = layouts.iter().flat_map(Self::made).map(Path::to_owned).collect::<Vec<_>>();
        layouts.iter().try_for_each(Self::remove_state)?;
        self.remove_aside()?;
        remove_empty(&self.root)?;
        made.iter().try_for_each(|directory| remove_empty(directory))
    }

    /// The directories above the root that were made for this state, the innermost first.
    fn made(&self) -> Vec<&Path> {
        let Ok(topmost) = fs::read_link(self.map(MADE)) else { return Vec::new() };
        let above = self.root.ancestors().skip(1);
        above.take_while(|directory| directory.starts_with(&topmost)).collect()
    }

    /// Moves pins and markers whose names begin with one of these to another state, each at once;
    /// what is there stays behind.
    pub(super) fn hand_over(&self, to: &Self, prefixes: &[&str]) -> Result<()> {
        let name = |path: &PathBuf| {
            path.file_name().and_then(|name| name.to_str()).unwrap_or_default().to_owned()
        };
        let moved = children(&self.state()).into_iter();
        for from in
            moved.filter(|path| prefixes.iter().any(|prefix| name(path).starts_with(prefix)))
        {
            let to = to.map(&name(&from));
            if !to.exists() {
                fs::rename(&from, &to)
                    .with_context(|| format!("move {} to {}", from.display(), to.display()))?;
            }
        }
        Ok(())
    }

    /// Notes the same topmost directory that was made as another state does.
    pub(super) fn adopt_made(&self, other: &Self) -> Result<()> {
        fs::read_link(other.map(MADE)).map_or(Ok(()), |topmost| self.point(MADE, &topmost))
    }

    /// Lets a symbolic link of this name point there, at once.
    fn point(&self, name: &str, to: &Path) -> Result<()> {
        let (link, aside) = (self.map(name), self.map(&format!("{name}{NEXT}")));
        match fs::remove_file(&aside) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            Ok(()) | Err(_) => symlink(to, &aside).and_then(|()| fs::rename(&aside, &link)),
        }
        .with_context(|| format!("let {} point to {}", link.display(), to.display()))
    }
}

fn remove_all(directory: &Path) -> Result<()> {
    match fs::remove_dir_all(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other.with_context(|| format!("remove {}", directory.display())),
    }
}

/// Removes a directory that is empty, if it is there; one that is in use as a mount point stays.
pub(super) fn remove_empty(directory: &Path) -> Result<()> {
    match fs::remove_dir(directory) {
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::DirectoryNotEmpty
                    | io::ErrorKind::NotFound
                    | io::ErrorKind::ResourceBusy
            ) =>
        {
            Ok(())
        }
        other => other.with_context(|| format!("remove {}", directory.display())),
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
fn layouts(root: &Path) -> Vec<(u32, PathBuf)> {
    let layout =
        |path: PathBuf| Some((path.file_name()?.to_str()?.strip_prefix('v')?.parse().ok()?, path));
    children(root).into_iter().filter_map(layout).collect()
}

pub(super) fn children(directory: &Path) -> Vec<PathBuf> {
    fs::read_dir(directory).into_iter().flatten().flatten().map(|entry| entry.path()).collect()
}

/// Refuses a place where nothing can be pinned.
fn require_bpf_fs(path: &Path) -> Result<()> {
    let existing = path.ancestors().find(|path| path.exists()).unwrap_or(Path::new("/"));
    let name =
        CString::new(existing.as_os_str().as_bytes()).context("read the pin directory's name")?;
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
    fn directories_to_be_made_have_no_dots() -> Result<()> {
        let there = tempfile::Builder::new().prefix("with.dot").tempdir()?;
        let dir = |name: &str| PinDir::new(there.path().join(name));
        assert!(dir("steer").refuse_dots().is_ok() && dir("").refuse_dots().is_ok());
        let told = dir("v1.2/steer").refuse_dots().expect_err("accepted").to_string();
        assert!(told.ends_with("the BPF file system takes no dot in a name (v1.2)"), "{told}");
        Ok(())
    }

    /// Such links and directories are all that it takes: any file system has them.
    #[test]
    fn directories_above_that_were_made_go_with_the_state_and_no_others() -> Result<()> {
        let there = tempfile::tempdir()?;
        let state = |name: &str| -> Result<PinDir> {
            let dir = PinDir::new(there.path().join(name));
            dir.make()?;
            Ok(dir)
        };
        fs::create_dir(there.path().join("old"))?;
        let (deep, beside) = (state("new/a/b")?, state("new/c")?);
        let (old, flat) = (state("old/d/e")?, state("flat")?);
        deep.remove()?;
        assert!(!there.path().join("new/a").exists() && beside.exists());
        old.remove()?;
        assert!(
            fs::read_dir(there.path().join("old"))?.next().is_none(),
            "somebody else's stays, empty"
        );
        flat.remove()?;
        assert!(!flat.root().exists() && there.path().exists());
        let again = state("other/f")?;
        fs::create_dir(there.path().join("other/not-ours"))?;
        again.remove()?;
        assert!(there.path().join("other/not-ours").exists() && !again.root().exists());
        Ok(())
    }

    #[test]
    fn pins_of_vlan_interfaces_have_names_without_dots() {
        let pin = PinDir::new("/sys/fs/bpf/steer").link("eth0.100", Kind::Tc);
        assert_eq!(
            pin,
            Path::new(&format!("/sys/fs/bpf/steer/v{LAYOUT_VERSION}/link_eth0:100_tc"))
        );
        assert_eq!(interface_name("eth0:100"), "eth0.100");
    }
}
