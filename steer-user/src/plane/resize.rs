//! Tables that get another size, or come from another layout (`carry`), while programs run.
//!
//! The new table is made beside the old one and filled while the old programs still write to the
//! old one. Right before the new programs take over it is made the same once more ([`mirror`]);
//! once they have, the old table is walked a last time, and what was written to it in between is
//! brought over ([`merge`]). No copy has the lock of a flow: who holds it holds it in the other
//! table.

use std::{os::fd::AsFd as _, path::Path, thread, time::Duration};

use anyhow::{Context as _, Result};
use aya::Pod;
use steer_common::{
    flow::{State, StateWord},
    maps::Map,
    shared::{Flow, FlowKey, Foreign, KeyName, Leg, Pending, Session, SessionKey, Source},
};

use super::{Table, sys};

/// How often a flow that a packet has locked is looked at again, and how long the packet gets each
/// time: it needs some microseconds.
const TRIES: u32 = 20;
const PAUSE: Duration = Duration::from_millis(1);

/// How the entries of a table get into one of another size: by [`mirror`] and [`merge`].
pub(super) struct Copier {
    pub(super) mirror: fn(&Path, &Path) -> Result<u64>,
    pub(super) merge: fn(&Path, &Path, Option<u32>) -> Result<u64>,
}

impl Copier {
    /// That of a map, by what it holds. `None`: a map of another size starts empty, for counters of
    /// another version mean something else, and a cache fills itself.
    pub(super) fn of(map: &Map) -> Option<Self> {
        match map.value.name {
            "Flow" => Some(Self::new::<FlowKey, Flow>()),
            "Pending" => Some(Self::new::<FlowKey, Pending>()),
            "Leg" => Some(Self::new::<FlowKey, Leg>()),
            "Session" => Some(Self::new::<SessionKey, Session>()),
            _ => None,
        }
    }

    fn new<K: Pod, V: Entry>() -> Self {
        Self { mirror: mirror::<K, V, V>, merge: merge_resized::<K, V> }
    }
}

/// As [`merge`]. While a start changes sizes nothing begins (`Plane::set_filling`); where one was
/// broken off, and the next one ends it, much may have begun in the new table since.
fn merge_resized<K: Pod, V: Entry>(from: &Path, to: &Path, since: Option<u32>) -> Result<u64> {
    match since {
        Some(_) => merge::<K, V, V, true>(from, to, since),
        None => merge::<K, V, V, false>(from, to, since),
    }
}

/// A value as another layout, or the same one, has it.
pub(super) trait Becomes<V> {
    /// What it says in the layout of `V`; `None`: there it would say nothing, or something else.
    fn becomes(&self) -> Option<V>;
}

impl<V: Copy> Becomes<V> for V {
    fn becomes(&self) -> Option<V> {
        Some(*self)
    }
}

/// A value of a table that may be copied while programs write to it.
pub(super) trait Entry: Pod {
    /// The value without a lock.
    fn unlocked(self) -> Self {
        self
    }

    /// Whether a packet is changing it right now.
    fn is_locked(&self) -> bool {
        false
    }

    /// Whether this is of something else, in the same place.
    fn is_another(&self, _other: &Self) -> bool {
        false
    }

    /// When it was used last, seconds of CLOCK_MONOTONIC.
    fn stamp(&self) -> u32;

    /// What both tables together know, `self` being of the old one and `new` of the new one.
    fn with(self, new: &Self) -> Self;
}

impl Entry for Flow {
    fn unlocked(self) -> Self {
        Self { word: self.word & !StateWord::LOCK, ..self }
    }

    fn is_locked(&self) -> bool {
        StateWord(self.word).locked()
    }

    fn stamp(&self) -> u32 {
        self.seen
    }

    /// Another connection on the same ports.
    fn is_another(&self, other: &Self) -> bool {
        StateWord(self.word).isn() != StateWord(other.word).isn()
    }

    fn with(self, new: &Self) -> Self {
        let old = self.unlocked();
        if self.is_another(new) {
            return if old.seen > new.seen { old } else { *new };
        }
        let (before, after) = (rank(&old), rank(new));
        let old_is_ahead = before > after || before == after && is_ahead(&old, new);
        let later = if old_is_ahead { old } else { *new };
        Self { seen: old.seen.max(new.seen), flags: old.flags | new.flags, ..later }
    }
}

/// How far a flow has come: what is settled is never unsettled.
fn rank(flow: &Flow) -> u8 {
    match StateWord(flow.word).state() {
        State::Syn => 1,
        State::SynAck => 2,
        State::Adopted | State::Established => 3,
        State::Gather => 4,
        State::Wait => 5,
        State::Spliced | State::First => 6,
    }
}

/// Whether one record of a flow has seen more of it than another in the same state.
fn is_ahead(old: &Flow, new: &Flow) -> bool {
    let ahead = |a: u32, b: u32| (a.wrapping_sub(b) as i32) > 0;
    let numbers =
        ahead(old.client_next, new.client_next) || ahead(old.server_next, new.server_next);
    let behind = ahead(new.client_next, old.client_next) || ahead(new.server_next, old.server_next);
    match (numbers, behind) {
        (true, false) => true,
        (false, true) => false,
        (true, true) | (false, false) => old.seen > new.seen || old.owner_tries > new.owner_tries,
    }
}

impl Entry for Session {
    fn stamp(&self) -> u32 {
        self.last_seen
    }

    fn with(self, new: &Self) -> Self {
        let (old_is_later, uses) = (self.last_seen > new.last_seen, self.uses.max(new.uses));
        Self { uses, ..if old_is_later { self } else { *new } }
    }
}

impl Entry for Pending {
    fn stamp(&self) -> u32 {
        (self.grown_at / 1_000_000_000) as u32
    }

    fn with(self, new: &Self) -> Self {
        if self.grown_at > new.grown_at { self } else { *new }
    }
}

impl Entry for KeyName {
    fn stamp(&self) -> u32 {
        self.last_seen
    }

    fn with(self, new: &Self) -> Self {
        let (flags, hits, accepted) =
            (self.flags | new.flags, self.hits.max(new.hits), self.accepted.max(new.accepted));
        Self { flags, hits, accepted, ..if self.last_seen > new.last_seen { self } else { *new } }
    }
}

impl Entry for Source {
    fn stamp(&self) -> u32 {
        self.since
    }

    fn with(self, new: &Self) -> Self {
        if (self.since, self.n_sessions) > (new.since, new.n_sessions) { self } else { *new }
    }
}

impl Entry for Foreign {
    fn stamp(&self) -> u32 {
        self.seen
    }

    fn with(self, new: &Self) -> Self {
        if self.seen > new.seen { self } else { *new }
    }
}

impl Entry for Leg {
    fn stamp(&self) -> u32 {
        self.seen
    }

    fn with(self, new: &Self) -> Self {
        if self.seen > new.seen { self } else { *new }
    }
}

/// Makes a table the same as another, locks aside. Nobody else may write to it. Returns how many
/// entries did not fit.
pub(super) fn mirror<K: Pod, O: Pod + Becomes<V>, V: Entry>(from: &Path, to: &Path) -> Result<u64> {
    let (from, mut to) = (Table::<K, O>::open_pin(from)?, Table::<K, V>::open_pin(to)?);
    to.remove_stale(|key, _| matches!(from.find(key), Ok(None)))?;
    let (mut left, mut failed) = (0, Ok(()));
    from.for_each_batch(|keys, values| {
        let both = keys
            .iter()
            .zip(values)
            .filter_map(|(key, value)| Some((*key, value.becomes()?.unlocked())));
        let (keys, values) = both.unzip::<_, _, Vec<_>, Vec<_>>();
        match to.insert_all(&keys, &values) {
            Ok(refused) => left += refused,
            Err(error) => failed = Err(error),
        }
    })?;
    failed.map(|()| left)
}

/// Brings over what was written to a table since it was mirrored; others may write to the new one
/// meanwhile. `since` is when the mirror was begun, seconds of CLOCK_MONOTONIC; without it
/// everything that is missing is brought over, and nothing removed. `AT_REST` says that nothing new
/// began in the new table meanwhile: what is another thing in the old one is the later. Returns how
/// many entries did not fit.
pub(super) fn merge<K: Pod, O: Pod + Becomes<V>, V: Entry, const AT_REST: bool>(
    from: &Path,
    to: &Path,
    since: Option<u32>,
) -> Result<u64> {
    let (from, mut to) = (Table::<K, O>::open_pin(from)?, Table::<K, V>::open_pin(to)?);
    let (mut left, mut failed) = (0, Ok(()));
    from.for_each(|key, value| {
        let Some(value) = value.becomes() else { return };
        match bring::<_, _, AT_REST>(&mut to, &key, value, since) {
            Ok(fits) => left += u64::from(!fits),
            Err(error) => failed = Err(error),
        }
    })?;
    failed?;
    if let Some(since) = since {
        // What has no newer stamp was in the old table when it was mirrored, and was removed from
        // there.
        to.remove_stale(|key, value| value.stamp() < since && matches!(from.find(key), Ok(None)))?;
    }
    Ok(left)
}

/// Brings one entry over; `false` if there is no room.
fn bring<K: Pod, V: Entry, const AT_REST: bool>(
    to: &mut Table<K, V>,
    key: &K,
    value: V,
    since: Option<u32>,
) -> Result<bool> {
    for _ in 0..TRIES {
        let Some(new) = to.find(key)? else {
            // One that was there at the mirror is gone by what the new programs did.
            let is_late = since.is_none_or(|since| value.stamp().saturating_add(1) >= since);
            return if is_late { to.insert_new(key, &value.unlocked()) } else { Ok(true) };
        };
        let is_later = AT_REST && value.is_another(&new) && value.stamp() >= new.stamp();
        let both = if is_later { value.unlocked() } else { value.with(&new) };
        if sys::bytes(&both) == sys::bytes(&new) {
            return Ok(true);
        }
        if !new.is_locked() {
            return to.insert(key, &both).map(|()| true);
        }
        thread::sleep(PAUSE);
    }
    log::debug!("a flow stayed locked while its table was copied");
    Ok(true)
}

/// Settles in `flows` what `splices` says is re-homed: a splice is the proof of it.
pub(super) fn settle(splices: &Path, flows: &Path) -> Result<()> {
    let (splices, mut flows) =
        (Table::<FlowKey, Flow>::open_pin(splices)?, Table::<FlowKey, Flow>::open_pin(flows)?);
    let mut failed = Ok(());
    splices.for_each(|key, splice| {
        if StateWord(splice.word).state() != State::Spliced {
            return;
        }
        let settled = flows.find(&key).and_then(|flow| match flow {
            Some(flow)
                if StateWord(flow.word).isn() == StateWord(splice.word).isn()
                    && rank(&flow) < rank(&splice) =>
            {
                flows.insert(&key, &splice.with(&flow))
            }
            Some(_) | None => Ok(()),
        });
        failed = std::mem::replace(&mut failed, Ok(())).and(settled);
    })?;
    failed.context("settle what is re-homed")
}

impl<K: Pod, V: Pod> Table<K, V> {
    /// Calls `each` with some entries at a time.
    fn for_each_batch(&self, mut each: impl FnMut(&[K], &[V])) -> Result<()> {
        let walk = sys::lookup_all(self.raw().as_fd(), &mut each);
        walk.with_context(|| format!("walk the map {}", self.name()))
    }
}

#[cfg(test)]
mod tests {
    use steer_common::{
        maps::{MAPS, Size},
        shared::{FLOW_CLIENT_FIN, FLOW_LEARNED},
    };

    use super::*;

    fn flow(state: State, isn: u32, seen: u32) -> Flow {
        Flow { word: StateWord::new(state, isn).0, seen, ..Flow::default() }
    }

    #[test]
    fn the_tables_whose_size_the_configuration_says_are_copied_and_no_others() {
        for map in MAPS {
            // What a cache loses it finds again.
            let copied = map.size == Size::Sizable && map.name != "fast";
            assert_eq!(Copier::of(map).is_some(), copied, "{}", map.name);
        }
    }

    #[test]
    fn what_is_settled_in_one_table_is_settled_in_both_together() {
        for settled in [State::Spliced, State::First] {
            for unsettled in [State::Established, State::Gather, State::Wait] {
                let (old, new) = (flow(settled, 7, 5), flow(unsettled, 7, 9));
                assert_eq!(
                    old.with(&new),
                    Flow { seen: 9, ..old },
                    "{settled:?} was, {unsettled:?} is copied"
                );
                assert_eq!(
                    new.with(&old),
                    Flow { seen: 9, ..old },
                    "{unsettled:?} was, {settled:?} is"
                );
            }
        }
    }

    #[test]
    fn no_lock_is_taken_over() {
        let locked = Flow { word: StateWord::new(State::Gather, 7).lock().0, ..Flow::default() };
        assert!(!StateWord(locked.unlocked().word).locked());
        assert!(!StateWord(locked.with(&flow(State::Established, 7, 0)).word).locked());
    }

    #[test]
    fn flags_and_numbers_of_both_are_kept_and_a_connection_that_reused_the_ports_is_another() {
        let old = Flow { flags: FLOW_CLIENT_FIN, client_next: 20, ..flow(State::First, 7, 5) };
        let new = Flow { flags: FLOW_LEARNED, client_next: 10, ..flow(State::First, 7, 5) };
        let both = old.with(&new);
        assert_eq!((both.flags, both.client_next), (FLOW_CLIENT_FIN | FLOW_LEARNED, 20));
        assert_eq!(
            flow(State::First, 7, 5).with(&flow(State::Established, 8, 6)),
            flow(State::Established, 8, 6)
        );
        assert_eq!(
            flow(State::Established, 8, 6).with(&flow(State::First, 7, 5)),
            flow(State::Established, 8, 6)
        );
    }

    #[test]
    fn a_session_keeps_its_last_owner_and_all_its_uses() {
        let (old, new) = (
            Session { owner: 1, last_seen: 9, uses: 3, ..Session::default() },
            Session { owner: 2, last_seen: 5, uses: 8, ..Session::default() },
        );
        assert_eq!(old.with(&new), Session { uses: 8, ..old });
        assert_eq!(new.with(&old), Session { uses: 8, ..old });
    }
}
