//! Which module files to load, in order. The package brings no `modules.dep`, so the modules themselves are asked.

use std::{
    collections::HashMap,
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};

/// Returns the files of `names` and of all that they depend on, dependencies first. What is built into the kernel is left
/// out.
pub(super) fn with_dependencies(modules: &Path, names: &[&str]) -> Result<Vec<PathBuf>> {
    let mut files = HashMap::new();
    index(&modules.join("kernel"), &mut files)?;
    let builtin = fs::read_to_string(modules.join("modules.builtin")).context("read which modules are built in")?;
    let builtin: Vec<String> = builtin.lines().filter_map(|line| name_of(Path::new(line))).collect();
    let mut search = Search { files, builtin, ordered: Vec::new() };
    for name in names {
        search.add(name)?;
    }
    Ok(search.ordered)
}

struct Search {
    files: HashMap<String, PathBuf>,
    builtin: Vec<String>,
    ordered: Vec<PathBuf>,
}

impl Search {
    fn add(&mut self, name: &str) -> Result<()> {
        let name = name.replace('-', "_");
        if self.builtin.contains(&name) {
            return Ok(());
        }
        let file = self.files.get(&name).with_context(|| format!("find the module {name} of this kernel"))?.clone();
        if self.ordered.contains(&file) {
            return Ok(());
        }
        let bytes = fs::read(&file).with_context(|| format!("read {}", file.display()))?;
        for dependency in dependencies(&bytes) {
            self.add(&dependency)?;
        }
        self.ordered.push(file);
        Ok(())
    }
}

/// Reads the entry `depends=a,b` of a module's `.modinfo`, a list of zero-terminated strings.
fn dependencies(module: &[u8]) -> Vec<String> {
    const ENTRY: &[u8] = b"\0depends=";
    let Some(start) = module.windows(ENTRY.len()).position(|window| window == ENTRY) else { return Vec::new() };
    let value = module.get(start + ENTRY.len()..).unwrap_or_default();
    let value = value.split(|byte| *byte == 0).next().unwrap_or_default();
    String::from_utf8_lossy(value).split(',').filter(|name| !name.is_empty()).map(str::to_owned).collect()
}

fn index(directory: &Path, files: &mut HashMap<String, PathBuf>) -> Result<()> {
    let entries = fs::read_dir(directory).with_context(|| format!("list {}", directory.display()))?;
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
    let name = file.file_name()?.to_str()?.strip_suffix(".ko")?;
    Some(name.replace('-', "_"))
}

#[cfg(test)]
mod tests {
    use super::dependencies;

    #[test]
    fn reads_the_dependencies_of_a_module() {
        assert_eq!(dependencies(b"license=GPL\0depends=ipv6,x-y\0name=z\0"), ["ipv6", "x-y"]);
        assert!(dependencies(b"license=GPL\0depends=\0name=z\0").is_empty());
    }
}
