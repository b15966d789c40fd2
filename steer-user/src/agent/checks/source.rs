//! One source for everybody: behind a balancer or NAT that rewrites source addresses all clients
//! look like one, and a choice by source sends all of them to one backend. `fallback = "auto"`
//! notices and chooses by flow from then on.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use steer_common::shared::{VIP_FALLBACK_FLOW, VIP_FALLBACK_FOUND};

use super::{Kind, Warning};
use crate::{address, agent::sweep::Sources, service::Service};

/// So many flows say something about their sources.
const FLOWS: u32 = 32;
/// `auto` goes back to the source when nobody made so large a share of the flows, a part in so
/// many, for [`CALM`].
const SMALL_SHARE: u32 = 4;
/// For so long.
const CALM: Duration = Duration::from_secs(600);

/// Whether one source makes most flows: more than half of enough.
fn one_makes_most(sources: &Sources) -> bool {
    sources.flows >= FLOWS && sources.of_top * 2 > sources.flows
}

/// That clients who look like one all get one backend.
pub(super) fn warning(vip: Service, sources: &Sources) -> Option<Warning> {
    let top = address::ip(&sources.top);
    let text = format!(
        "VIP {vip}: {top} makes most flows (a balancer or NAT in front?), and fallback = \"source\" gives all of them to one \
         backend; set fallback = \"auto\" or \"flow\""
    );
    one_makes_most(sources).then(|| Warning::new(Kind::OneSource, text))
}

/// The flags of a VIP's record that `fallback = "auto"` decides.
pub(super) const BY_FLOW: u16 = VIP_FALLBACK_FLOW | VIP_FALLBACK_FOUND;

/// Follows the VIPs with `fallback = "auto"`.
#[derive(Default)]
pub(super) struct Choices {
    /// Since when no source makes a large share of the flows, by `VipId`.
    calm: HashMap<u16, Instant>,
}

impl Choices {
    /// Whether a VIP is to choose by flow from now on, or by source; `None`: as it does. `by_flow`
    /// is how it chooses now.
    pub(super) fn look(
        &mut self,
        vip: u16,
        by_flow: bool,
        sources: &Sources,
        now: Instant,
    ) -> Option<bool> {
        if !by_flow {
            self.calm.remove(&vip);
            return one_makes_most(sources).then_some(true);
        }
        // Few flows say nothing, neither way.
        if sources.flows < FLOWS || sources.of_top * SMALL_SHARE >= sources.flows {
            self.calm.remove(&vip);
            return None;
        }
        let since = *self.calm.entry(vip).or_insert(now);
        (now.duration_since(since) >= CALM).then_some(false)
    }
}

#[cfg(test)]
mod tests {
    use steer_common::shared::Address;

    use super::*;

    fn sources(flows: u32, of_top: u32) -> Sources {
        Sources { flows, of_top, top: Address::from_v4([10, 0, 0, 9]) }
    }

    #[test]
    fn most_is_more_than_half_of_32_flows_or_more() {
        let vip = "198.51.100.10:443".parse().unwrap();
        let said = warning(vip, &sources(32, 17)).unwrap();
        assert!(
            said.text.starts_with("VIP 198.51.100.10:443: 10.0.0.9 makes most flows"),
            "{said}"
        );
        assert_eq!((warning(vip, &sources(31, 31)), warning(vip, &sources(32, 16))), (None, None));
    }

    #[test]
    fn auto_chooses_by_flow_once_one_source_makes_most_and_stays_with_it() {
        let (mut choices, now) = (Choices::default(), Instant::now());
        assert_eq!(choices.look(0, false, &sources(100, 40), now), None);
        assert_eq!(choices.look(0, false, &sources(100, 60), now), Some(true));
        for of_top in [60, 40, 25] {
            assert_eq!(
                choices.look(0, true, &sources(100, of_top), now + 2 * CALM),
                None,
                "{of_top}"
            );
        }
    }

    #[test]
    fn auto_goes_back_after_ten_minutes_in_which_nobody_made_a_quarter_of_the_flows() {
        let (mut choices, start) = (Choices::default(), Instant::now());
        assert_eq!(choices.look(0, true, &sources(100, 24), start), None);
        assert_eq!(
            choices.look(0, true, &sources(100, 24), start + CALM - Duration::from_secs(1)),
            None
        );
        assert_eq!(choices.look(0, true, &sources(100, 24), start + CALM), Some(false));
        assert_eq!(choices.look(1, true, &sources(100, 24), start), None);
        assert_eq!(
            choices.look(1, true, &sources(10, 1), start + CALM / 2),
            None,
            "few flows are no calm"
        );
        assert_eq!(choices.look(1, true, &sources(100, 24), start + CALM), None);
    }
}
