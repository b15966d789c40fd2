//! What the clients of connections that end with the programs are told.
//!
//! A client that only listens would never hear that its connection is over: what its server sends
//! comes by another address from now on. So the SYN-ACK that it once got is repeated, which every
//! client answers with a bare acknowledgement (RFC 5961 4.2), and where that goes nobody has such a
//! connection: its client is reset, by the number that it said itself.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use steer_common::shared::{Endpoint, Flow, FlowKey};

use super::{
    sweep::Rules,
    voice::{Routed, Voice},
};
use crate::plane::Plane;

/// How long clients are told. Who detaches waits meanwhile.
const PATIENCE: Duration = Duration::from_secs(5);

/// Clients of connections that end with the programs.
#[derive(Debug, Default)]
pub(crate) struct Farewell(Vec<(FlowKey, Endpoint, Flow)>);

impl Farewell {
    /// Notes whom it concerns: connections of inline and bridge pools that were moved. Where a VIP's
    /// clients send to, nobody answers once its address is gone.
    ///
    /// # Errors
    /// When a map cannot be read.
    pub(crate) fn prepare(plane: &Plane) -> Result<Self> {
        let rules = Rules::new(&plane.vips()?, &plane.backends()?);
        let mut open = HashMap::new();
        // The table of flows may have forgotten one that was moved.
        plane.splices.for_each(|key, splice| {
            if moved(&key, &splice) && rules.is_open(&key, &splice) {
                open.insert(key, splice);
            }
        })?;
        plane.flows.for_each(|key, flow| {
            if moved(&key, &flow) && rules.is_open(&key, &flow) {
                open.insert(key, flow);
            } else {
                open.remove(&key);
            }
        })?;
        let mut found = Vec::with_capacity(open.len());
        for (key, flow) in open {
            let Some(dialled) = key.dialled() else { continue };
            if let Some(backend) = plane.backend(dialled.into())? {
                found.push((key, backend.endpoint, flow));
            }
        }
        Ok(Self(found))
    }

    /// Tells them, once the programs are gone. How many could not be told.
    ///
    /// # Errors
    /// Without `CAP_NET_RAW`.
    pub(crate) fn say(self) -> Result<usize> {
        if self.0.is_empty() {
            return Ok(0);
        }
        let context = "open a socket to tell clients that their connections are over";
        let (voice, routed) = (Voice::open().context(context)?, Routed::open().context(context)?);
        let deadline = Instant::now() + PATIENCE;
        let mut untold = 0;
        for (key, dialled, flow) in &self.0 {
            let told = Instant::now() < deadline
                && match flow.client_hop.ifindex {
                    0 => routed.repeat_syn_ack(key, dialled, flow),
                    _ => voice.repeat_syn_ack(key, dialled, flow),
                }
                .inspect_err(|error| log::debug!("repeat a SYN-ACK: {error}"))
                .is_ok();
            untold += usize::from(!told);
        }
        Ok(untold)
    }
}

fn moved(key: &FlowKey, flow: &Flow) -> bool {
    key.dialled().is_some_and(|dialled| dialled != flow.holder())
}
