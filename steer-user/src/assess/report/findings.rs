//! What the numbers mean: which side a capture is of, whether it can say anything, and what about
//! it deserves a look.

use steer_common::counters::Counter;

use super::{super::judge::Judge, Report, Side};
use crate::inspect::Ending;

/// Share of connections with one direction, or of handshakes that cannot be read, above which
/// nothing is said.
const HALF: f64 = 0.5;

impl Report {
    pub(super) fn find(&mut self, judge: &Judge) {
        self.side = self.found_side();
        self.cannot_say = self.reasons_against();
        self.notes = self.found_notes(judge);
    }

    /// Where no member was named, several servers that never see each other's sessions, and refuse
    /// their own, are no members but VIPs.
    fn found_side(&self) -> Side {
        let crosses = self.reasons.iter().any(|line| {
            [Counter::Rehome, Counter::OwnerIncompatible].iter().any(|by| line.word == by.word())
        });
        let refuse_their_own = self.total.refused_by_owner > 0;
        match self.members.len() {
            0 | 1 => Side::Outside,
            _ if self.members_named || crosses || !refuse_their_own => Side::Inside,
            _ => Side::Outside,
        }
    }

    fn reasons_against(&self) -> Vec<String> {
        let (connections, intake) = (&self.connections, &self.intake);
        let mut reasons = Vec::new();
        if intake.segments == 0 {
            let what = if intake.packets == 0 { "no packets" } else { "no TCP segments" };
            reasons.push(format!("there are {what} in it"));
        } else if connections.tls == 0 && connections.unanswered > 0 {
            reasons.push(format!(
                "of {} TLS connections only one direction is in it, the clients': let the mirror \
                 port show both",
                connections.unanswered
            ));
        } else if connections.tls == 0 {
            reasons.push(format!(
                "no TLS handshake{} is in it: {} connections began before it, {} are no TLS",
                if self.members_named { " with a member" } else { "" },
                connections.midway,
                connections.no_tls
            ));
        } else if share(connections.one_way, connections.tls) > HALF {
            reasons.push(format!(
                "of {} of {} TLS connections only one direction is in it: let the mirror port show both",
                connections.one_way, connections.tls
            ));
        } else if connections.unreadable_percent > HALF * 100.0 {
            reasons.push(format!(
                "{} % of the handshakes cannot be read: see the causes",
                connections.unreadable_percent
            ));
        }
        if intake.packets > 0 && intake.without_time == intake.packets {
            reasons.push("its packets have no times".to_owned());
        }
        reasons
    }

    fn found_notes(&self, judge: &Judge) -> Vec<String> {
        let mut notes = Vec::new();
        let intake = &self.intake;
        for source in &self.sources {
            let how = match source.ending {
                Ending::Whole => continue,
                Ending::Truncated => "ends inside a packet: it was truncated",
                Ending::Damaged => "is damaged: what follows the last good packet was not read",
                Ending::Unreadable => "cannot be read to its end",
            };
            notes.push(format!("{} {how}", source.name));
        }
        for (tally, what) in [
            (&intake.not_read, "frames were not read"),
            (&intake.blocks_not_read, "blocks of a file were not read"),
        ] {
            if tally.total() != 0 {
                notes.push(format!("{} {what}: {tally}", tally.total()));
            }
        }
        for (n, what) in [
            (intake.dropped, "packets were dropped by the kernel before they could be read"),
            (intake.cut, "segments were captured in part: let the capture take whole packets"),
            (
                intake.back_in_time,
                "packets are more than 0.1 s earlier than one before them: the clock was set, or \
                 the file was put together of others",
            ),
            (
                intake.without_time,
                "packets have no time, and count as captured with the one before",
            ),
            (judge.n_cut_short(), "handshakes were judged before their end, to bound memory"),
            (judge.replay.n_forgotten(), "sessions were forgotten to bound memory, as steer does"),
            (
                self.hellos.beyond,
                "hellos are longer than steer reads: it decides on their beginning",
            ),
            (
                self.hellos.beyond_server_window,
                "hellos are longer than what the server's first window takes: steer decides on \
                 what is there",
            ),
        ] {
            if n != 0 {
                notes.push(format!("{n} {what}"));
            }
        }
        if self.key_names.shared != 0 {
            notes.push(format!(
                "{} of {} names of ticket keys are used by more than one member: those have keys in \
                 common and resume each other's sessions",
                self.key_names.shared, self.key_names.known
            ));
        }
        if judge.monitors.is_full() {
            notes.push("too many sources to find all monitors".to_owned());
        }
        notes
    }
}

pub(super) fn share(part: u64, of: u64) -> f64 {
    part as f64 / of.max(1) as f64
}
