//! Sources that look like a balancer's monitors: they dial every member, at equal intervals. steer
//! must not move them.

use std::{collections::HashMap, net::IpAddr};

use serde::Serialize;

/// Sources and members that are told apart.
const PAIRS_MAX: usize = 1 << 14;
/// Connections of a source to one member that tell its interval.
const ENOUGH: u64 = 4;
/// Shortest interval of a monitor, seconds.
const INTERVAL_MIN: f64 = 0.5;
/// How far intervals are from their mean, as a part of it.
const REGULAR: f64 = 0.15;

/// A source that looks like a monitor.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Monitor {
    /// Its address.
    pub source: IpAddr,
    /// Seconds between two connections to one member.
    pub interval_seconds: f64,
    /// Its connections.
    pub connections: u64,
    /// Of those, with a ClientHello.
    pub hellos: u64,
}

/// What sources do.
#[derive(Default)]
pub(super) struct Monitors {
    pairs: HashMap<(IpAddr, u16), Pace>,
    is_full: bool,
}

/// One source at one member.
#[derive(Clone, Copy, Debug, Default)]
struct Pace {
    first: u64,
    last: u64,
    /// Sum of the squares of intervals, square seconds.
    squares: f64,
    n: u64,
    hellos: u64,
}

impl Monitors {
    /// A source connected to a member.
    pub(super) fn note(&mut self, source: IpAddr, member: u16, now: u64, hello: bool) {
        let is_new = !self.pairs.contains_key(&(source, member));
        if is_new && self.pairs.len() >= PAIRS_MAX {
            self.is_full = true;
            return;
        }
        let pace = self.pairs.entry((source, member)).or_default();
        if pace.n == 0 {
            pace.first = now;
        } else {
            pace.squares += seconds(now.saturating_sub(pace.last)).powi(2);
        }
        pace.last = pace.last.max(now);
        pace.n += 1;
        pace.hellos += u64::from(hello);
    }

    /// Those that dialled all of `members` at equal intervals.
    pub(super) fn found(&self, members: &[u16]) -> Vec<Monitor> {
        let mut sources = HashMap::<IpAddr, Vec<&Pace>>::new();
        for ((source, member), pace) in &self.pairs {
            if members.contains(member) {
                sources.entry(*source).or_default().push(pace);
            }
        }
        let mut found: Vec<_> = sources
            .into_iter()
            .filter(|(_, paces)| members.len() > 1 && paces.len() == members.len())
            .filter_map(|(source, paces)| monitor(source, &paces))
            .collect();
        found.sort_by_key(|monitor| monitor.source);
        found
    }

    /// Sources and members that are told apart so far.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.pairs.len()
    }

    /// Whether there were more sources than are told apart.
    pub(super) fn is_full(&self) -> bool {
        self.is_full
    }
}

fn monitor(source: IpAddr, paces: &[&Pace]) -> Option<Monitor> {
    let intervals = paces.iter().map(|pace| pace.interval()).collect::<Option<Vec<_>>>()?;
    let mean = intervals.iter().sum::<f64>() / intervals.len() as f64;
    let alike = intervals.iter().all(|interval| (interval - mean).abs() <= REGULAR * mean);
    alike.then(|| Monitor {
        source,
        interval_seconds: (mean * 10.0).round() / 10.0,
        connections: paces.iter().map(|pace| pace.n).sum(),
        hellos: paces.iter().map(|pace| pace.hellos).sum(),
    })
}

impl Pace {
    /// Seconds between two connections, where they are equal.
    fn interval(&self) -> Option<f64> {
        if self.n < ENOUGH {
            return None;
        }
        let n = (self.n - 1) as f64;
        let mean = seconds(self.last - self.first) / n;
        let deviation = (self.squares / n - mean * mean).max(0.0).sqrt();
        (mean >= INTERVAL_MIN && deviation <= REGULAR * mean).then_some(mean)
    }
}

fn seconds(nanoseconds: u64) -> f64 {
    nanoseconds as f64 / 1e9
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(monitors: &mut Monitors, source: u8, member: u16, milliseconds: &[u64]) {
        for time in milliseconds {
            monitors.note(IpAddr::from([192, 0, 2, source]), member, time * 1_000_000, false);
        }
    }

    #[test]
    fn who_dials_every_member_at_equal_intervals_is_one() {
        let mut monitors = Monitors::default();
        for member in 0..2 {
            at(&mut monitors, 1, member, &[0, 5000, 10_010, 14_990, 20_000]);
            at(&mut monitors, 2, member, &[0, 100, 9000, 9100, 30_000]);
        }
        at(&mut monitors, 3, 0, &[0, 5000, 10_000, 15_000, 20_000]);
        let found = monitors.found(&[0, 1]);
        assert_eq!(found.len(), 1, "{found:?}");
        assert_eq!(
            (found[0].source, found[0].interval_seconds, found[0].connections),
            (IpAddr::from([192, 0, 2, 1]), 5.0, 10)
        );
        assert_eq!(monitors.found(&[0]), [], "of one member nobody dials every one");
    }
}
