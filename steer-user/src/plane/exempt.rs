//! Clients whose connections inline pools leave alone.

use anyhow::{Context as _, Result};
use aya::maps::{
    MapData,
    lpm_trie::{Key, LpmTrie},
};
use steer_common::shared::ExemptKey;

use super::{PinDir, Plane};

/// The map `exempt`; nothing where the gateway's version has none, which a start makes.
pub(super) struct Exempt(Option<LpmTrie<MapData, [u8; 20], u32>>);

impl Exempt {
    pub(super) fn open(dir: &PinDir) -> Result<Self> {
        let there = dir.map("exempt").exists();
        Ok(Self(there.then(|| super::open(dir, "exempt")).transpose()?))
    }

    fn map(&mut self) -> Result<&mut LpmTrie<MapData, [u8; 20], u32>> {
        self.0.as_mut().context("there is no map exempt: the gateway's version has none")
    }
}

impl Plane {
    /// Every prefix of clients that is left alone.
    pub fn exempt(&self) -> Result<Vec<ExemptKey>> {
        let Some(map) = &self.exempt.0 else { return Ok(Vec::new()) };
        let keys = map.keys().collect::<Result<Vec<_>, _>>();
        Ok(keys.context("read the map exempt")?.iter().map(from_key).collect())
    }

    /// Has these prefixes of clients left alone, too.
    pub fn add_exempt(&mut self, keys: &[ExemptKey]) -> Result<()> {
        keys.iter().try_for_each(|key| {
            self.exempt.map()?.insert(&to_key(key), 1, 0).context("write the map exempt")
        })
    }

    /// Leaves only those prefixes of clients alone that are kept.
    pub fn retain_exempt(&mut self, keep: impl Fn(&ExemptKey) -> bool) -> Result<()> {
        let gone = self.exempt()?.into_iter().filter(|key| !keep(key)).collect::<Vec<_>>();
        gone.iter().try_for_each(|key| {
            self.exempt.map()?.remove(&to_key(key)).context("remove from the map exempt")
        })
    }
}

fn to_key(key: &ExemptKey) -> Key<[u8; 20]> {
    let ExemptKey { prefix_len, vip, client, zero } = *key;
    let mut data = [0; 20];
    let bytes = vip.into_iter().chain(client).chain(zero);
    data.iter_mut().zip(bytes).for_each(|(to, byte)| *to = byte);
    Key::new(prefix_len, data)
}

fn from_key(key: &Key<[u8; 20]>) -> ExemptKey {
    let data = key.data();
    let bytes = |from: usize| std::array::from_fn(|i| data[from + i]);
    ExemptKey {
        prefix_len: key.prefix_len(),
        vip: [data[0], data[1]],
        client: bytes(2),
        zero: [0; 2],
    }
}
