//! The two key files of a backend, changed so that both are there at every moment.

use std::{
    fs::{self, DirBuilder, File, OpenOptions, Permissions, TryLockError},
    io::{self, Read as _, Write as _},
    os::unix::fs::{
        DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _,
    },
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};

use super::{KEY_LEN, Key};

/// Only their owner reads keys.
const FILE_MODE: u32 = 0o600;
/// Only their owner looks where keys are.
const DIRECTORY_MODE: u32 = 0o700;

const OTHERS_WRITE: u32 = 0o002;
const STICKY: u32 = 0o1000;

const CURRENT: &str = "current.key";
const PREVIOUS: &str = "previous.key";
/// Behind the name of a file that is not yet in force.
const NEW: &str = "new";

/// The directory of one backend.
pub(super) struct Directory {
    path: PathBuf,
}

impl Directory {
    /// Opens it, making it where it is not there.
    pub(super) fn open(path: PathBuf) -> Result<Self> {
        create_private(&path)?;
        let private = fs::set_permissions(&path, Permissions::from_mode(DIRECTORY_MODE));
        private.with_context(|| format!("make {} private", path.display()))?;
        Ok(Self { path })
    }

    pub(super) fn current_path(&self) -> PathBuf {
        self.path.join(CURRENT)
    }

    pub(super) fn previous_path(&self) -> PathBuf {
        self.path.join(PREVIOUS)
    }

    /// The current key; `None` where there is none.
    pub(super) fn current(&self) -> Result<Option<Key>> {
        read(&self.current_path())
    }

    /// The previous key; `None` where there is none.
    pub(super) fn previous(&self) -> Result<Option<Key>> {
        read(&self.previous_path())
    }

    /// Writes both keys beside those in force.
    pub(super) fn stage(&self, current: &Key, previous: &Key) -> Result<()> {
        write(&new(&self.current_path()), current)?;
        write(&new(&self.previous_path()), previous)
    }

    /// Brings them into force, the previous one first: between the two steps it is in both files,
    /// and no key that opens tickets of the current one is missing.
    pub(super) fn commit(&self) -> Result<()> {
        for path in [self.previous_path(), self.current_path()] {
            fs::rename(new(&path), &path).with_context(|| format!("replace {}", path.display()))?;
        }
        let directory = File::open(&self.path).and_then(|directory| directory.sync_all());
        directory.with_context(|| format!("keep {}", self.path.display()))
    }
}

/// Makes a directory that nobody else looks into; one that is there stays as it is.
pub(super) fn create_private(path: &Path) -> Result<()> {
    let made = DirBuilder::new().recursive(true).mode(DIRECTORY_MODE).create(path);
    made.with_context(|| format!("create the directory {}", path.display()))
}

/// Keeps other runs out of a directory until the file is dropped.
///
/// # Errors
/// When another run is in it, or when everybody may write to it.
pub(super) fn lock(path: &Path) -> Result<File> {
    let directory = File::open(path).with_context(|| format!("open {}", path.display()))?;
    let mode = directory.metadata().with_context(|| format!("look at {}", path.display()))?.mode();
    // In a sticky directory, as /tmp is, nobody takes away what another put there.
    if mode & (OTHERS_WRITE | STICKY) == OTHERS_WRITE {
        bail!(
            "everybody may write to {}: keys are kept in a directory of their owner's",
            path.display()
        );
    }
    match directory.try_lock() {
        Ok(()) => Ok(directory),
        Err(TryLockError::WouldBlock) => {
            bail!("another `steer keys generate` works in {}", path.display())
        }
        Err(TryLockError::Error(error)) => {
            Err(error).with_context(|| format!("lock {}", path.display()))
        }
    }
}

fn new(path: &Path) -> PathBuf {
    path.with_extension(NEW)
}

fn read(path: &Path) -> Result<Option<Key>> {
    // A pipe must not keep us waiting for who writes to it.
    let file = match OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error).with_context(|| format!("read {}", path.display())),
    };
    let mut bytes = Vec::new();
    let one_more = KEY_LEN as u64 + 1;
    file.take(one_more)
        .read_to_end(&mut bytes)
        .with_context(|| format!("read {}", path.display()))?;
    match bytes.try_into() {
        Ok(key) => Ok(Some(Key(key))),
        Err(_) => bail!("{} is no key file of {KEY_LEN} bytes: move it away first", path.display()),
    }
}

fn write(path: &Path, key: &Key) -> Result<()> {
    // What a run that was killed left there was never in force.
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(error).with_context(|| format!("remove {}", path.display()));
        }
        Ok(()) | Err(_) => {}
    }
    let file = OpenOptions::new().write(true).create_new(true).mode(FILE_MODE).open(path);
    let written = file.and_then(|mut file| file.write_all(&key.0).and_then(|()| file.sync_all()));
    written.with_context(|| format!("write {}", path.display()))
}
