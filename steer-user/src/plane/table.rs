//! A pinned hash map with the operations this project needs: read, write, walk in batches, remove what is stale.

use std::{os::fd::AsFd as _, path::Path};

use anyhow::{Context as _, Result, anyhow};
use aya::{
    Pod,
    maps::{Array, HashMap, Map, MapData, MapError},
};

use super::{PinDir, sys};

/// Write only where there is no entry yet (`BPF_NOEXIST`).
const NO_EXIST: u64 = 1;

/// A pinned hash map, LRU or not.
pub struct Table<K: Pod, V: Pod> {
    name: String,
    map: HashMap<MapData, K, V>,
    raw: MapData,
}

impl<K: Pod, V: Pod> Table<K, V> {
    /// Opens a pinned map by name.
    pub(super) fn open(dir: &PinDir, name: &str) -> Result<Self> {
        Self::open_pin(&dir.map(name))
    }

    fn open_pin(pin: &Path) -> Result<Self> {
        let open = || format!("open the pinned map {}", pin.display());
        let raw = MapData::from_pin(pin).with_context(open)?;
        let map = MapData::from_pin(pin).and_then(Map::from_map_data).and_then(HashMap::try_from);
        let name = pin.file_name().unwrap_or_default().to_string_lossy().into_owned();
        Ok(Self { name, map: map.with_context(open)?, raw })
    }

    /// The value of a key.
    pub fn find(&self, key: &K) -> Result<Option<V>> {
        match self.map.get(key, 0) {
            Ok(value) => Ok(Some(value)),
            Err(MapError::KeyNotFound) => Ok(None),
            Err(error) => Err(error).with_context(|| format!("read the map {}", self.name)),
        }
    }

    /// Writes an entry.
    pub fn insert(&mut self, key: &K, value: &V) -> Result<()> {
        self.map.insert(key, value, 0).with_context(|| format!("write the map {}", self.name))
    }

    /// Removes an entry; `false` if there was none.
    pub fn remove(&mut self, key: &K) -> Result<bool> {
        match self.map.remove(key) {
            Ok(()) => Ok(true),
            Err(MapError::KeyNotFound) => Ok(false),
            Err(MapError::SyscallError(error)) if error.io_error.raw_os_error() == Some(libc::ENOENT) => Ok(false),
            Err(error) => Err(error).with_context(|| format!("remove from the map {}", self.name)),
        }
    }

    /// Removes an entry that is still stale when looked at again.
    pub fn remove_if(&mut self, key: &K, stale: impl FnOnce(&V) -> bool) -> Result<bool> {
        match self.find(key)? {
            Some(value) if stale(&value) => self.remove(key),
            Some(_) | None => Ok(false),
        }
    }

    /// Calls `each` for every entry: in batches, or one by one where the kernel has no batches for this map.
    pub fn for_each(&self, mut each: impl FnMut(K, V)) -> Result<()> {
        match sys::lookup_all(self.raw.fd().as_fd(), &mut each) {
            Err(error) if sys::no_batches(&error) => {}
            other => return other.with_context(|| format!("walk the map {}", self.name)),
        }
        for entry in self.map.iter() {
            let (key, value) = entry.with_context(|| format!("walk the map {}", self.name))?;
            each(key, value);
        }
        Ok(())
    }

    /// Every entry.
    pub fn entries(&self) -> Result<Vec<(K, V)>> {
        let mut entries = Vec::new();
        self.for_each(|key, value| entries.push((key, value)))?;
        Ok(entries)
    }

    /// How many entries there are.
    pub fn count(&self) -> Result<u64> {
        let mut count = 0;
        self.for_each(|_, _| count += 1)?;
        Ok(count)
    }

    /// How many entries there can be.
    pub fn max_entries(&self) -> Result<u32> {
        Ok(self.raw.info().with_context(|| format!("read the size of the map {}", self.name))?.max_entries())
    }
}

/// A pinned array, written many slots at a time.
pub struct Slots<V: Pod> {
    name: String,
    map: Array<MapData, V>,
    raw: MapData,
}

impl<V: Pod> Slots<V> {
    pub(super) fn open(dir: &PinDir, name: &str) -> Result<Self> {
        let pin = dir.map(name);
        let map = super::open(dir, name)?;
        let raw = MapData::from_pin(&pin).with_context(|| format!("open the pinned map {}", pin.display()))?;
        Ok(Self { name: name.to_owned(), map, raw })
    }

    /// One slot.
    pub fn read(&self, index: u32) -> Result<V> {
        self.map.get(&index, 0).with_context(|| format!("read the map {}", self.name))
    }

    /// Writes slots from index `base` on.
    pub fn write(&mut self, base: u32, slots: &[V]) -> Result<()> {
        let indices = (base..).take(slots.len()).collect::<Vec<_>>();
        sys::update_all(self.raw.fd().as_fd(), &indices, slots).with_context(|| format!("write the map {}", self.name))
    }
}

/// What a copy could not do.
#[derive(Default)]
pub(super) struct CopyReport {
    /// Entries for which there was no room.
    pub(super) left: usize,
}

/// Copies entries of a pinned map to another that does not have them yet.
pub(super) fn copy<K: Pod, V: Pod>(from: &Path, to: &Path) -> Result<CopyReport> {
    let (from, mut to) = (Table::<K, V>::open_pin(from)?, Table::<K, V>::open_pin(to)?);
    let mut report = CopyReport::default();
    let mut failed = Ok(());
    from.for_each(|key, value| match to.map.insert(key, value, NO_EXIST).map_err(errno) {
        Ok(()) | Err(Some(libc::EEXIST)) => {}
        Err(Some(libc::E2BIG)) => report.left += 1,
        Err(errno) => failed = Err(anyhow!("write an entry of {}: error {}", to.name, errno.unwrap_or_default())),
    })?;
    failed.map(|()| report)
}

fn errno(error: MapError) -> Option<i32> {
    match error {
        MapError::SyscallError(error) => error.io_error.raw_os_error(),
        _ => None,
    }
}
