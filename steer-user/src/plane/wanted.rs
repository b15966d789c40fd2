//! The maps as a start wants them: the list of [`steer_common::maps`] with the sizes that the
//! configuration asks for.

use anyhow::{Context as _, Result};
use steer_common::maps::{Kind, MAPS, Map};

use super::kernel::Kernel;
use crate::config::Sizes;

/// Every map that is shared with the programs, with the entries that it is to have: LRU maps get as
/// many as the running kernel needs.
pub(super) fn wanted(sizes: &Sizes) -> Result<Vec<Map>> {
    let least = least_lru_entries()?;
    let with_size = |map: &Map| {
        let asked = sizes.of(map);
        Map { entries: if map.kind == Kind::LruHash { asked.max(least) } else { asked }, ..*map }
    };
    Ok(MAPS.iter().map(with_size).collect())
}

/// See [`Kernel::least_lru_entries`]; the CPUs are those that are there.
pub(crate) fn least_lru_entries() -> Result<u32> {
    let cpus = aya::util::online_cpus().map_err(|(_, error)| error).context("count the CPUs")?;
    Kernel::running().least_lru_entries(cpus.len() as u32)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use steer_common::maps::UNPINNED;

    use super::*;
    use crate::plane::load::OBJECT;

    #[test]
    fn the_programs_have_the_maps_of_the_list_and_no_others() -> Result<()> {
        let shape = |map: &aya_obj::Map| {
            (map.map_type(), map.key_size(), map.value_size(), map.max_entries(), map.map_flags())
        };
        let object = aya_obj::Object::parse(OBJECT)?;
        // The loader makes maps of the compiler's constants, too (`.rodata`).
        let declared = object.maps.iter().filter(|(name, _)| !name.starts_with('.'));
        let found = declared.map(|(name, map)| (name.as_str(), shape(map)));
        let (unpinned, mut pinned) =
            found.partition::<BTreeMap<_, _>, _>(|(name, _)| UNPINNED.contains(name));
        assert_eq!(unpinned.into_keys().collect::<Vec<_>>(), UNPINNED);
        for map in MAPS {
            let listed = (map.kind as u32, map.key.size, map.value.size, map.entries, map.flags());
            assert_eq!(pinned.remove(map.name), Some(listed), "{}", map.name);
        }
        assert_eq!(pinned, BTreeMap::new(), "not in the list");
        Ok(())
    }
}
