//! Judges connections as they go on: decides on hellos, learns from answers, and counts both.

use std::{
    collections::HashMap,
    mem,
    net::{IpAddr, SocketAddr},
};

use steer_common::{
    counters::Counter, learn::Outcome, shared::PENDING_MAX, wire::tls::server_flight::End,
};

use super::{
    Options,
    agreement::{Opening, Pairs},
    exchange::{Decided, Exchange, Judged, Took},
    flows::{Flows, Leg},
    members::Members,
    monitors::Monitors,
    replay::{Decision, Identifier, Known, Replay},
    series::Series,
    tally::{AGES, Came, Cell, Tally, Unreadable},
};
use crate::inspect::{frame::Segment, half::Half, known::Pair};

const SECOND: u64 = 1_000_000_000;
/// What the programs' clock said at the first packet, seconds: nothing was before.
const START: u64 = 1_000_000;
/// Hellos that are remembered, to know a connection again that is there twice.
const HELLOS: usize = 1 << 15;

/// All that is known of a capture so far.
pub(super) struct Judge {
    flows: Flows,
    pub(super) members: Members,
    pub(super) replay: Replay,
    pub(super) monitors: Monitors,
    pub(super) series: Series,
    /// Between which members flows would not have moved for their TCP options.
    pub(super) pairs: Pairs,
    pub(super) n_copies: u64,
    /// Connections whose beginning is not there and of which nothing tells what they are.
    pub(super) n_midway: u64,
    /// Connections that are no TLS.
    pub(super) n_no_tls: u64,
    hellos: [HashMap<[u8; 32], SocketAddr>; 2],
    first: Option<u64>,
    last: u64,
}

impl Judge {
    pub(super) fn new(options: &Options) -> Self {
        let members = Members::new(&options.members);
        let mut replay = Replay::new(options.session_timeout, options.ticket_key_name);
        (0..members.len()).for_each(|_| replay.add());
        Self {
            flows: Flows::new(),
            members,
            replay,
            monitors: Monitors::default(),
            series: Series::new(),
            pairs: Pairs::default(),
            n_copies: 0,
            n_midway: 0,
            n_no_tls: 0,
            hellos: Default::default(),
            first: None,
            last: 0,
        }
    }

    /// Handshakes that were judged before their end, to bound memory.
    pub(super) fn n_cut_short(&self) -> u64 {
        self.flows.n_cut_short()
    }

    /// Reads a segment.
    pub(super) fn segment(&mut self, segment: &Segment<'_>, now: u64, cut: bool) {
        self.first.get_or_insert(now);
        self.last = now;
        let Some((number, mut exchange)) = self.flows.segment(segment, now, cut) else { return };
        self.go_on(&mut exchange);
        let is_over = exchange.connection.is_done() || self.flows.is_over(segment, number);
        if is_over {
            self.flows.done(segment, number, &exchange);
            self.conclude(exchange);
        } else {
            self.flows.keep(number, exchange);
        }
        while let Some(exchange) = self.flows.surplus() {
            self.conclude(exchange);
        }
    }

    /// Judges what is left at the end of the capture.
    pub(super) fn finish(&mut self) {
        while let Some(exchange) = self.flows.oldest() {
            self.conclude(exchange);
        }
    }

    /// Seconds of the programs' clock.
    fn seconds(&self) -> u32 {
        let since = self.last.saturating_sub(self.first.unwrap_or_default());
        (START + since / SECOND) as u32
    }

    /// Decides on the hello once it is there, and learns from the answer once that is.
    fn go_on(&mut self, exchange: &mut Exchange) {
        if matches!(exchange.judged, Judged::Not) && exchange.hello().is_some() {
            exchange.judged = self.decide(exchange);
        }
        let is_over = exchange.connection.server_side().is_some_and(|(flight, _)| flight.is_done());
        if !is_over || !matches!(exchange.judged, Judged::Decided(_)) {
            return;
        }
        if let Judged::Decided(decided) = mem::replace(&mut exchange.judged, Judged::Counted) {
            self.learn(exchange, *decided);
        }
    }

    fn decide(&mut self, exchange: &Exchange) -> Judged {
        let (Some((source, client, server)), Some(hello)) = (exchange.ends(), exchange.hello())
        else {
            return Judged::Aside;
        };
        let Some(member) = self.number(server) else { return Judged::Aside };
        let was_there = self.was_there(hello.random, server);
        if was_there || self.members.get(member).is_some_and(|member| member.is_front()) {
            return Judged::Aside;
        }
        let seconds = self.seconds();
        let (handshake, mut decision) = self.replay.decide(hello, member, source, seconds);
        let lacks = self.lacks(member, &decision, &exchange.opening);
        if lacks.is_some() {
            decision.reason = Counter::OwnerIncompatible;
        }
        let hello_len = hello.len;
        let leg = decision.owner.filter(|_| decision.reason == Counter::Rehome);
        let leg = leg.and_then(|owner| self.members.get(owner)).map(|owner| owner.address);
        let leg = leg.map(|owner| self.flows.leg(&Pair::between(client, owner), self.last));
        let Some(member_record) = self.members.get(member) else { return Judged::Aside };
        let tally = &mut member_record.tally;
        tally.hellos += 1;
        tally.beyond += u64::from(hello_len as usize > PENDING_MAX);
        tally.beyond_window +=
            u64::from(exchange.window.is_some_and(|window| hello_len > u32::from(window)));
        tally.in_pieces += u64::from(exchange.n_segments > 1);
        if let Some(leg) = leg {
            tally.legs.moves += 1;
            tally.legs.taken += u64::from(leg == Leg::Taken);
            tally.legs.lingering += u64::from(leg == Leg::Lingering);
        }
        Judged::Decided(Box::new(Decided { member, handshake, decision, lacks }))
    }

    /// Notes what a member agreed to, and says what the owner of what is offered lacks of it, where
    /// that keeps the flow from moving there.
    fn lacks(&mut self, first: u16, decision: &Decision, opening: &Opening) -> Option<u8> {
        let first = self.members.get(first)?;
        first.habit.note(opening);
        let first = first.habit;
        let owner = decision.owner.filter(|_| decision.reason == Counter::Rehome)?;
        self.members.get(owner)?.habit.lacks(&first, opening)
    }

    /// The number of the member at this address, perhaps a new one.
    fn number(&mut self, server: SocketAddr) -> Option<u16> {
        let before = self.members.len();
        let number = self.members.number(server)?;
        if self.members.len() > before {
            self.replay.add();
        }
        Some(number)
    }

    /// Whether the same hello was seen on another connection. Where that one dials another server,
    /// that server handed it on and is no member.
    fn was_there(&mut self, random: [u8; 32], server: SocketAddr) -> bool {
        let seen = self.hellos.iter().find_map(|hellos| hellos.get(&random)).copied();
        if seen.is_some_and(|other| other == server) {
            self.n_copies += 1;
            return true;
        }
        if let Some(front) = seen {
            self.vote(front, 1);
            self.vote(server, -1);
        }
        if self.hellos[0].len() >= HELLOS / 2 {
            self.hellos.swap(0, 1);
            self.hellos[0].clear();
        }
        self.hellos[0].insert(random, server);
        false
    }

    /// A server had a hello before another one, or after it.
    fn vote(&mut self, server: SocketAddr, by: i64) {
        if let Some(number) = self.members.known(server)
            && let Some(member) = self.members.get(number)
        {
            member.ahead += by;
            self.replay.dismiss(number, member.is_front());
        }
    }

    /// Learns from the server's answer.
    fn learn(&mut self, exchange: &mut Exchange, mut decided: Decided) {
        let seconds = self.seconds();
        let Some((flight, _)) = exchange.connection.server_side() else { return };
        let handshake = &mut decided.handshake;
        if flight.was_retried() {
            let second = exchange.second_hello(&mut self.flows.room);
            self.replay.retried(handshake, second.as_ref());
        }
        handshake.answered(exchange.answer());
        let is_front = self.members.get(decided.member).is_some_and(|member| member.is_front());
        let (follow, end) = (flight.follow(), flight.end());
        // What a server hands on is learned of who issued it.
        let ended = end.filter(|_| !is_front);
        let ended = ended.and_then(|end| self.replay.ended(handshake, follow, end, seconds));
        let came = match (ended, end) {
            (Some(Outcome::Resumed), _) => Came::Resumed,
            (Some(Outcome::Full), _) => Came::Full,
            (None, Some(End::Alert)) => Came::Failed,
            (Some(Outcome::Unknown) | None, _) => Came::Unknown,
        };
        let version = flight.follow().version;
        let retried = flight.was_retried();
        if let Some(member) = self.members.get(decided.member) {
            member.answered |= exchange.answered;
            member.tally.retried += u64::from(retried);
        }
        let version =
            if version != 0 { version } else { exchange.hello().map_or(0, |hello| hello.version) };
        self.count(exchange, &decided, version, came);
    }

    /// Counts a handshake.
    fn count(&mut self, exchange: &Exchange, decided: &Decided, version: u16, came: Came) {
        let Decided { member, decision, lacks, .. } = decided;
        let took = exchange.took();
        let mut cell = cell(decision, version, came);
        if came == Came::Resumed && cell.identifier == Identifier::None {
            // An ID that the client's version does not tell from a made-up one was a session's.
            cell.identifier = Identifier::SessionId;
        }
        if cell.is_offer() {
            let since = self.last.saturating_sub(self.first.unwrap_or_default());
            let slot = self.series.at(since);
            slot.offered += 1;
            slot.refused += u64::from(came == Came::Full);
            slot.kept += u64::from(cell.is_kept());
        }
        if let (Came::Full, Some(owner), Some(bits)) = (came, decision.owner, lacks) {
            self.pairs.note(*member, owner, *bits);
        }
        if cell.is_kept()
            && let Some(owner) = decision.owner.and_then(|owner| self.members.get(owner))
        {
            owner.tally.kept_for += 1;
        }
        let Some(member) = self.members.get(*member) else { return };
        let tally = &mut member.tally;
        tally.count(cell);
        if came == Came::Unknown {
            tally.unreadable.join(&cause(exchange));
        }
        if let Some(known) = decision.known {
            note_known(tally, &known, decided.handshake.client, came);
        }
        if let Some(took) = took {
            note_time(tally, took, came);
        }
    }

    /// Nothing more comes of a connection.
    fn conclude(&mut self, mut exchange: Box<Exchange>) {
        exchange.connection.finish();
        self.go_on(&mut exchange);
        let judged = mem::replace(&mut exchange.judged, Judged::Counted);
        if matches!(judged, Judged::Aside) {
            return;
        }
        if let Judged::Decided(decided) = judged {
            // The server's handshake did not come to its end.
            self.learn_nothing(&exchange, &decided);
        } else if exchange.hello().is_none() {
            self.unread(&exchange);
            return;
        }
        self.connected(&exchange, true);
    }

    fn learn_nothing(&mut self, exchange: &Exchange, decided: &Decided) {
        let flight = exchange.connection.server_side().map(|(flight, _)| flight);
        let negotiated = flight.map_or(0, |flight| flight.follow().version);
        if let Some(member) = self.members.get(decided.member) {
            member.answered |= exchange.answered;
        }
        let offered = exchange.hello().map_or(0, |hello| hello.version);
        let version = if negotiated != 0 { negotiated } else { offered };
        self.count(exchange, decided, version, Came::Unknown);
    }

    /// Counts a connection whose hello was not read.
    fn unread(&mut self, exchange: &Exchange) {
        if exchange.is_tls() || self.may_be_tls(exchange) {
            let Some((_, _, server)) = exchange.ends() else { return };
            let cause = cause(exchange);
            if let Some(number) = self.number(server)
                && let Some(member) = self.members.get(number)
            {
                member.answered |= exchange.answered;
                member.tally.unreadable.join(&cause);
                member.tally.unread_hellos += 1;
                self.connected(exchange, false);
            }
            return;
        }
        if !exchange.opened {
            self.n_midway += 1;
        } else if exchange.said {
            self.n_no_tls += 1;
        } else {
            self.silent(exchange);
        }
    }

    /// Whether nothing is there of how either end of a member's connection began: what is lost of it
    /// may be TLS, and most is.
    fn may_be_tls(&self, exchange: &Exchange) -> bool {
        let is_member = exchange.ends().is_some_and(|ends| self.members.known(ends.2).is_some());
        let is_begun = exchange.opened || exchange.window.is_some();
        is_member && is_begun && (exchange.said || exchange.answered) && exchange.is_headless()
    }

    /// A connection on which the client said nothing: monitors make such.
    fn silent(&mut self, exchange: &Exchange) {
        let Some((source, _, server)) = exchange.ends() else { return };
        if let Some(number) = self.members.known(server)
            && let Some(member) = self.members.get(number)
        {
            member.tally.silent += 1;
            self.monitors.note(source, number, exchange.began, false);
        }
    }

    /// Counts a TLS connection.
    fn connected(&mut self, exchange: &Exchange, hello: bool) {
        let Some((source, _, server)) = exchange.ends() else { return };
        if let Some(number) = self.members.known(server)
            && let Some(member) = self.members.get(number)
        {
            member.tally.tls += 1;
            member.tally.one_way += u64::from(!exchange.is_two_way());
            self.monitors.note(source, number, exchange.began, hello);
        }
    }
}

fn cell(decision: &Decision, version: u16, came: Came) -> Cell {
    Cell { version, identifier: decision.identifier, reason: decision.reason, came }
}

/// Why a handshake cannot be read.
fn cause(exchange: &Exchange) -> Unreadable {
    let mut cause = Unreadable::default();
    let has_hole = |half: &Half| half.has_hole();
    let client = exchange.connection.client_side();
    let server = exchange.connection.server_side();
    let holes = client.is_some_and(|(_, half)| has_hole(half))
        || server.is_some_and(|(_, half)| has_hole(half));
    let malformed = exchange.hello().is_none()
        && client.is_some_and(|(hello, half)| hello.is_nothing() && !half.has_hole());
    let one = if !exchange.is_two_way() {
        &mut cause.one_way
    } else if exchange.cut {
        &mut cause.cut
    } else if !exchange.opened {
        &mut cause.outside
    } else if holes {
        &mut cause.lost
    } else if malformed {
        &mut cause.malformed
    } else if client.is_some_and(|(_, half)| half.is_empty() && !half.is_closed()) {
        &mut cause.lost
    } else {
        &mut cause.outside
    };
    *one = 1;
    cause
}

fn note_known(tally: &mut Tally, known: &Known, client: IpAddr, came: Came) {
    let age = AGES.iter().position(|age| known.idle <= *age).unwrap_or(AGES.len());
    if let Some(ages) = tally.ages.get_mut(age) {
        ages.count(came);
    }
    let same = known.client == client;
    let taken = if same { &mut tally.same_address } else { &mut tally.other_address };
    taken.count(came);
}

fn note_time(tally: &mut Tally, took: Took, came: Came) {
    const MICROSECOND: u64 = 1000;
    let (whole, own) = match came {
        Came::Resumed => (&mut tally.resumed, &mut tally.resumed_own),
        Came::Full => (&mut tally.full, &mut tally.full_own),
        Came::Failed | Came::Unknown => return,
    };
    whole.add(took.whole / MICROSECOND);
    own.add(took.own / MICROSECOND);
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::{config::TicketKeyName, inspect::frame::Path};
    use steer_common::wire::tcp::flags;

    /// Bytes that a hello begins with, of one that is longer.
    const HELLO: [u8; 60] = {
        let mut hello = [0; 60];
        [hello[0], hello[1], hello[2], hello[4]] = [22, 3, 1, 200];
        [hello[5], hello[8], hello[9], hello[10]] = [1, 196, 3, 3];
        hello
    };

    #[test]
    fn tables_stay_within_their_bounds_whatever_passes() {
        const CONNECTIONS: u32 = 150_000;
        let mut judge = Judge::new(&Options {
            members: Vec::new(),
            session_timeout: Duration::from_secs(600),
            ticket_key_name: TicketKeyName::Auto,
        });
        let mut most = Sizes::default();
        for n in 0..CONNECTIONS {
            let source = SocketAddr::new(IpAddr::from((0x0a00_0000 + n).to_be_bytes()), 40_000);
            let server = [192, 0, ((n % 2000) >> 8) as u8, (n % 2000) as u8];
            let mut segment = Segment {
                source,
                destination: SocketAddr::from((server, 443)),
                seq: n,
                ack: 0,
                flags: flags::SYN,
                window: 500,
                accurate_ecn: false,
                options: Some(&[]),
                payload: &[],
                path: Path::default(),
            };
            judge.segment(&segment, u64::from(n) * 10_000, false);
            (segment.seq, segment.flags, segment.payload) = (n + 1, flags::ACK, &HELLO);
            judge.segment(&segment, u64::from(n) * 10_000, false);
            if n % 1000 == 0 {
                most = most.max(judge.sizes());
            }
        }
        most = most.max(judge.sizes());
        let Sizes { known, exchanges, order, members, monitors } = most;
        assert!((65_536..=131_072).contains(&known), "{known} connections");
        assert!((8192..=16_384).contains(&exchanges), "{exchanges} handshakes");
        assert!(order <= 4 * 16_384, "{order} in a queue");
        assert!(members <= 1024, "{members} servers");
        assert!(monitors <= 16_384, "{monitors} pairs");
    }

    /// Entries of tables.
    #[derive(Clone, Copy, Debug, Default)]
    struct Sizes {
        known: usize,
        exchanges: usize,
        order: usize,
        members: usize,
        monitors: usize,
    }

    impl Sizes {
        fn max(self, other: Self) -> Self {
            Self {
                known: self.known.max(other.known),
                exchanges: self.exchanges.max(other.exchanges),
                order: self.order.max(other.order),
                members: self.members.max(other.members),
                monitors: self.monitors.max(other.monitors),
            }
        }
    }

    impl Judge {
        fn sizes(&self) -> Sizes {
            let (known, exchanges, order) = self.flows.sizes();
            let (members, monitors) = (self.members.len(), self.monitors.len());
            Sizes { known, exchanges, order, members, monitors }
        }
    }
}
