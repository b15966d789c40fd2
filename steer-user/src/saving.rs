//! Changes of backends that outlast the machine's restart: in the configuration file, which keeps
//! its comments and its order.

use std::{
    fs,
    io::Write as _,
    net::SocketAddr,
    os::unix::fs::{MetadataExt as _, fchown},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};
use toml_edit::{ArrayOfTables, DocumentMut, Item, Table, value};

use crate::{
    agent::plan,
    config::{self, Config},
    new_file::NewFile,
    plane::PinDir,
    service::Service,
};

/// A file with a change, checked and not written yet.
#[derive(Debug)]
pub struct Change {
    file: PathBuf,
    /// What it said.
    old: String,
    /// What is to be in its place; nothing where that is the same.
    new: Option<NewFile>,
}

impl Change {
    /// Makes a change in a file's text, and checks what comes of it as `steer config check` does.
    ///
    /// # Errors
    /// Where the file cannot have the change, or would not pass with it.
    pub fn of(dir: &PinDir, file: &Path, edit: Edit) -> Result<Self> {
        // A link stays a link.
        let file = fs::canonicalize(file).with_context(|| format!("find {}", file.display()))?;
        let old = config::read_file(&file)?;
        let text = edit.apply(&old)?;
        let refused = || format!("{} with this change would be refused", file.display());
        let config = Config::parse_all(&file, &text).with_context(refused)?;
        plan::judge(&config, dir).with_context(refused)?;
        let new = (text != old).then(|| beside(&file, &text)).transpose();
        let new = new.with_context(|| format!("write beside {}", file.display()))?;
        Ok(Self { file, old, new })
    }

    /// Writes the file: who reads it meanwhile reads the old one or the new one.
    ///
    /// # Errors
    /// Where that is not possible, or somebody else has written it meanwhile; the old one stays.
    pub fn write(self) -> Result<PathBuf> {
        let Self { file, old, new } = self;
        let Some(new) = new else { return Ok(file) };
        if config::read_file(&file)? != old {
            bail!("{} was changed meanwhile, and is left as it is", file.display());
        }
        new.replace().with_context(|| format!("write {}", file.display()))?;
        Ok(file)
    }
}

/// Writes a file that can take another one's place, with its owner and mode.
fn beside(file: &Path, text: &str) -> Result<NewFile> {
    let old = fs::metadata(file)?;
    let mut new = NewFile::beside(file)?;
    new.file().set_permissions(old.permissions())?;
    fchown(new.file(), Some(old.uid()), Some(old.gid()))?;
    new.write(|out| Ok(out.write_all(text.as_bytes())?))?;
    Ok(new)
}

/// What is to be different in a file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Edit {
    /// A backend stands in a pool, with this weight.
    Add {
        /// The VIP of the pool, or its name.
        vip: Service,
        /// The backend.
        address: SocketAddr,
        /// Its share of new flows.
        weight: u16,
    },
    /// A backend stands in no pool.
    Remove {
        /// The backend.
        address: SocketAddr,
    },
}

impl Edit {
    /// The text with the change; the same text where it says so already.
    ///
    /// # Errors
    /// Where the text has no such pool or backend, or writes them in a way that only its author
    /// can change.
    pub fn apply(self, text: &str) -> Result<String> {
        let mut document = text.parse::<DocumentMut>().context("read the file")?;
        match self {
            Self::Add { vip, address, weight } => add(&mut document, vip, address, weight)?,
            Self::Remove { address } => remove(&mut document, address)?,
        }
        Ok(document.to_string())
    }
}

fn add(document: &mut DocumentMut, vip: Service, address: SocketAddr, weight: u16) -> Result<()> {
    let (list, place) = pool(document, vip)?;
    let inline = matches!(vip, Service::Pool(_));
    let pool = tables(document, list)?.get_mut(place).context("find the pool again")?;
    let backends = pool.entry("backend").or_insert(Item::ArrayOfTables(ArrayOfTables::new()));
    let Some(backends) = backends.as_array_of_tables_mut() else { return Err(compact(vip)) };
    let said = backends.iter_mut().find(|backend| says(backend, "address", address));
    match said {
        // The default needs no line, unless there is another one.
        Some(_) if inline => {}
        Some(backend) if weight != 1 || backend.contains_key("weight") => {
            set(backend, "weight", i64::from(weight));
        }
        Some(_) => {}
        None => {
            let mut backend = Table::new();
            backend.insert("address", value(address.to_string()));
            if weight != 1 && !inline {
                backend.insert("weight", value(i64::from(weight)));
            }
            backend.decor_mut().set_prefix("\n");
            // Behind its last neighbour, not at the end of the file.
            backend.set_position(backends.iter().filter_map(Table::position).max());
            backends.push(backend);
        }
    }
    Ok(())
}

/// Sets a key's value, and keeps what stands around it.
fn set(table: &mut Table, key: &str, number: i64) {
    match table.get_mut(key).and_then(Item::as_value_mut) {
        Some(there) => {
            let decor = there.decor().clone();
            *there = number.into();
            *there.decor_mut() = decor;
        }
        None => drop(table.insert(key, value(number))),
    }
}

fn remove(document: &mut DocumentMut, address: SocketAddr) -> Result<()> {
    for list in ["vip", "pool"] {
        let Some(pools) = document.get_mut(list).and_then(Item::as_array_of_tables_mut) else {
            continue;
        };
        for pool in pools.iter_mut() {
            let backends = pool.get_mut("backend").and_then(Item::as_array_of_tables_mut);
            let Some(backends) = backends else { continue };
            let at = backends.iter().position(|backend| says(backend, "address", address));
            if let Some(at) = at {
                backends.remove(at);
                return Ok(());
            }
        }
    }
    bail!("no [[vip.backend]] or [[pool.backend]] of the file has the address {address}")
}

/// The list and place of the table that has a pool's backends.
fn pool(document: &DocumentMut, vip: Service) -> Result<(&'static str, usize)> {
    let find = |list: &str, key: &str, wanted: &str| {
        let tables = document.get(list).and_then(Item::as_array_of_tables)?;
        let place = tables.iter().position(|table| {
            let said = table.get(key).and_then(Item::as_str);
            said.is_some_and(|said| said == wanted)
        })?;
        Some((place, tables.get(place)?.get("pool").and_then(Item::as_str).map(str::to_owned)))
    };
    let by_address = |at: SocketAddr| {
        let tables = document.get("vip").and_then(Item::as_array_of_tables)?;
        let place = tables.iter().position(|table| says(table, "address", at))?;
        Some((place, tables.get(place)?.get("pool").and_then(Item::as_str).map(str::to_owned)))
    };
    let found = match vip {
        Service::Vip(at) => match by_address(at) {
            Some((_, Some(name))) => find("pool", "name", &name).map(|(place, _)| ("pool", place)),
            Some((place, None)) => Some(("vip", place)),
            None => None,
        },
        Service::Pool(name) => {
            find("pool", "name", &name.to_string()).map(|(place, _)| ("pool", place))
        }
    };
    found.with_context(|| format!("the file has no [[vip]] or [[pool]] of {vip}"))
}

fn tables<'a>(document: &'a mut DocumentMut, list: &str) -> Result<&'a mut ArrayOfTables> {
    let tables = document.get_mut(list).and_then(Item::as_array_of_tables_mut);
    tables.with_context(|| format!("find [[{list}]]"))
}

/// Whether a key of a table says this address, however it is written.
fn says(table: &Table, key: &str, address: SocketAddr) -> bool {
    let said = table.get(key).and_then(Item::as_str);
    said.and_then(|said| said.parse::<SocketAddr>().ok()) == Some(address)
}

fn compact(vip: Service) -> anyhow::Error {
    anyhow::anyhow!(
        "the backends of {vip} stand in a list on lines of their own: edit the file by hand"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_somebody_else_wrote_meanwhile_is_left_as_it_is() {
        let place = tempfile::tempdir().unwrap();
        let file = place.path().join("steer.toml");
        let dir = PinDir::new(place.path().join("pins"));
        let edit = Edit::Remove { address: "10.0.0.2:443".parse().unwrap() };
        let text = "[[interface]]\nname = \"eth0\"\n[[vip]]\naddress = \"198.51.100.10:443\"\n\
                    [[vip.backend]]\naddress = \"10.0.0.1:443\"\n[[vip.backend]]\naddress = \"10.0.0.2:443\"\n";
        fs::write(&file, text).unwrap();
        let change = Change::of(&dir, &file, edit).unwrap();
        fs::write(&file, format!("# mine\n{text}")).unwrap();
        let refused = change.write().unwrap_err().to_string();
        assert!(refused.contains("was changed meanwhile"), "{refused}");
        assert_eq!(fs::read_to_string(&file).unwrap(), format!("# mine\n{text}"));
        Change::of(&dir, &file, edit).unwrap().write().unwrap();
        let written = fs::read_to_string(&file).unwrap();
        assert!(written.starts_with("# mine") && !written.contains("10.0.0.2"), "{written}");
        assert_eq!(fs::read_dir(place.path()).unwrap().count(), 1, "nothing is left beside it");
    }

    const FILE: &str = r#"# What we serve.
[[interface]]
name = "eth0"   # the only one

# The shop.
[[vip]]
address = "198.51.100.10:443"
session_timeout = "10m"

[[vip.backend]]
address = "10.0.0.1:443" # old
weight = 3               # it is large

# The new rack.
[[vip.backend]]
address = "10.0.0.2:443"

[vip.health]
interval = "1s"

[[vip]]
address = "198.51.100.11:443"
pool = "shared"

[[pool]]
name = "shared"
[[pool.backend]]
address = "10.0.1.1:443"
"#;

    fn add(vip: &str, address: &str, weight: u16) -> Result<String> {
        let (vip, address) = (vip.parse().unwrap(), address.parse().unwrap());
        Edit::Add { vip, address, weight }.apply(FILE)
    }

    #[test]
    fn a_backend_comes_behind_its_neighbours_and_all_else_stays() {
        let text = add("198.51.100.10:443", "10.0.0.3:443", 2).unwrap();
        let at = "address = \"10.0.0.2:443\"\n";
        let new = "\n[[vip.backend]]\naddress = \"10.0.0.3:443\"\nweight = 2\n";
        assert_eq!(text, FILE.replace(at, &format!("{at}{new}")));
    }

    #[test]
    fn a_vip_that_names_a_pool_stands_for_it() {
        for of in ["198.51.100.11:443", "shared"] {
            let text = add(of, "10.0.1.2:443", 1).unwrap();
            assert_eq!(text, format!("{FILE}\n[[pool.backend]]\naddress = \"10.0.1.2:443\"\n"));
        }
    }

    #[test]
    fn another_weight_keeps_the_comment_beside_it() {
        let text = add("198.51.100.10:443", "10.0.0.1:443", 5).unwrap();
        assert_eq!(text, FILE.replace("weight = 3  ", "weight = 5  "));
        assert_eq!(add("198.51.100.10:443", "10.0.0.2:443", 1).unwrap(), FILE);
    }

    #[test]
    fn a_backend_goes_with_its_own_lines_only() {
        let address = "10.0.0.2:443".parse().unwrap();
        let text = Edit::Remove { address }.apply(FILE).unwrap();
        let own = "\n# The new rack.\n[[vip.backend]]\naddress = \"10.0.0.2:443\"\n";
        assert_eq!(text, FILE.replace(own, ""));
    }

    #[test]
    fn what_the_file_does_not_have_is_told() {
        let address = "10.9.9.9:443".parse().unwrap();
        let none = Edit::Remove { address }.apply(FILE).unwrap_err().to_string();
        assert!(none.contains("has the address 10.9.9.9:443"), "{none}");
        let none = add("198.51.100.99:443", "10.0.0.9:443", 1).unwrap_err().to_string();
        assert!(none.contains("no [[vip]] or [[pool]] of 198.51.100.99:443"), "{none}");
    }
}
