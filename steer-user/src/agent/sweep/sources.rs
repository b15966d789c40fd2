//! Who makes the flows of each VIP: a sample of those that a sweep leaves.

use std::collections::{HashMap, HashSet};

use steer_common::shared::{Address, Flow, FlowKey};

/// Flows of a VIP that are looked at: the first ones met. A hash table is walked in the order of
/// hashes that a random number of the map decides, so these are as good as any.
const SAMPLE: u32 = 1024;

/// The sources of one VIP's flows.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Sources {
    /// Flows that were looked at.
    pub flows: u32,
    /// Who made most of them.
    pub top: Address,
    /// How many of them.
    pub of_top: u32,
}

/// What a walk has seen so far.
#[derive(Default)]
pub(super) struct Tally {
    vips: HashMap<u16, (u32, HashMap<Address, u32>)>,
    client_interfaces: HashSet<u32>,
}

impl Tally {
    /// Notes a flow of a VIP or pool that stays.
    pub(super) fn note(&mut self, vip: u16, key: &FlowKey, flow: &Flow) {
        let (flows, sources) = self.vips.entry(vip).or_default();
        if *flows < SAMPLE {
            *flows += 1;
            *sources.entry(key.client).or_default() += 1;
            if flow.client_hop.ifindex != 0 {
                self.client_interfaces.insert(flow.client_hop.ifindex);
            }
        }
    }

    /// The sources by `VipId`, and the interfaces that clients' packets came by.
    pub(super) fn finish(self) -> (HashMap<u16, Sources>, HashSet<u32>) {
        let of = |(vip, (flows, sources)): (u16, (u32, HashMap<Address, u32>))| {
            let (top, of_top) =
                sources.into_iter().max_by_key(|(_, flows)| *flows).unwrap_or_default();
            (vip, Sources { flows, top, of_top })
        };
        (self.vips.into_iter().map(of).collect(), self.client_interfaces)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(client: [u8; 4]) -> FlowKey {
        FlowKey { client: Address::from_v4(client), ..FlowKey::default() }
    }

    #[test]
    fn whoever_makes_most_flows_of_a_vip_is_found() {
        let mut tally = Tally::default();
        for n in 0..10 {
            tally.note(0, &key([10, 0, 0, 1]), &Flow::default());
            tally.note(0, &key([10, 0, 1, n]), &Flow::default());
            tally.note(1, &key([10, 0, 1, n]), &Flow::default());
        }
        let (sources, _) = tally.finish();
        assert_eq!(
            sources[&0],
            Sources { flows: 20, top: Address::from_v4([10, 0, 0, 1]), of_top: 10 }
        );
        assert_eq!((sources.len(), sources[&1].flows, sources[&1].of_top), (2, 10, 1));
    }

    #[test]
    fn a_sample_is_bounded() {
        let mut tally = Tally::default();
        for n in 0..SAMPLE + 500 {
            let [_, a, b, c] = n.to_be_bytes();
            tally.note(0, &key([10, a, b, c]), &Flow::default());
        }
        assert_eq!((tally.vips[&0].1.len(), tally.finish().0[&0].flows), (1024, SAMPLE));
    }
}
