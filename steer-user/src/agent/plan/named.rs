//! Which numbers of VIPs and backends the tables name, and by what.

use std::collections::{HashMap, HashSet};

use anyhow::Result;
use steer_common::shared::{
    Flow, FlowKey, Foreign, KeyName, Leg, NO_BACKEND, SERVICE_WAY_THERE, Session, SessionKey,
    Source, SourceKey, backend_bit,
};

use crate::{
    agent::sweep::{Rules, backend_of},
    plane::{Before, Old, Plane, Table},
};

/// What names one number.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(in crate::agent) struct Use {
    /// Connections that are not over.
    pub(in crate::agent) connections: u64,
    /// Sessions that are not too old.
    pub(in crate::agent) sessions: u64,
    /// Whether there is anything at all, be it stale.
    pub(in crate::agent) named: bool,
}

/// What the tables name, and how many entries of each are not stale.
#[derive(Clone, Debug, Default)]
pub(in crate::agent) struct Named {
    vips: HashMap<u16, Use>,
    backends: HashMap<u16, Use>,
    /// Numbers of VIPs that share a pool, of open connections.
    entrances: HashSet<u8>,
    entries: HashMap<&'static str, u64>,
}

/// Tables with entries as today's layout has them, whatever layout they are of.
pub(in crate::agent) trait Tables {
    fn sessions(&self, each: &mut dyn FnMut(SessionKey, Session)) -> Result<()>;
    /// Names and searches.
    fn key_names(&self, each: &mut dyn FnMut(SessionKey, KeyName)) -> Result<()>;
    fn sources(&self, each: &mut dyn FnMut(SourceKey, Source)) -> Result<()>;
    fn flows(&self, name: &str, each: &mut dyn FnMut(FlowKey, Flow)) -> Result<()>;
    fn foreign(&self, each: &mut dyn FnMut(FlowKey, Foreign)) -> Result<()>;
    fn legs(&self, each: &mut dyn FnMut(FlowKey, Leg)) -> Result<()>;
}

impl Tables for Plane {
    fn sessions(&self, each: &mut dyn FnMut(SessionKey, Session)) -> Result<()> {
        self.sessions.for_each(each)
    }

    fn key_names(&self, each: &mut dyn FnMut(SessionKey, KeyName)) -> Result<()> {
        self.key_names.for_each(&mut *each)?;
        self.key_name_tries.for_each(each)
    }

    fn sources(&self, each: &mut dyn FnMut(SourceKey, Source)) -> Result<()> {
        self.sources.for_each(each)
    }

    fn flows(&self, name: &str, each: &mut dyn FnMut(FlowKey, Flow)) -> Result<()> {
        match name {
            "flows" => self.flows.for_each(each),
            "splices" => self.splices.for_each(each),
            _ => self.handshakes.for_each(each),
        }
    }

    fn foreign(&self, each: &mut dyn FnMut(FlowKey, Foreign)) -> Result<()> {
        self.foreign.for_each(each)
    }

    fn legs(&self, each: &mut dyn FnMut(FlowKey, Leg)) -> Result<()> {
        self.legs.for_each(each)
    }
}

/// Searches are not carried over.
impl Tables for Old {
    fn sessions(&self, each: &mut dyn FnMut(SessionKey, Session)) -> Result<()> {
        self.sessions(each)
    }

    fn key_names(&self, each: &mut dyn FnMut(SessionKey, KeyName)) -> Result<()> {
        self.key_names(each)
    }

    fn sources(&self, each: &mut dyn FnMut(SourceKey, Source)) -> Result<()> {
        self.sources(each)
    }

    fn flows(&self, name: &str, each: &mut dyn FnMut(FlowKey, Flow)) -> Result<()> {
        self.flows(name, each)
    }

    fn foreign(&self, each: &mut dyn FnMut(FlowKey, Foreign)) -> Result<()> {
        self.foreign(each)
    }

    fn legs(&self, each: &mut dyn FnMut(FlowKey, Leg)) -> Result<()> {
        self.legs(each)
    }
}

/// What an entry is.
#[derive(Clone, Copy, PartialEq)]
enum Entry {
    Connection,
    Session,
    Stale,
}

impl Named {
    /// Walks every table and removes nothing.
    pub(in crate::agent) fn read(plane: &dyn Tables, before: &Before) -> Result<Self> {
        let rules = Rules::new(&before.vips, &before.backends);
        let mut named = Self::default();
        plane.sessions(&mut |key, session| {
            let is =
                if rules.session_is_stale(&key, &session) { Entry::Stale } else { Entry::Session };
            named.note("sessions", is, key.vip, [session.owner, NO_BACKEND]);
        })?;
        plane.key_names(&mut |key, name| {
            *named.entries.entry("key_names").or_default() += 1;
            named.note("key_names", Entry::Stale, key.vip, [name.owner, NO_BACKEND]);
        })?;
        plane
            .sources(&mut |key, _| named.note("sources", Entry::Stale, key.vip, [NO_BACKEND; 2]))?;
        for name in ["flows", "splices", "handshakes"] {
            plane.flows(name, &mut |key, flow| {
                let open = if name == "handshakes" {
                    rules.is_opening(&key, &flow)
                } else {
                    rules.is_open(&key, &flow)
                };
                let is = if open { Entry::Connection } else { Entry::Stale };
                named.entrances.extend(open.then_some(flow.entrance()));
                named.note_flow(name, is, &key, &rules, [flow.first, flow.owner]);
            })?;
        }
        // A connection that is not steer's needs its record, but not the number of a backend that
        // it names.
        plane.foreign(&mut |key, _| {
            named.note_flow("foreign", Entry::Stale, &key, &rules, [NO_BACKEND; 2])
        })?;
        plane.legs(&mut |key, _| {
            let is =
                if key.service & SERVICE_WAY_THERE != 0 { Entry::Stale } else { Entry::Connection };
            named.note_flow("legs", is, &key, &rules, [NO_BACKEND; 2]);
        })?;
        Ok(named)
    }

    fn note_flow(
        &mut self,
        table: &'static str,
        is: Entry,
        key: &FlowKey,
        rules: &Rules,
        [first, second]: [u16; 2],
    ) {
        let vip = rules.vip_id(key.service).unwrap_or(u16::MAX);
        self.note(table, is, vip, [backend_of(key.service).unwrap_or(first), second]);
    }

    fn note(&mut self, table: &'static str, is: Entry, vip: u16, backends: [u16; 2]) {
        if is != Entry::Stale {
            *self.entries.entry(table).or_default() += 1;
        }
        self.vips.entry(vip).or_default().count(is);
        let [first, second] = backends;
        self.backends.entry(first).or_default().count(is);
        if second != first {
            self.backends.entry(second).or_default().count(is);
        }
    }

    /// What names a VIP.
    pub(in crate::agent) fn vip(&self, number: u16) -> Use {
        self.vips.get(&number).copied().unwrap_or_default()
    }

    /// What names a backend.
    pub(in crate::agent) fn backend(&self, number: u16) -> Use {
        self.backends.get(&number).copied().unwrap_or_default()
    }

    /// Whether an open connection came by this one of several VIPs that share a pool.
    pub(in crate::agent) fn names_entrance(&self, number: u8) -> bool {
        self.entrances.contains(&number)
    }

    /// Entries of a table that are not stale.
    pub(in crate::agent) fn entries(&self, table: &str) -> u64 {
        self.entries.get(table).copied().unwrap_or_default()
    }
}

impl Use {
    fn count(&mut self, is: Entry) {
        self.named = true;
        match is {
            Entry::Connection => self.connections += 1,
            Entry::Session => self.sessions += 1,
            Entry::Stale => {}
        }
    }
}

/// Forgets everything that names one of these numbers: they are somebody else's from now on.
pub(in crate::agent) fn purge(
    plane: &mut Plane,
    vips: &HashSet<u16>,
    backends: &HashSet<u16>,
) -> Result<u64> {
    if vips.is_empty() && backends.is_empty() {
        return Ok(0);
    }
    let of_vip = |key: &SessionKey| vips.contains(&key.vip);
    let of_flow = |key: &FlowKey| match backend_of(key.service) {
        Some(backend) => backends.contains(&backend),
        None => vips.contains(&key.pool()),
    };
    let mut removed = plane
        .sessions
        .remove_stale(|key, session| of_vip(key) || backends.contains(&session.owner))?;
    removed +=
        plane.key_names.remove_stale(|key, name| of_vip(key) || backends.contains(&name.owner))?;
    removed += plane.key_name_tries.remove_stale(|key, name| {
        of_vip(key) || backends.iter().any(|id| name.tried & backend_bit(*id) != 0)
    })?;
    removed += plane.sources.remove_stale(|key, _| vips.contains(&key.vip))?;
    let flows = |table: &mut Table<FlowKey, Flow>| {
        table.remove_stale(|key, flow| {
            of_flow(key) || backends.contains(&flow.first) || backends.contains(&flow.owner)
        })
    };
    removed +=
        flows(&mut plane.flows)? + flows(&mut plane.splices)? + flows(&mut plane.handshakes)?;
    removed += plane.foreign.remove_stale(|key, _| of_flow(key))?;
    removed += plane.legs.remove_stale(|key, _| of_flow(key))?;
    Ok(removed)
}
