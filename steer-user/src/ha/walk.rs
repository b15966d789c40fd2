//! Looks through the tables for what other gateways are to know: all of it, or what happened since
//! the last look. That finds what the journal could not tell, and what it does not: refreshed
//! sessions and flows that go on.

use std::collections::{HashMap, HashSet};

use anyhow::Result;
use steer_common::shared::FlowKey;

use super::{
    flows,
    memory::{Found, Heard},
    record::{Row, Writer},
};
use crate::{clock, plane::Plane, rows::Names};

/// A flow that goes on is told of so often, seconds.
const FLOW_TOLD: u32 = 60;

/// A walk's own handle and memory.
pub(super) struct Walker {
    pub(super) plane: Plane,
    /// When the last look began, seconds of CLOCK_MONOTONIC.
    since: u32,
    /// When flows were told of last, seconds of CLOCK_MONOTONIC.
    told: HashMap<FlowKey, u32>,
    pub(super) has: [u64; 3],
}

impl Walker {
    pub(super) fn new(plane: Plane) -> Self {
        Self { plane, since: clock::seconds(), told: HashMap::new(), has: [0; 3] }
    }

    /// All that is known, as the texts of batches.
    ///
    /// # Errors
    /// When a map cannot be read.
    pub(super) fn all(&mut self) -> Result<Vec<Vec<u8>>> {
        let (names, now) = (Names::read(&self.plane)?, clock::seconds());
        let mut parts = Parts::default();
        let mut has = [0; 3];
        self.plane.sessions.for_each(|key, session| {
            if let Some(fact) = names.session(&key, &session, now) {
                has[0] += 1;
                parts.push(&Row::Fact(fact));
            }
        })?;
        self.plane.key_names.for_each(|key, name| {
            if let Some(fact) = names.key_name(&key, &name, now) {
                has[1] += 1;
                parts.push(&Row::Fact(fact));
            }
        })?;
        self.plane.splices.for_each(|key, flow| {
            if let Some(splice) = flows::splice(&names, &key, &flow, now) {
                has[2] += 1;
                parts.push(&Row::Splice(splice));
            }
        })?;
        self.has = has;
        parts.finish()
    }

    /// What happened since the last look, but for what others told, and which flows are there.
    ///
    /// # Errors
    /// When a map cannot be read.
    pub(super) fn touched(&mut self, heard: &Heard) -> Result<(Vec<Row>, Found)> {
        let (names, now) = (Names::read(&self.plane)?, clock::seconds());
        // What was stamped within the second in which the last look began may have come after it.
        let since = self.since;
        let is_new = |seen: u32| seen.wrapping_sub(since) as i32 >= 0;
        let (mut rows, mut has) = (Vec::new(), [0; 3]);
        self.plane.sessions.for_each(|key, session| {
            has[0] += 1;
            if is_new(session.last_seen) && !heard.has_fact(&key, session.last_seen) {
                rows.extend(names.session(&key, &session, now).map(Row::Fact));
            }
        })?;
        self.plane.key_names.for_each(|key, name| {
            has[1] += 1;
            if is_new(name.last_seen) && !heard.has_fact(&key, name.last_seen) {
                rows.extend(names.key_name(&key, &name, now).map(Row::Fact));
            }
        })?;
        let (mut told, mut others, before) = (HashMap::new(), HashSet::new(), &self.told);
        self.plane.splices.for_each(|key, flow| {
            has[2] += 1;
            if heard.has_flow(&key, flow.seen) {
                others.insert(key);
                return;
            }
            let last = before.get(&key).copied();
            let due = last.is_none_or(|last| clock::age(now, last) >= FLOW_TOLD);
            if due {
                rows.extend(flows::splice(&names, &key, &flow, now).map(Row::Splice));
            }
            told.insert(key, if due { now } else { last.unwrap_or(now) });
        })?;
        let own = told.keys().copied().collect();
        (self.told, self.since, self.has) = (told, now, has);
        Ok((rows, Found { own, others }))
    }
}

/// Texts of batches being put together.
#[derive(Default)]
struct Parts {
    writer: Writer,
    texts: Vec<Vec<u8>>,
    failed: Option<anyhow::Error>,
}

impl Parts {
    fn push(&mut self, row: &Row) {
        if let Err(error) = self.writer.push(row) {
            self.failed = Some(error);
        }
        if self.writer.is_full() {
            self.close();
        }
    }

    fn close(&mut self) {
        match self.writer.finish() {
            Ok(text) => self.texts.push(text),
            Err(error) => self.failed = Some(error),
        }
    }

    fn finish(mut self) -> Result<Vec<Vec<u8>>> {
        if self.writer.n_rows() > 0 {
            self.close();
        }
        self.failed.map_or(Ok(self.texts), Err)
    }
}
