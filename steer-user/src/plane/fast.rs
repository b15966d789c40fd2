//! The cache of settled flows ([`steer_common::fast`]), as user space reads it: what a record has
//! lent.

use anyhow::Result;
use steer_common::{
    fast::{HOPS, is_of, pair, take_back},
    shared::{FastSlot, Flow, FlowKey, HopSlot},
};

use super::{PinDir, Slots};

/// The maps `fast` and `hops`.
pub(super) struct Lent {
    slots: Slots<FastSlot>,
    hops: Slots<HopSlot>,
}

impl Lent {
    /// Opens their pins; `None` where the gateway's version has none.
    pub(super) fn open(dir: &PinDir) -> Result<Option<Self>> {
        if !dir.map("fast").exists() {
            return Ok(None);
        }
        Ok(Some(Self { slots: Slots::open(dir, "fast")?, hops: Slots::open(dir, "hops")? }))
    }

    /// Enters into a copy of a flow's record what its slot knows, which keeps it.
    pub(super) fn look(&self, key: &FlowKey, flow: &mut Flow, secret: u64) -> Result<()> {
        let slots = self.slots.len();
        let first = pair(key, secret, slots);
        for at in (first..slots).take(2) {
            let slot = self.slots.read(at)?;
            if slot.entered != 0 && is_of(&slot, key) {
                let hop = self.hops.read(u32::from(slot.hop) % HOPS)?;
                take_back(&slot, flow, &hop);
            }
        }
        Ok(())
    }
}
