//! Case 15: servers' answers that take another way than through the gateway (direct server return,
//! or a second router).

use std::{
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use steer_common::counters::Counter;
use steer_tests::{
    balancer::Balancer,
    case::{Case, FIRST, OWNER},
    client::Client,
    l4::Snat,
    payload,
    process::eventually,
    setting::in_settings,
};

/// Longer than three SYNs are waited for, and looked at.
const PATIENCE: Duration = Duration::from_secs(30);
/// A little more than the agent's looks are apart.
const LOOK: Duration = Duration::from_millis(1200);
/// Moves to the silent owner.
const MOVES: usize = 3;

/// A full handshake with the first backend, nobody resets anybody.
fn stays(case: &Case<'_>, client: &Client) -> Result<()> {
    let seen = case.fetch_with(client, &case.dial)?;
    ensure!(seen.offered && !seen.resumed, "{seen:?}");
    ensure!(case.run.backend_named(&seen.server)? == FIRST, "{seen:?}");
    Ok(())
}

#[test]
fn an_owner_whose_answers_go_round_the_gateway_is_silent_and_is_asked_no_more() -> Result<()> {
    in_settings(370, |setting| {
        let run = setting.scenario().behind_stand_in().start()?;
        let balancer = Balancer::start(&run.lab, Snat::No)?;
        let mut case = Case::start(&run)?;
        let clients = (0..=MOVES).map(|_| run.new_client()).collect::<Result<Vec<_>>>()?;
        for client in &clients {
            case.fetch_with(client, &case.home)?;
        }
        case.count_from_here()?;
        balancer.return_directly(OWNER)?;
        run.at_once(MOVES, MOVES, |number| stays(&case, &clients[number]))?;
        case.expect(&[
            (Counter::Rehome, MOVES as u64),
            (Counter::OwnerSilent, MOVES as u64),
            (Counter::SpliceOpened, 0),
        ])?;
        // Whom the balancer sends there is served, and the gateway sees no answer. What is sent in the
        // second of the last answer says nothing.
        thread::sleep(LOOK);
        for _ in 0..4 {
            case.fetch_with(&run.new_client()?, &case.home)?;
        }
        let address = run.backend_address(OWNER);
        let down = || {
            let backend = case.steer.backend(address).ok()?;
            (backend["state"] == "down").then_some(())
        };
        eventually(PATIENCE, down).context("it is still asked")?;
        stays(&case, &clients[MOVES])?;
        case.expect(&[(Counter::Rehome, MOVES as u64), (Counter::OwnerDown, 1)])?;
        case.unharmed(0)
    })
}

/// Nobody judges its health here, and the balancer sends nobody to it: after two moves in vain the
/// others do not wait for it.
#[test]
fn an_owner_that_did_not_answer_two_moves_rests_and_is_asked_again_later() -> Result<()> {
    const REST: Duration = Duration::from_secs(11);
    in_settings(372, |setting| {
        let scenario = setting.scenario().vip_setting("health = \"off\"");
        let run = scenario.inline(Snat::No).start()?;
        let mut case = Case::start(&run)?;
        let clients = (0..4).map(|_| run.new_client()).collect::<Result<Vec<_>>>()?;
        for client in &clients {
            case.fetch_with(client, &case.home)?;
        }
        case.count_from_here()?;
        run.lab.backend(OWNER).nft(
            "table inet deaf {\n chain syns {\n  type filter hook prerouting priority raw\n  \
             tcp flags syn / syn,ack drop\n }\n}\n",
        )?;
        stays(&case, &clients[0])?;
        stays(&case, &clients[1])?;
        let start = Instant::now();
        stays(&case, &clients[2])?;
        let took = start.elapsed();
        case.expect(&[
            (Counter::Rehome, 2),
            (Counter::OwnerSilent, 2),
            (Counter::OwnerResting, 1),
        ])?;
        run.lab.backend(OWNER).nft("delete table inet deaf\n")?;
        thread::sleep(REST);
        case.fetch_with(&clients[3], &case.dial)?;
        case.expect(&[(Counter::SpliceOpened, 1)])?;
        println!("a visit while the owner rests took {took:?}");
        case.unharmed(1)
    })
}

/// All is as without steer, and the agent says why nothing is moved.
#[test]
fn a_pool_of_which_nothing_comes_back_serves_everybody_moves_nothing_and_is_reported() -> Result<()>
{
    in_settings(371, |setting| {
        let run = setting.scenario().behind_stand_in().start()?;
        let balancer = Balancer::start(&run.lab, Snat::Yes)?;
        (0..run.lab.n_backends()).try_for_each(|member| balancer.return_directly(member))?;
        let steer = run.agent()?;
        let client = run.new_client()?;
        let body = payload::bytes(300_000, 5);
        let warned = || {
            // The session of one is offered to all.
            let visits = (0..8).try_for_each(|source| {
                run.connect(&client, &run.dial(source), |connection| {
                    connection.put("/files/up", &body)?;
                    connection.finish()
                })
                .map(drop)
            });
            let status = steer.json("status").ok()?;
            let told = status["warnings"].to_string().matches("go round this gateway").count();
            (visits.is_err() || told >= run.lab.n_backends()).then_some(visits)
        };
        eventually(PATIENCE, warned).context("the agent says nothing")??;
        assert_eq!((steer.count(Counter::Rehome)?, steer.count(Counter::Learned)?), (0, 0));
        assert_eq!((steer.count(Counter::SynAck)?, steer.count(Counter::LegTranslated)?), (0, 0));
        Ok(())
    })
}
