//! The goals, and what was measured of them.

use super::{crowd::Kind, lane::Way, page::Figures};
use crate::{agent::Hook, bench::record::Goal};

/// A re-home adds one SYN and SYN-ACK between gateway and backend, and no more than this besides,
/// microseconds.
const ALLOWANCE: f64 = 50.0;
const STEER: [Way; 2] = [Way::Steer(Hook::Tc), Way::Steer(Hook::Xdp)];

impl Figures {
    /// All goals, in the order they are shown.
    pub(super) fn goals(&self) -> Vec<Goal> {
        let mut goals =
            vec![Goal::at_most("errors of clients, all ways", self.errors() as f64, 0.0)];
        for way in STEER {
            for kind in Kind::ALL.into_iter().filter(|kind| kind.is_resumed()) {
                let by_direct = format!("{}: resumed/s of {} by direct", kind.name(), way.name());
                goals.push(Goal::at_least(&by_direct, self.ratio(kind, way, Way::Direct), 0.9));
                let by_haproxy = format!("{}: resumed/s of {} by HAProxy", kind.name(), way.name());
                goals.push(Goal::at_least(&by_haproxy, self.ratio(kind, way, Way::Haproxy), 1.6));
            }
            for kind in Kind::ALL.into_iter().filter(|kind| !kind.is_resumed()) {
                let by_nft =
                    format!("{}: connections/s of {} by nft DNAT", kind.name(), way.name());
                goals.push(Goal::at_least(&by_nft, self.ratio(kind, way, Way::Nft), 0.9));
            }
        }
        goals.extend(self.latency_goals());
        goals.extend(self.bulk_goals());
        goals
    }

    fn latency_goals(&self) -> Vec<Goal> {
        let Some(direct) = self.latency.iter().find(|times| times.way == Way::Direct) else {
            return Vec::new();
        };
        let mut goals = Vec::new();
        for way in STEER {
            let track =
                |moves| self.latency.iter().find(|times| times.way == way && times.moves == moves);
            let (Some(stays), Some(moves)) = (track(false), track(true)) else { continue };
            let added = (stays.time(50) / direct.time(50) - 1.0) * 100.0;
            goals.push(Goal::at_most(
                &format!("{}: p50 added to direct, %", stays.name),
                added,
                15.0,
            ));
            let more = format!(
                "{}: p50 added to that, us (SYN and SYN-ACK, and {ALLOWANCE} us)",
                moves.name
            );
            goals.push(Goal::at_most(
                &more,
                moves.time(50) - stays.time(50),
                moves.syn() + ALLOWANCE,
            ));
        }
        goals
    }

    fn bulk_goals(&self) -> Vec<Goal> {
        let Some(direct) = self.bulk.first() else { return Vec::new() };
        let steer = self
            .bulk
            .iter()
            .filter(|transfers| transfers.offloads && transfers.name.starts_with("steer"));
        let goals = steer.flat_map(|transfers| {
            ["down", "up"].into_iter().zip(transfers.ratios_to(direct)).map(move |(what, ratio)| {
                Goal::at_least(
                    &format!("{}: MB/s {what} by plain forwarding", transfers.name),
                    ratio,
                    0.9,
                )
            })
        });
        goals.collect()
    }
}
