//! `steer sysdump`: one archive that tells somebody else what is the matter with a gateway.
//!
//! Identifiers of sessions and names of ticket keys are cut to four bytes in whatever is packed; keys
//! are nowhere, for steer knows none. Addresses are in it: it is for who may see them.

mod commands;
mod cut;
mod maps;

use std::{
    fs::{self, File, OpenOptions},
    io::Write as _,
    os::unix::fs::OpenOptionsExt as _,
    path::Path,
    time::UNIX_EPOCH,
};

use anyhow::{Context as _, Result};
use flate2::{Compression, write::GzEncoder};
use serde::Serialize;
use steer_common::shared::LAYOUT_VERSION;
use tar::{Builder, EntryType, Header};

use self::cut::cut;
use crate::{
    doctor,
    plane::{PinDir, Plane, kernel::Kernel, links},
    report::{Backends, Keys, Stats, Status, VipReport},
};

/// The directory inside the archive.
const TOP: &str = "steer-sysdump";

/// What is looked at.
#[derive(Clone, Copy, Debug)]
pub struct Subject<'a> {
    /// The gateway.
    pub dir: &'a PinDir,
    /// Its agent's socket.
    pub socket: &'a Path,
    /// Its configuration.
    pub config: &'a Path,
}

/// Writes an archive that only this user can read; returns what could not be packed, as sentences.
///
/// # Errors
/// When the file is there already or cannot be written; nothing is left of it then.
pub fn write(to: &Path, subject: Subject<'_>) -> Result<Vec<String>> {
    let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(to);
    let file = file.with_context(|| format!("make {}", to.display()))?;
    let written = pack(file, subject);
    if written.is_err() {
        // It is ours, and no archive.
        let _ = fs::remove_file(to);
    }
    written.with_context(|| format!("write {}", to.display()))
}

fn pack(file: File, subject: Subject<'_>) -> Result<Vec<String>> {
    let mut archive = Archive::new(file)?;
    archive.text("version.txt", version())?;
    archive.json("doctor.json", doctor::examine(subject.config, subject.dir, subject.socket))?;
    archive.json("status.json", Status::read(subject.dir, subject.socket))?;
    match Plane::open(subject.dir) {
        Ok(plane) => gateway(&mut archive, &plane)?,
        Err(error) => archive.missing("the gateway's tables", &error),
    }
    archive.json("maps.json", Ok(maps::all(subject.dir)))?;
    let at = links(subject.dir).into_iter();
    let at = at.map(|link| format!("{} {} {:?}\n", link.interface, link.kind.word(), link.state));
    archive.text("programs.txt", at.collect::<String>())?;
    match fs::read_to_string(subject.config) {
        Ok(text) => archive.text("steer.toml", text)?,
        Err(error) => archive.missing(&subject.config.display().to_string(), &error.into()),
    }
    for (name, said) in commands::all() {
        match said {
            Ok(text) => archive.text(&format!("commands/{name}.txt"), text)?,
            Err(error) => archive.missing(&name, &error),
        }
    }
    archive.finish()
}

fn gateway(archive: &mut Archive, plane: &Plane) -> Result<()> {
    let backends = Backends::read(plane);
    if let Ok(backends) = &backends {
        archive.json("vips.json", VipReport::read(plane, backends))?;
    }
    archive.json("backends.json", backends)?;
    archive.json("stats.json", Stats::read(plane))?;
    archive.json("keys.json", Keys::read(plane, None))
}

fn version() -> String {
    let os = fs::read_to_string("/etc/os-release").unwrap_or_default();
    let steer = env!("CARGO_PKG_VERSION");
    format!("steer {steer}\nlayout of the maps {LAYOUT_VERSION}\n{}\n\n{os}", Kernel::running())
}

/// An archive that is being written.
struct Archive {
    tar: Builder<GzEncoder<File>>,
    /// Seconds since 1970, of every entry.
    time: u64,
    missing: Vec<String>,
}

impl Archive {
    fn new(file: File) -> Result<Self> {
        let made = file.metadata().and_then(|about| about.modified()).context("read its age")?;
        let time = made.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let tar = Builder::new(GzEncoder::new(file, Compression::default()));
        Ok(Self { tar, time, missing: Vec::new() })
    }

    /// Packs what could be read, and notes what could not.
    fn json<T: Serialize>(&mut self, name: &str, value: Result<T>) -> Result<()> {
        match value {
            Ok(value) => {
                let text = serde_json::to_string_pretty(&value).context("write JSON")?;
                self.text(name, text + "\n")
            }
            Err(error) => {
                self.missing(name, &error);
                Ok(())
            }
        }
    }

    fn text(&mut self, name: &str, text: impl AsRef<str>) -> Result<()> {
        let text = cut(text.as_ref());
        let mut header = Header::new_gnu();
        header.set_entry_type(EntryType::Regular);
        header.set_mode(0o600);
        header.set_mtime(self.time);
        header.set_size(text.len() as u64);
        let packed = self.tar.append_data(&mut header, format!("{TOP}/{name}"), text.as_bytes());
        packed.with_context(|| format!("pack {name}"))
    }

    fn missing(&mut self, what: &str, error: &anyhow::Error) {
        self.missing.push(format!("{what}: {error:#}"));
    }

    fn finish(mut self) -> Result<Vec<String>> {
        let missing = std::mem::take(&mut self.missing);
        if !missing.is_empty() {
            self.text("missing.txt", missing.join("\n") + "\n")?;
        }
        let packed = self.tar.into_inner().and_then(GzEncoder::finish);
        packed.and_then(|mut file| file.flush()).context("finish the archive")?;
        Ok(missing)
    }
}

#[cfg(test)]
mod tests {
    use std::{io::Read as _, os::unix::fs::PermissionsExt as _};

    use super::*;

    #[test]
    fn an_archive_without_a_gateway_says_what_is_missing_and_has_no_whole_name() {
        let place = tempfile::tempdir().unwrap();
        let config = place.path().join("steer.toml");
        fs::write(&config, "key_names = [\"3d1f0c9a5be2447788120f6ed0a1b2c3\"]\n").unwrap();
        let dir = PinDir::new(place.path().join("pins"));
        let to = place.path().join("dump.tar.gz");
        let subject = Subject { dir: &dir, socket: &place.path().join("socket"), config: &config };
        let missing = write(&to, subject).unwrap();
        assert!(missing.iter().any(|what| what.starts_with("status.json")), "{missing:?}");
        assert_eq!(fs::metadata(&to).unwrap().permissions().mode() & 0o777, 0o600);

        let mut archive = tar::Archive::new(flate2::read::GzDecoder::new(File::open(&to).unwrap()));
        let mut names = Vec::new();
        for entry in archive.entries().unwrap() {
            let mut entry = entry.unwrap();
            let mut text = String::new();
            entry.read_to_string(&mut text).unwrap();
            assert!(!text.contains("3d1f0c9a5b"), "{text}");
            names.push(entry.path().unwrap().display().to_string());
        }
        for name in ["version.txt", "doctor.json", "maps.json", "steer.toml", "missing.txt"] {
            assert!(names.contains(&format!("{TOP}/{name}")), "{name} is not in {names:?}");
        }
        let error = format!("{:#}", write(&to, subject).unwrap_err());
        assert!(error.starts_with("make ") && to.exists(), "{error}");
    }
}
