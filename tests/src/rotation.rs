//! How many sessions steer keeps where servers make new ticket keys by themselves: current nginx,
//! TLS 1.3, one key each that lives as long as a session.
//!
//! The same clients come to every server directly and to the VIP, at the same times, every visit to
//! the VIP from another address. Where nothing in nginx or steer goes by other times than the
//! key's, an hour of keys that live 60 s is twenty minutes of keys that live 20 s.

use std::{
    fmt::Write as _,
    path::PathBuf,
    sync::Mutex,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use steer_common::counters::Counter;

use crate::{
    agent::{Agent, Hook},
    client::{Client, Dial, Offer},
    nginx::{self, TicketKey},
    scenario::{N_SOURCES, Run, Scenario},
    topology::Family,
};

/// What is run.
#[derive(Clone, Debug)]
pub struct Options {
    /// The nginx, one that makes new keys by itself.
    pub nginx: PathBuf,
    /// Backends.
    pub n_backends: usize,
    /// Clients; each has a session of its own.
    pub n_clients: usize,
    /// How long a key and a session live, seconds.
    pub lifetime: u64,
    /// Seconds between two visits of a client, on the average.
    pub every: f64,
    /// Lifetimes that it takes; the first two, in which nobody can know that keys change, are told
    /// apart.
    pub lifetimes: u32,
}

/// Offers of one way, and those that were resumed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Tally {
    /// Visits with a session.
    pub offered: usize,
    /// Of them, resumed.
    pub resumed: usize,
}

impl Tally {
    fn share(self) -> f64 {
        self.resumed as f64 / self.offered.max(1) as f64
    }
}

/// What one pool came to: for the first two lifetimes, and for those that followed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Outcome {
    /// One server, nothing in between.
    pub direct: [Tally; 2],
    /// The VIP.
    pub steer: [Tally; 2],
}

impl Outcome {
    /// What steer keeps of what is resumed directly.
    pub fn kept(&self, late: bool) -> f64 {
        let [direct, steer] = [self.direct, self.steer].map(|way| way[usize::from(late)].share());
        if direct == 0.0 { 0.0 } else { steer / direct }
    }
}

/// Runs servers whose keys rotate, then servers with named keys, and prints what each keeps.
///
/// # Errors
/// When the lab does not come up, or a connection fails.
pub fn run(options: &Options) -> Result<Outcome> {
    let rotating = measure(options, TicketKey::Private).context("keys that rotate")?;
    let named = measure(
        &Options { lifetimes: options.lifetimes.min(3), ..options.clone() },
        TicketKey::Named,
    )?;
    println!("{}", row(options, &rotating, &named));
    Ok(rotating)
}

/// The head of the table.
pub fn head() -> String {
    "backends  clients  key lives  every    direct    steer     kept, first two  kept, then  named keys".to_owned()
}

fn row(options: &Options, rotating: &Outcome, named: &Outcome) -> String {
    let Options { n_backends, n_clients, lifetime, every, .. } = options;
    let mut text = format!(
        "{n_backends:<10}{n_clients:<9}{:<11}{:<9}",
        format!("{lifetime} s"),
        format!("{every:.2} s")
    );
    for way in [rotating.direct, rotating.steer] {
        let (offered, resumed) = (way[1].offered, way[1].resumed);
        write!(text, "{:<10}", format!("{resumed}/{offered}")).unwrap_or_default();
    }
    let kept = [rotating.kept(false), rotating.kept(true), named.kept(true)]
        .map(|kept| format!("{kept:.3}"));
    write!(text, "{:<17}{:<12}{}", kept[0], kept[1], kept[2]).unwrap_or_default();
    text
}

fn measure(options: &Options, ticket_key: TicketKey) -> Result<Outcome> {
    let nginx = nginx::Settings {
        program: options.nginx.clone(),
        uploads: false,
        protocols: "TLSv1.3".to_owned(),
        session_timeout: format!("{}s", options.lifetime),
        tickets: true,
        ticket_key,
        ..nginx::Settings::default()
    };
    let mut scenario =
        Scenario::new(Hook::Tc, Family::V4).backends(options.n_backends).nginx(nginx);
    if ticket_key == TicketKey::Named {
        for index in 0..options.n_backends {
            let name: String =
                nginx::key_name(index).iter().map(|byte| format!("{byte:02x}")).collect();
            scenario = scenario.backend_setting(index, &format!("key_names = [\"{name}\"]"));
        }
    }
    let run = scenario.start()?;
    let steer = run.agent()?;
    let clients = (0..2 * options.n_clients).map(|_| run.new_client_offering(Offer::Ticket13));
    let clients = clients.collect::<Result<Vec<_>>>()?;
    let outcome = Mutex::new(Outcome::default());
    let started = Instant::now();
    // Each job is one client, for as long as it takes.
    run.at_once(clients.len(), clients.len(), |index| {
        visits(options, &run, index, &clients[index], started, &outcome)
    })?;
    if ticket_key == TicketKey::Private {
        tell(&steer)?;
    }
    outcome.into_inner().ok().context("a client panicked")
}

fn tell(steer: &Agent<'_>) -> Result<()> {
    let counters = [
        Counter::KeyNameLearned,
        Counter::KeyNameDue,
        Counter::KeyNameSearch,
        Counter::KeyNameGivenUp,
        Counter::OwnerRefuses,
        Counter::KeyNameRejected,
        Counter::TicketMiss,
        Counter::Rehome,
    ];
    eprintln!("rotation: {}", steer.told(&counters)?);
    Ok(())
}

/// All visits of one client: one of an even number goes to a server directly, one of an odd number
/// to the VIP.
fn visits(
    options: &Options,
    run: &Run,
    index: usize,
    client: &Client,
    started: Instant,
    outcome: &Mutex<Outcome>,
) -> Result<()> {
    let (number, direct) = (index / 2, index.is_multiple_of(2));
    // Knuth's multiplicative hash; both ways of a client have the same times.
    let scattered = |n: usize| ((number * 7919 + n + 1).wrapping_mul(2_654_435_761) >> 8) & 0xffff;
    let part = |n: usize| scattered(n) as f64 / 65_536.0;
    let end = f64::from(options.lifetimes) * options.lifetime as f64;
    let mut at = options.every * part(0);
    for n in 1.. {
        if at > end {
            break;
        }
        let due = started + Duration::from_secs_f64(at);
        thread::sleep(due.saturating_duration_since(Instant::now()));
        let dial = match direct {
            true => Dial::new(run.source(number), run.backend_address(number % options.n_backends)),
            false => run.dial(scattered(n) % N_SOURCES),
        };
        let seen = client.visit(&dial)?;
        if seen.offered {
            let late = usize::from(at > 2.0 * options.lifetime as f64);
            let mut outcome = outcome.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            let outcome = &mut *outcome;
            let tally = if direct { &mut outcome.direct[late] } else { &mut outcome.steer[late] };
            tally.offered += 1;
            tally.resumed += usize::from(seen.resumed);
        }
        at += options.every * (0.7 + 0.6 * part(n));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_is_a_share_of_what_is_resumed_directly() {
        let tally = |offered, resumed| Tally { offered, resumed };
        let outcome = Outcome {
            direct: [tally(10, 10), tally(100, 80)],
            steer: [tally(10, 5), tally(200, 156)],
        };
        assert!(
            (outcome.kept(false) - 0.5).abs() < 1e-9 && (outcome.kept(true) - 0.975).abs() < 1e-9
        );
        assert!(Outcome::default().kept(true).abs() < 1e-9);
    }
}
