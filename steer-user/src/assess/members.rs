//! The servers of a capture: those that were named, or all that TLS clients dial.

use std::{collections::HashMap, net::SocketAddr};

use super::{agreement::Habit, tally::Tally};

/// Servers that are told apart where none was named.
const SERVERS_MAX: usize = 1024;

/// All of them.
pub(super) struct Members {
    given: bool,
    numbers: HashMap<SocketAddr, u16>,
    list: Vec<Member>,
    /// TLS connections to servers that are none.
    pub(super) n_others: u64,
}

/// One of them.
pub(super) struct Member {
    pub(super) address: SocketAddr,
    /// How often a hello was seen here before another server had it, less how often after.
    pub(super) ahead: i64,
    /// It answered a TLS client.
    pub(super) answered: bool,
    /// The TCP options that it agrees to.
    pub(super) habit: Habit,
    pub(super) tally: Tally,
}

impl Members {
    /// Those that are named; none: all.
    pub(super) fn new(named: &[SocketAddr]) -> Self {
        let given = !named.is_empty();
        let mut members = Self { given, numbers: HashMap::new(), list: Vec::new(), n_others: 0 };
        named.iter().for_each(|address| members.add(*address));
        members
    }

    fn add(&mut self, address: SocketAddr) {
        let number = self.list.len() as u16;
        if *self.numbers.entry(address).or_insert(number) == number {
            let (habit, tally) = Default::default();
            self.list.push(Member { address, ahead: 0, answered: false, habit, tally });
        }
    }

    /// The number of the member at this address; `None` where it is none.
    pub(super) fn number(&mut self, address: SocketAddr) -> Option<u16> {
        if let Some(number) = self.numbers.get(&address) {
            return Some(*number);
        }
        if self.given || self.list.len() >= SERVERS_MAX {
            self.n_others += 1;
            return None;
        }
        self.add(address);
        self.numbers.get(&address).copied()
    }

    /// The number of the member at this address, if it is known to be one.
    pub(super) fn known(&self, address: SocketAddr) -> Option<u16> {
        self.numbers.get(&address).copied()
    }

    pub(super) fn get(&mut self, number: u16) -> Option<&mut Member> {
        self.list.get_mut(usize::from(number))
    }

    pub(super) fn len(&self) -> usize {
        self.list.len()
    }

    pub(super) fn were_given(&self) -> bool {
        self.given
    }

    /// Those that count, with their numbers: who answered and hands nothing on; of those that were
    /// named all.
    pub(super) fn counted(&self) -> impl Iterator<Item = (u16, &Member)> {
        let counts = |member: &Member| self.given || member.answered && !member.is_front();
        (0..).zip(&self.list).filter(move |(_, member)| counts(member))
    }

    /// TLS connections to servers that never answered.
    pub(super) fn n_unanswered(&self) -> u64 {
        let silent = self.list.iter().filter(|member| !member.answered);
        silent.map(|member| member.tally.tls).sum()
    }

    /// Those that hand their connections on.
    pub(super) fn fronts(&self) -> impl Iterator<Item = SocketAddr> {
        self.list.iter().filter(|member| member.is_front()).map(|member| member.address)
    }
}

impl Member {
    /// Whether it is no member, but who hands its connections on to them.
    pub(super) fn is_front(&self) -> bool {
        self.ahead > 0
    }
}
