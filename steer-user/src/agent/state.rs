//! What a gateway knows, over a reboot: a file ([`crate::session_file`]) that the agent writes now and
//! then and at its end, and that an agent which finds no maps reads before its programs see packets.
//!
//! Nothing here keeps an agent from starting or from serving: what cannot be read is set aside, and
//! what cannot be written is told and tried again.

use std::{
    fs, io,
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime},
};

use anyhow::{Context as _, Result};
use steer_common::counters::Counter;
use tokio::{task, time};

use super::{Change, Layout, Pools, Swept};
use crate::{
    clock,
    new_file::{NewFile, remove_left},
    plane::Plane,
    session_file::{self, Beside},
};

/// Time between two looks whether anything changed that is to be written.
const EVERY: Duration = Duration::from_secs(60);
/// Files that were set aside and are kept.
const SET_ASIDE: usize = 3;
/// What programs count that changes sessions and key names.
const LEARNED: [Counter; 6] = [
    Counter::Learned,
    Counter::Resumed,
    Counter::OwnerChanged,
    Counter::KeyNameLearned,
    Counter::KeyNameBecameShared,
    Counter::KeyNameHit,
];

/// How often a file could not be written since this process began.
static NOT_WRITTEN: AtomicU64 = AtomicU64::new(0);

/// How often a file could not be written since this process began.
pub(crate) fn not_written() -> u64 {
    NOT_WRITTEN.load(Ordering::Relaxed)
}

/// Why a file was not written when that was tried last, as a sentence.
#[derive(Clone, Default, Debug)]
pub(super) struct Trouble(Arc<Mutex<Option<String>>>);

impl Trouble {
    /// What is wrong now.
    pub(super) fn stands(&self) -> Option<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set(&self, trouble: Option<String>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = trouble;
    }
}

/// The file, and what it is written from.
pub(super) struct State {
    file: PathBuf,
    pools: Arc<Mutex<Pools>>,
    swept: Arc<Mutex<Swept>>,
    trouble: Trouble,
    /// The maps, and what was there to be written last: one writes at a time.
    writing: Mutex<(Plane, Option<Mark>)>,
}

/// By what it is seen that a file would say something else. Ages go on by themselves.
#[derive(Clone, PartialEq, Debug)]
struct Mark {
    learned: Vec<u64>,
    sessions: u64,
    key_names: u64,
    changes: Vec<Change>,
    layouts: Vec<Layout>,
}

impl State {
    pub(super) fn new(
        file: PathBuf,
        plane: Plane,
        pools: Arc<Mutex<Pools>>,
        swept: Arc<Mutex<Swept>>,
        trouble: Trouble,
    ) -> Arc<Self> {
        if let Err(error) = remove_left(&file) {
            log::debug!("remove what is left of {}: {error:#}", file.display());
        }
        Arc::new(Self { file, pools, swept, trouble, writing: Mutex::new((plane, None)) })
    }

    /// Writes what changed, for ever. Whether that can be is known from the beginning on.
    pub(super) async fn keep(self: Arc<Self>) -> Result<()> {
        self.tell(self.begin().map(drop));
        loop {
            time::sleep(EVERY).await;
            let state = Arc::clone(&self);
            task::spawn_blocking(move || state.note(false))
                .await
                .context("write the state file")?;
        }
    }

    /// Writes it for the last time.
    pub(super) async fn end(self: Arc<Self>) {
        let work = task::spawn_blocking(move || {
            self.note(true);
            self.trouble.stands()
        });
        if let Ok(Some(trouble)) = work.await {
            log::warn!("{trouble}");
        }
    }

    /// Writes it, unless it would say the same.
    fn note(&self, always: bool) {
        let mut writing = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let (plane, last) = &mut *writing;
        let written = self.mark(plane).and_then(|mark| {
            if always || last.as_ref() != Some(&mark) {
                self.write(plane, &mark)?;
                *last = Some(mark);
            }
            Ok(())
        });
        self.tell(written);
    }

    fn tell(&self, written: Result<()>) {
        let file = self.file.display();
        self.trouble.set(written.err().map(|error| {
            NOT_WRITTEN.fetch_add(1, Ordering::Relaxed);
            format!("{file} cannot be written: {error:#}; a reboot forgets what is learned now")
        }));
    }

    fn mark(&self, plane: &Plane) -> Result<Mark> {
        let learned = LEARNED.map(|counter| plane.counter(counter));
        let learned = learned.into_iter().collect::<Result<_>>()?;
        let (sessions, key_names) = {
            let swept = self.swept.lock().unwrap_or_else(PoisonError::into_inner);
            (swept.sessions, swept.key_names)
        };
        let pools = self.pools.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(Mark {
            learned,
            sessions,
            key_names,
            changes: pools.changes(),
            layouts: pools.layouts()?,
        })
    }

    fn begin(&self) -> Result<NewFile> {
        if let Some(directory) = self.file.parent() {
            let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(directory);
            made.with_context(|| format!("make {}", directory.display()))?;
        }
        NewFile::beside(&self.file)
    }

    fn write(&self, plane: &Plane, mark: &Mark) -> Result<()> {
        let beside = Beside { changes: mark.changes.clone(), layouts: mark.layouts.clone() };
        let mut new = self.begin()?;
        let wrote = new.write(|out| session_file::export_with(plane, &beside, out))?;
        new.replace()?;
        log::debug!("{}: wrote {wrote:?}", self.file.display());
        Ok(())
    }
}

/// Has maps that nobody filled know what a file says; one that cannot be understood is set aside.
pub(super) fn restore(file: &Path, pools: &mut Pools) {
    let name = file.display();
    match fs::symlink_metadata(file) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return log::debug!("{name} is not there: nothing is known");
        }
        Ok(found) if !found.is_file() => {
            return log::warn!(
                "{name} is no file: nothing is known; set state_file to another path"
            );
        }
        Ok(_) | Err(_) => {}
    }
    match session_file::read(file) {
        Ok((away, beside)) => {
            if let Err(error) = take(file, pools, away, &beside) {
                log::warn!("{name} was not taken over whole: {error:#}");
            }
        }
        Err(error) => set_aside(file, &error),
    }
}

fn take(file: &Path, pools: &mut Pools, away: u32, beside: &Beside) -> Result<()> {
    // Backends first: sessions are of those that are there.
    let redone = pools.redo(&beside.changes, away);
    pools.find_again(&beside.layouts)?;
    let took = session_file::take(pools.plane_mut(), file, away)?;
    let ago = humantime::format_duration(Duration::from_secs(away.into()));
    log::info!(
        "{}, written {ago} ago: {} sessions, {} key names, {} drains and {} other changes of backends are there again; left: {} \
         expired, {} of pools or backends that are not here, {} changes that the configuration overrules",
        file.display(),
        took.sessions,
        took.key_names,
        redone.drains,
        redone.backends,
        took.expired,
        took.elsewhere,
        redone.left
    );
    Ok(())
}

/// Gives a file another name, and removes those that got one long ago.
fn set_aside(file: &Path, why: &anyhow::Error) {
    let at = SystemTime::UNIX_EPOCH + Duration::from_secs(clock::time_of_day());
    let name = file.file_name().unwrap_or_default().to_string_lossy();
    let bad = format!("{name}.bad-");
    let aside = file.with_file_name(format!("{bad}{}", humantime::format_rfc3339_seconds(at)));
    match fs::rename(file, &aside) {
        Ok(()) => log::warn!("{why:#}: nothing is known; it is {} now", aside.display()),
        Err(error) => log::warn!("{why:#}: nothing is known; it cannot be set aside: {error}"),
    }
    if let Err(error) = remove_older(file, &bad) {
        log::debug!("remove files that were set aside: {error:#}");
    }
}

/// Names end with a time, so they are in the order of their age.
fn remove_older(file: &Path, bad: &str) -> Result<()> {
    let directory = file.parent().context("find its directory")?;
    let entries = fs::read_dir(directory)?.collect::<io::Result<Vec<_>>>()?;
    let aside = entries.iter().filter(|entry| entry.file_name().to_string_lossy().starts_with(bad));
    let mut aside = aside.map(fs::DirEntry::path).collect::<Vec<_>>();
    aside.sort();
    aside.iter().rev().skip(SET_ASIDE).try_for_each(|old| Ok(fs::remove_file(old)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_set_aside_is_kept_for_a_while() {
        let place = tempfile::tempdir().unwrap();
        let file = place.path().join("state");
        for day in 1..=4 {
            let old = format!("state.bad-2020-01-0{day}T00:00:00Z");
            fs::write(place.path().join(old), "").unwrap();
        }
        fs::write(place.path().join("other.bad-2020"), "").unwrap();
        fs::write(&file, "hello").unwrap();
        set_aside(&file, &session_file::read(&file).unwrap_err());
        assert!(!file.exists());
        let names = fs::read_dir(place.path()).unwrap();
        let names = names.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let mut names = names.collect::<Vec<_>>();
        names.sort();
        let kept =
            ["other.bad-2020", "state.bad-2020-01-03T00:00:00Z", "state.bad-2020-01-04T00:00:00Z"];
        assert_eq!(names[..3], kept, "{names:?}");
        assert_eq!(names.len(), 4, "{names:?}");
        assert_eq!(fs::read(place.path().join(&names[3])).unwrap(), b"hello");
    }
}
