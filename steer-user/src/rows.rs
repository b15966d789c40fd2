//! What a gateway knows of an identifier, in words that mean the same at another gateway, or at this
//! one after a reboot: pools and backends by name and address, times as ages.

mod fact;

use std::{collections::HashMap, net::SocketAddr};

use anyhow::Result;
pub use fact::Fact;
pub(crate) use fact::Told;
use steer_common::{
    session::Kind,
    shared::{
        BACKEND_PRESENT, KEY_NAME_CONFIGURED, KEY_NAME_OPENED_TWO, KEY_NAME_PROVEN,
        KEY_NAME_SHARED, KeyName, Session, SessionKey, Vip,
    },
};

use crate::{address::socket, clock, plane::Plane, service::Service};

/// Flags of a key name that travel; what an operator configured stands in a configuration.
const TRAVELS: u16 = KEY_NAME_SHARED | KEY_NAME_PROVEN | KEY_NAME_OPENED_TWO;

/// Numbers of this gateway, by what they stand for, and the other way round.
#[derive(Default)]
pub(crate) struct Names {
    pub(crate) services: HashMap<u16, Service>,
    pub(crate) vips: HashMap<Service, Vip>,
    pub(crate) owners: HashMap<u16, SocketAddr>,
    /// Backends that stand in a pool, by the pool's number and theirs.
    pub(crate) backends: HashMap<(u16, SocketAddr), u16>,
    /// The same with those that left their pool, and may hold flows.
    pub(crate) holders: HashMap<(u16, SocketAddr), u16>,
    /// The pool's number of each backend, by its own.
    pub(crate) pools: HashMap<u16, u16>,
    /// VIPs that share the pool of another one, by their number.
    pub(crate) entrances: HashMap<u8, SocketAddr>,
}

#[cfg(test)]
impl Names {
    /// As if none had left its pool.
    pub(crate) fn with_holders(mut self) -> Self {
        self.holders.clone_from(&self.backends);
        self.pools = self.backends.iter().map(|((pool, _), id)| (*id, *pool)).collect();
        self
    }
}

impl Names {
    pub(crate) fn read(plane: &Plane) -> Result<Self> {
        let vips = plane.vips()?.into_iter().map(|(at, vip)| (Service::of(&at), vip));
        let vips = vips.collect::<HashMap<_, _>>();
        let services = vips.iter().map(|(at, vip)| (vip.id, *at)).collect();
        let (mut owners, mut backends) = (HashMap::new(), HashMap::new());
        let (mut holders, mut pools) = (HashMap::new(), HashMap::new());
        for (id, backend) in plane.backends()? {
            let (id, address) = (id as u16, socket(&backend.endpoint));
            owners.insert(id, address);
            pools.insert(id, backend.vip_id);
            holders.entry((backend.vip_id, address)).or_insert(id);
            if backend.flags & BACKEND_PRESENT != 0 {
                backends.insert((backend.vip_id, address), id);
            }
        }
        holders.extend(backends.iter().map(|(at, id)| (*at, *id)));
        let entrances = plane.entrances()?.into_iter();
        let entrances = entrances.map(|(number, at)| (number as u8, socket(&at.endpoint)));
        let entrances = entrances.collect();
        Ok(Self { services, vips, owners, backends, holders, pools, entrances })
    }

    /// What an entry of `sessions` says; `None` where its pool or owner is forgotten.
    pub(crate) fn session(&self, key: &SessionKey, session: &Session, now: u32) -> Option<Fact> {
        let ages = [session.first_seen, session.last_seen];
        let fact = self.fact(key, session.owner, ages, now)?;
        Some(Fact { uses: session.uses, ..fact })
    }

    /// What an entry of `key_names` says; `None` where it is configured, or its pool or owner is
    /// forgotten.
    pub(crate) fn key_name(&self, key: &SessionKey, name: &KeyName, now: u32) -> Option<Fact> {
        if name.flags & KEY_NAME_CONFIGURED != 0 {
            return None;
        }
        let fact = self.fact(key, name.owner, [name.first_seen, name.last_seen], now)?;
        let KeyName { accepted, tail, flags, .. } = *name;
        Some(Fact { uses: accepted, tail, flags: flags & TRAVELS, ..fact })
    }

    fn fact(
        &self,
        key: &SessionKey,
        owner: u16,
        [first, last]: [u32; 2],
        now: u32,
    ) -> Option<Fact> {
        Some(Fact {
            pool: *self.services.get(&key.vip)?,
            kind: Kind::from_number(key.kind)?,
            id: key.bytes.get(..usize::from(key.len))?.to_vec(),
            owner: *self.owners.get(&owner)?,
            age: clock::age(now, first),
            idle: clock::age(now, last),
            uses: 0,
            tail: 0,
            flags: 0,
        })
    }

    /// Where a fact stands here, or why it cannot.
    fn place(&self, fact: &Fact, now: u32) -> Result<Place, Told> {
        let vip = self.vips.get(&fact.pool).ok_or(Told::Elsewhere)?;
        let owner = *self.backends.get(&(vip.id, fact.owner)).ok_or(Told::Elsewhere)?;
        let is_name = fact.kind == Kind::KeyName;
        let timeout = if is_name { vip.name_timeout } else { vip.session_timeout };
        let is_over = !is_name && vip.session_limit != 0 && fact.age > vip.session_limit;
        if fact.idle > timeout || is_over {
            return Err(Told::Expired);
        }
        let key = SessionKey::new(vip.id, fact.kind, &fact.id).ok_or(Told::Elsewhere)?;
        // Before the clock's beginning, where the machine runs for less.
        let [first_seen, last_seen] = [fact.age, fact.idle].map(|age| now.wrapping_sub(age));
        Ok(Place { key, owner, first_seen, last_seen })
    }

    /// Under which key an entry stands here that a fact makes, and when its owner spoke last.
    pub(crate) fn stamp(&self, fact: &Fact, now: u32) -> Option<(SessionKey, u32)> {
        self.place(fact, now).ok().map(|place| (place.key, place.last_seen))
    }

    /// Takes a fact over, but for what is known better here.
    ///
    /// # Errors
    /// When a map cannot be read or written.
    pub(crate) fn take(&self, plane: &mut Plane, fact: &Fact, now: u32) -> Result<Told> {
        let place = match self.place(fact, now) {
            Ok(place) => place,
            Err(told) => return Ok(told),
        };
        let key = place.key;
        let taken = if fact.kind == Kind::KeyName {
            let merged = merged_name(plane.key_names.find(&key)?.as_ref(), fact, &place);
            merged.map(|name| plane.key_names.insert(&key, &name))
        } else {
            let known = plane.sessions.find(&key)?;
            let merged =
                merged_session(known.as_ref(), fact, &place, |id| self.owners.get(&id).copied());
            merged.map(|session| plane.sessions.insert(&key, &session))
        };
        taken.map_or(Ok(Told::Known), |written| written.map(|()| Told::Taken))
    }
}

/// Where a fact stands here.
struct Place {
    key: SessionKey,
    owner: u16,
    first_seen: u32,
    last_seen: u32,
}

/// Ages are told in whole seconds, and the way takes some.
const SAME_TIME: i32 = 1;

/// What is to stand in `sessions`; `None`: what stands there. Whose owner spoke later is right; of
/// two that spoke at the same time the lower address is, wherever and in whatever order both are
/// told.
fn merged_session(
    known: Option<&Session>,
    fact: &Fact,
    place: &Place,
    address: impl Fn(u16) -> Option<SocketAddr>,
) -> Option<Session> {
    let Place { owner, first_seen, last_seen, .. } = *place;
    let told = Session { owner, flags: 0, first_seen, last_seen, uses: fact.uses };
    let Some(known) = known else { return Some(told) };
    let later = last_seen.wrapping_sub(known.last_seen) as i32;
    if known.owner == owner {
        // Refreshed: what is first-hand stays, but for the time.
        return (later > SAME_TIME).then(|| Session {
            last_seen,
            uses: known.uses.max(fact.uses),
            ..*known
        });
    }
    let wins = if later.abs() <= SAME_TIME {
        address(known.owner).is_none_or(|known| fact.owner < known)
    } else {
        later > 0
    };
    wins.then_some(told)
}

/// What is to stand in `key_names`; `None`: what stands there. What two backends open tickets of is
/// shared, for good; what an operator configured is right.
fn merged_name(known: Option<&KeyName>, fact: &Fact, place: &Place) -> Option<KeyName> {
    let Place { owner, first_seen, last_seen, .. } = *place;
    let Fact { uses: accepted, tail, .. } = *fact;
    let flags = fact.flags & TRAVELS;
    let told =
        KeyName { owner, flags, first_seen, last_seen, accepted, tail, ..KeyName::default() };
    let Some(known) = known else { return Some(told) };
    if known.flags & KEY_NAME_CONFIGURED != 0 {
        return None;
    }
    let other = if known.owner == owner { 0 } else { KEY_NAME_SHARED };
    let flags = known.flags | flags | other;
    let is_later = last_seen.wrapping_sub(known.last_seen) as i32 > SAME_TIME;
    let last_seen = if is_later { last_seen } else { known.last_seen };
    (flags != known.flags || is_later).then_some(KeyName { flags, last_seen, ..*known })
}

#[cfg(test)]
pub(crate) mod tests {
    use proptest::prelude::*;

    use super::*;

    pub(crate) fn fact() -> Fact {
        Fact {
            pool: "198.51.100.10:443".parse().unwrap(),
            kind: Kind::SessionId,
            id: vec![0xab; 32],
            owner: "10.0.0.1:443".parse().unwrap(),
            age: 90,
            idle: 5,
            uses: 3,
            tail: 0,
            flags: 0,
        }
    }

    pub(crate) fn names() -> Names {
        let service = fact().pool;
        let vip = Vip { id: 3, session_timeout: 600, name_timeout: 50, ..Vip::default() };
        let other = "10.0.0.2:443".parse().unwrap();
        Names {
            services: HashMap::from([(3, service)]),
            vips: HashMap::from([(service, vip)]),
            owners: HashMap::from([(7, fact().owner), (8, other)]),
            backends: HashMap::from([((3, fact().owner), 7), ((3, other), 8)]),
            ..Names::default()
        }
    }

    #[test]
    fn a_fact_means_the_same_wherever_and_whenever_it_is_told() {
        let names = names();
        let key = SessionKey::new(3, Kind::SessionId, &[0xab; 32]).unwrap();
        let entry = Session { owner: 7, first_seen: 910, last_seen: 995, uses: 3, flags: 0 };
        assert_eq!(names.session(&key, &entry, 1000), Some(fact()));
        // A machine that runs for a minute; the clock of the other one was further on.
        for now in [60, 1000, u32::MAX] {
            let place = names.place(&fact(), now).ok().unwrap();
            assert_eq!((place.key, place.owner), (key, 7));
            let ages = [place.first_seen, place.last_seen].map(|stamp| clock::age(now, stamp));
            assert_eq!(ages, [90, 5]);
        }
        for (pool, owner) in
            [("198.51.100.11:443", "10.0.0.1:443"), ("198.51.100.10:443", "10.0.0.3:443")]
        {
            let (pool, owner) = (pool.parse().unwrap(), owner.parse().unwrap());
            let elsewhere = names.place(&Fact { pool, owner, ..fact() }, 1000);
            assert_eq!(elsewhere.err(), Some(Told::Elsewhere));
        }
        let old = names.place(&Fact { idle: 601, ..fact() }, 1000);
        assert_eq!(old.err(), Some(Told::Expired));
        let name = Fact { kind: Kind::KeyName, idle: 51, ..fact() };
        assert_eq!(names.place(&name, 1000).err(), Some(Told::Expired));
    }

    /// What stands in a table after facts were told one after the other, at one time.
    fn told<T: Copy>(
        facts: &[&Fact],
        merged: impl Fn(Option<&T>, &Fact, &Place, &Names) -> Option<T>,
    ) -> Option<T> {
        let names = names();
        facts.iter().fold(None, |known: Option<T>, fact| {
            let place = names.place(fact, 1000).ok().unwrap();
            merged(known.as_ref(), fact, &place, &names).or(known)
        })
    }

    fn session(facts: &[&Fact]) -> u16 {
        let merged = |known: Option<&Session>, fact: &Fact, place: &Place, names: &Names| {
            merged_session(known, fact, place, |id| names.owners.get(&id).copied())
        };
        told(facts, merged).unwrap().owner
    }

    #[test]
    fn facts_end_the_same_in_whatever_order_and_however_often_they_are_told() {
        let other = Fact { owner: "10.0.0.2:443".parse().unwrap(), ..fact() };
        // The one whose owner spoke last; at the same time the lower address.
        for (idle, owner) in [(1, 8), (3, 8), (4, 7), (5, 7), (6, 7), (60, 7)] {
            let (a, b) = (&fact(), &Fact { idle, ..other.clone() });
            for order in [&[a, b][..], &[b, a], &[a, b, a], &[b, a, b, b]] {
                assert_eq!(session(order), owner, "{idle}: {order:?}");
            }
        }
        let name = |owner: &Fact, flags| Fact { kind: Kind::KeyName, flags, ..owner.clone() };
        let (a, b, c) = (name(&fact(), 0), name(&other, 0), name(&fact(), KEY_NAME_OPENED_TWO));
        let flags = |facts: &[&Fact]| {
            told(facts, |known, fact, place, _| merged_name(known, fact, place)).unwrap().flags
        };
        for order in [[&a, &b, &c], [&c, &b, &a], [&b, &c, &a], [&a, &c, &b]] {
            assert_eq!(flags(&order), KEY_NAME_SHARED | KEY_NAME_OPENED_TWO, "{order:?}");
        }
        assert_eq!(flags(&[&a, &a, &c]), KEY_NAME_OPENED_TWO);
    }

    #[test]
    fn what_an_operator_configured_is_right() {
        let known = KeyName { owner: 8, flags: KEY_NAME_CONFIGURED, ..KeyName::default() };
        let told = Fact { kind: Kind::KeyName, ..fact() };
        let place = names().place(&told, 1000).ok().unwrap();
        assert_eq!(merged_name(Some(&known), &told, &place), None);
    }

    /// One gateway's knowledge of one session: owner and when it spoke last, on a clock of its own.
    #[derive(Clone, Copy, Debug)]
    struct Gateway {
        ahead: u32,
        known: Option<Session>,
    }

    impl Gateway {
        /// What it says at a time of no clock.
        fn tells(&self, names: &Names, time: u32) -> Option<Fact> {
            let key = SessionKey::new(3, Kind::SessionId, &[0xab; 32])?;
            names.session(&key, &self.known?, time + self.ahead)
        }

        /// A row reaches it that was told at `told`.
        fn hears(&mut self, names: &Names, fact: &Fact, told: u32, time: u32) {
            let fact = Fact { idle: fact.idle + time - told, ..fact.clone() };
            let place = names.place(&fact, time + self.ahead).ok().unwrap();
            let owner = |id| names.owners.get(&id).copied();
            let merged = merged_session(self.known.as_ref(), &fact, &place, owner);
            self.known = merged.or(self.known);
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 500, failure_persistence: None, ..ProptestConfig::default() })]

        /// What two backends say of a session within a second has no order; else the later one is
        /// right everywhere.
        #[test]
        fn gateways_end_with_the_same_tables_whatever_is_lost_repeated_or_late(
            // Some of the machines just started.
            clocks in prop::array::uniform4(prop_oneof![Just(0u32), 0u32..100_000]),
            // Who learns of which backend, and how long after what came before.
            learned in prop::collection::vec((0usize..4, 7u16..9, prop_oneof![Just(0u32), 3u32..20]), 1..12),
            // Which row reaches whom in between; others are lost.
            ways in prop::collection::vec((0usize..12, 0usize..4), 0..60),
            // In which order all tell all that they know in the end.
            order in Just((0usize..12).collect::<Vec<_>>()).prop_shuffle(),
        ) {
            let names = names();
            let mut gateways = clocks.map(|ahead| Gateway { ahead, known: None });
            let (mut time, mut rows) = (10_u32, Vec::new());
            let mut ways = ways.into_iter();
            for (at, owner, later) in learned {
                time += later;
                let now = time + gateways[at].ahead;
                let first_seen = gateways[at].known.filter(|known| known.owner == owner);
                let first_seen = first_seen.map_or(now, |known| known.first_seen);
                let known = Session { owner, flags: 0, first_seen, last_seen: now, uses: 0 };
                gateways[at].known = Some(known);
                rows.push((gateways[at].tells(&names, time).unwrap(), time));
                for (row, to) in ways.by_ref().take(5) {
                    let (fact, told) = &rows[row % rows.len()];
                    gateways[to].hears(&names, fact, *told, time);
                }
            }
            // Everybody tells everybody all that it knows, as it does every few minutes; twice, for
            // what the first ones told may be older than what the last ones did.
            for _ in 0..2 {
                for pair in &order {
                    let (from, to) = (pair / 3, [1, 2, 3].map(|by| (pair / 3 + by) % 4)[pair % 3]);
                    if let Some(fact) = gateways[from].tells(&names, time) {
                        gateways[to].hears(&names, &fact, time, time);
                    }
                }
            }
            let owners = gateways.map(|gateway| gateway.known.map(|known| known.owner));
            prop_assert!(owners.iter().all(|owner| *owner == owners[0]), "{gateways:?}");
            let last = gateways.map(|gateway| {
                i64::from(clock::age(time + gateway.ahead, gateway.known.unwrap().last_seen))
            });
            prop_assert!(last.iter().all(|at| at.abs_diff(last[0]) <= 1), "{gateways:?}");
        }
    }
}
