//! Servers whose TLS 1.3 sessions no gateway can know, and servers that accept none of their own:
//! what clients get whose address changes at every visit, or less often, and what steer moves for
//! nothing.
//!
//! The same clients come to the servers directly, to the VIP with `fallback = "source"`, and with
//! `fallback = "flow"`. One visit at a time, so that counters tell what came of each.

use std::{fmt::Write as _, net::SocketAddr};

use anyhow::{Context, Result};
use clap::ValueEnum;
use steer_common::{
    counters::Counter,
    refusals::{REFUSED, TRIED},
};

use super::{
    cell::{ClientStack, Mode, Tally, word},
    client::{self, Client, Seen, Visit},
    peers::Peers,
    program::Packages,
    server::Start,
    stack::ServerStack,
    way::{self, first_line, next_address},
};
use crate::{
    agent::{Agent, Hook},
    pki::Pki,
    process,
    topology::{Family, Lab, Plan, backend, source, vip},
};

/// What is run.
#[derive(Clone, Debug)]
pub struct Options {
    /// Server stacks.
    pub servers: Vec<ServerStack>,
    /// Modes.
    pub modes: Vec<Mode>,
    /// The clients' stack.
    pub client: ClientStack,
    /// Backends.
    pub n_backends: usize,
    /// Clients; each has a session of its own.
    pub n_clients: usize,
    /// Visits of a client, beside its first.
    pub n_visits: usize,
    /// A client's address changes at every visit (1), at every second, ...
    pub every: Vec<usize>,
    /// Values of the VIP's `fallback`.
    pub fallbacks: Vec<Fallback>,
    /// Where key names stand, as the VIP's `ticket_key_name`; by default as the stack has them.
    pub key_name: Option<String>,
    /// Hook of the gateway's interfaces.
    pub hook: Hook,
    /// What clients dial.
    pub family: Family,
    /// Where the packages of the stacks are.
    pub packages: Packages,
}

/// By what steer chooses a backend where no session decides.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum Fallback {
    /// The client's address.
    Source,
    /// Address and port.
    Flow,
}

/// What came of the visits on one way.
#[derive(Clone, Default, Debug)]
struct Outcome {
    tally: Tally,
    /// All connections, the clients' first ones too.
    connections: usize,
    /// Flows that were re-homed, in the first half of the offers and in the second.
    moved: [usize; 2],
    /// Those of them whose session was not resumed.
    in_vain: usize,
    /// Flows that were left where they were, for the owner refuses.
    held_back: usize,
}

/// What steer has counted at one moment.
#[derive(Clone, Copy, Default)]
struct Counted {
    moved: usize,
    held_back: usize,
}

/// Runs all and prints a line per way; `true` if no connection failed, and no more flows were moved
/// to servers that accept nothing than it takes to find that out.
///
/// # Errors
/// When the lab or the stacks do not come up; a connection that fails is part of the result.
pub fn run(options: &Options) -> Result<bool> {
    process::require_root()?;
    let plan = Plan {
        n_backends: options.n_backends,
        offloads: options.hook.offloads(),
        ..Plan::default()
    };
    let lab = Lab::build(&plan)?;
    let pki = Pki::make(plan.n_backends)?;
    let peers = Peers::prepare(&pki, plan.n_backends).context("lay out the peers")?;
    let by = options.client.program().find(&options.packages)?;
    let mut client = client::start(options.client, &by, &lab, &pki, &peers)?;
    println!("{} client: {}", options.client, by.version);
    let mut holds = true;
    for &stack in &options.servers {
        let program = &stack.program.find(&options.packages)?;
        println!("{stack} servers: {}\n{HEAD}", program.version);
        for &mode in &options.modes {
            let start = Start { stack, program, mode, lab: &lab, pki: &pki, peers: &peers };
            let _servers = start.start()?;
            for &every in &options.every {
                let group = Group { options, lab: &lab, stack, mode, every };
                holds &= group.run(client.as_mut())?;
            }
        }
    }
    Ok(holds)
}

const HEAD: &str = "server    mode      address changes  way       resumed     by luck  moved      in vain  held back  failed";

/// The ways of clients whose address changes so often, to servers of one stack.
struct Group<'a> {
    options: &'a Options,
    lab: &'a Lab,
    stack: ServerStack,
    mode: Mode,
    every: usize,
}

impl Group<'_> {
    fn run(&self, client: &mut dyn Client) -> Result<bool> {
        let Options { n_backends, family, fallbacks, .. } = self.options;
        let direct = self.walk(
            client,
            |number| backend(*family, number % n_backends),
            || Ok(Counted::default()),
        )?;
        self.print("direct", None, &direct);
        let mut holds = direct.tally.errors == 0;
        for &fallback in fallbacks {
            let steer = self.agent(fallback)?;
            let counted = || {
                let counts = steer.counts()?;
                let of = |counter| counts.of(counter).map_or(0, |n| n as usize);
                Ok(Counted { moved: of(Counter::Rehome), held_back: of(Counter::OwnerRefuses) })
            };
            let outcome = self.walk(client, |_| vip(*family), counted)?;
            let luck =
                (direct.tally.resumed > 0).then(|| by_luck(fallback, self.every, *n_backends));
            self.print(&word(&fallback), luck, &outcome);
            eprintln!("visits: {}", steer.told(&TOLD)?);
            holds &= outcome.tally.errors == 0;
            holds &= direct.tally.resumed > 0
                || outcome.in_vain <= may_move(self.mode, *n_backends, outcome.held_back);
        }
        Ok(holds)
    }

    fn agent(&self, fallback: Fallback) -> Result<Agent<'_>> {
        let key_name = self.options.key_name.as_deref().unwrap_or(self.stack.key_name);
        let mut settings = way::steer(self.mode, key_name, &[]);
        settings.hook = self.options.hook;
        settings.vip.push(format!("fallback = \"{}\"", word(&fallback)));
        Agent::start(self.lab, &settings)
    }

    /// All visits of all clients, in turn.
    fn walk(
        &self,
        client: &mut dyn Client,
        target: impl Fn(usize) -> SocketAddr,
        counted: impl Fn() -> Result<Counted>,
    ) -> Result<Outcome> {
        let Options { n_clients, n_visits, family, .. } = self.options;
        (0..*n_clients).try_for_each(|slot| client.forget(slot))?;
        let (mut outcome, mut before) = (Outcome::default(), counted()?);
        for (n, slot, from) in itinerary(*n_clients, *n_visits, self.every) {
            let source = source(*family, from);
            let seen = client.visit(&Visit {
                slot,
                protocol: self.mode.protocol(),
                source,
                target: target(slot),
            });
            let now = counted()?;
            let moved = now.moved - before.moved;
            outcome.take(seen, moved, 2 * n > *n_visits);
            outcome.held_back += now.held_back - before.held_back;
            before = now;
        }
        Ok(outcome)
    }

    fn print(&self, way: &str, luck: Option<f64>, outcome: &Outcome) {
        println!("{:<10}{:<10}{}", self.stack, self.mode, row(self.every, way, luck, outcome));
        if let Some(sample) = &outcome.tally.sample {
            println!(
                "    {} of {} connections failed, the first: {sample}",
                outcome.tally.errors, outcome.connections
            );
        }
    }
}

/// What is told of each agent besides: by what owners were found, and what kept a flow from its
/// owner.
const TOLD: [Counter; 17] = [
    Counter::SessionHit,
    Counter::KeyNameHit,
    Counter::KeyNameLearned,
    Counter::KeyNameSearch,
    Counter::KeyNameGivenUp,
    Counter::OwnerRefuses,
    Counter::TicketMiss,
    Counter::Rehome,
    Counter::SpliceOpened,
    Counter::OwnerSynRepeated,
    Counter::OwnerNoRoute,
    Counter::OwnerRefused,
    Counter::OwnerSilent,
    Counter::OwnerIncompatible,
    Counter::OwnerChallenge,
    Counter::PendingLost,
    Counter::ResumptionRejected,
];

impl Outcome {
    fn take(&mut self, seen: Result<Seen>, moved: usize, late: bool) {
        self.connections += 1;
        self.moved[usize::from(late)] += moved;
        let resumed = match seen {
            Ok(seen) => {
                self.tally.offered += usize::from(seen.offered);
                self.tally.resumed += usize::from(seen.offered && seen.resumed);
                seen.resumed
            }
            Err(error) => {
                self.tally.errors += 1;
                self.tally.sample.get_or_insert(first_line(&error));
                false
            }
        };
        if !resumed {
            self.in_vain += moved;
        }
    }
}

/// Every connection in order: which visit of its client it is, 0 the first, which client's, and
/// from which address.
fn itinerary(n_clients: usize, n_visits: usize, every: usize) -> Vec<(usize, usize, usize)> {
    let mut addresses: Vec<_> =
        (0..n_clients).map(|client| next_address(client, usize::MAX)).collect();
    let mut all = Vec::new();
    for (n, client) in (0..=n_visits).flat_map(|n| (0..n_clients).map(move |client| (n, client))) {
        if n > 0 && n % every == 0 {
            addresses[client] = next_address(n * n_clients + client, addresses[client]);
        }
        all.push((n, client, addresses[client]));
    }
    all
}

/// The share of offers that come to the backend which has the session if nothing leads them there.
fn by_luck(fallback: Fallback, every: usize, n_backends: usize) -> f64 {
    let luck = 1.0 / n_backends as f64;
    match fallback {
        Fallback::Flow => luck,
        Fallback::Source => 1.0 - (1.0 - luck) / every as f64,
    }
}

/// So many flows may be moved to servers that accept nothing, if so many were held back: eight for
/// each kind of offer to each of them, and one of sixteen of what follows.
fn may_move(mode: Mode, n_backends: usize, held_back: usize) -> usize {
    // A ticket is known by itself or by its key's name.
    let kinds = if mode.tickets() { 2 } else { 1 };
    n_backends * kinds * usize::from(REFUSED) + held_back / usize::from(TRIED - 1)
}

fn row(every: usize, way: &str, luck: Option<f64>, outcome: &Outcome) -> String {
    let Outcome { tally, moved, in_vain, held_back, .. } = outcome;
    let resumed = format!("{} of {}", tally.resumed, tally.offered);
    let mut row = format!("{:<17}{way:<10}{resumed:<12}", format!("every {every}"));
    let luck = luck.map_or("-".to_owned(), |luck| format!("{:.0}", luck * tally.offered as f64));
    let moved = format!("{} + {}", moved[0], moved[1]);
    write!(row, "{luck:<9}{moved:<11}{in_vain:<9}{held_back:<11}{}", tally.errors)
        .unwrap_or_default();
    row
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use anyhow::bail;

    use super::*;

    fn changes(every: usize) -> usize {
        let mut last = BTreeMap::new();
        let visits = itinerary(12, 10, every);
        assert_eq!(visits.len(), 12 * 11);
        visits
            .into_iter()
            .filter(|(_, client, from)| last.insert(*client, *from).is_some_and(|was| was != *from))
            .count()
    }

    #[test]
    fn addresses_change_at_every_so_manieth_visit() {
        assert_eq!([1, 2, 5, 10].map(changes), [120, 60, 24, 12]);
    }

    #[test]
    fn clients_begin_at_different_addresses() {
        let first: std::collections::BTreeSet<_> =
            itinerary(12, 0, 1).into_iter().map(|(_, _, from)| from).collect();
        assert!(first.len() > 6, "{first:?}");
    }

    #[test]
    fn luck_is_one_of_all_backends_where_nothing_is_remembered() {
        let close = |one: f64, other: f64| (one - other).abs() < 1e-9;
        assert!(
            close(by_luck(Fallback::Flow, 10, 4), 0.25)
                && close(by_luck(Fallback::Source, 1, 4), 0.25)
        );
        assert!(
            close(by_luck(Fallback::Source, 2, 8), 0.5625)
                && close(by_luck(Fallback::Source, 10, 3), 1.0 - 0.2 / 3.0)
        );
    }

    #[test]
    fn eight_of_each_kind_may_be_moved_to_each_backend_and_then_one_of_sixteen() {
        assert_eq!(may_move(Mode::Id12, 1, 0), 8);
        assert_eq!(may_move(Mode::Ticket12, 3, 44), 50);
        assert_eq!(may_move(Mode::Ticket12, 3, 45), 51);
    }

    #[test]
    fn flows_moved_without_a_resumption_are_in_vain() {
        let seen = |offered, resumed| Ok(Seen { offered, resumed, server: String::new() });
        let mut outcome = Outcome::default();
        outcome.take(seen(false, false), 0, false);
        outcome.take(seen(true, true), 1, false);
        outcome.take(seen(true, false), 1, false);
        outcome.take(seen(true, false), 0, true);
        outcome.take(seen(true, false), 1, true);
        outcome.take((|| bail!("refused\nand a log"))(), 0, true);
        let Outcome { tally, connections, moved, in_vain, .. } = &outcome;
        assert_eq!((tally.offered, tally.resumed, tally.errors, *connections), (4, 1, 1, 6));
        assert_eq!((*moved, *in_vain), ([2, 1], 2));
        assert_eq!(tally.sample.as_deref(), Some("refused"));
        let expected =
            "every 2          flow      1 of 4      1        2 + 1      2        0          1";
        assert_eq!(row(2, "flow", Some(0.25), &outcome), expected);
    }
}
