//! The connections that were opened in the last minutes, by what their handshakes left: who opens
//! them, and what TCP options their backends agree to.

use std::collections::{HashMap, HashSet};

use steer_common::{
    flow::{State, StateWord},
    shared::{Address, Flow, FlowKey, options},
};

/// Sources of a pool that are told apart.
const SOURCES: usize = 4096;

/// What is told of one VIP or pool.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Opened {
    /// How many sources opened connections; more than [`SOURCES`] count as that many.
    pub sources: usize,
    /// What its backends answered, by `BackendId`.
    pub agreed: HashMap<u16, Agreed>,
    /// Connections that are open, by the `BackendId` of the first backend.
    pub open: HashMap<u16, u64>,
}

/// How often one backend agreed to what SYNs offered.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Agreed([Answers; options::WORDS.len()]);

/// Answers to SYNs that offered one option.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Answers {
    /// That agreed.
    pub yes: u32,
    /// That did not.
    pub no: u32,
}

impl Agreed {
    /// Counts an answer.
    pub fn note(&mut self, offered: u8, agreed: u8) {
        for ((bit, _), answers) in options::WORDS.into_iter().zip(&mut self.0) {
            answers.yes += u32::from(offered & agreed & bit != 0);
            answers.no += u32::from(offered & !agreed & bit != 0);
        }
    }

    /// The answers to those who offered each of [`options::WORDS`].
    pub fn answers(&self) -> [Answers; options::WORDS.len()] {
        self.0
    }
}

/// What a walk has seen so far.
#[derive(Default)]
pub(super) struct Tally(HashMap<u16, (HashSet<Address>, Opened)>);

impl Tally {
    /// Notes a handshake of a VIP or pool of which not enough time has passed to forget it.
    pub(super) fn handshake(&mut self, vip: u16, key: &FlowKey, flow: &Flow) {
        if StateWord(flow.word).state() != State::SynAck {
            return;
        }
        let (sources, opened) = self.0.entry(vip).or_default();
        if sources.len() < SOURCES {
            sources.insert(key.client);
        }
        opened.agreed.entry(flow.first).or_default().note(flow.offered, flow.agreed);
    }

    /// Notes a flow of a VIP or pool that stays.
    pub(super) fn flow(&mut self, vip: u16, flow: &Flow) {
        if !flow.closing() {
            *self.0.entry(vip).or_default().1.open.entry(flow.first).or_default() += 1;
        }
    }

    /// All of it, by `VipId`.
    pub(super) fn finish(self) -> HashMap<u16, Opened> {
        let of = |(vip, (sources, opened)): (u16, (HashSet<Address>, Opened))| {
            (vip, Opened { sources: sources.len(), ..opened })
        };
        self.0.into_iter().map(of).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_and_answers_are_counted_of_handshakes_that_were_answered() {
        let mut tally = Tally::default();
        let key =
            |last| FlowKey { client: Address::from_v4([10, 0, 0, last]), ..FlowKey::default() };
        let flow = |state, first| Flow {
            word: StateWord::new(state, 0).0,
            first,
            offered: options::SACK | options::ECN,
            agreed: options::SACK,
            ..Flow::default()
        };
        for last in [1, 2, 2] {
            tally.handshake(7, &key(last), &flow(State::SynAck, 3));
            tally.handshake(7, &key(9), &flow(State::Syn, 4));
            tally.flow(7, &flow(State::Established, 3));
        }
        let told = tally.finish().remove(&7).unwrap();
        assert_eq!((told.sources, told.open[&3], told.agreed.len()), (2, 3, 1));
        let answers: Vec<_> = told.agreed[&3].answers().iter().map(|a| (a.yes, a.no)).collect();
        assert_eq!(answers, [(3, 0), (0, 0), (0, 0), (0, 3)]);
    }
}
