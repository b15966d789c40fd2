//! The connections that were opened in the last minutes, by what their handshakes left: who opens
//! them, and what TCP options their backends agree to.

use std::collections::{HashMap, HashSet};

use steer_common::{
    flow::{State, StateWord},
    shared::{Address, Flow, FlowKey, options},
};

/// Sources of a pool that are told apart.
const SOURCES: usize = 4096;

/// What is told.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Opened {
    /// How many sources opened connections to each VIP or pool, by `VipId`; more than [`SOURCES`]
    /// count as that many.
    pub sources: HashMap<u16, usize>,
    /// What backends answered, by `BackendId`.
    agreed: Vec<Agreed>,
    /// Connections that are open, by the `BackendId` of the first backend.
    open: Vec<u64>,
}

impl Opened {
    /// What a backend answered.
    pub fn agreed(&self, backend: u32) -> Agreed {
        self.agreed.get(backend as usize).copied().unwrap_or_default()
    }

    /// Connections that are open and had this first backend.
    pub fn open(&self, backend: u32) -> u64 {
        self.open.get(backend as usize).copied().unwrap_or_default()
    }

    /// Where the answers of a backend are counted.
    pub(in crate::agent) fn agreed_mut(&mut self, backend: u16) -> &mut Agreed {
        at(&mut self.agreed, backend)
    }

    /// Where a backend's connections are counted.
    pub(in crate::agent) fn open_mut(&mut self, backend: u16) -> &mut u64 {
        at(&mut self.open, backend)
    }
}

/// Millions of entries name a few backends: nothing is hashed.
fn at<T: Clone + Default>(of: &mut Vec<T>, backend: u16) -> &mut T {
    let at = usize::from(backend);
    if of.len() <= at {
        of.resize(at + 1, T::default());
    }
    &mut of[at]
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
pub(super) struct Tally {
    sources: HashMap<u16, HashSet<Address>>,
    opened: Opened,
}

impl Tally {
    /// Notes a handshake of a VIP or pool of which not enough time has passed to forget it.
    pub(super) fn handshake(&mut self, vip: u16, key: &FlowKey, flow: &Flow) {
        if StateWord(flow.word).state() != State::SynAck {
            return;
        }
        let sources = self.sources.entry(vip).or_default();
        if sources.len() < SOURCES {
            sources.insert(key.client);
        }
        self.opened.agreed_mut(flow.first).note(flow.offered, flow.agreed);
    }

    /// Notes a flow of a VIP or pool that stays.
    pub(super) fn flow(&mut self, flow: &Flow) {
        *self.opened.open_mut(flow.first) += u64::from(!flow.closing());
    }

    /// All of it.
    pub(super) fn finish(self) -> Opened {
        let sources = self.sources.into_iter().map(|(vip, sources)| (vip, sources.len()));
        Opened { sources: sources.collect(), ..self.opened }
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
            tally.flow(&flow(State::Established, 3));
        }
        let told = tally.finish();
        assert_eq!((told.sources[&7], told.open(3), told.open(4)), (2, 3, 0));
        let answers: Vec<_> = told.agreed(3).answers().iter().map(|a| (a.yes, a.no)).collect();
        assert_eq!(answers, [(3, 0), (0, 0), (0, 0), (0, 3)]);
        assert_eq!(told.agreed(4), Agreed::default(), "nobody answered");
    }
}
