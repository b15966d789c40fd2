//! How long moves take, and how long hellos are that move, as the events of the programs tell.

use std::{collections::HashMap, iter, time::Duration};

use prometheus_client::metrics::histogram::Histogram;
use steer_common::{
    counters::Counter,
    shared::{Event, FlowKey},
};

/// Moves that may be under way at a time; of more it is not told how long they take.
const ROOM: usize = 4096;
/// One that takes longer is over, and its end was not told.
const LONGEST: Duration = Duration::from_secs(60);

/// What was seen of moves since the agent started; whoever has a copy sees it grow.
#[derive(Clone, Debug)]
pub(crate) struct Moves {
    /// Seconds from the SYN to the owner to the hello that follows it.
    pub(crate) duration: Histogram,
    /// Bytes of hellos that moved, with the header of their record.
    pub(crate) hello: Histogram,
}

impl Default for Moves {
    fn default() -> Self {
        let steps = |first: f64, n: u16| {
            iter::successors(Some(first), |at: &f64| Some(at * 2.0)).take(n.into())
        };
        // 62.5 us to 4 s; 128 bytes to 16 KB, which is more than can be held.
        Self {
            duration: Histogram::new(steps(62.5e-6, 17)),
            hello: Histogram::new(steps(128.0, 8)),
        }
    }
}

/// Moves that are under way: when their SYN left, nanoseconds of CLOCK_MONOTONIC.
#[derive(Debug, Default)]
pub(super) struct UnderWay(HashMap<FlowKey, u64>);

impl UnderWay {
    /// Counts what an event tells of a move.
    pub(super) fn told(&mut self, event: &Event, moves: &Moves) {
        if event.what == Counter::Rehome as u16 {
            self.begin(event);
        } else if event.what == Counter::SpliceOpened as u16 {
            moves.hello.observe(f64::from(event.hello_len));
            if let Some(began) = self.0.remove(&event.flow) {
                let time = Duration::from_nanos(event.at.saturating_sub(began));
                moves.duration.observe(time.as_secs_f64());
            }
        }
    }

    fn begin(&mut self, event: &Event) {
        if self.0.len() >= ROOM {
            let longest = LONGEST.as_nanos();
            self.0.retain(|_, began| u128::from(event.at.saturating_sub(*began)) < longest);
        }
        if self.0.len() < ROOM {
            self.0.insert(event.flow, event.at);
        }
    }
}

#[cfg(test)]
mod tests {
    use prometheus_client::{encoding::text::encode, registry::Registry};

    use super::*;

    fn event(port: u16, what: Counter, at: u64) -> Event {
        Event {
            at,
            flow: FlowKey { client_port: port.to_be_bytes(), ..FlowKey::default() },
            what: what as u16,
            first: 0,
            owner: 1,
            zero: 0,
            hello_len: 300,
            ticket: [0; 32],
        }
    }

    fn said(moves: &Moves) -> String {
        let mut registry = Registry::default();
        registry.register("duration", "", moves.duration.clone());
        registry.register("hello", "", moves.hello.clone());
        let mut text = String::new();
        encode(&mut text, &registry).unwrap();
        text
    }

    #[test]
    fn a_move_takes_from_its_syn_to_its_hello() {
        let (moves, mut under_way) = (Moves::default(), UnderWay::default());
        for (port, what, at) in [
            (1, Counter::Rehome, 1_000_000),
            (2, Counter::Rehome, 2_000_000),
            (2, Counter::SpliceOpened, 4_000_000),
            (1, Counter::SpliceOpened, 4_000_000),
            // Its beginning was not told.
            (3, Counter::SpliceOpened, 9_000_000),
            (3, Counter::TicketTold, 9_000_000),
        ] {
            under_way.told(&event(port, what, at), &moves);
        }
        let text = said(&moves);
        for line in [
            "duration_sum 0.005",
            "duration_count 2",
            "duration_bucket{le=\"0.002\"} 1",
            "duration_bucket{le=\"0.004\"} 2",
            "hello_count 3",
            "hello_sum 900.0",
            "hello_bucket{le=\"256.0\"} 0",
            "hello_bucket{le=\"512.0\"} 3",
        ] {
            assert!(text.lines().any(|said| said == line), "no {line} in\n{text}");
        }
        assert!(under_way.0.is_empty());
    }

    #[test]
    fn moves_that_never_end_take_no_more_room_than_there_is() {
        let (moves, mut under_way) = (Moves::default(), UnderWay::default());
        let many = u16::try_from(ROOM).unwrap() + 9;
        (0..many).for_each(|port| under_way.told(&event(port, Counter::Rehome, 1), &moves));
        assert_eq!(under_way.0.len(), ROOM);
        let later = u64::try_from(LONGEST.as_nanos()).unwrap() + 1;
        under_way.told(&event(u16::MAX, Counter::Rehome, later), &moves);
        assert_eq!(under_way.0.len(), 1);
    }
}
