//! Which module files to load, in order. The package brings no `modules.dep`, so the modules
//! themselves are asked.

use std::{
    collections::HashMap,
    fs, io,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, Result, ensure};

use crate::command;

/// Returns the modules `names` and all that they depend on, as insmod takes them, dependencies
/// first. What is built into the kernel is left out.
pub(super) fn with_dependencies(modules: &Path, names: &[&str]) -> Result<Vec<Vec<u8>>> {
    let mut files = HashMap::new();
    index(&modules.join("kernel"), &mut files)?;
    let mut search = Search {
        files,
        builtin: Builtin::read(&modules.join("modules.builtin"))?,
        ordered: Vec::new(),
    };
    for name in names {
        search.add(name)?;
    }
    Ok(search.ordered.into_iter().map(|(_, module)| module).collect())
}

/// What is built into the kernel.
enum Builtin {
    Listed(Vec<String>),
    /// Since 7.2 Debian's package of modules does not say: what is no module may be built in.
    Unknown,
}

impl Builtin {
    fn read(list: &Path) -> Result<Self> {
        match fs::read_to_string(list) {
            Ok(text) => {
                Ok(Self::Listed(text.lines().filter_map(|line| name_of(Path::new(line))).collect()))
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Self::Unknown),
            Err(error) => Err(error).with_context(|| format!("read {}", list.display())),
        }
    }
}

struct Search {
    files: HashMap<String, PathBuf>,
    builtin: Builtin,
    ordered: Vec<(String, Vec<u8>)>,
}

impl Search {
    fn add(&mut self, name: &str) -> Result<()> {
        let name = name.replace('-', "_");
        if self.ordered.iter().any(|(added, _)| *added == name) {
            return Ok(());
        }
        let Some(file) = self.files.get(&name) else { return self.miss(&name) };
        let module = read(file).with_context(|| format!("read {}", file.display()))?;
        for dependency in dependencies(&module) {
            self.add(&dependency)?;
        }
        self.ordered.push((name, module));
        Ok(())
    }

    fn miss(&self, name: &str) -> Result<()> {
        match &self.builtin {
            Builtin::Listed(names) => {
                ensure!(
                    names.iter().any(|builtin| builtin == name),
                    "find the module {name} of this kernel"
                );
            }
            Builtin::Unknown => {
                eprintln!("vm: this kernel has no module {name}, and does not say what is built in")
            }
        }
        Ok(())
    }
}

/// A module's file, unpacked: busybox is needed beside every kernel anyhow.
fn read(file: &Path) -> Result<Vec<u8>> {
    if file.extension().is_some_and(|extension| extension == "ko") {
        return Ok(fs::read(file)?);
    }
    let mut unxz = Command::new(command::find("busybox").context("find busybox")?);
    let unpacked = unxz
        .args(["xzcat"])
        .arg(file)
        .stderr(Stdio::inherit())
        .output()
        .context("run busybox xzcat")?;
    ensure!(unpacked.status.success(), "busybox xzcat failed ({})", unpacked.status);
    Ok(unpacked.stdout)
}

/// Reads the entry `depends=a,b` of a module's `.modinfo`, a list of zero-terminated strings.
fn dependencies(module: &[u8]) -> Vec<String> {
    const ENTRY: &[u8] = b"\0depends=";
    let Some(start) = module.windows(ENTRY.len()).position(|window| window == ENTRY) else {
        return Vec::new();
    };
    let value = module.get(start + ENTRY.len()..).unwrap_or_default();
    let value = value.split(|byte| *byte == 0).next().unwrap_or_default();
    String::from_utf8_lossy(value)
        .split(',')
        .filter(|name| !name.is_empty())
        .map(str::to_owned)
        .collect()
}

fn index(directory: &Path, files: &mut HashMap<String, PathBuf>) -> Result<()> {
    let entries =
        fs::read_dir(directory).with_context(|| format!("list {}", directory.display()))?;
    for entry in entries {
        let path = entry.with_context(|| format!("list {}", directory.display()))?.path();
        if path.is_dir() {
            index(&path, files)?;
        } else if let Some(name) = name_of(&path) {
            files.insert(name, path);
        }
    }
    Ok(())
}

/// A module's name by its file, as the kernel spells it.
fn name_of(file: &Path) -> Option<String> {
    let name = file.file_name()?.to_str()?;
    let name = name.strip_suffix(".ko").or_else(|| name.strip_suffix(".ko.xz"))?;
    Some(name.replace('-', "_"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_module_is_known_by_its_name_however_its_file_is_packed() {
        let name = |file: &str| name_of(Path::new(file));
        assert_eq!(name("kernel/net/8021q/8021q.ko"), Some("8021q".to_owned()));
        assert_eq!(name("kernel/drivers/net/virtio-net.ko.xz"), Some("virtio_net".to_owned()));
        assert_eq!(name("modules.builtin"), None);
    }

    #[test]
    fn a_name_that_is_no_module_passes_only_where_it_is_or_may_be_built_in() {
        let search = |builtin| Search { files: HashMap::new(), builtin, ordered: Vec::new() };
        assert!(search(Builtin::Listed(vec!["dummy".to_owned()])).add("dummy").is_ok());
        assert!(search(Builtin::Listed(Vec::new())).add("dummy").is_err());
        assert!(search(Builtin::Unknown).add("dummy").is_ok());
    }

    #[test]
    fn reads_the_dependencies_of_a_module() {
        assert_eq!(dependencies(b"license=GPL\0depends=ipv6,x-y\0name=z\0"), ["ipv6", "x-y"]);
        assert!(dependencies(b"license=GPL\0depends=\0name=z\0").is_empty());
    }
}
