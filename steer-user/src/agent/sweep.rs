//! Ages the tables. The programs judge every timeout themselves when they look something up; this only gives back
//! memory, and tells which backends are still named.

mod names;
mod sources;

use std::collections::{HashMap, HashSet};

use anyhow::Result;
pub(super) use sources::Sources;
use steer_common::{
    flow::{State, Word},
    shared::{Backend, Flow, FlowKey, SERVICE_BACKEND, Session, SessionKey, Source, SourceKey, Vip},
};

use crate::{
    clock,
    plane::{Plane, Table},
};

/// Seconds that a closed flow lingers, for what is still on its way (RFC 9293 3.4.2 wants 2 MSL; Linux takes 60 s).
const LINGER: u32 = 60;
/// Seconds that a handshake is remembered: longer than a client repeats its SYN (Linux: 127 s).
const HANDSHAKE: u32 = 180;

/// What a sweep found and left.
#[derive(Clone, Default, Debug)]
pub struct Swept {
    /// Sessions left.
    pub sessions: u64,
    /// Names of ticket keys left.
    pub key_names: u64,
    /// Flows left.
    pub flows: u64,
    /// Re-homed flows left.
    pub splices: u64,
    /// Entries removed.
    pub removed: u64,
    /// Backends that something names.
    pub named: HashSet<u16>,
    /// Who makes the flows of each VIP, by `VipId`; of a sample.
    pub sources: HashMap<u16, Sources>,
    /// Interfaces that packets of clients came by, by index; of a sample.
    pub client_interfaces: HashSet<u32>,
}

/// Walks every table once.
pub fn sweep(plane: &mut Plane) -> Result<Swept> {
    let now = clock::seconds();
    let vips = plane.vips()?.into_iter().map(|(_, vip)| (vip.id, vip)).collect();
    let backends = plane.backends()?.into_iter().map(|(id, backend)| (id as u16, backend)).collect();
    let rules = Rules { now, vips, backends };
    let mut swept = Swept::default();
    swept.sessions = sweep_sessions(&mut plane.sessions, &rules, &mut swept)?;
    swept.removed += sweep_sources(&mut plane.sources, &rules)?;
    swept.key_names = names::sweep_names(plane, &rules, &mut swept)?;
    // Splices first: a flow's entry says what its splice's does not, and goes with it.
    swept.splices = sweep_splices(plane, &rules, &mut swept)?;
    let mut tally = sources::Tally::default();
    swept.flows = sweep_flows(&mut plane.flows, &mut swept, |key, flow| {
        let stale = rules.flow_is_stale(key, flow);
        if !stale {
            tally.note(key, flow);
        }
        stale
    })?;
    (swept.sources, swept.client_interfaces) = tally.finish();
    sweep_flows(&mut plane.handshakes, &mut swept, |key, flow| rules.handshake_is_stale(key, flow))?;
    Ok(swept)
}

/// The VIPs that any table names.
pub(crate) fn named_vips(plane: &Plane) -> Result<HashSet<u16>> {
    let mut named = HashSet::new();
    plane.sessions.for_each(|key, _| named.extend([key.vip]))?;
    for table in [&plane.key_names, &plane.key_name_tries] {
        table.for_each(|key, _| named.extend([key.vip]))?;
    }
    for table in [&plane.flows, &plane.splices, &plane.handshakes] {
        table.for_each(|key, _| named.extend([key.service]))?;
    }
    Ok(named)
}

struct Rules {
    now: u32,
    vips: HashMap<u16, Vip>,
    backends: HashMap<u16, Backend>,
}

impl Rules {
    fn session_is_stale(&self, key: &SessionKey, session: &Session) -> bool {
        // A session of a VIP that is gone can never be presented again.
        let Some(vip) = self.vips.get(&key.vip) else { return true };
        let old = vip.session_limit != 0 && clock::age(self.now, session.first_seen) > vip.session_limit;
        old || clock::age(self.now, session.last_seen) > vip.session_timeout
    }

    fn source_is_stale(&self, key: &SourceKey, source: &Source) -> bool {
        let Some(vip) = self.vips.get(&key.vip) else { return true };
        vip.sessions_per_source == 0 || clock::age(self.now, source.since) > vip.session_timeout
    }

    fn flow_is_stale(&self, key: &FlowKey, flow: &Flow) -> bool {
        if key.service & SERVICE_BACKEND != 0 {
            return false;
        }
        let Some(vip) = self.vips.get(&key.service) else { return true };
        // A flow waits for its owner for some retransmissions of its client; one that waits longer was given up.
        let waits = Word(flow.word).state() == State::Wait;
        clock::age(self.now, flow.seen) > if waits || flow.closing() { LINGER } else { vip.flow_timeout }
    }

    fn handshake_is_stale(&self, key: &FlowKey, flow: &Flow) -> bool {
        // A flow that was adopted is known by this entry alone.
        if Word(flow.word).state() == State::Adopted {
            return self.flow_is_stale(key, flow);
        }
        clock::age(self.now, flow.seen) > HANDSHAKE
    }
}

/// A set of backends' numbers, one entry a number: millions of entries name a few, and none is hashed.
struct Numbers(Vec<bool>);

impl Numbers {
    fn none() -> Self {
        Self(vec![false; usize::from(u16::MAX) + 1])
    }

    fn insert(&mut self, number: u16) {
        if let Some(named) = self.0.get_mut(usize::from(number)) {
            *named = true;
        }
    }

    fn into_iter(self) -> impl Iterator<Item = u16> {
        (0..=u16::MAX).zip(self.0).filter(|(_, named)| *named).map(|(number, _)| number)
    }
}

fn sweep_sessions(table: &mut Table<SessionKey, Session>, rules: &Rules, swept: &mut Swept) -> Result<u64> {
    let (mut kept, mut owners) = (0, Numbers::none());
    swept.removed += table.remove_stale(|key, session| {
        let stale = rules.session_is_stale(key, session);
        if !stale {
            kept += 1;
            owners.insert(session.owner);
        }
        stale
    })?;
    swept.named.extend(owners.into_iter());
    Ok(kept)
}

fn sweep_sources(table: &mut Table<SourceKey, Source>, rules: &Rules) -> Result<u64> {
    table.remove_stale(|key, source| rules.source_is_stale(key, source))
}

fn sweep_flows(
    table: &mut Table<FlowKey, Flow>,
    swept: &mut Swept,
    mut is_stale: impl FnMut(&FlowKey, &Flow) -> bool,
) -> Result<u64> {
    let (mut kept, mut backends) = (0, Numbers::none());
    swept.removed += table.remove_stale(|key, flow| {
        let stale = is_stale(key, flow);
        if !stale {
            kept += 1;
            backends.insert(flow.first);
            backends.insert(flow.owner);
        }
        stale
    })?;
    swept.named.extend(backends.into_iter());
    Ok(kept)
}

/// A splice lives as long as its flow, whose entry is stamped with every packet while it is not evicted.
fn sweep_splices(plane: &mut Plane, rules: &Rules, swept: &mut Swept) -> Result<u64> {
    let Plane { flows, splices, .. } = plane;
    sweep_flows(splices, swept, |key, splice| {
        let flow = flows.find(key).ok().flatten();
        rules.flow_is_stale(key, &flow.map_or(*splice, |flow| newest(splice, &flow)))
    })
}

/// What is known of a re-homed flow from both its entries.
fn newest(splice: &Flow, flow: &Flow) -> Flow {
    Flow { seen: splice.seen.max(flow.seen), flags: splice.flags | flow.flags, ..*splice }
}

#[cfg(test)]
mod tests {
    use steer_common::shared::{FLOW_CLIENT_FIN, FLOW_RESET, FLOW_SERVER_FIN};

    use super::*;

    const NOW: u32 = 100_000;

    fn rules() -> Rules {
        let vip = Vip { session_timeout: 600, session_limit: 3600, flow_timeout: 7860, ..Vip::default() };
        Rules { now: NOW, vips: [(0, vip)].into(), backends: HashMap::new() }
    }

    fn flow(age: u32, flags: u32) -> Flow {
        Flow { seen: NOW - age, flags, ..Flow::default() }
    }

    #[test]
    fn an_idle_flow_lives_as_long_as_its_vip_says() {
        let key = FlowKey::default();
        assert!(!rules().flow_is_stale(&key, &flow(7860, 0)));
        assert!(rules().flow_is_stale(&key, &flow(7861, 0)));
    }

    #[test]
    fn a_half_closed_flow_keeps_the_established_timeout() {
        assert!(!rules().flow_is_stale(&FlowKey::default(), &flow(3600, FLOW_CLIENT_FIN)));
    }

    #[test]
    fn a_closed_or_reset_flow_lingers_a_minute() {
        for flags in [FLOW_CLIENT_FIN | FLOW_SERVER_FIN, FLOW_RESET] {
            assert!(!rules().flow_is_stale(&FlowKey::default(), &flow(60, flags)));
            assert!(rules().flow_is_stale(&FlowKey::default(), &flow(61, flags)));
        }
    }

    #[test]
    fn a_flow_that_waited_for_its_owner_a_minute_was_given_up() {
        let waiting = |age| Flow { word: Word::new(State::Wait, 1).0, ..flow(age, 0) };
        assert!(!rules().flow_is_stale(&FlowKey::default(), &waiting(60)));
        assert!(rules().flow_is_stale(&FlowKey::default(), &waiting(61)));
    }

    #[test]
    fn a_session_ages_by_disuse_and_by_its_limit() {
        let key = SessionKey { vip: 0, kind: 1, len: 32, bytes: [7; 32] };
        let session = |first, last| Session { first_seen: NOW - first, last_seen: NOW - last, ..Session::default() };
        assert!(!rules().session_is_stale(&key, &session(3600, 600)));
        assert!(rules().session_is_stale(&key, &session(700, 601)));
        assert!(rules().session_is_stale(&key, &session(3601, 1)));
    }

    #[test]
    fn a_splice_takes_the_newer_stamp_and_the_flags_of_its_flow() {
        let both = newest(&flow(5000, 0), &flow(10, FLOW_RESET));
        assert_eq!((both.seen, both.flags), (NOW - 10, FLOW_RESET));
    }

    #[test]
    fn what_belongs_to_a_vip_that_is_gone_is_stale() {
        let key = FlowKey { service: 9, ..FlowKey::default() };
        assert!(rules().flow_is_stale(&key, &flow(0, 0)));
    }
}
