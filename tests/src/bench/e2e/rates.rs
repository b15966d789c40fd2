//! Handshakes per second, their times and their CPU: every way in turns, round by round.

use std::time::Duration;

use anyhow::Result;
use aya::sys::{Stats, enable_stats};

use super::{
    Effort,
    cpu::{Cpu, ProgramTime},
    crowd::{Crowd, Kind, Turn},
    lane::{Lane, Way},
};
use crate::bench::record::{median, percentile};

/// All turns of one kind on one way, in the order of the rounds.
pub(super) struct Series {
    pub(super) way: Way,
    pub(super) kind: Kind,
    pub(super) turns: Vec<Turn>,
    /// Of steer: its programs' time and runs per connection, of a turn in which the kernel counted
    /// them.
    pub(super) programs: Option<PerConnection>,
}

/// What steer's programs did for a connection, on the average.
#[derive(Clone, Copy, Debug)]
pub(super) struct PerConnection {
    pub(super) nanoseconds: f64,
    pub(super) runs: f64,
}

/// Measures every kind on every lane. In a round the lanes come one after the other, each round
/// beginning at another.
pub(super) fn measure(
    lanes: &[Lane<'_>],
    effort: Effort,
    progress: &dyn Fn(&str),
) -> Result<Vec<Series>> {
    let mut all = Vec::new();
    for kind in Kind::ALL {
        progress(kind.name());
        let mut crowds =
            lanes.iter().map(|lane| Crowd::gather(lane, kind)).collect::<Result<Vec<_>>>()?;
        let new =
            |lane: &Lane<'_>| Series { way: lane.way, kind, turns: Vec::new(), programs: None };
        let mut series: Vec<_> = lanes.iter().map(new).collect();
        for round in 0..effort.rounds {
            for index in 0..crowds.len() {
                let index = (index + round) % crowds.len();
                series[index].turns.push(crowds[index].work(effort.turn)?);
            }
        }
        for (crowd, series) in crowds.iter_mut().zip(&mut series) {
            series.programs = programs(crowd, effort)?;
        }
        all.extend(series);
    }
    Ok(all)
}

/// One more turn, in which the kernel counts the programs' time; it costs time itself, so that no
/// rate is taken of it.
fn programs(crowd: &mut Crowd<'_>, effort: Effort) -> Result<Option<PerConnection>> {
    if crowd.lane.agent().is_none() {
        return Ok(None);
    }
    let _counting = enable_stats(Stats::RunTime)?;
    let before = ProgramTime::of(crowd.lane)?;
    let turn = crowd.work(effort.turn / 2)?;
    let used = ProgramTime::of(crowd.lane)?.since(before);
    let n = turn.connections.max(1) as f64;
    Ok(Some(PerConnection {
        nanoseconds: used.time.as_nanos() as f64 / n,
        runs: used.runs as f64 / n,
    }))
}

impl Series {
    /// Connections per second, or resumptions, the median of the rounds.
    pub(super) fn rate(&self) -> f64 {
        self.of_turns(|turn| turn.rate(self.kind))
    }

    /// The least and the most of all rounds.
    pub(super) fn range(&self) -> (f64, f64) {
        let rates = self.turns.iter().map(|turn| turn.rate(self.kind));
        rates.fold((f64::INFINITY, 0.0), |(least, most), rate| (rate.min(least), rate.max(most)))
    }

    /// Its rate by that of another way, the median of the rounds' ratios: what disturbs a round
    /// disturbs both.
    pub(super) fn ratio_to(&self, other: &Self) -> f64 {
        let ratios: Vec<_> = self
            .turns
            .iter()
            .zip(&other.turns)
            .map(|(own, other)| own.rate(self.kind) / other.rate(self.kind))
            .collect();
        median(&ratios).unwrap_or(f64::NAN)
    }

    /// Share of the connections that were resumed.
    pub(super) fn share(&self) -> f64 {
        let sum = |of: fn(&Turn) -> usize| self.turns.iter().map(of).sum::<usize>() as f64;
        sum(|turn| turn.resumed) / sum(|turn| turn.connections)
    }

    /// A percentile of the handshakes' times, microseconds, the median of the rounds.
    pub(super) fn time(&self, percent: usize) -> f64 {
        self.of_turns(|turn| percentile(&turn.handshakes, percent).unwrap_or(f64::NAN))
    }

    /// CPU time per connection of one or all that take part, microseconds, the median of the
    /// rounds.
    pub(super) fn cpu(&self, of: fn(&Cpu) -> Duration) -> f64 {
        self.of_turns(|turn| of(&turn.cpu).as_secs_f64() * 1e6 / turn.connections as f64)
    }

    pub(super) fn errors(&self) -> usize {
        self.turns.iter().map(|turn| turn.errors).sum()
    }

    pub(super) fn sample(&self) -> Option<&str> {
        self.turns.iter().find_map(|turn| turn.sample.as_deref())
    }

    fn of_turns(&self, figure: impl Fn(&Turn) -> f64) -> f64 {
        median(&self.turns.iter().map(figure).collect::<Vec<_>>()).unwrap_or(f64::NAN)
    }
}
