//! Ages the names of ticket keys, and the searches for their owners.

use anyhow::Result;
use steer_common::shared::{
    BACKEND_PRESENT, Backend, KEY_NAME_CONFIGURED, KEY_NAME_SHARED, KeyName, SessionKey,
    VIP_TELL_TICKETS,
};

use super::{Rules, Swept, held};
use crate::{
    clock,
    plane::{Plane, Table},
};

/// Seconds without a rejected ticket after which a search for the owner of a name is over.
const SEARCH: u32 = 3600;

/// Walks both tables; returns how many names are left.
pub(super) fn sweep_names(
    plane: &mut Plane,
    rules: &Rules,
    swept: &mut Swept,
    held: &mut held::Tally,
) -> Result<u64> {
    let owners =
        sweep_table(&mut plane.key_names, swept, |key, name| rules.name_is_stale(key, name))?;
    owners.iter().for_each(|owner| held.key_name(*owner));
    let kept = owners.len() as u64;
    swept.named.extend(owners);
    sweep_table(&mut plane.key_name_tries, swept, |key, tries| rules.search_is_stale(key, tries))?;
    Ok(kept)
}

/// The owners of what is left, one for each name.
fn sweep_table(
    table: &mut Table<SessionKey, KeyName>,
    swept: &mut Swept,
    is_stale: impl Fn(&SessionKey, &KeyName) -> bool,
) -> Result<Vec<u16>> {
    let mut owners = Vec::new();
    swept.removed += table.remove_stale(|key, name| {
        let stale = is_stale(key, name);
        if !stale {
            owners.push(name.owner);
        }
        stale
    })?;
    Ok(owners)
}

impl Rules {
    fn name_is_stale(&self, key: &SessionKey, name: &KeyName) -> bool {
        // Tickets of a VIP that is gone can never be presented again; a number without a backend
        // opens none.
        let Some(vip) = self.vips.get(&key.vip) else { return true };
        let Some(owner) = self.backend(name.owner, key.vip) else { return true };
        // What was taken for a name while the layout was not known.
        if vip.flags & VIP_TELL_TICKETS == 0 && key.len != vip.name_len {
            return true;
        }
        let (idle, is) = (clock::age(self.now, name.last_seen), |flag| name.flags & flag != 0);
        if owner.flags & BACKEND_PRESENT == 0 {
            // As its sessions go. A name that others use as well goes at once: it may be theirs
            // alone now.
            return is(KEY_NAME_SHARED) || idle > vip.session_timeout;
        }
        !is(KEY_NAME_CONFIGURED) && idle > vip.name_timeout
    }

    /// A search that counts on a backend which left its pool begins anew: its number may come back
    /// as another's.
    fn search_is_stale(&self, key: &SessionKey, tries: &KeyName) -> bool {
        let over = clock::age(self.now, tries.last_seen) > SEARCH;
        over || !self.vips.contains_key(&key.vip)
            || tries.tried & !self.pools.get(&key.vip).unwrap_or(&0) != 0
    }

    /// A backend by its number, if it stands behind that VIP.
    fn backend(&self, id: u16, vip: u16) -> Option<&Backend> {
        self.backends.get(&id).filter(|backend| backend.vip_id == vip)
    }
}

#[cfg(test)]
mod tests {
    use steer_common::shared::{NO_BACKEND, Vip, backend_bit};

    use super::*;

    const NOW: u32 = 200_000;
    const KEY: SessionKey = SessionKey { vip: 0, kind: 3, len: 16, bytes: [7; 32] };

    /// VIP 0 with backend 1 in its pool and backend 2 out of it.
    fn rules() -> Rules {
        let vip =
            Vip { session_timeout: 600, name_timeout: 86_400, name_len: 16, ..Vip::default() };
        let backends = [(1, BACKEND_PRESENT), (2, 0)]
            .map(|(id, flags)| (id, Backend { flags, ..Backend::default() }));
        Rules::at(NOW, [(0, vip)].into(), backends.into())
    }

    fn name(owner: u16, flags: u16, idle: u32) -> KeyName {
        KeyName { owner, flags, last_seen: NOW - idle, ..KeyName::default() }
    }

    fn search(tried: u16, idle: u32) -> KeyName {
        KeyName { tried: backend_bit(tried), ..name(NO_BACKEND, 0, idle) }
    }

    #[test]
    fn a_learned_name_lives_as_long_as_its_vip_says_and_a_configured_one_for_ever() {
        assert!(!rules().name_is_stale(&KEY, &name(1, 0, 86_400)));
        assert!(rules().name_is_stale(&KEY, &name(1, 0, 86_401)));
        assert!(!rules().name_is_stale(&KEY, &name(1, KEY_NAME_CONFIGURED, 199_999)));
    }

    #[test]
    fn what_was_taken_for_a_name_by_another_layout_goes() {
        let other = SessionKey { len: 4, ..KEY };
        assert!(rules().name_is_stale(&other, &name(1, 0, 0)));
        let mut searched = rules();
        searched.vips.get_mut(&0).unwrap().flags = VIP_TELL_TICKETS;
        assert!(
            !searched.name_is_stale(&other, &name(1, 0, 0))
                && !searched.name_is_stale(&KEY, &name(1, 0, 0))
        );
    }

    #[test]
    fn names_of_a_removed_backend_go_when_its_sessions_do() {
        for flags in [0, KEY_NAME_CONFIGURED] {
            assert!(!rules().name_is_stale(&KEY, &name(2, flags, 600)));
            assert!(rules().name_is_stale(&KEY, &name(2, flags, 601)));
        }
        assert!(rules().name_is_stale(&KEY, &name(2, KEY_NAME_SHARED, 0)));
    }

    #[test]
    fn a_name_without_backend_or_vip_is_stale() {
        assert!(rules().name_is_stale(&KEY, &name(9, KEY_NAME_CONFIGURED, 0)));
        assert!(
            rules().name_is_stale(&SessionKey { vip: 5, ..KEY }, &name(1, KEY_NAME_CONFIGURED, 0))
        );
    }

    #[test]
    fn a_search_ends_after_an_hour_and_with_its_backends() {
        assert!(!rules().search_is_stale(&KEY, &search(1, 3600)));
        assert!(rules().search_is_stale(&KEY, &search(1, 3601)));
        assert!(
            rules().search_is_stale(&KEY, &search(2, 0))
                && rules().search_is_stale(&KEY, &search(9, 0))
        );
        assert!(rules().search_is_stale(&SessionKey { vip: 5, ..KEY }, &search(1, 0)));
    }
}
