//! What operators read about maps is what the list of maps says.

use std::collections::BTreeMap;

use steer_common::{
    counters::Counter,
    directory,
    maps::{CONFIGURED, Kind, MAPS, Map, Size, UNPINNED, Writer},
    shared::{LOOKUP_ENTRIES, MAX_BACKENDS, MAX_ENTRANCES, MAX_VIPS},
};

const MAPS_PAGE: &str = include_str!("../../docs/maps.md");
const CONFIG_PAGE: &str = include_str!("../../docs/config.md");

fn every_map() -> impl Iterator<Item = &'static Map> {
    MAPS.iter().chain([&CONFIGURED])
}

/// The rows of a page's tables that have so many columns and code in the first one.
fn rows<const COLUMNS: usize>(page: &'static str) -> impl Iterator<Item = [&'static str; COLUMNS]> {
    let rows = page.lines().filter(|line| line.starts_with("| `"));
    rows.filter_map(|row| {
        row.trim_matches('|').split('|').map(str::trim).collect::<Vec<_>>().try_into().ok()
    })
}

/// All that stands between backquotes.
fn codes(text: &str) -> impl Iterator<Item = &str> {
    text.split('`').skip(1).step_by(2)
}

/// What stands first between backquotes; a dash says that there is no type.
fn first_code(cell: &str) -> &str {
    if cell.starts_with('-') { "()" } else { codes(cell).next().unwrap_or_default() }
}

/// The number that a cell begins with, or that of the constant.
fn number(cell: &str) -> u32 {
    match cell.split(' ').next().unwrap_or_default() {
        "`MAX_BACKENDS`" => MAX_BACKENDS,
        "`MAX_VIPS`" => MAX_VIPS,
        "`MAX_ENTRANCES`" => MAX_ENTRANCES,
        "`LOOKUP_ENTRIES`" => LOOKUP_ENTRIES,
        "`directory::ENTRIES`" => directory::ENTRIES,
        "`Counter::COUNT`" => Counter::COUNT as u32,
        number => number.parse().unwrap_or_else(|_| panic!("{number} is no number of entries")),
    }
}

fn kind_word(kind: Kind) -> &'static str {
    match kind {
        Kind::Hash => "hash",
        Kind::Array => "array",
        Kind::PerCpuArray => "per-CPU array",
        Kind::LruHash => "LRU hash",
        Kind::LpmTrie => "LPM trie",
        Kind::RingBuf => "ring buffer",
    }
}

/// What stands behind in brackets is not of writing.
fn writer(cell: &str) -> Option<Writer> {
    let who = cell.split('(').next().unwrap_or_default();
    match (who.contains("programs"), who.contains("agent")) {
        (true, true) => Some(Writer::Both),
        (true, false) => Some(Writer::Programs),
        (false, true) => Some(Writer::Agent),
        (false, false) => None,
    }
}

#[test]
fn the_page_has_every_map_as_it_is_and_no_others() {
    let mut page =
        rows::<6>(MAPS_PAGE).map(|row| (first_code(row[0]), row)).collect::<BTreeMap<_, _>>();
    for map in every_map() {
        let name = map.name;
        let [_, kind, key, value, entries, who] =
            page.remove(name).unwrap_or_else(|| panic!("no row says what {name} is"));
        assert_eq!(kind.split(',').next(), Some(kind_word(map.kind)), "{name}");
        assert_eq!((first_code(key), first_code(value)), (map.key.name, map.value.name), "{name}");
        assert_eq!(
            (number(entries), entries.contains("`[sizes]`")),
            (map.entries, map.size == Size::Sizable),
            "{name}"
        );
        assert_eq!(writer(who), Some(map.writer), "{name}");
    }
    assert_eq!(page, BTreeMap::new(), "not in the list");
    let unpinned = MAPS_PAGE
        .split("Not pinned: ")
        .nth(1)
        .and_then(|text| text.split('(').next())
        .unwrap_or_default();
    assert_eq!(codes(unpinned).collect::<Vec<_>>(), UNPINNED);
}

#[test]
fn the_page_has_every_type_with_its_size() {
    let sizes = rows(MAPS_PAGE).flat_map(|[types, bytes, _]| codes(types).zip(bytes.split(", ")));
    let sizes = sizes.collect::<BTreeMap<_, _>>();
    for found in every_map()
        .flat_map(|map| [map.key, map.value])
        .filter(|found| !found.name.starts_with(['u', '(']))
    {
        assert_eq!(sizes.get(found.name), Some(&found.size.to_string().as_str()), "{}", found.name);
    }
}

#[test]
fn the_page_of_the_configuration_has_the_default_sizes() {
    let defaults = rows(CONFIG_PAGE)
        .map(|[key, default, _]| (first_code(key), default))
        .collect::<BTreeMap<_, _>>();
    for map in MAPS.iter().filter(|map| map.size == Size::Sizable) {
        assert_eq!(defaults.get(map.name), Some(&map.entries.to_string().as_str()), "{}", map.name);
    }
}
