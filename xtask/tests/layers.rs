//! The rooms of the eBPF crate stand one above the other: nothing imports what stands higher, and
//! no files import each other in a circle.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
};

/// From the ground up. What may be imported stands before who imports it.
const LAYERS: [&str; 16] = [
    "verifier",
    "hook",
    "change",
    "port",
    "maps",
    "scratch",
    "stage",
    "packet",
    "flows",
    "learn",
    "forward",
    "handshake",
    "decide",
    "rehome",
    "journey",
    "main",
];

/// Every file as a module path, and the modules that it imports.
type Imports = BTreeMap<String, BTreeSet<String>>;

#[test]
fn no_room_imports_what_stands_above_it() {
    let height = |module: &str| {
        let room = module.split("::").next().unwrap_or_default();
        let found = LAYERS.iter().position(|layer| *layer == room);
        found.unwrap_or_else(|| panic!("{room} has no place in LAYERS"))
    };
    for (module, imported) in imports() {
        for other in imported {
            assert!(height(&other) <= height(&module), "{module} imports {other}, above it");
        }
    }
}

#[test]
fn no_files_import_each_other_in_a_circle() {
    let mut left = imports();
    // Whoever imports nothing that is left goes; what stays is a circle or stands on one.
    while let Some(free) = left
        .iter()
        .find(|(_, imported)| !imported.iter().any(|other| left.contains_key(other)))
        .map(|(module, _)| module.clone())
    {
        left.remove(&free);
    }
    assert!(left.is_empty(), "in circles, or on one: {left:#?}");
}

fn imports() -> Imports {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../steer-ebpf/src");
    let mut texts = BTreeMap::new();
    read(&root, "", &mut texts);
    assert!(texts.len() > 30, "{} files only", texts.len());
    let modules = texts.keys().cloned().collect::<BTreeSet<_>>();
    let of = |(module, text): (&String, &String)| {
        let mut imported = BTreeSet::new();
        for path in text.split("crate::").skip(1) {
            paths(path, "", &mut imported);
        }
        let known = imported.into_iter().filter_map(|path| {
            // The longest module that the path begins with.
            let both = path.split("::").take(2).collect::<Vec<_>>().join("::");
            let room = path.split("::").next().unwrap_or_default().to_owned();
            let found = if modules.contains(&both) { both } else { room };
            (modules.contains(&found) && found != *module).then_some(found)
        });
        (module.clone(), known.collect())
    };
    texts.iter().map(of).collect()
}

/// Enters the paths that a `use` tree, or a path in an expression, names from here on.
fn paths(text: &str, before: &str, to: &mut BTreeSet<String>) {
    let name = |text: &str| {
        text.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect::<String>()
    };
    let Some(list) = text.strip_prefix('{') else {
        let first = name(text);
        let path = if before.is_empty() { first.clone() } else { format!("{before}::{first}") };
        match text[first.len()..].strip_prefix("::") {
            Some(rest) if before.is_empty() => paths(rest, &path, to),
            _ => drop(to.insert(path)),
        }
        return;
    };
    let (mut depth, mut start) = (0, 0);
    for (at, c) in list.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth > 0 => depth -= 1,
            ',' | '}' if depth == 0 => {
                let item = list[start..at].trim();
                if !item.is_empty() {
                    paths(item, before, to);
                }
                if c == '}' {
                    return;
                }
                start = at + 1;
            }
            _ => {}
        }
    }
}

/// Reads the files of a directory, but for the benchmarks, which measure everything.
fn read(directory: &Path, module: &str, to: &mut BTreeMap<String, String>) {
    for entry in fs::read_dir(directory).expect("a directory").map(|entry| entry.expect("an entry"))
    {
        let path = entry.path();
        let stem = path.file_stem().expect("a name").to_string_lossy().into_owned();
        if stem.starts_with("bench") {
            continue;
        }
        let name = match (module, stem.as_str()) {
            (room, "mod") => room.to_owned(),
            ("", name) => name.to_owned(),
            (room, name) => format!("{room}::{name}"),
        };
        if path.is_dir() {
            read(&path, &name, to);
        } else {
            // What comments name is not imported.
            let text = fs::read_to_string(&path).expect("a text");
            let code = text.lines().filter(|line| !line.trim_start().starts_with("//"));
            to.insert(name, code.collect::<Vec<_>>().join("\n"));
        }
    }
}
