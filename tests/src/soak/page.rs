//! What is printed and recorded of a soak.

use std::collections::BTreeMap;

use anyhow::Result;

use super::{
    Options, SESSION_TIMEOUT,
    chaos::{Chaos, Event},
    judge::{Account, TOLD},
    ledger::{Ledger, Tally},
};
use crate::bench::record::{Axis, Goal, Lines, Peer, Report, Table};
use crate::{agent::Hook, topology::Family};

const MEGABYTE: f64 = 1_048_576.0;
/// Lost sessions and unexplained failures that are told in full.
const SAMPLES: usize = 8;

/// The page, before anything runs.
pub(super) fn begin(options: &Options) -> Result<Report> {
    let name = match (options.hook, options.family) {
        (Hook::Xdp, Family::V4) => "soak_xdp_ipv4",
        (Hook::Xdp, Family::V6) => "soak_xdp_ipv6",
        (_, Family::V4) => "soak_tc_ipv4",
        (_, Family::V6) => "soak_tc_ipv6",
    };
    let mut page = Report::new(name, "Soak", &options.command, &[Peer::Nginx, Peer::Openssl])?;
    let (minutes, timeout) = (options.time.as_secs_f64() / 60.0, SESSION_TIMEOUT.as_secs());
    page.method(&format!(
        "{minutes:.1} minutes of mixed traffic through steer on {}, {}: 48 rustls clients with a certificate in 8 threads, a third \
         each with session IDs, tickets of TLS 1.2 and tickets of TLS 1.3, every connection from another of 64 addresses, to \
         three nginx with their own caches and ticket keys. Something befalls the gateway or a backend every few seconds, \
         for one to three seconds, and is undone. In the second half no agent and no backend is killed: the agent's memory \
         is that of one process, and what a server issued it still holds.",
        options.hook.word(),
        if options.family == Family::V4 { "IPv4" } else { "IPv6" },
    ));
    page.method(&format!(
        "*Wrong bytes*: a body whose SHA-256 is not that of what was sent, or an answer of another server than the \
         certificate's. *Explained*: the connection ended early, was reset or refused, and its backend was killed \
         meanwhile; nothing else explains a failure. *Lost*: when the chaos is over, each client whose session is \
         younger than half of the gateway's timeout ({timeout} s), and whose server was not killed since it issued it, offers \
         it from three addresses; every such visit must be resumed by that server. *Tables*: entries four minutes \
         later at the latest; closed flows are remembered for 60 s, handshakes for 180. *Memory*: resident set of the \
         agent that ran until the end, last quarter of its samples against the first, medians."
    ));
    Ok(page)
}

/// Everything that was seen.
pub(super) fn fill(
    page: &mut Report,
    ledger: &Ledger,
    chaos: &Chaos<'_>,
    account: &Account,
) -> Result<()> {
    let failures = ledger.failures(&chaos.windows);
    let unexplained: Vec<_> =
        failures.iter().filter(|(_, by)| by.is_none()).map(|(failure, _)| failure).collect();
    let wrong = ledger.wrong();
    page.section("What came out");
    page.goal(Goal::at_most("wrong bytes, connections", wrong.len() as f64, 0.0));
    page.goal(Goal::at_least("sessions judged", account.judged as f64, 1.0));
    page.goal(Goal::at_most("sessions lost, visits", account.lost.len() as f64, 0.0));
    page.goal(Goal::at_most("failures that nothing explains", unexplained.len() as f64, 0.0));
    page.goal(Goal::at_most("entries left in tables", account.n_left() as f64, 0.0));
    let growth = account.growth.map_or(f64::NAN, |bytes| bytes as f64 / MEGABYTE);
    page.goal(Goal::at_most("growth of the agent's memory, MB", growth, 1.0));
    let empty = account
        .emptied_after
        .map_or("not empty".to_owned(), |time| format!("empty after {} s", time.as_secs()));
    page.text(&format!(
        "{} MB of bodies compared; {} visits judged {} sessions; tables: {empty}.",
        ledger.bytes() >> 20,
        account.n_visits,
        account.judged,
    ));
    let shown = unexplained
        .iter()
        .map(|failure| format!("{:?}, {}: {}", failure.errand, failure.class, failure.text));
    for line in wrong.iter().cloned().chain(account.lost.iter().cloned()).chain(shown).take(SAMPLES)
    {
        page.text(&format!("- `{line}`"));
    }
    page.section("Traffic");
    page.table(traffic(&ledger.tallies()));
    page.section("Failures");
    page.table(errors(&failures));
    page.section("Chaos");
    page.table(events(chaos));
    page.section("The gateway");
    page.table(tables(account));
    page.table(counters(account));
    page.section("The agent's memory");
    memory(page, chaos)
}

fn traffic(tallies: &BTreeMap<super::crowd::Errand, Tally>) -> Table {
    let cells = |what: &str, tally: &Tally| {
        let Tally { connections, offered, resumed, failed } = tally;
        [
            what.to_owned(),
            connections.to_string(),
            offered.to_string(),
            resumed.to_string(),
            failed.to_string(),
        ]
    };
    let mut all = Tally::default();
    let mut table =
        Table::new(&["errand", "connections", "offered a session", "resumed", "failed"]);
    for (errand, tally) in tallies {
        table = table.row(cells(errand.word(), tally));
        all.connections += tally.connections;
        all.offered += tally.offered;
        all.resumed += tally.resumed;
        all.failed += tally.failed;
    }
    table.row(cells("all", &all))
}

fn errors(failures: &[(super::ledger::Failure, Option<&'static str>)]) -> Table {
    let mut kinds = BTreeMap::<_, u64>::new();
    for (failure, by) in failures {
        *kinds.entry((failure.class, by.unwrap_or("**nothing**"))).or_default() += 1;
    }
    let table = Table::new(&["failure", "explained by", "connections"]);
    kinds.into_iter().fold(table, |table, ((class, by), n)| table.row([class, by, &n.to_string()]))
}

fn events(chaos: &Chaos<'_>) -> Table {
    let mut times = BTreeMap::<Event, u64>::new();
    for window in &chaos.windows {
        *times.entry(window.what).or_default() += 1;
    }
    let table = Table::new(&["event", "times"]);
    times
        .into_iter()
        .fold(table, |table, (event, n)| table.row([event.word().to_owned(), n.to_string()]))
}

fn tables(account: &Account) -> Table {
    let table = Table::new(&["table", "entries left"]);
    account
        .left
        .iter()
        .fold(table, |table, (name, left)| table.row([format!("`{name}`"), left.to_string()]))
}

fn counters(account: &Account) -> Table {
    let count = |counter| account.counts.of(counter).unwrap_or_default().to_string();
    TOLD.iter().fold(Table::new(&["counter", "count"]), |table, counter| {
        table.row([format!("`{}`", counter.word()), count(*counter)])
    })
}

fn memory(page: &mut Report, chaos: &Chaos<'_>) -> Result<()> {
    let of = |last_agent: bool| {
        let samples = chaos.samples.iter().filter(move |sample| sample.last_agent == last_agent);
        samples.map(|sample| (sample.at.as_secs_f64(), sample.bytes as f64 / MEGABYTE))
    };
    let lines = Lines::new("Resident memory of the agent", Axis::linear("s"), Axis::linear("MB"));
    page.lines(
        "memory",
        &lines.series("agents that were killed", of(false)).series("the last agent", of(true)),
    )
}
