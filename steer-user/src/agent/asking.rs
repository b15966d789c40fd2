//! Asks clients once more for the acknowledgement that the programs dropped (`swallow`). Where no
//! hello followed it within a moment the client waits for something, or for its server to speak
//! first: so its server's SYN-ACK is repeated in the VIP's name, as the server itself would a
//! second later if it keeps anything of the handshake. What the client answers goes through.

use std::{
    collections::{HashMap, VecDeque},
    time::Duration,
};

use anyhow::{Context as _, Result};
use steer_common::{
    flow::{State, StateWord},
    shared::{Endpoint, FLOW_ACK_SWALLOWED, FLOW_MADE, Flow, FlowKey, SWITCH_ASKING},
};

use super::voice::Voice;
use crate::{clock, plane::Plane};

/// When a client is asked, from its acknowledgement on: a hello nearly always follows sooner. A
/// client answers no more than one such segment in half a second
/// (`net.ipv4.tcp_invalid_ratelimit`), and the server's own repetition comes after a second.
const TIMES: [Duration; 3] =
    [Duration::from_millis(100), Duration::from_millis(700), Duration::from_millis(1700)];

/// Who may have to be asked.
pub(super) struct Asking {
    voice: Voice,
    plane: Plane,
    vips: HashMap<u16, Endpoint>,
    /// For each of [`TIMES`], in the order of the acknowledgements: when it came, nanoseconds, and
    /// of whom.
    waiting: [VecDeque<(u64, FlowKey)>; TIMES.len()],
    /// Until then, seconds, the programs know that clients are asked.
    announced: u32,
}

/// For how long, seconds, the programs go on to swallow where nothing is heard of the agent.
const ANNOUNCED: u32 = 2;

impl Asking {
    pub(super) fn new(voice: Voice, plane: Plane) -> Self {
        Self { voice, plane, vips: HashMap::new(), waiting: Default::default(), announced: 0 }
    }

    /// A client's acknowledgement was dropped.
    pub(super) fn note(&mut self, at: u64, of: FlowKey) {
        self.waiting[0].push_back((at, of));
    }

    /// Tells the programs that clients are asked, for the next seconds, and asks whose time has
    /// come.
    ///
    /// # Errors
    /// When a map cannot be read or written, or a frame cannot be sent.
    pub(super) fn ask(&mut self) -> Result<()> {
        let until = clock::seconds() + ANNOUNCED;
        if until != self.announced {
            self.plane.set_switch_number(SWITCH_ASKING, until)?;
            self.announced = until;
        }
        let now = clock::nanoseconds();
        for (number, after) in TIMES.iter().enumerate() {
            let due = now.saturating_sub(after.as_nanos() as u64);
            while let Some(&(at, key)) = self.waiting[number].front().filter(|(at, _)| *at <= due) {
                self.waiting[number].pop_front();
                let Some(flow) = self.plane.handshakes.find(&key)?.filter(is_unheard) else {
                    continue;
                };
                let Some(dialled) = self.dialled(&key, &flow)? else { continue };
                if let Err(error) = self.voice.repeat_syn_ack(&key, &dialled, &flow) {
                    log::debug!(
                        "repeat a SYN-ACK by interface {}: {error}",
                        flow.client_hop.ifindex
                    );
                }
                if let Some(next) = self.waiting.get_mut(number + 1) {
                    next.push_back((at, key));
                }
            }
        }
        Ok(())
    }

    /// What a client dialled: a VIP, or a backend of an inline pool.
    fn dialled(&mut self, key: &FlowKey, flow: &Flow) -> Result<Option<Endpoint>> {
        match (key.dialled(), flow.entrance()) {
            (Some(id), _) => Ok(self.plane.backend(id.into())?.map(|backend| backend.endpoint)),
            (None, 0) => self.vip(key.pool()),
            (None, number) => {
                let entrances = self.plane.entrances()?.into_iter();
                let mut its = entrances.filter(|(other, _)| *other == u32::from(number));
                Ok(its.next().map(|(_, entrance)| entrance.endpoint))
            }
        }
    }

    fn vip(&mut self, id: u16) -> Result<Option<Endpoint>> {
        if !self.vips.contains_key(&id) {
            let vips = self.plane.vips().context("find the VIP of a handshake")?;
            self.vips = vips.into_iter().map(|(endpoint, vip)| (vip.id, endpoint)).collect();
        }
        Ok(self.vips.get(&id).copied())
    }
}

/// Whether the client has acknowledged its server, and its server does not know.
fn is_unheard(flow: &Flow) -> bool {
    flow.flags & (FLOW_ACK_SWALLOWED | FLOW_MADE) == FLOW_ACK_SWALLOWED
        && StateWord(flow.word).state() == State::SynAck
}
