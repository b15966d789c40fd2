//! What a gateway remembers of what it told and heard: so that it does not tell others what they told
//! it, that it tells the end of what it told, and that it knows whose a flow is. None of it is kept
//! longer than what it is about.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Instant,
};

use steer_common::shared::{FlowKey, SessionKey};

/// A flow that another gateway told of.
#[derive(Clone, PartialEq, Eq, Debug)]
struct HeardFlow {
    /// Its last packet, seconds of CLOCK_MONOTONIC.
    seen: u32,
    /// When it was told last.
    told: Instant,
    gateway: String,
}

/// See the module.
#[derive(Default)]
pub(super) struct Memory {
    /// Flows that others were told of, with the client's initial sequence number, and when.
    told: HashMap<FlowKey, (u32, Instant)>,
    /// Flows that others told of.
    heard: HashMap<FlowKey, HeardFlow>,
    /// Sessions and key names that others told of since the last look, and before it.
    facts: HashMap<SessionKey, u32>,
    facts_before: Arc<HashMap<SessionKey, u32>>,
}

/// What was heard of others, by when its owner spoke or its last packet passed, seconds of
/// CLOCK_MONOTONIC.
#[derive(Clone, Debug, Default)]
pub(super) struct Heard {
    /// Sessions and key names, of the time before the last look and since.
    facts: [Arc<HashMap<SessionKey, u32>>; 2],
    flows: HashMap<FlowKey, u32>,
}

impl Heard {
    /// Whether an entry of `sessions` or `key_names` says what another gateway told.
    pub(super) fn has_fact(&self, key: &SessionKey, last_seen: u32) -> bool {
        self.facts.iter().any(|heard| heard.get(key) == Some(&last_seen))
    }

    /// Whether an entry of `splices` says what another gateway told.
    pub(super) fn has_flow(&self, key: &FlowKey, seen: u32) -> bool {
        self.flows.get(key) == Some(&seen)
    }
}

/// What a look through `splices` found.
#[derive(Debug, Default)]
pub(super) struct Found {
    /// Flows that are this gateway's to tell.
    pub(super) own: HashSet<FlowKey>,
    /// Flows of others.
    pub(super) others: HashSet<FlowKey>,
}

impl Memory {
    /// Others were told of a flow.
    pub(super) fn note_told(&mut self, key: FlowKey, isn: u32) {
        self.told.insert(key, (isn, Instant::now()));
    }

    /// A flow is over: the client's initial sequence number, where others were told of it.
    pub(super) fn take_told(&mut self, key: &FlowKey) -> Option<u32> {
        self.told.remove(key).map(|(isn, _)| isn)
    }

    /// Another gateway told of a session or key name.
    pub(super) fn note_fact(&mut self, key: SessionKey, last_seen: u32) {
        self.facts.insert(key, last_seen);
    }

    /// Another gateway told of a flow that stands in the table as seen then.
    pub(super) fn note_flow(&mut self, key: FlowKey, seen: u32, gateway: &str) {
        let (told, gateway) = (Instant::now(), gateway.to_owned());
        self.heard.insert(key, HeardFlow { seen, told, gateway });
    }

    /// Whether a flow is known from others alone.
    pub(super) fn is_others(&self, key: &FlowKey) -> bool {
        self.heard.contains_key(key)
    }

    /// A flow of others is over.
    pub(super) fn forget_flow(&mut self, key: &FlowKey) {
        self.heard.remove(key);
    }

    /// A gateway began anew, and may not know any more what it told: this one tells it from now on.
    pub(super) fn claim(&mut self, gateway: &str) {
        self.heard.retain(|_, flow| flow.gateway != gateway);
    }

    /// Takes out the flows of a gateway that it did not tell of since then, with their last packets.
    pub(super) fn take_untold(&mut self, gateway: &str, since: Instant) -> Vec<(FlowKey, u32)> {
        let is_untold =
            |_: &FlowKey, flow: &mut HeardFlow| flow.gateway == gateway && flow.told < since;
        let untold = self.heard.extract_if(is_untold);
        untold.map(|(key, flow)| (key, flow.seen)).collect()
    }

    /// A look through the tables begins: what it is to know.
    pub(super) fn begin_look(&mut self) -> Heard {
        let facts = Arc::new(std::mem::take(&mut self.facts));
        let before = std::mem::replace(&mut self.facts_before, Arc::clone(&facts));
        let flows = self.heard.iter().map(|(key, flow)| (*key, flow.seen)).collect();
        Heard { facts: [before, facts], flows }
    }

    /// A look that began then is over: of flows that are gone nothing is to be told any more.
    pub(super) fn end_look(&mut self, found: &Found, began: Instant) {
        self.told.retain(|key, (_, at)| *at >= began || found.own.contains(key));
        self.heard.retain(|key, flow| flow.told >= began || found.others.contains(key));
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use steer_common::session::Kind;

    use super::*;

    fn flow(port: u16) -> FlowKey {
        FlowKey { client_port: port.to_be_bytes(), ..FlowKey::default() }
    }

    fn later() -> Instant {
        Instant::now() + Duration::from_secs(1)
    }

    #[test]
    fn what_is_remembered_of_a_flow_goes_with_it() {
        let mut memory = Memory::default();
        for port in 1..=3 {
            memory.note_told(flow(port), 70 + u32::from(port));
            memory.note_flow(flow(10 + port), 5, "gw2");
        }
        let found = Found { own: HashSet::from([flow(1)]), others: HashSet::from([flow(11)]) };
        // What was told since the look began may not be in what it found.
        memory.end_look(&found, Instant::now() - Duration::from_secs(1));
        assert_eq!((memory.told.len(), memory.heard.len()), (3, 3));
        memory.end_look(&found, later());
        assert_eq!((memory.told.len(), memory.heard.len()), (1, 1));
        assert_eq!((memory.take_told(&flow(1)), memory.take_told(&flow(2))), (Some(71), None));
        assert!(memory.is_others(&flow(11)) && !memory.is_others(&flow(12)));
    }

    #[test]
    fn flows_that_a_gateway_does_not_tell_of_any_more_are_taken_out_and_claimed_ones_are_not() {
        let mut memory = Memory::default();
        memory.note_flow(flow(1), 5, "gw2");
        memory.note_flow(flow(2), 6, "gw3");
        assert_eq!(memory.take_untold("gw2", Instant::now() - Duration::from_secs(1)), []);
        assert_eq!(memory.take_untold("gw2", later()), [(flow(1), 5)]);
        memory.claim("gw3");
        assert_eq!(memory.take_untold("gw3", later()), []);
    }

    #[test]
    fn what_was_heard_is_known_for_two_looks() {
        let key = SessionKey::new(1, Kind::SessionId, &[7; 32]).unwrap();
        let mut memory = Memory::default();
        memory.note_fact(key, 9);
        memory.note_flow(flow(1), 5, "gw2");
        for expected in [true, true, false] {
            let heard = memory.begin_look();
            assert_eq!(heard.has_fact(&key, 9), expected);
            assert!(!heard.has_fact(&key, 8), "its owner spoke again");
            assert!(heard.has_flow(&flow(1), 5) && !heard.has_flow(&flow(1), 6));
        }
    }
}
