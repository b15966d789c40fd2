//! Names of ticket keys: those of the configuration stand in the map for as long as it has them,
//! and a layout that was found out stands in the VIP's record, which the next agent reads.

use std::collections::{HashMap, HashSet};

use anyhow::{Context as _, Result};
use steer_common::{
    session::{Kind, NameLayout},
    shared::{
        BACKEND_PRESENT, Endpoint, KEY_NAME_CONFIGURED, KEY_NAME_SHARED, KeyName, SessionKey,
        VIP_NAME_FOUND, VIP_TELL_TICKETS, Vip,
    },
};

use super::Pools;
use crate::{
    address::endpoint,
    agent::key_layout::Finding,
    clock,
    config::{self, LayoutWord, TicketKeyName},
    service::Service,
};

/// Where a VIP's names stand, and the flags that say how that is known. `old` is its record so far.
pub(super) fn layout(pool: &config::Pool, old: Option<&Vip>) -> (NameLayout, u16) {
    let found = old.filter(|old| old.flags & VIP_NAME_FOUND != 0);
    match (pool.ticket_key_name, found) {
        (TicketKeyName::At(layout), _) => (layout, 0),
        (TicketKeyName::Auto, Some(old)) => (layout_of(old), VIP_NAME_FOUND),
        (TicketKeyName::Auto, None) => (NameLayout::default(), VIP_TELL_TICKETS),
    }
}

/// Where a VIP's names stand, as its record says.
pub(super) fn layout_of(vip: &Vip) -> NameLayout {
    NameLayout { at: vip.name_at, len: vip.name_len }
}

impl Pools {
    /// Takes away names that the configuration had and has no more, and writes those it has.
    pub(super) fn adopt_names(&mut self) -> Result<()> {
        let wanted = self.configured_names()?;
        let mut unasked = Vec::new();
        self.plane.key_names.for_each(|key, name| {
            if name.flags & KEY_NAME_CONFIGURED != 0 && !wanted.contains_key(&key) {
                unasked.push(key);
            }
        })?;
        for key in unasked {
            self.plane.key_names.remove(&key)?;
        }
        self.keep_names()
    }

    /// Writes the names of the configuration whose backend is in its pool, where they are missing:
    /// what is used least is evicted from a full map.
    pub fn keep_names(&mut self) -> Result<()> {
        let now = clock::seconds();
        for (key, owner) in self.configured_names()? {
            let Some(owner) = owner else { continue };
            if let Some(name) = configured(self.plane.key_names.find(&key)?, owner, now) {
                self.plane.key_names.insert(&key, &name)?;
                self.plane.key_name_tries.remove(&key)?;
            }
        }
        Ok(())
    }

    /// Every name of the configuration with the number of its backend; without one while that is
    /// not in its pool.
    fn configured_names(&self) -> Result<HashMap<SessionKey, Option<u16>>> {
        if self
            .pools
            .iter()
            .all(|pool| pool.backends.iter().all(|backend| backend.key_names.is_empty()))
        {
            return Ok(HashMap::new());
        }
        let present =
            self.backends.iter().filter(|(_, backend)| backend.flags & BACKEND_PRESENT != 0);
        let ids = present
            .map(|(id, backend)| ((backend.endpoint, backend.vip), *id as u16))
            .collect::<HashMap<_, _>>();
        let mut names = HashMap::new();
        for pool in &self.pools {
            let at = pool.service().endpoint();
            let Some(Vip { id: vip_id, .. }) = self.plane.vip(&at)? else { continue };
            for backend in &pool.backends {
                let owner = ids.get(&(endpoint(backend.address), at)).copied();
                let keys = backend
                    .key_names
                    .iter()
                    .filter_map(|name| SessionKey::new(vip_id, Kind::KeyName, name));
                names.extend(keys.map(|key| (key, owner)));
            }
        }
        Ok(names)
    }

    /// Forgets the names of a VIP whose layout changed: they name nothing any more.
    pub(super) fn forget_names(&mut self, vip: u16) -> Result<()> {
        for table in [&mut self.plane.key_names, &mut self.plane.key_name_tries] {
            let mut keys = Vec::new();
            table.for_each(|key, _| keys.extend((key.vip == vip).then_some(key)))?;
            for key in keys {
                table.remove(&key)?;
            }
        }
        Ok(())
    }

    /// Takes over where the names of a VIP's ticket keys were found to stand, and the names seen
    /// meanwhile. What the programs took for names by other layouts is forgotten.
    pub(in crate::agent) fn found(&mut self, vip_id: u16, finding: &Finding) -> Result<()> {
        let looked_for =
            |(_, vip): &(Endpoint, Vip)| vip.id == vip_id && vip.flags & VIP_TELL_TICKETS != 0;
        let Some((at, vip)) = self.plane.vips()?.into_iter().find(looked_for) else {
            return Ok(());
        };
        let NameLayout { at: name_at, len: name_len } = finding.layout;
        let flags = (vip.flags & !VIP_TELL_TICKETS) | VIP_NAME_FOUND;
        self.plane.set_vip(&at, &Vip { flags, name_at, name_len, ..vip })?;
        let of = Service::of(&at).titled();
        log::info!("{of}: ticket key names found: {}", LayoutWord(finding.layout));
        let now = clock::seconds();
        let mut named = HashSet::new();
        for seen in &finding.names {
            let key = SessionKey::new(vip_id, Kind::KeyName, &seen.name)
                .context("make the key of a key name")?;
            if self.plane.key_names.find(&key)?.is_none() {
                let flags = if seen.shared { KEY_NAME_SHARED } else { 0 };
                self.plane
                    .key_names
                    .insert(&key, &new_name(seen.backend, flags, seen.tickets, now))?;
            }
            named.insert(key);
        }
        // What the search here has forgotten again of this layout may be a name all the same.
        let may_be_one = |key: &SessionKey| key.len == name_len && name_at == 0;
        let mut others = Vec::new();
        self.plane.key_names.for_each(|key, _| {
            if key.vip == vip_id && !named.contains(&key) && !may_be_one(&key) {
                others.push(key);
            }
        })?;
        others.iter().try_for_each(|key| self.plane.key_names.remove(key).map(drop))?;
        let mut searches = Vec::new();
        self.plane
            .key_name_tries
            .for_each(|key, _| searches.extend((key.vip == vip_id).then_some(key)))?;
        searches.iter().try_for_each(|key| self.plane.key_name_tries.remove(key).map(drop))
    }
}

/// What to write for a name of the configuration; `None` where it stands as it should. What is
/// known of it is kept; a new owner is believed to be the only one until another backend uses the
/// name again.
fn configured(found: Option<KeyName>, owner: u16, now: u32) -> Option<KeyName> {
    match found {
        None => Some(new_name(owner, KEY_NAME_CONFIGURED, 0, now)),
        Some(name) if name.owner != owner => {
            Some(KeyName { owner, flags: KEY_NAME_CONFIGURED, accepted: 0, ..name })
        }
        Some(name) if name.flags & KEY_NAME_CONFIGURED == 0 => {
            Some(KeyName { flags: name.flags | KEY_NAME_CONFIGURED, ..name })
        }
        Some(_) => None,
    }
}

fn new_name(owner: u16, flags: u16, accepted: u32, now: u32) -> KeyName {
    KeyName {
        owner,
        flags,
        first_seen: now,
        last_seen: now,
        hits: 0,
        accepted,
        tail: 0,
        zero: 0,
        tried: 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn learned(owner: u16, flags: u16) -> KeyName {
        KeyName { hits: 7, first_seen: 3, ..new_name(owner, flags, 5, 9) }
    }

    #[test]
    fn a_configured_name_is_written_once() {
        let written = configured(None, 2, 100).unwrap();
        assert_eq!(
            (written.owner, written.flags, written.first_seen),
            (2, KEY_NAME_CONFIGURED, 100)
        );
        assert_eq!(configured(Some(written), 2, 200), None);
    }

    #[test]
    fn a_learned_name_becomes_configured_and_keeps_what_is_known_of_it() {
        let shared = learned(2, KEY_NAME_SHARED);
        let both = KEY_NAME_SHARED | KEY_NAME_CONFIGURED;
        assert_eq!(configured(Some(learned(2, 0)), 2, 100), Some(learned(2, KEY_NAME_CONFIGURED)));
        assert_eq!(configured(Some(shared), 2, 100), Some(KeyName { flags: both, ..shared }));
    }

    #[test]
    fn a_name_that_moved_to_another_backend_is_its_alone_until_proved_otherwise() {
        let moved = configured(Some(learned(2, KEY_NAME_SHARED)), 4, 100).unwrap();
        assert_eq!(
            (moved.owner, moved.flags, moved.hits, moved.accepted),
            (4, KEY_NAME_CONFIGURED, 7, 0)
        );
    }

    #[test]
    fn a_found_layout_is_kept_while_the_file_says_auto() {
        let file = "[[interface]]\nname = \"a\"\n[[vip]]\naddress = \"192.0.2.1:1\"\nticket_key_name = \"auto\"\n\
                    [[vip.backend]]\naddress = \"192.0.2.2:1\"\n";
        let vip = |text: &str| config::Config::parse("t".as_ref(), text).unwrap().pools.remove(0);
        let found = Vip { flags: VIP_NAME_FOUND, name_len: 4, ..Vip::default() };
        let by_file = Vip { name_len: 16, ..Vip::default() };
        let short = NameLayout { at: 0, len: 4 };
        assert_eq!(layout(&vip(file), Some(&found)), (short, VIP_NAME_FOUND));
        assert_eq!(layout(&vip(file), Some(&by_file)), (NameLayout::default(), VIP_TELL_TICKETS));
        assert_eq!(layout(&vip(file), None), (NameLayout::default(), VIP_TELL_TICKETS));
        let long = NameLayout { at: 0, len: 16 };
        assert_eq!(layout(&vip(&file.replace("auto", "16@0")), Some(&found)), (long, 0));
    }
}
