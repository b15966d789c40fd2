//! Two gateways that tell each other what they learn: one fails, and its clients notice nothing but
//! the pause.

use std::{thread, time::Duration};

use anyhow::{Context, Result, ensure};
use steer_tests::{
    client::Offer,
    cluster::{
        Cluster, Failure, Firsts, Gateway, Holder, LIMIT, Load, Outcome, Phase, Plan, Sessions,
        Way, fail_over, fail_over_after,
    },
    process::eventually,
    tables,
    topology::Family,
};

/// Sessions alone.
const SESSIONS: Load = Load { ways: &[], transfers: 0, sessions: 48, visitors: 0 };
/// Connections that last, of every kind.
const TRANSFERS: Load = Load { ways: Way::ALL, transfers: 3, sessions: 24, visitors: 3 };
/// Connections that wait for as long as it takes.
const IDLE: Load = Load { ways: &[Way::Idle], transfers: 4, sessions: 24, visitors: 0 };

#[track_caller]
fn all_resumed(sessions: Sessions, n: usize) {
    let Sessions { offered, resumed, .. } = sessions;
    assert_eq!((offered, resumed), (n, n), "{sessions:?}");
}

/// Every connection came to its end, byte by byte, and every session was resumed by its owner.
#[track_caller]
fn nothing_lost(outcome: &Outcome, load: &Load) {
    let n = load.ways.len() * load.transfers;
    assert_eq!(outcome.wrong(), 0, "wrong bytes: {outcome:?}");
    assert_eq!(outcome.counts(true), (n, 0), "re-homed: {outcome:?}");
    assert_eq!(outcome.counts(false), (n, 0), "others: {outcome:?}");
    all_resumed(outcome.sessions, load.sessions);
    assert_eq!(outcome.visits(Phase::After).errors, 0, "{outcome:?}");
}

/// So much for the lab: what the others claim is not so by itself.
#[test]
fn without_replication_sessions_and_rehomed_connections_are_lost() -> Result<()> {
    let cluster = Cluster::start(&Plan::new(false))?;
    let mut pair = cluster.pair()?;
    let outcome = fail_over(&cluster, &mut pair, Failure::Machine, &TRANSFERS)?;
    let n = Way::ALL.len() * TRANSFERS.transfers;
    assert_eq!(outcome.wrong(), 0, "{outcome:?}");
    assert_eq!(outcome.counts(true), (0, n), "{outcome:?}");
    assert_eq!(outcome.counts(false), (n, 0), "{outcome:?}");
    assert_eq!(outcome.sessions.full, TRANSFERS.sessions, "{outcome:?}");
    Ok(())
}

/// Session IDs are those of all the other cases.
#[test]
fn tickets_resume_at_their_owner_through_the_other_gateway() -> Result<()> {
    for offer in [Offer::Ticket12, Offer::Ticket13] {
        let cluster = Cluster::start(&Plan { offer, ..Plan::new(true) })?;
        let mut pair = cluster.pair()?;
        let outcome = fail_over(&cluster, &mut pair, Failure::Machine, &SESSIONS)?;
        println!("{offer:?}: {outcome:?}");
        all_resumed(outcome.sessions, SESSIONS.sessions);
    }
    Ok(())
}

#[test]
fn sessions_resume_at_their_owner_through_the_other_gateway() -> Result<()> {
    let cluster = Cluster::start(&Plan::new(true))?;
    let mut pair = cluster.pair()?;
    let outcome = fail_over(&cluster, &mut pair, Failure::Machine, &SESSIONS)?;
    all_resumed(outcome.sessions, SESSIONS.sessions);
    Ok(())
}

#[test]
fn rehomed_transfers_go_on_when_the_machine_fails() -> Result<()> {
    let cluster = Cluster::start(&Plan::new(true))?;
    let mut pair = cluster.pair()?;
    let outcome = fail_over(&cluster, &mut pair, Failure::Machine, &TRANSFERS)?;
    nothing_lost(&outcome, &TRANSFERS);
    Ok(())
}

#[test]
fn rehomed_transfers_go_on_when_the_link_to_the_clients_fails() -> Result<()> {
    let cluster = Cluster::start(&Plan { family: Family::V6, ..Plan::new(true) })?;
    let mut pair = cluster.pair()?;
    let outcome = fail_over(&cluster, &mut pair, Failure::FrontLink, &TRANSFERS)?;
    nothing_lost(&outcome, &TRANSFERS);
    Ok(())
}

#[test]
fn what_was_known_before_the_store_died_is_not_lost_with_it() -> Result<()> {
    let cluster = Cluster::start(&Plan::new(true))?;
    let mut pair = cluster.pair()?;
    let outcome = fail_over(&cluster, &mut pair, Failure::StoreThenMachine, &TRANSFERS)?;
    nothing_lost(&outcome, &TRANSFERS);
    Ok(())
}

#[test]
fn what_is_learned_while_the_store_is_away_and_after_it_restarted_empty_is_known_too() -> Result<()>
{
    let cluster = Cluster::start(&Plan::new(true))?;
    let mut pair = cluster.pair()?;
    let mut late = Vec::new();
    let outcome = fail_over_after(&cluster, &mut pair, Failure::Machine, &IDLE, |pair| {
        cluster.store.stop()?;
        let firsts = Firsts::find(&cluster)?;
        late = Holder::prepare(&cluster, &firsts, 12)?;
        cluster.store.restart()?;
        late.extend(Holder::prepare(&cluster, &firsts, 12)?);
        know_the_same(pair)
    })?;
    nothing_lost(&outcome, &IDLE);
    all_resumed(Holder::return_all(&cluster, &late)?, 24);
    Ok(())
}

#[test]
fn a_gateway_that_starts_late_is_not_ready_before_it_knows_all() -> Result<()> {
    let cluster = Cluster::start(&Plan::new(true))?;
    let mut pair = cluster.lone()?;
    let outcome = fail_over_after(&cluster, &mut pair, Failure::Machine, &IDLE, |pair| {
        pair[1].begin()?;
        is_ready_with_all(pair)
    })?;
    nothing_lost(&outcome, &IDLE);
    Ok(())
}

/// The store comes back while the active gateway waits before it tries again.
#[test]
fn a_gateway_that_starts_at_an_empty_store_waits_for_those_that_know_more() -> Result<()> {
    let cluster = Cluster::start(&Plan::new(true))?;
    let mut pair = cluster.lone()?;
    let outcome = fail_over_after(&cluster, &mut pair, Failure::Machine, &IDLE, |pair| {
        cluster.store.stop()?;
        thread::sleep(Duration::from_secs(5));
        cluster.store.restart()?;
        pair[1].begin()?;
        is_ready_with_all(pair)
    })?;
    nothing_lost(&outcome, &IDLE);
    Ok(())
}

#[test]
fn connections_and_sessions_outlive_both_gateways_one_after_the_other() -> Result<()> {
    let cluster = Cluster::start(&Plan::new(true))?;
    let mut pair = cluster.pair()?;
    let first = fail_over(&cluster, &mut pair, Failure::Machine, &IDLE)?;
    nothing_lost(&first, &IDLE);
    let mut back = pair;
    back[0].come_back()?;
    know_the_same(&back)?;
    // The second one is active now.
    back.swap(0, 1);
    let second = fail_over(&cluster, &mut back, Failure::Machine, &IDLE)?;
    nothing_lost(&second, &IDLE);
    Ok(())
}

/// Until keepalived asks, the programs of the gateway go on alone.
#[test]
fn nothing_is_lost_when_an_agent_dies() -> Result<()> {
    let cluster = Cluster::start(&Plan::new(true))?;
    let mut pair = cluster.pair()?;
    let outcome = fail_over(&cluster, &mut pair, Failure::Agent, &TRANSFERS)?;
    nothing_lost(&outcome, &TRANSFERS);
    Ok(())
}

/// Waits until the second gateway is ready: it knows what the first one does then.
fn is_ready_with_all(pair: &mut [Gateway<'_>; 2]) -> Result<()> {
    println!("not ready for {:?}", pair[1].stand_by()?);
    for table in ["sessions", "splices"] {
        let [known, here] = n_entries(pair, table)?;
        ensure!(here >= known, "ready with {here} of {known} {table}");
    }
    Ok(())
}

/// How many entries the tables of both gateways hold.
fn n_entries(pair: &[Gateway<'_>; 2], table: &str) -> Result<[usize; 2]> {
    let [active, other] = pair;
    Ok([tables::entries(&active.agent, table)?, tables::entries(&other.agent, table)?])
}

/// Waits until both gateways know as many sessions, and as many flows that were re-homed.
fn know_the_same(pair: &[Gateway<'_>; 2]) -> Result<()> {
    for table in ["sessions", "splices"] {
        let equal = || n_entries(pair, table).ok().filter(|[here, there]| here == there);
        eventually(LIMIT, equal).with_context(|| {
            let status = pair.each_ref().map(|gateway| gateway.agent.steer("ha status"));
            format!("{table}: {:?}; {status:?}", n_entries(pair, table))
        })?;
    }
    Ok(())
}
