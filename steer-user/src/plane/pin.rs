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

use std::{
    ffi::CString,
    fs::{self, DirBuilder, File, TryLockError},
    io,
    os::{
        fd::{AsFd as _, OwnedFd},
        unix::{
            ffi::OsStrExt as _,
            fs::{DirBuilderExt as _, MetadataExt as _, PermissionsExt as _, symlink},
        },
    },
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};
use steer_common::shared::LAYOUT_VERSION;

use super::{attach::Kind, carry};
use crate::config::{Bridge, Side, Stp, Vlans};

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
/// Points to the agent's control socket.
const SOCKET: &str = "socket";
/// Names the network namespace of the gateway.
const NETNS: &str = "netns";
/// Points to the topmost directory that was made to hold the root, where that is not the root
/// itself.
const MADE: &str = "made";
/// Marks an interface of the configuration, whether it is there or not.
const MANAGED: &str = "managed_";
/// Marks a bridge of the configuration; in it stands a marker `<side>_<port>` for each port.
const BRIDGE: &str = "bridge_of_";
/// Marks a bridge whose ports may be blocked (`stp = "watched"`).
const WATCHED: &str = "stp_watched";
/// Where the own network namespace is named, as `net:[4026531840]`.
const OWN_NETNS: &str = "/proc/thread-self/ns/net";

/// The directory that holds the pins.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PinDir {
    root: PathBuf,
    layout: u32,
    is_aside: bool,
}

/// Held by the one agent of a pin directory; the kernel releases it when the agent ends, however it
/// ends.
#[derive(Debug)]
pub struct Lock {
    directory: File,
}

impl Lock {
    /// For another worker of this agent: as long as one has it, it is held.
    pub(crate) fn hand_over(&self) -> Result<OwnedFd> {
        self.directory.as_fd().try_clone_to_owned().context("hand the lock over")
    }

    /// Lets go of a lock that was handed over, whoever has it still.
    pub(crate) fn give_up(handed: OwnedFd) -> Result<()> {
        File::from(handed).unlock().context("give up the lock")
    }
}

/// Held by the one `steer watch` of a pin directory; the kernel releases it when that ends.
#[derive(Debug)]
pub struct WatchLock {
    _directory: File,
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

    /// Becomes the one agent of this directory; `None` if there is one.
    pub fn lock(&self) -> Result<Option<Lock>> {
        let directory =
            File::open(self.state()).with_context(|| format!("open {}", self.state().display()))?;
        match directory.try_lock() {
            Ok(()) => Ok(Some(Lock { directory })),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(error)) => {
                Err(error).with_context(|| format!("lock {}", self.state().display()))
            }
        }
    }

    /// Locks it for who watches; `None` where somebody does.
    ///
    /// # Errors
    /// When the directory cannot be opened or locked.
    pub fn lock_watch(&self) -> Result<Option<WatchLock>> {
        // The agent's lock is on the state below it.
        let directory =
            File::open(&self.root).with_context(|| format!("open {}", self.root.display()))?;
        match directory.try_lock() {
            Ok(()) => Ok(Some(WatchLock { _directory: directory })),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(error)) => {
                Err(error).with_context(|| format!("lock {}", self.root.display()))
            }
        }
    }

    /// Whether an agent holds this directory. Who looks shares the lock with others who look, and
    /// none takes another for an agent.
    pub fn agent_runs(&self) -> bool {
        let looked = File::open(self.state()).map(|directory| directory.try_lock_shared());
        matches!(looked, Ok(Err(TryLockError::WouldBlock)))
    }

    /// The process that holds this directory, as this process sees it (proc(5), /proc/locks).
    pub fn agent_process(&self) -> Option<u32> {
        let metadata = fs::metadata(self.state()).ok()?;
        let (device, inode) = (metadata.dev(), metadata.ino());
        let place = format!("{:02x}:{:02x}:{inode}", libc::major(device), libc::minor(device));
        let locks = fs::read_to_string("/proc/locks").ok()?;
        let holder = |line: &str| {
            let words = line.split_whitespace().collect::<Vec<_>>();
            let held = words.get(1) == Some(&"FLOCK") && words.get(3) == Some(&"WRITE");
            let here = words.get(5).is_some_and(|found| *found == place);
            if held && here {
                words.get(4)?.parse().ok().filter(|process| *process != 0)
            } else {
                None
            }
        };
        locks.lines().find_map(holder)
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

    /// Notes where the agent of this gateway listens and in which network namespace it is.
    pub(crate) fn set_place(&self, socket: &Path) -> Result<()> {
        self.point(SOCKET, socket)?;
        self.point(
            NETNS,
            &fs::read_link(OWN_NETNS).context("read the name of the network namespace")?,
        )
    }

    /// Where the agent of this gateway listens, or listened last.
    pub fn socket(&self) -> Option<PathBuf> {
        fs::read_link(self.map(SOCKET)).ok()
    }

    /// Whether this gateway is in the network namespace of the calling thread.
    pub(crate) fn is_in_this_netns(&self) -> bool {
        let own = fs::read_link(OWN_NETNS).ok();
        own.is_some() && own == fs::read_link(self.map(NETNS)).ok()
    }

    /// Makes a marker, an empty directory; one that is there stays.
    pub(super) fn mark(&self, name: &str) -> Result<()> {
        let marker = self.map(name);
        let made = DirBuilder::new().recursive(true).mode(MODE).create(&marker);
        made.with_context(|| format!("create {}", marker.display()))
    }

    /// Notes the interfaces that the configuration names, and forgets others.
    pub(crate) fn set_managed(&self, interfaces: &[&str]) -> Result<()> {
        for interface in interfaces {
            self.mark(&format!("{MANAGED}{}", file_name(interface)))?;
        }
        for gone in self.managed().into_iter().filter(|name| !interfaces.contains(&name.as_str())) {
            remove_empty(&self.map(&format!("{MANAGED}{}", file_name(&gone))))?;
        }
        Ok(())
    }

    /// The interfaces that the configuration names, in order.
    pub fn managed(&self) -> Vec<String> {
        let parse = |path: PathBuf| {
            Some(interface_name(path.file_name()?.to_str()?.strip_prefix(MANAGED)?))
        };
        let mut managed = children(&self.state()).into_iter().filter_map(parse).collect::<Vec<_>>();
        managed.sort();
        managed
    }

    /// Notes the bridges that the configuration names with their ports, and forgets others.
    pub(crate) fn set_bridges(&self, bridges: &[Bridge]) -> Result<()> {
        let there = self.bridges();
        for gone in there.iter().filter(|bridge| bridges.iter().all(|now| now.name != bridge.name))
        {
            remove_all(&self.bridge(&gone.name))?;
        }
        for bridge in bridges {
            let Bridge { name, outside, inside, vlans: _, stp } = bridge;
            let known = there.iter().find(|known| known.name == *name);
            let same =
                |known: &Bridge| known.outside == sorted(outside) && known.inside == sorted(inside);
            if !known.is_some_and(|known| same(known) && known.stp == *stp) {
                remove_all(&self.bridge(name))?;
            }
            let marker = format!("{BRIDGE}{}", file_name(name));
            self.mark(&marker)?;
            for (port, side) in bridge.ports() {
                self.mark(&format!("{marker}/{}_{}", side.word(), file_name(port)))?;
            }
            if *stp == Stp::Watched {
                self.mark(&format!("{marker}/{WATCHED}"))?;
            }
        }
        Ok(())
    }

    fn bridge(&self, name: &str) -> PathBuf {
        self.map(&format!("{BRIDGE}{}", file_name(name)))
    }

    /// The bridges that the configuration names, and their ports on each side, in order. What VLANs
    /// they take the map says.
    pub fn bridges(&self) -> Vec<Bridge> {
        let parse = |path: PathBuf| {
            let name = interface_name(path.file_name()?.to_str()?.strip_prefix(BRIDGE)?);
            let marks = children(&path).into_iter();
            let marks = marks.filter_map(|mark| Some(mark.file_name()?.to_str()?.to_owned()));
            let marks = marks.collect::<Vec<_>>();
            let on = |side: Side| {
                let of = |mark: &String| {
                    let port = mark.strip_prefix(side.word())?.strip_prefix('_')?;
                    Some(interface_name(port))
                };
                sorted(&marks.iter().filter_map(of).collect::<Vec<_>>())
            };
            let watched = marks.iter().any(|mark| mark == WATCHED);
            let stp = if watched { Stp::Watched } else { Stp::Refused };
            let (outside, inside) = (on(Side::Outside), on(Side::Inside));
            Some(Bridge { name, outside, inside, vlans: Vlans::Any, stp })
        };
        let mut found = children(&self.state()).into_iter().filter_map(parse).collect::<Vec<_>>();
        found.sort_by(|a, b| a.name.cmp(&b.name));
        found
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

fn sorted(names: &[String]) -> Vec<String> {
    let mut names = names.to_vec();
    names.sort();
    names
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
    /// As above, of any file system.
    #[test]
    fn bridges_are_noted_with_their_ports_and_forgotten() -> Result<()> {
        let there = tempfile::tempdir()?;
        let dir = PinDir::new(there.path().join("steer"));
        dir.make()?;
        let bridge = |name: &str, outside: &[&str], inside: &[&str], stp| Bridge {
            name: name.into(),
            outside: outside.iter().map(|&port| port.into()).collect(),
            inside: inside.iter().map(|&port| port.into()).collect(),
            vlans: Vlans::Any,
            stp,
        };
        let first = [
            bridge("br0", &["eth0.7"], &["inside_1", "stp_watched"], Stp::Refused),
            bridge("br1.x", &["a"], &["b"], Stp::Watched),
        ];
        dir.set_bridges(&first)?;
        assert_eq!(dir.bridges(), first);
        dir.set_bridges(&first)?;
        assert_eq!(dir.bridges(), first);
        let second = [bridge("br1.x", &["a", "c"], &["d"], Stp::Refused)];
        dir.set_bridges(&second)?;
        assert_eq!(dir.bridges(), second);
        dir.set_bridges(&[])?;
        assert_eq!(dir.bridges(), []);
        Ok(())
    }
}
