//! The clients of a lane: each shakes hands, asks for `/`, closes, and comes again at once from
//! another address.

use std::{
    collections::BTreeSet,
    sync::Barrier,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};

use super::{CLIENTS, cpu::Cpu, lane::Lane};
use crate::{
    client::{Client, Dial, Handshake, Offer},
    scenario::N_SOURCES,
};

/// A client that fails so often in one turn gives up for this turn.
const ENOUGH_ERRORS: usize = 5;

/// What clients do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Kind {
    /// Full handshakes.
    Full(Offer),
    /// Each offers the session it was given last.
    Resumed(Offer),
}

impl Kind {
    pub(super) const ALL: [Self; 5] = [
        Self::Full(Offer::SessionId),
        Self::Full(Offer::Ticket13),
        Self::Resumed(Offer::SessionId),
        Self::Resumed(Offer::Ticket12),
        Self::Resumed(Offer::Ticket13),
    ];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Full(Offer::SessionId) => "full, TLS 1.2",
            Self::Full(Offer::Ticket12) => "full, TLS 1.2 with tickets",
            Self::Full(Offer::Ticket13) => "full, TLS 1.3",
            Self::Resumed(Offer::SessionId) => "session IDs, TLS 1.2",
            Self::Resumed(Offer::Ticket12) => "tickets, TLS 1.2",
            Self::Resumed(Offer::Ticket13) => "tickets, TLS 1.3",
        }
    }

    pub(super) fn is_resumed(self) -> bool {
        matches!(self, Self::Resumed(_))
    }

    fn offer(self) -> Offer {
        let (Self::Full(offer) | Self::Resumed(offer)) = self;
        offer
    }
}

/// What the clients saw in one turn.
#[derive(Clone, Default, Debug)]
pub(super) struct Turn {
    /// Length.
    pub(super) time: Duration,
    /// Connections that came to their end within it.
    pub(super) connections: usize,
    /// Of those, resumed in the view of client and server.
    pub(super) resumed: usize,
    /// Connections that failed, and answers that contradict the certificate.
    pub(super) errors: usize,
    /// What the first of them said.
    pub(super) sample: Option<String>,
    /// From TCP connect to Finished, microseconds.
    pub(super) handshakes: Vec<f64>,
    /// Used by clients, servers and gateway.
    pub(super) cpu: Cpu,
}

/// Clients of one kind on a lane.
pub(super) struct Crowd<'a> {
    pub(super) lane: &'a Lane<'a>,
    pub(super) kind: Kind,
    members: Vec<Member>,
}

struct Member {
    client: Client,
    number: usize,
    visits: usize,
    source: usize,
}

impl<'a> Crowd<'a> {
    /// Clients of one kind, ready: those that resume have a session.
    pub(super) fn gather(lane: &'a Lane<'a>, kind: Kind) -> Result<Self> {
        let model = lane.run.new_client_offering(kind.offer())?;
        let member = |number| Member { client: model.sibling(), number, visits: 0, source: 0 };
        let mut crowd = Self { lane, kind, members: (0..CLIENTS).map(member).collect() };
        if kind.is_resumed() {
            lane.run.lab.client().run(|| crowd.warm_up(&model))?;
        }
        Ok(crowd)
    }

    /// Gives every client a session. Before, a guest gets one at each server and resumes it from
    /// the same address: whoever learns the name of a ticket's key from an accepted ticket knows it
    /// then.
    fn warm_up(&mut self, guest: &Client) -> Result<()> {
        let (n_servers, mut seen) = (self.lane.run.lab.n_backends(), BTreeSet::new());
        for source in 0..N_SOURCES {
            if seen.len() == n_servers {
                break;
            }
            guest.forget();
            let dial = self.lane.dial(source % n_servers, source);
            let [_, again] = [visit(guest, &dial)?, visit(guest, &dial)?];
            ensure!(again.resumed, "{}: not resumed from the same address", self.lane.way.name());
            seen.insert(again.server);
        }
        ensure!(
            seen.len() == n_servers,
            "{}: all addresses lead to {seen:?}",
            self.lane.way.name()
        );
        self.members.iter_mut().try_for_each(|member| member.visit(self.lane, self.kind).map(drop))
    }

    /// Lets all clients work for so long.
    pub(super) fn work(&mut self, time: Duration) -> Result<Turn> {
        let (lane, kind) = (self.lane, self.kind);
        let begin = Barrier::new(self.members.len() + 1);
        let begin = &begin;
        thread::scope(|scope| {
            let members = self.members.iter_mut();
            let workers: Vec<_> = members
                .map(|member| scope.spawn(move || member.work(lane, kind, begin, time)))
                .collect();
            begin.wait();
            let before = Cpu::of(lane)?;
            thread::sleep(time);
            let mut turn = Turn { time, cpu: Cpu::of(lane)?.since(before), ..Turn::default() };
            for worker in workers {
                turn.add(worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?);
            }
            Ok(turn)
        })
    }
}

impl Member {
    fn work(
        &mut self,
        lane: &Lane<'_>,
        kind: Kind,
        begin: &Barrier,
        time: Duration,
    ) -> Result<Turn> {
        let entered = lane.run.lab.client().enter();
        begin.wait();
        entered?;
        let end = Instant::now() + time;
        let mut turn = Turn::default();
        while Instant::now() < end && turn.errors < ENOUGH_ERRORS {
            match self.visit(lane, kind) {
                Ok(handshake) if Instant::now() < end => turn.note(&handshake),
                Ok(_) => {}
                Err(error) => {
                    turn.errors += 1;
                    turn.sample.get_or_insert(format!("{error:#}"));
                }
            }
        }
        Ok(turn)
    }

    fn visit(&mut self, lane: &Lane<'_>, kind: Kind) -> Result<Handshake> {
        if !kind.is_resumed() {
            self.client.forget();
        }
        self.source = next_address(self.number, self.visits, self.source);
        self.visits += 1;
        let owner = self.number % lane.run.lab.n_backends();
        visit(&self.client, &lane.dial(owner, self.source))
    }
}

/// Another address than the last, scattered so that no hash of addresses falls in step, and the
/// same on every way.
fn next_address(client: usize, visit: usize, last: usize) -> usize {
    // Knuth's multiplicative hash.
    let scattered = (client * 7919 + visit + 1).wrapping_mul(2_654_435_761) >> 16;
    match scattered % N_SOURCES {
        same if same == last => (same + 1) % N_SOURCES,
        other => other,
    }
}

/// A connection from its beginning to an orderly end.
pub(super) fn visit(client: &Client, dial: &Dial) -> Result<Handshake> {
    let mut connection = client.connect(dial)?;
    connection.ask()?;
    connection.finish()?;
    Ok(connection.handshake)
}

impl Turn {
    fn note(&mut self, handshake: &Handshake) {
        self.connections += 1;
        self.resumed += usize::from(handshake.resumed);
        self.handshakes.push(handshake.time.as_secs_f64() * 1e6);
    }

    fn add(&mut self, other: Self) {
        self.connections += other.connections;
        self.resumed += other.resumed;
        self.errors += other.errors;
        self.handshakes.extend(other.handshakes);
        self.sample = self.sample.take().or(other.sample);
    }

    /// Connections per second; of a kind that resumes, those that were resumed.
    pub(super) fn rate(&self, kind: Kind) -> f64 {
        let n = if kind.is_resumed() { self.resumed } else { self.connections };
        n as f64 / self.time.as_secs_f64()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_comes_from_every_address_and_never_twice_in_a_row_from_one() {
        let mut last = 0;
        let mut seen = BTreeSet::new();
        for visit in 0..20 * N_SOURCES {
            let next = next_address(3, visit, last);
            assert_ne!(next, last, "visit {visit}");
            seen.insert(next);
            last = next;
        }
        assert_eq!(seen.len(), N_SOURCES);
    }
}
