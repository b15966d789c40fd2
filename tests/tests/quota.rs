//! `sessions_per_source`: one source of clients cannot push the sessions of all others out.

use std::{panic::resume_unwind, thread};

use anyhow::{Result, ensure};
use steer_common::counters::Counter;
use steer_tests::{
    agent::Agent,
    client::{Client, Dial},
    frames::pin_to,
    scenario::Run,
    setting::{Setting, in_settings},
    topology::Family,
};

/// Entries of the sessions table, and sessions that one source asks for: more than it has room for.
const TABLE: usize = 128;
const FLOOD: usize = 400;
const AT_ONCE: usize = 4;
/// Clients with a session each, at addresses of their own.
const OTHERS: usize = 16;
/// Where the flood comes from.
const FLOODER: usize = 63;

/// Full handshakes with a certificate, all from one address.
fn flood(run: &Run) -> Result<()> {
    let (model, dial) = (run.new_client()?, run.dial(FLOODER));
    let shake_hands = |_| -> Result<()> {
        ensure!(!model.sibling().connect(&dial)?.handshake.resumed, "a full handshake");
        Ok(())
    };
    run.at_once(FLOOD, AT_ONCE, shake_hands).map(drop)
}

/// How many of the others still resume after a flood, where all of the lab runs on one CPU: an LRU
/// table forgets last what came in on another CPU than the flood.
fn others_that_resume(setting: Setting, line: &str) -> Result<usize> {
    thread::scope(|scope| {
        let pinned = scope.spawn(|| {
            pin_to(0)?;
            others_beside_a_flood(setting, line)
        });
        pinned.join().unwrap_or_else(|panic| resume_unwind(panic))
    })
}

/// How many of the others still resume, wherever they dial from, after a flood.
fn others_beside_a_flood(setting: Setting, line: &str) -> Result<usize> {
    let run = setting.scenario().size(&format!("sessions = {TABLE}")).vip_setting(line).start()?;
    let steer = run.agent()?;
    let model = run.new_client()?;
    let others: Vec<Client> = (0..OTHERS).map(|_| model.sibling()).collect();
    let mut owners = Vec::new();
    for (source, client) in others.iter().enumerate() {
        owners.push(run.visit(client, &run.dial(source))?.server);
    }
    flood(&run)?;
    judge(&steer, line)?;
    let mut resumed = 0;
    for (source, client) in others.iter().enumerate() {
        let away = elsewhere(&run, source)?;
        let handshake = run.visit(client, &away)?;
        resumed += usize::from(handshake.resumed && handshake.server == owners[source]);
    }
    Ok(resumed)
}

/// Some other address, whose flows go wherever they go.
fn elsewhere(run: &Run, source: usize) -> Result<Dial> {
    Ok(run.dial(source + OTHERS))
}

fn judge(steer: &Agent, line: &str) -> Result<()> {
    let (learned, refused) = (steer.count(Counter::Learned)?, steer.count(Counter::SessionQuota)?);
    let all = (OTHERS + FLOOD) as u64;
    ensure!(learned + refused == all, "{line}: {learned} learned and {refused} refused of {all}");
    Ok(())
}

#[test]
fn a_source_that_floods_leaves_the_sessions_of_others_alone() -> Result<()> {
    in_settings(101, |setting| {
        // The lab's IPv6 addresses are of one subnet, and so of one source.
        let setting = Setting { family: Family::V4, ..setting };
        let resumed = others_that_resume(setting, "sessions_per_source = 32")?;
        ensure!(resumed == OTHERS, "{resumed} of {OTHERS} resumed on their owner");
        let resumed = others_that_resume(setting, "")?;
        ensure!(resumed < OTHERS, "the flood was none: without a quota all resumed");
        Ok(())
    })
}

#[test]
fn a_source_has_its_quota_and_no_more() -> Result<()> {
    in_settings(98, |setting| {
        let run = setting.scenario().vip_setting("sessions_per_source = 3").start()?;
        let steer = run.agent()?;
        let client = run.new_client()?;
        for source in [0, 1] {
            for _ in 0..5 {
                client.forget();
                run.visit(&client, &run.dial(source))?;
            }
        }
        let counted = (steer.count(Counter::Learned)?, steer.count(Counter::SessionQuota)?);
        // As above: with IPv6 both are one source.
        let expected = if run.family == Family::V4 { (6, 4) } else { (3, 7) };
        ensure!(counted == expected, "learned and refused: {counted:?}");
        Ok(())
    })
}

/// A resumption costs nothing: only new sessions are counted.
#[test]
fn resumptions_are_not_counted() -> Result<()> {
    in_settings(100, |setting| {
        let run = setting.scenario().vip_setting("sessions_per_source = 1").start()?;
        let steer = run.agent()?;
        let (client, dial) = (run.new_client()?, run.dial(0));
        for visit in 0..6 {
            ensure!(run.visit(&client, &dial)?.resumed == (visit > 0), "visit {visit}");
        }
        ensure!(steer.count(Counter::SessionQuota)? == 0, "a resumption was counted");
        Ok(())
    })
}
