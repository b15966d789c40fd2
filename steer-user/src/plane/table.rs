//! A pinned hash map with the operations this project needs: read, write, walk in batches, remove
//! what is stale.

use std::{os::fd::AsFd as _, path::Path};

use anyhow::{Context as _, Result, bail};
use aya::{
    Pod,
    maps::{Array, HashMap, Map, MapData, MapError, MapFd},
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

    pub(super) fn open_pin(pin: &Path) -> Result<Self> {
        let open = || format!("open the pinned map {}", pin.display());
        let raw = MapData::from_pin(pin).with_context(open)?;
        let map = MapData::from_pin(pin).and_then(Map::from_map_data).and_then(HashMap::try_from);
        let name = pin.file_name().unwrap_or_default().to_string_lossy().into_owned();
        Ok(Self { name, map: map.with_context(open)?, raw })
    }

    /// The value of a key.
    pub fn find(&self, key: &K) -> Result<Option<V>> {
        find(&self.map, key).with_context(|| format!("read the map {}", self.name))
    }

    /// Writes an entry.
    pub fn insert(&mut self, key: &K, value: &V) -> Result<()> {
        self.map.insert(key, value, 0).with_context(|| format!("write the map {}", self.name))
    }

    /// Writes an entry where there is none of its key; `false` if there is no room for it.
    pub(crate) fn insert_new(&mut self, key: &K, value: &V) -> Result<bool> {
        match self.map.insert(key, value, NO_EXIST).map_err(errno) {
            Ok(()) | Err(Some(libc::EEXIST)) => Ok(true),
            Err(Some(libc::E2BIG)) => Ok(false),
            Err(errno) => bail!(
                "write an entry of the map {}: error {}",
                self.name,
                errno.unwrap_or_default()
            ),
        }
    }

    /// Writes an entry; `false` if there is no room for it.
    pub(crate) fn insert_or_full(&mut self, key: &K, value: &V) -> Result<bool> {
        match self.map.insert(key, value, 0).map_err(errno) {
            Ok(()) => Ok(true),
            Err(Some(libc::E2BIG)) => Ok(false),
            Err(errno) => bail!(
                "write an entry of the map {}: error {}",
                self.name,
                errno.unwrap_or_default()
            ),
        }
    }

    /// Writes many entries; returns for how many there was no room.
    pub(super) fn insert_all(&mut self, mut keys: &[K], mut values: &[V]) -> Result<u64> {
        let mut refused = 0;
        loop {
            let done = match sys::update_all(self.raw.fd().as_fd(), keys, values) {
                (_, Ok(())) => return Ok(refused),
                (done, Err(error)) if error.raw_os_error() == Some(libc::E2BIG) => done,
                (_, Err(error)) => {
                    return Err(error).with_context(|| format!("write the map {}", self.name));
                }
            };
            refused += 1;
            (keys, values) = (
                keys.get(done + 1..).unwrap_or_default(),
                values.get(done + 1..).unwrap_or_default(),
            );
        }
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn raw(&self) -> &MapFd {
        self.raw.fd()
    }

    /// Removes an entry; `false` if there was none.
    pub fn remove(&mut self, key: &K) -> Result<bool> {
        remove(&mut self.map, key).with_context(|| format!("remove from the map {}", self.name))
    }

    /// Removes every entry that is stale, and still is when looked at again; how many. Memory is
    /// taken for one batch, however many they are.
    pub fn remove_stale(&mut self, mut stale: impl FnMut(&K, &V) -> bool) -> Result<u64> {
        let Self { name, map, raw } = self;
        let (mut removed, mut failed) = (0, Ok(()));
        let mut judge = |keys: &[K], values: &[V]| {
            let found = keys
                .iter()
                .zip(values)
                .filter(|(key, value)| stale(key, value))
                .map(|(key, _)| *key);
            for key in found.collect::<Vec<_>>() {
                match remove_if(map, &key, |value| stale(&key, value)) {
                    Ok(there) => removed += u64::from(there),
                    Err(error) => failed = Err(error),
                }
            }
        };
        sys::lookup_all(raw.fd().as_fd(), &mut judge)
            .with_context(|| format!("walk the map {name}"))?;
        failed
            .with_context(|| format!("remove what is stale from the map {name}"))
            .map(|()| removed)
    }

    /// Calls `each` for every entry.
    pub fn for_each(&self, mut each: impl FnMut(K, V)) -> Result<()> {
        let mut batch = |keys: &[K], values: &[V]| {
            keys.iter().zip(values).for_each(|(key, value)| each(*key, *value))
        };
        sys::lookup_all(self.raw.fd().as_fd(), &mut batch)
            .with_context(|| format!("walk the map {}", self.name))
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
        Ok(self
            .raw
            .info()
            .with_context(|| format!("read the size of the map {}", self.name))?
            .max_entries())
    }
}

fn find<K: Pod, V: Pod>(map: &HashMap<MapData, K, V>, key: &K) -> Result<Option<V>, MapError> {
    match map.get(key, 0) {
        Ok(value) => Ok(Some(value)),
        Err(MapError::KeyNotFound) => Ok(None),
        Err(error) => Err(error),
    }
}

fn remove<K: Pod, V: Pod>(map: &mut HashMap<MapData, K, V>, key: &K) -> Result<bool, MapError> {
    match map.remove(key) {
        Ok(()) => Ok(true),
        Err(MapError::KeyNotFound) => Ok(false),
        Err(MapError::SyscallError(error))
            if error.io_error.raw_os_error() == Some(libc::ENOENT) =>
        {
            Ok(false)
        }
        Err(error) => Err(error),
    }
}

fn remove_if<K: Pod, V: Pod>(
    map: &mut HashMap<MapData, K, V>,
    key: &K,
    stale: impl FnOnce(&V) -> bool,
) -> Result<bool, MapError> {
    match find(map, key)? {
        Some(value) if stale(&value) => remove(map, key),
        Some(_) | None => Ok(false),
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
        let raw = MapData::from_pin(&pin)
            .with_context(|| format!("open the pinned map {}", pin.display()))?;
        Ok(Self { name: name.to_owned(), map, raw })
    }

    /// How many slots there are.
    pub(super) fn len(&self) -> u32 {
        self.map.len()
    }

    /// One slot.
    pub fn read(&self, index: u32) -> Result<V> {
        self.map.get(&index, 0).with_context(|| format!("read the map {}", self.name))
    }

    /// Every slot, in order.
    pub fn all(&self) -> Result<Vec<V>> {
        let mut slots = Vec::new();
        let mut batch = |_: &[u32], values: &[V]| slots.extend_from_slice(values);
        let walk = sys::lookup_all(self.raw.fd().as_fd(), &mut batch);
        walk.with_context(|| format!("read the map {}", self.name)).map(|()| slots)
    }

    /// Writes one slot.
    pub fn set(&mut self, index: u32, value: &V) -> Result<()> {
        self.map.set(index, value, 0).with_context(|| format!("write the map {}", self.name))
    }

    /// Writes slots from index `base` on.
    pub fn write(&mut self, base: u32, slots: &[V]) -> Result<()> {
        let indices = (base..).take(slots.len()).collect::<Vec<_>>();
        let (_, written) = sys::update_all(self.raw.fd().as_fd(), &indices, slots);
        written.with_context(|| format!("write the map {}", self.name))
    }
}

fn errno(error: MapError) -> Option<i32> {
    match error {
        MapError::SyscallError(error) => error.io_error.raw_os_error(),
        _ => None,
    }
}
