//! Ages the tables. The programs judge every timeout themselves when they look something up; this
//! only gives back memory, and tells which backends are still named. What is removed was judged the
//! moment before.

mod held;
mod names;
mod opened;
mod sources;

use std::collections::{HashMap, HashSet};

use anyhow::Result;
pub use held::{Held, Holding};
pub(super) use opened::{Answers, Opened};
pub(super) use sources::Sources;
use steer_common::{
    fast,
    flow::{State, StateWord},
    shared::{
        BACKEND_DIALLED, BACKEND_PRESENT, Backend, Endpoint, FLOW_MADE, Flow, FlowKey, Foreign,
        LEG_ENDED, Leg, SERVICE_BACKEND, SERVICE_POOL, SERVICE_WAY_THERE, Session, SessionKey,
        Source, SourceKey, Vip, backend_bit,
    },
};

use crate::{
    clock,
    plane::{Plane, Table},
};

/// Seconds that a closed flow lingers, for what is still on its way (RFC 9293 3.4.2 wants 2 MSL;
/// Linux takes 60 s).
const LINGER: u32 = 60;
/// Seconds that a handshake is remembered: longer than a client repeats its SYN (Linux: 127 s).
const HANDSHAKE: u32 = 180;
/// Seconds in which a handshake that is going to end well ends.
const OPENING: u32 = 10;
/// Seconds without a packet after which a connection that no VIP's settings rule is forgotten (RFC
/// 5382 REQ-5).
const FLOW_TIMEOUT: u32 = 7860;

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
    /// What was opened lately.
    pub opened: Opened,
    /// What each backend holds.
    pub held: Held,
    /// Interfaces that packets of clients came by, by index; of a sample.
    pub client_interfaces: HashSet<u32>,
}

/// Walks every table once.
pub fn sweep(plane: &mut Plane) -> Result<Swept> {
    let rules = Rules::new(&plane.vips()?, &plane.backends()?);
    let (mut swept, mut held) = (Swept::default(), held::Tally::new());
    swept.sessions = sweep_sessions(&mut plane.sessions, &rules, &mut swept, &mut held)?;
    swept.removed += sweep_sources(&mut plane.sources, &rules)?;
    swept.key_names = names::sweep_names(plane, &rules, &mut swept, &mut held)?;
    // Splices first: a flow's entry says what its splice's does not, and goes with it.
    swept.splices = sweep_splices(plane, &rules, &mut swept, &mut held)?;
    let (mut tally, mut opened) = (sources::Tally::default(), opened::Tally::default());
    swept.flows = sweep_flows(&mut plane.flows, &mut swept, |key, flow| {
        let stale = rules.flow_is_stale(key, flow);
        if let Some(vip) = rules.vip_id(key.service).filter(|_| !stale) {
            tally.note(vip, key, flow);
            opened.flow(flow);
        }
        if !stale && !flow.closing() {
            held.flow(flow);
        }
        stale
    })?;
    (swept.sources, swept.client_interfaces) = tally.finish();
    sweep_flows(&mut plane.handshakes, &mut swept, |key, flow| {
        let stale = rules.handshake_is_stale(key, flow);
        if let Some(vip) = rules.vip_id(key.service).filter(|_| !stale) {
            opened.handshake(vip, key, flow);
        }
        if !stale && rules.is_opening(key, flow) {
            held.flow(flow);
        }
        stale
    })?;
    (swept.opened, swept.held) = (opened.finish(), held.finish());
    swept.removed +=
        plane.foreign.remove_stale(|key, foreign| rules.foreign_is_stale(key, foreign))?;
    swept.removed += sweep_legs(plane, &rules, &mut swept.named)?;
    Ok(swept)
}

/// Connections of a gateway that are not over.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Open {
    /// To its VIPs and inline pools.
    pub connections: u64,
    /// Being made.
    pub handshakes: u64,
    /// That dialled a backend itself and have another port there.
    pub direct: u64,
}

impl Open {
    /// All of them.
    pub fn total(self) -> u64 {
        self.connections + self.handshakes + self.direct
    }
}

/// Counts the connections that would break without the programs.
pub fn open(plane: &Plane) -> Result<Open> {
    let rules = Rules::new(&plane.vips()?, &plane.backends()?);
    let (mut open, mut unread) = (Open::default(), Ok(()));
    plane.flows.for_each(|key, flow| open.connections += u64::from(rules.is_open(&key, &flow)))?;
    plane.splices.for_each(|key, splice| match plane.flows.find(&key) {
        // Counted with its flow.
        Ok(Some(_)) => {}
        Ok(None) => open.connections += u64::from(rules.is_open(&key, &splice)),
        Err(error) => unread = Err(error),
    })?;
    plane.handshakes.for_each(|key, flow| {
        open.handshakes += u64::from(rules.is_opening(&key, &flow));
    })?;
    plane.legs.for_each(|key, leg| {
        // One with a flow is counted with it, one to a backend itself by its way back.
        let direct = key.service & SERVICE_WAY_THERE == 0 && rules.is_direct(&key, &leg);
        let ended = leg.service & LEG_ENDED == LEG_ENDED;
        open.direct += u64::from(direct && !ended && !rules.leg_is_stale(&key, &leg, None));
    })?;
    unread.map(|()| open)
}

/// When an entry of any table is too old.
pub(crate) struct Rules {
    now: u32,
    vips: HashMap<u16, Vip>,
    backends: HashMap<u16, Backend>,
    /// By VIP, the backends of its pool as a search knows them.
    pools: HashMap<u16, u64>,
}

impl Rules {
    pub(crate) fn new(vips: &[(Endpoint, Vip)], backends: &[(u32, Backend)]) -> Self {
        let vips = vips.iter().map(|(_, vip)| (vip.id, *vip)).collect();
        let backends = backends.iter().map(|(id, backend)| (*id as u16, *backend)).collect();
        Self::at(clock::seconds(), vips, backends)
    }

    pub(crate) fn at(now: u32, vips: HashMap<u16, Vip>, backends: HashMap<u16, Backend>) -> Self {
        let mut pools = HashMap::new();
        for (id, backend) in
            backends.iter().filter(|(_, backend)| backend.flags & BACKEND_PRESENT != 0)
        {
            *pools.entry(backend.vip_id).or_default() |= backend_bit(*id);
        }
        Self { now, vips, backends, pools }
    }

    /// Whether a connection is not over.
    pub(crate) fn is_open(&self, key: &FlowKey, flow: &Flow) -> bool {
        !flow.closing() && !self.flow_is_stale(key, flow)
    }

    /// Whether a connection is being made, or goes on and is known by its handshake's entry alone.
    /// One of which a flow was made is known by that.
    pub(crate) fn is_opening(&self, key: &FlowKey, flow: &Flow) -> bool {
        match StateWord(flow.word).state() {
            State::Adopted => self.is_open(key, flow),
            _ => {
                flow.flags & FLOW_MADE == 0
                    && !flow.closing()
                    && clock::age(self.now, flow.seen) <= OPENING
            }
        }
    }

    fn foreign_is_stale(&self, key: &FlowKey, foreign: &Foreign) -> bool {
        clock::age(self.now, foreign.seen) > self.flow_timeout(key.service)
    }

    /// `flow` is the VIP's flow that the leg belongs to, if it belongs to one.
    fn leg_is_stale(&self, key: &FlowKey, leg: &Leg, flow: Option<&Flow>) -> bool {
        let idle = clock::age(self.now, leg.seen);
        let direct = key.service & SERVICE_WAY_THERE != 0 || self.is_direct(key, leg);
        if direct {
            let over = leg.service & LEG_ENDED == LEG_ENDED;
            return idle > if over { LINGER } else { self.flow_timeout(leg.service) };
        }
        // Answers that a slot in the cache carries do not stamp the leg: it lives as long as its
        // flow is at that backend. One that was tried in vain has nothing but what is on its way.
        let there = |flow: &&Flow| {
            !flow.closing() && backend_of(key.service).is_some_and(|id| id == flow.holder())
        };
        let Some(flow) = flow.filter(there) else { return idle > LINGER };
        self.flow_is_stale(&flow_of(key, leg), flow)
    }

    /// Whether a leg is of a connection that its client dialled to a backend itself, beside a VIP.
    fn is_direct(&self, key: &FlowKey, leg: &Leg) -> bool {
        leg.service & SERVICE_BACKEND != 0 && self.vip_id(key.service).is_none()
    }

    /// The VIP or inline pool of which a service says that it was dialled; `None` of a backend that
    /// is in no inline pool.
    pub(crate) fn vip_id(&self, service: u16) -> Option<u16> {
        let Some(id) = backend_of(service) else { return Some(service & SERVICE_POOL) };
        let dialled = |backend: &&Backend| backend.flags & BACKEND_DIALLED != 0;
        self.backends.get(&id).filter(dialled).map(|backend| backend.vip_id)
    }

    fn vip(&self, service: u16) -> Option<&Vip> {
        self.vips.get(&self.vip_id(service)?)
    }

    /// Of a VIP or pool as its settings say; of another backend that was dialled the usual one.
    fn flow_timeout(&self, service: u16) -> u32 {
        self.vip(service).map_or(FLOW_TIMEOUT, |vip| vip.flow_timeout)
    }

    pub(super) fn session_is_stale(&self, key: &SessionKey, session: &Session) -> bool {
        // A session of a VIP that is gone can never be presented again.
        let Some(vip) = self.vips.get(&key.vip) else { return true };
        let old =
            vip.session_limit != 0 && clock::age(self.now, session.first_seen) > vip.session_limit;
        old || clock::age(self.now, session.last_seen) > vip.session_timeout
    }

    fn source_is_stale(&self, key: &SourceKey, source: &Source) -> bool {
        let Some(vip) = self.vips.get(&key.vip) else { return true };
        vip.sessions_per_source == 0 || clock::age(self.now, source.since) > vip.session_timeout
    }

    pub(crate) fn flow_is_stale(&self, key: &FlowKey, flow: &Flow) -> bool {
        let Some(vip) = self.vip(key.service) else { return true };
        // A flow waits for its owner for some retransmissions of its client; one that waits longer
        // was given up.
        let waits = StateWord(flow.word).state() == State::Wait;
        // What its slot in the cache knows the record is told when its next packet comes.
        let timeout = vip.flow_timeout.saturating_add(fast::LIFE);
        clock::age(self.now, flow.seen) > if waits || flow.closing() { LINGER } else { timeout }
    }

    pub(crate) fn handshake_is_stale(&self, key: &FlowKey, flow: &Flow) -> bool {
        // A flow that was adopted is known by this entry alone.
        if StateWord(flow.word).state() == State::Adopted {
            return self.flow_is_stale(key, flow);
        }
        clock::age(self.now, flow.seen) > HANDSHAKE
    }
}

/// The key of the flow that a leg belongs to.
fn flow_of(key: &FlowKey, leg: &Leg) -> FlowKey {
    FlowKey { client: key.client, client_port: leg.port, service: leg.flow_service() }
}

/// The backend that a service names, if it names one.
pub(super) fn backend_of(service: u16) -> Option<u16> {
    const NUMBER: u16 = !(SERVICE_BACKEND | SERVICE_WAY_THERE | LEG_ENDED);
    (service & SERVICE_BACKEND != 0).then_some(service & NUMBER)
}

/// A set of backends' numbers, one entry a number: millions of entries name a few, and none is
/// hashed.
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

fn sweep_sessions(
    table: &mut Table<SessionKey, Session>,
    rules: &Rules,
    swept: &mut Swept,
    held: &mut held::Tally,
) -> Result<u64> {
    let (mut kept, mut owners) = (0, Numbers::none());
    swept.removed += table.remove_stale(|key, session| {
        let stale = rules.session_is_stale(key, session);
        if !stale {
            kept += 1;
            owners.insert(session.owner);
            held.session(session.owner);
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
            // What its client dialled may be neither.
            backend_of(key.service).into_iter().for_each(|id| backends.insert(id));
        }
        stale
    })?;
    swept.named.extend(backends.into_iter());
    Ok(kept)
}

/// A splice lives as long as its flow, whose entry is stamped with every packet while it is not
/// evicted.
fn sweep_splices(
    plane: &mut Plane,
    rules: &Rules,
    swept: &mut Swept,
    held: &mut held::Tally,
) -> Result<u64> {
    let Plane { flows, splices, .. } = plane;
    sweep_flows(splices, swept, |key, splice| {
        let flow = flows.find(key).ok().flatten();
        let stale = rules.flow_is_stale(key, &flow.map_or(*splice, |flow| newest(splice, &flow)));
        // Else it is counted with its flow.
        if flow.is_none() && !stale && !splice.closing() {
            held.flow(splice);
        }
        stale
    })
}

/// A leg lives as long as its flow, which is found by the client's own port; its backend is named
/// by its key.
fn sweep_legs(plane: &mut Plane, rules: &Rules, named: &mut HashSet<u16>) -> Result<u64> {
    let Plane { flows, splices, legs, .. } = plane;
    let removed = legs.remove_stale(|key, leg| {
        let of = flow_of(key, leg);
        let flow =
            [&*flows, &*splices].into_iter().find_map(|table| table.find(&of).ok().flatten());
        rules.leg_is_stale(key, leg, flow.as_ref())
    })?;
    legs.for_each(|key, leg| {
        named.extend([key.service, leg.service].into_iter().filter_map(backend_of))
    })?;
    Ok(removed)
}

/// What is known of a re-homed flow from both its entries.
fn newest(splice: &Flow, flow: &Flow) -> Flow {
    Flow { seen: splice.seen.max(flow.seen), flags: splice.flags | flow.flags, ..*splice }
}

#[cfg(test)]
mod tests {
    use steer_common::shared::{FLOW_CLIENT_FIN, FLOW_RESET, FLOW_SERVER_FIN, LEG_CLIENT_ENDED};

    use super::*;

    const NOW: u32 = 100_000;

    fn rules() -> Rules {
        let vip =
            Vip { session_timeout: 600, session_limit: 3600, flow_timeout: 7860, ..Vip::default() };
        Rules::at(NOW, [(0, vip)].into(), HashMap::new())
    }

    fn flow(age: u32, flags: u32) -> Flow {
        Flow { seen: NOW - age, flags, ..Flow::default() }
    }

    #[test]
    fn an_idle_flow_lives_as_long_as_its_vip_says() {
        let key = FlowKey::default();
        // Its slot in the cache may know of a packet that its record has not heard of.
        assert!(!rules().flow_is_stale(&key, &flow(7868, 0)));
        assert!(rules().flow_is_stale(&key, &flow(7869, 0)));
    }

    #[test]
    fn a_flow_of_an_inline_pool_lives_as_long_as_the_pool_says() {
        let vips = || [(0, Vip { flow_timeout: 100, ..Vip::default() })].into();
        let of = |flags| {
            let backend = Backend { flags, ..Backend::default() };
            Rules::at(NOW, vips(), [(3, backend)].into())
        };
        let key = FlowKey { service: SERVICE_BACKEND | 3, ..FlowKey::default() };
        let inline = of(BACKEND_DIALLED | BACKEND_PRESENT);
        assert!(!inline.flow_is_stale(&key, &flow(108, 0)));
        assert!(inline.flow_is_stale(&key, &flow(109, 0)));
        assert!(inline.is_open(&key, &flow(50, 0)));
        let leg = |age| Leg { seen: NOW - age, port: [0; 2], service: key.service };
        let there = |age| Flow { first: 3, owner: 3, ..flow(age, 0) };
        assert!(!inline.leg_is_stale(&key, &leg(100), Some(&there(50))));
        // Its answers went by their slot, which stamps the flow alone.
        assert!(!inline.leg_is_stale(&key, &leg(5000), Some(&there(50))));
        assert!(inline.leg_is_stale(&key, &leg(5000), Some(&there(109))));
        assert!(inline.leg_is_stale(&key, &leg(61), None), "its flow is over");
        // Beside a VIP there are no such flows.
        assert!(of(BACKEND_PRESENT).flow_is_stale(&key, &flow(1, 0)));
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
        let waiting = |age| Flow { word: StateWord::new(State::Wait, 1).0, ..flow(age, 0) };
        assert!(!rules().flow_is_stale(&FlowKey::default(), &waiting(60)));
        assert!(rules().flow_is_stale(&FlowKey::default(), &waiting(61)));
    }

    #[test]
    fn a_session_ages_by_disuse_and_by_its_limit() {
        let key = SessionKey { vip: 0, kind: 1, len: 32, bytes: [7; 32] };
        let session = |first, last| Session {
            first_seen: NOW - first,
            last_seen: NOW - last,
            ..Session::default()
        };
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
    fn what_is_not_steers_is_remembered_as_long_as_tcp_may_be_idle() {
        let foreign = |age| Foreign { seen: NOW - age, zero: 0 };
        for service in [0, SERVICE_BACKEND | 3, 9] {
            let key = FlowKey { service, ..FlowKey::default() };
            assert!(
                !rules().foreign_is_stale(&key, &foreign(7860))
                    && rules().foreign_is_stale(&key, &foreign(7861))
            );
        }
    }

    #[test]
    fn a_leg_lives_as_long_as_its_flow_and_a_minute() {
        let key = FlowKey { service: SERVICE_BACKEND | 3, ..FlowKey::default() };
        let leg = |age, service| Leg { seen: NOW - age, port: [0; 2], service };
        let stale = |age, flow: Option<&Flow>| rules().leg_is_stale(&key, &leg(age, 0), flow);
        let there = |age, flags| Flow { first: 3, owner: 3, ..flow(age, flags) };
        assert!(!stale(60, None) && stale(61, None));
        assert!(!stale(7860, Some(&there(0, 0))) && stale(61, Some(&there(0, FLOW_RESET))));
        // It was tried there, and went on at its first backend.
        let elsewhere = Flow { first: 4, owner: 3, ..flow(0, 0) };
        assert!(!stale(60, Some(&elsewhere)) && stale(61, Some(&elsewhere)));
        // A connection that dialled the backend itself has no flow.
        assert!(!rules().leg_is_stale(&key, &leg(7860, SERVICE_BACKEND | 3), None));
        assert!(rules().leg_is_stale(&key, &leg(7861, SERVICE_BACKEND | 3), None));
        let ended =
            |bits, age| rules().leg_is_stale(&key, &leg(age, SERVICE_BACKEND | 3 | bits), None);
        assert!(ended(LEG_ENDED, 61) && !ended(LEG_ENDED, 60) && !ended(LEG_CLIENT_ENDED, 61));
    }

    /// Of a pool that several VIPs share: a flow beside another one, and its legs.
    #[test]
    fn a_leg_finds_its_flow_by_the_vip_that_its_client_dialled() {
        let client = FlowKey { client_port: [0, 9], service: 0, ..FlowKey::default() };
        let beside = FlowKey { service: client.service_beside(5), ..client };
        let at = FlowKey { client_port: [8, 0], service: SERVICE_BACKEND | 3, ..client };
        for of in [client, beside] {
            let leg = Leg { seen: NOW, port: of.client_port, service: of.service_of_leg(5) };
            assert_eq!((flow_of(&at, &leg), leg.entrance()), (of, 5));
            assert!(!rules().flow_is_stale(&of, &flow(7868, 0)), "as its pool says");
            assert!(rules().flow_is_stale(&of, &flow(7869, 0)));
        }
        let other = FlowKey { service: FlowKey::default().service_beside(5) | 9, ..client };
        assert!(rules().flow_is_stale(&other, &flow(0, 0)), "its pool is gone");
    }

    #[test]
    fn a_connection_is_open_until_both_ends_closed_it_or_it_is_idle_too_long() {
        let key = FlowKey::default();
        assert!(
            rules().is_open(&key, &flow(7868, FLOW_CLIENT_FIN))
                && !rules().is_open(&key, &flow(7869, 0))
        );
        assert!(!rules().is_open(&key, &flow(0, FLOW_RESET)));
        let syn = |age| Flow { word: StateWord::new(State::Syn, 1).0, ..flow(age, 0) };
        assert!(rules().is_opening(&key, &syn(10)) && !rules().is_opening(&key, &syn(11)));
        assert!(
            !rules().is_opening(&key, &Flow { flags: FLOW_MADE, ..syn(0) }),
            "counted by its flow"
        );
        let adopted = Flow { word: StateWord::new(State::Adopted, 1).0, ..flow(300, 0) };
        assert!(rules().is_opening(&key, &adopted));
    }

    #[test]
    fn what_belongs_to_a_vip_that_is_gone_is_stale() {
        let key = FlowKey { service: 9, ..FlowKey::default() };
        assert!(rules().flow_is_stale(&key, &flow(0, 0)));
    }
}
