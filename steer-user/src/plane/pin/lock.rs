//! Who holds a pin directory: its one agent, its one watcher.

use std::{
    fs::{self, File, TryLockError},
    os::{
        fd::{AsFd as _, OwnedFd},
        unix::fs::MetadataExt as _,
    },
};

use anyhow::{Context as _, Result};

use super::PinDir;

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
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Such locks are all that it takes: any file system has them.
    #[test]
    fn who_looks_is_no_agent_to_others_who_look() -> Result<()> {
        let there = tempfile::tempdir()?;
        let dir = PinDir::new(there.path());
        fs::create_dir(dir.state())?;
        let looks = File::open(dir.state())?;
        looks.try_lock_shared()?;
        assert!(!dir.agent_runs());
        assert!(dir.lock()?.is_none(), "nobody becomes the agent in that moment");
        drop(looks);
        let agent = dir.lock()?.context("nobody holds it any more")?;
        assert!(dir.agent_runs() && dir.lock()?.is_none());
        drop(agent);
        assert!(!dir.agent_runs());
        Ok(())
    }
}
