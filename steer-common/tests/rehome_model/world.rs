//! The network, the clock, and what must hold.

use steer_common::{counters::Counter, flow::State, wire::tcp::flags};

use crate::{
    backend::{ANSWER, Backend, Temper},
    client::{Client, Habits},
    gateway::{FIRST, Gateway, OWNER, Setup, To},
    packet::Packet,
};

const US: u64 = 1_000;
const MS: u64 = 1_000_000;
/// Packets that scenarios deliver at the most; more are a storm.
const STORM: u32 = 5_000;
/// By then everybody has come through, or is stuck.
const END: u64 = 120_000 * MS;

/// What the network does with one packet, delays in microseconds.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Fate {
    Late(u64),
    Lost,
    Twice(u64, u64),
}

/// A packet in the client's name: its place in the client's stream was hit, what it acknowledges
/// was not.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Forgery {
    pub(crate) flags: u8,
    /// Offset from the client's initial sequence number.
    pub(crate) offset: u32,
    pub(crate) ack: u32,
    pub(crate) len: usize,
}

#[derive(Clone, Debug)]
pub(crate) struct Scenario {
    pub(crate) setup: Setup,
    pub(crate) habits: Habits,
    pub(crate) first: Temper,
    pub(crate) owner: Temper,
    /// One for each packet sent; what comes after is delivered at once.
    pub(crate) fates: Vec<Fate>,
    /// When the table of buffered bytes forgets.
    pub(crate) evict_ms: Option<u64>,
    /// What an attacker sends in the client's name who sees nothing: when, milliseconds, and what.
    pub(crate) forgeries: Vec<(u64, Forgery)>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum At {
    Client,
    /// The client, on a connection to a backend's own address.
    Direct(u16),
    Gateway(From),
    First,
    Owner,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum From {
    Client,
    Backend(u16),
}

pub(crate) struct World {
    pub(crate) gateway: Gateway,
    client: Client,
    first: Backend,
    owner: Backend,
    fates: std::vec::IntoIter<Fate>,
    evict: Option<u64>,
    forgeries: Vec<(u64, Packet)>,
    /// Arrival, order of sending, where, what.
    wire: Vec<(u64, u32, At, Packet)>,
    sent: u32,
    now: u64,
    /// Since when the network delivers everything.
    healthy_since: u64,
    resets_to_first: u32,
}

impl World {
    pub(crate) fn new(scenario: &Scenario) -> Self {
        let len = scenario.habits.hello_len;
        Self {
            gateway: Gateway::new(scenario.setup.clone()),
            client: Client::new(scenario.habits.clone()),
            first: Backend::new(b'A', scenario.first.clone(), len),
            owner: Backend::new(b'B', scenario.owner.clone(), len),
            fates: scenario.fates.clone().into_iter(),
            evict: scenario.evict_ms.map(|ms| ms * MS),
            forgeries: scenario
                .forgeries
                .iter()
                .map(|(ms, forgery)| (ms * MS, forged(scenario, forgery)))
                .collect(),
            wire: Vec::new(),
            sent: 0,
            now: 0,
            healthy_since: 0,
            resets_to_first: 0,
        }
    }

    /// Lets everything happen until nothing more does; in the end the first backend probes its
    /// connection, if it has one.
    pub(crate) fn run(&mut self) {
        while let Some(at) = self.next_event() {
            if at > END {
                break;
            }
            self.now = at;
            self.step();
        }
        self.fates = Vec::new().into_iter();
        if let Some(probe) = self.first.keepalive() {
            self.send(At::Gateway(From::Backend(FIRST)), probe);
        }
        while !self.wire.is_empty() {
            self.deliver();
        }
    }

    fn next_event(&self) -> Option<u64> {
        let wire = self.wire.iter().map(|flight| flight.0).min();
        let forgery = self.forgeries.iter().map(|forgery| forgery.0).min();
        let timers = [
            wire,
            self.client.wakes(),
            self.first.wakes(),
            self.owner.wakes(),
            self.evict,
            forgery,
        ];
        timers.into_iter().flatten().min()
    }

    fn step(&mut self) {
        let due = |at: Option<u64>| at.is_some_and(|at| at <= self.now);
        if due(self.evict) {
            self.evict = None;
            self.gateway.evict_pending();
        } else if let Some(i) = self.forgeries.iter().position(|forgery| forgery.0 <= self.now) {
            let (_, packet) = self.forgeries.swap_remove(i);
            self.through_gateway(From::Client, &packet);
        } else if due(self.client.wakes()) {
            for packet in self.client.wake(self.now) {
                self.send(At::Gateway(From::Client), packet);
            }
        } else if due(self.first.wakes()) {
            for packet in self.first.wake(self.now) {
                self.send(At::Gateway(From::Backend(FIRST)), packet);
            }
        } else if due(self.owner.wakes()) {
            for packet in self.owner.wake(self.now) {
                self.send(At::Gateway(From::Backend(OWNER)), packet);
            }
        } else {
            self.deliver();
        }
    }

    fn send(&mut self, to: At, packet: Packet) {
        if self.fates.len() != 0 {
            self.healthy_since = self.now + 1;
        }
        let (a, b) = match self.fates.next() {
            Some(Fate::Lost) => (None, None),
            Some(Fate::Late(delay)) => (Some(delay), None),
            Some(Fate::Twice(a, b)) => (Some(a), Some(b)),
            None => (Some(100), None),
        };
        for delay in [a, b].into_iter().flatten() {
            self.sent += 1;
            assert!(self.sent < STORM, "a storm of packets");
            self.wire.push((self.now + delay * US, self.sent, to, packet.clone()));
        }
    }

    /// Delivers what arrives next.
    fn deliver(&mut self) {
        let Some(i) = (0..self.wire.len()).min_by_key(|i| (self.wire[*i].0, self.wire[*i].1))
        else {
            return;
        };
        let (at, _, to, packet) = self.wire.remove(i);
        self.now = self.now.max(at);
        let (answers, back) = match to {
            At::Gateway(from) => return self.through_gateway(from, &packet),
            At::Client => (self.client.receive(&packet, self.now), From::Client),
            At::Direct(from) => return self.on_another_connection(from, &packet),
            At::First => (self.first.receive(&packet, self.now), From::Backend(FIRST)),
            At::Owner => (self.owner.receive(&packet, self.now), From::Backend(OWNER)),
        };
        for answer in answers {
            self.send(At::Gateway(back), answer);
        }
    }

    /// A backend's packet that passed untouched is at the client, and what that one answers passes
    /// too.
    fn on_another_connection(&mut self, from: u16, packet: &Packet) {
        let answers = match (from, &mut self.owner.direct) {
            (OWNER, Some(direct)) => direct.client_receives(packet),
            // There is no such connection.
            _ if packet.any(flags::RST) => vec![],
            _ => vec![packet.refusal()],
        };
        for answer in answers {
            self.send(if from == FIRST { At::First } else { At::Owner }, answer);
        }
    }

    fn through_gateway(&mut self, from: From, packet: &Packet) {
        let before = self.gateway.state();
        let out = match from {
            From::Client => self.gateway.client_sent(packet, self.now),
            From::Backend(id) => self.gateway.backend_sent(id, packet, self.now),
        };
        for (to, packet) in out {
            self.check(before, from, to, &packet);
            self.send(
                match to {
                    To::Client => At::Client,
                    To::ClientFrom(backend) => At::Direct(backend),
                    To::First => At::First,
                    To::Owner => At::Owner,
                },
                packet,
            );
        }
    }

    /// What may leave the gateway in the state it is in now.
    fn check(&mut self, before: Option<State>, from: From, to: To, packet: &Packet) {
        let state = self.gateway.state();
        // A bare FIN that came before the data in front of it ends nothing.
        let ends = packet.any(flags::FIN) && Some(packet.seq) == self.gateway.first_byte();
        let speaks = !packet.data.is_empty() || ends;
        let made = matches!((from, packet.flags), (From::Backend(_), flags::RST));
        if made && to != To::Client && !matches!(to, To::ClientFrom(_)) {
            assert_eq!(
                Some(packet.seq),
                self.gateway.first_byte(),
                "a reset with a number that is not the flow's"
            );
        }
        let undecided =
            matches!(state, None | Some(State::Established | State::Gather | State::Wait));
        match to {
            To::First => {
                // Of a handshake that is not complete everything goes there, and what lies out of
                // every window.
                let unknown = packet.forged
                    && self.gateway.first_byte().is_none_or(|first| is_far(first, packet.seq));
                assert!(
                    unknown || !(undecided && speaks),
                    "{packet:?} reached the first backend in {state:?}"
                );
                let quiet = packet.any(flags::RST | flags::SYN);
                assert!(
                    state != Some(State::Spliced) || quiet,
                    "{packet:?} reached the first backend after the splice"
                );
                self.resets_to_first +=
                    u32::from(packet.flags == flags::RST && state == Some(State::Spliced));
            }
            To::Owner => {
                let opens = state == Some(State::Wait) && packet.flags == flags::SYN;
                let closes = state == Some(State::First) && packet.any(flags::RST);
                assert!(
                    state == Some(State::Spliced) || opens || closes,
                    "{packet:?} reached the owner in {state:?}"
                );
            }
            To::ClientFrom(backend) => assert_eq!(from, From::Backend(backend)),
            To::Client => {
                let holder = if state == Some(State::Spliced) { OWNER } else { FIRST };
                assert_eq!(
                    from,
                    From::Backend(holder),
                    "{packet:?} reached the client in {state:?}"
                );
                // A bare acknowledgement may be a challenge, and carries nothing.
                let says_nothing = packet.flags == flags::ACK && packet.data.is_empty();
                assert!(
                    before != Some(State::Wait) || says_nothing,
                    "{packet:?} reached the client while the owner was opened"
                );
            }
        }
    }

    /// How it must have ended.
    pub(crate) fn judge(&self) {
        if let Some(direct) = &self.owner.direct {
            direct.judge();
        }
        if !self.first.got_nothing() {
            assert!(self.owner.got_nothing(), "both backends got data");
        }
        let counted = |counter| self.gateway.counted.contains(&counter);
        let spliced = counted(Counter::SpliceOpened);
        assert_eq!(spliced, self.gateway.state() == Some(State::Spliced), "a splice is for ever");
        if spliced {
            assert!(self.resets_to_first >= 1, "the first backend was never reset");
            assert!(self.first.is_closed(), "the first backend still holds the flow");
            assert!(self.gateway.keeps_a_splice());
        }
        if self.gateway.state() == Some(State::First) {
            let unheard = self.owner.unheard_since.is_some_and(|at| at >= self.healthy_since);
            assert!(!unheard, "the owner that was given up was never reset");
        }
        if self.client.gave_up() {
            return;
        }
        assert_eq!(self.client.error, None, "the client saw an error");
        let (holder, other) = match self.gateway.state() {
            Some(State::Spliced) => (&self.owner, &self.first),
            Some(State::First) => (&self.first, &self.owner),
            stuck => panic!("stuck in {stuck:?}"),
        };
        assert!(holder.got_everything(), "the hello never arrived in {:?}", self.gateway.state());
        assert!(other.got_nothing(), "the other backend got data");
        assert_eq!(self.client.received, vec![holder.name; ANSWER], "the answer");
        assert!(other.is_closed(), "the other backend still holds the flow");
        assert!(!self.gateway.buffers() || spliced, "bytes are still buffered");
    }
}

fn forged(scenario: &Scenario, forgery: &Forgery) -> Packet {
    let seq = scenario.habits.isn.wrapping_add(forgery.offset);
    let data = vec![b'X'; forgery.len];
    Packet { data, forged: true, ..Packet::new(forgery.flags, seq, forgery.ack) }
}

/// Whether a number is out of any window around another.
fn is_far(a: u32, b: u32) -> bool {
    (b.wrapping_sub(a) as i32).unsigned_abs() > 1 << 20
}
