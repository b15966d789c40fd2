//! Files that are there whole or not at all: written beside their place, and then moved to it.

use std::{
    fs::{self, File},
    io::{BufWriter, Write},
    os::unix::ffi::OsStrExt as _,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, anyhow};
use tempfile::NamedTempFile;

/// What the name of a file ends with that is being written.
const SUFFIX: &str = ".new";

/// A file that has its place not yet. It is gone where it never gets there.
#[derive(Debug)]
pub(crate) struct NewFile {
    file: NamedTempFile,
    place: PathBuf,
}

impl NewFile {
    /// An empty one, of mode 0600.
    ///
    /// # Errors
    /// Where none can be made in the directory of its place.
    pub(crate) fn beside(place: &Path) -> Result<Self> {
        let (directory, prefix) = surroundings(place)?;
        let mut builder = tempfile::Builder::new();
        let file = builder.prefix(&prefix).suffix(SUFFIX).tempfile_in(directory);
        let file = file.map_err(|error| {
            // Without its name, which is another one each time.
            anyhow!("make a file in {}: {}", directory.display(), error.kind())
        })?;
        Ok(Self { file, place: place.to_owned() })
    }

    /// The file itself, for its owner and mode.
    pub(crate) fn file(&self) -> &File {
        self.file.as_file()
    }

    /// Has it written, to the disk.
    ///
    /// # Errors
    /// Where that fails.
    pub(crate) fn write<T>(
        &mut self,
        work: impl FnOnce(&mut BufWriter<&File>) -> Result<T>,
    ) -> Result<T> {
        let mut out = BufWriter::with_capacity(1 << 16, self.file.as_file());
        let done = work(&mut out)?;
        out.flush().context("write")?;
        drop(out);
        self.file.as_file().sync_all().context("write")?;
        Ok(done)
    }

    /// Takes its place; whoever reads it reads the old file or this one.
    ///
    /// # Errors
    /// Where that is not possible: the old one stays.
    pub(crate) fn replace(self) -> Result<()> {
        self.file.persist(&self.place).map_err(|error| error.error)?;
        sync_directory(&self.place)
    }

    /// Takes its place unless there is a file.
    ///
    /// # Errors
    /// Where there is one, or it is not possible.
    pub(crate) fn appear(self) -> Result<()> {
        self.file.persist_noclobber(&self.place).map_err(|error| error.error)?;
        sync_directory(&self.place)
    }
}

/// Removes what those left who died while they wrote to this place.
///
/// # Errors
/// Where the directory cannot be read, or a file cannot be removed.
pub(crate) fn remove_left(place: &Path) -> Result<()> {
    let (directory, prefix) = surroundings(place)?;
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let name = entry.file_name();
        let name = name.as_bytes();
        if name.starts_with(prefix.as_bytes()) && name.ends_with(SUFFIX.as_bytes()) {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

/// The directory of a place, and how names of files begin that are to go there.
fn surroundings(place: &Path) -> Result<(&Path, String)> {
    let name = place.file_name().context("find the name of the file")?.to_string_lossy();
    let directory = place.parent().filter(|directory| !directory.as_os_str().is_empty());
    Ok((directory.unwrap_or(Path::new(".")), format!(".{name}.")))
}

fn sync_directory(place: &Path) -> Result<()> {
    let (directory, _) = surroundings(place)?;
    Ok(File::open(directory)?.sync_all()?)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt as _;

    use anyhow::bail;

    use super::*;

    fn names(directory: &Path) -> Vec<String> {
        let entries = fs::read_dir(directory).unwrap();
        let mut names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let mut names = names.by_ref().collect::<Vec<_>>();
        names.sort();
        names
    }

    #[test]
    fn what_breaks_off_leaves_nothing_and_an_old_file_as_it_was() {
        let place = tempfile::tempdir().unwrap();
        let file = place.path().join("state");
        fs::write(&file, "old").unwrap();
        let mut new = NewFile::beside(&file).unwrap();
        let broken = new.write(|out| {
            out.write_all(b"half")?;
            out.flush()?;
            assert_eq!(names(place.path()).len(), 2);
            bail!("No space left on device") as Result<()>
        });
        assert!(broken.is_err());
        drop(new);
        assert_eq!(names(place.path()), ["state"]);
        assert_eq!(fs::read_to_string(&file).unwrap(), "old");
    }

    #[test]
    fn a_file_appears_whole_for_its_owner_alone_and_takes_no_others_place() {
        let place = tempfile::tempdir().unwrap();
        let file = place.path().join("sessions");
        let written = |text: &str| {
            let mut new = NewFile::beside(&file).unwrap();
            new.write(|out| Ok(out.write_all(text.as_bytes())?)).unwrap();
            new
        };
        written("one").appear().unwrap();
        assert_eq!(fs::metadata(&file).unwrap().mode() & 0o777, 0o600);
        assert!(written("two").appear().unwrap_err().to_string().contains("File exists"));
        assert_eq!(fs::read_to_string(&file).unwrap(), "one");
        written("two").replace().unwrap();
        assert_eq!(fs::read_to_string(&file).unwrap(), "two");
        assert_eq!(names(place.path()), ["sessions"]);
    }

    #[test]
    fn the_same_trouble_is_told_in_the_same_words() {
        let told = || NewFile::beside(Path::new("/proc/state")).unwrap_err().to_string();
        assert_eq!(told(), told());
        assert!(told().starts_with("make a file in /proc: "), "{}", told());
    }

    #[test]
    fn what_the_dead_left_is_removed_and_nothing_else() {
        let place = tempfile::tempdir().unwrap();
        for name in [".state.x1y2z3.new", ".stated.x.new", "state.new", "state", ".state.swp"] {
            fs::write(place.path().join(name), "").unwrap();
        }
        remove_left(&place.path().join("state")).unwrap();
        assert_eq!(names(place.path()), [".state.swp", ".stated.x.new", "state", "state.new"]);
    }
}
