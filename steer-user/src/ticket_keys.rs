//! `steer keys generate`: ticket keys for each backend of a pool, with names that the gateway can
//! be told. The small change at the servers after which no key name has to be learned.
//!
//! Needs no rights and no agent. What is random comes from the system; what is secret is only
//! written to files, never shown.

mod files;

use std::{
    collections::{HashMap, HashSet},
    net::SocketAddr,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, anyhow, bail};
use serde::{Deserialize, Serialize};

use files::Directory;

/// Bytes of the name of a key, which start its file (nginx, `ssl_session_ticket_key`).
const NAME_LEN: usize = 16;
/// Bytes of a key file: name, 32 bytes HMAC key, 32 bytes AES key.
const KEY_LEN: usize = 80;

/// The content of a key file. Not to be printed: only its name is public.
#[derive(Clone, PartialEq, Eq)]
struct Key([u8; KEY_LEN]);

impl Key {
    fn random() -> Result<Self> {
        let mut bytes = [0; KEY_LEN];
        getrandom::fill(&mut bytes)
            .map_err(|error| anyhow!(error))
            .context("read random bytes from the system")?;
        Ok(Self(bytes))
    }

    fn name(&self) -> String {
        self.0.iter().take(NAME_LEN).map(|byte| format!("{byte:02x}")).collect()
    }
}

/// What was made, and what to write where.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Generated {
    /// In the order asked for.
    pub backends: Vec<BackendKeys>,
}

/// The keys of one backend.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct BackendKeys {
    /// The backend.
    pub address: SocketAddr,
    /// Whether it had a current key, which is the previous one now.
    pub rotated: bool,
    /// The file of the key that new tickets get.
    pub current: PathBuf,
    /// The file of the key that opens the tickets from before.
    pub previous: PathBuf,
    /// Their names, hexadecimal.
    pub key_names: [String; 2],
    /// Lines for the server's configuration (nginx).
    pub nginx: [String; 2],
    /// Line for its `[[vip.backend]]`.
    pub toml: String,
}

/// Makes a new current key for each backend; the one before becomes the previous one, which is
/// made, too, where there is none. Everything that can be refused is refused before any key
/// changes.
pub fn generate(backends: &[SocketAddr], out: &Path) -> Result<Generated> {
    refuse_twice(backends)?;
    let out = std::path::absolute(out).with_context(|| format!("find {}", out.display()))?;
    if out.to_str().is_none() {
        bail!("{} is not UTF-8; expected a path that can be shown", out.display());
    }
    files::create_private(&out)?;
    let _lock = files::lock(&out)?;
    let plan = |address: &SocketAddr| Plan::make(*address, &out);
    let plans = backends.iter().map(plan).collect::<Result<Vec<_>>>()?;
    refuse_shared(&plans)?;
    plans.iter().try_for_each(|plan| plan.directory.stage(&plan.current, &plan.previous))?;
    plans.iter().try_for_each(|plan| plan.directory.commit())?;
    Ok(Generated { backends: plans.iter().map(Plan::report).collect() })
}

fn refuse_twice(backends: &[SocketAddr]) -> Result<()> {
    let mut seen = HashSet::new();
    match backends.iter().find(|address| !seen.insert(**address)) {
        Some(twice) => bail!("{twice} is named twice; expected each backend once"),
        None => Ok(()),
    }
}

/// What a backend is to have.
struct Plan {
    address: SocketAddr,
    directory: Directory,
    rotated: bool,
    current: Key,
    previous: Key,
}

impl Plan {
    fn make(address: SocketAddr, out: &Path) -> Result<Self> {
        let directory = Directory::open(out.join(directory_name(address)))?;
        let before = directory.current()?;
        let rotated = before.is_some();
        let previous = before.or(directory.previous()?).map_or_else(Key::random, Ok)?;
        Ok(Self { address, directory, rotated, current: Key::random()?, previous })
    }

    fn report(&self) -> BackendKeys {
        let (current, previous) = (self.directory.current_path(), self.directory.previous_path());
        let line = |path: &Path| {
            format!("ssl_session_ticket_key {};", nginx_word(&path.display().to_string()))
        };
        let key_names = [self.current.name(), self.previous.name()];
        BackendKeys {
            address: self.address,
            rotated: self.rotated,
            nginx: [line(&current), line(&previous)],
            toml: format!("key_names = [\"{}\", \"{}\"]", key_names[0], key_names[1]),
            key_names,
            current,
            previous,
        }
    }
}

/// A name steers to one backend only.
fn refuse_shared(plans: &[Plan]) -> Result<()> {
    let mut owners = HashMap::new();
    for plan in plans {
        for key in [&plan.current, &plan.previous] {
            match owners.insert(key.name(), plan.address) {
                None => {}
                Some(other) => {
                    bail!(
                        "{} and {other} have the same key {}: remove one's files first",
                        plan.address,
                        key.name()
                    )
                }
            }
        }
    }
    Ok(())
}

/// A word of nginx's configuration, in quotation marks where it would end early or mean something
/// else.
fn nginx_word(text: &str) -> String {
    let plain = |c: char| c.is_alphanumeric() || "/._-+:@%=,~".contains(c);
    if text.chars().all(plain) {
        return text.to_owned();
    }
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}

/// `10.0.0.11_443`, `2001-db8--11_443`: without colons and brackets, which shells, `scp` and
/// `rsync` take for something else.
fn directory_name(address: SocketAddr) -> String {
    format!("{}_{}", address.ip().to_string().replace(':', "-"), address.port())
}

#[cfg(test)]
mod tests;
