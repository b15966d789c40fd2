//! Case 17: the gateway's own machine follows connections (conntrack), and drops what it calls
//! invalid.

use anyhow::{Context, Result, ensure};
use steer_common::counters::Counter;
use steer_tests::{
    case::{Case, FIRST},
    l4::Snat,
    nginx, payload,
    scenario::Run,
    setting::in_settings,
};

const RULES: &str = "table inet guard {
 counter met {}
 counter dropped {}
 chain every {
  type filter hook prerouting priority raw
  meta l4proto tcp counter name met
 }
 chain guard {
  type filter hook forward priority 0
  ct state invalid counter name dropped drop
 }
}
";

/// Packets that a counter of the rules counted.
fn counted(run: &Run, name: &str) -> Result<u64> {
    let text = run.lab.gateway().tool(&format!("nft -j list counter inet guard {name}"))?;
    let listed: serde_json::Value = serde_json::from_str(&text)?;
    let counters = listed["nftables"].as_array().context("no list")?;
    let counter = counters.iter().find_map(|entry| entry["counter"]["packets"].as_u64());
    counter.with_context(|| format!("no counter in {text}"))
}

#[test]
fn no_packet_of_a_flow_meets_rules_that_drop_what_conntrack_calls_invalid() -> Result<()> {
    in_settings(380, |setting| {
        for snat in [Snat::No, Snat::Yes] {
            let kept = nginx::Settings { keepalive: "60s".to_owned(), ..Default::default() };
            let run = setting.scenario().nginx(kept).inline(snat).start()?;
            run.lab.gateway().nft(RULES)?;
            let stranger = run.new_client()?;
            // Older than the gateway: the rules have seen it from the start, and go on to.
            run.connect(&stranger, &run.dial(0), |older| {
                older.keep_open(true);
                older.get("/")?;
                meets_none(&run)?;
                older.put("/files/up", &payload::bytes(1 << 20, 1))?;
                older.get("/files/file").map(drop)
            })?;
            ensure!(counted(&run, "dropped")? == 0, "what is older was dropped");
        }
        Ok(())
    })
}

/// Flows that move and one that stays, which goes on by the rules once steer is gone.
fn meets_none(run: &Run) -> Result<()> {
    let case = Case::start(run)?;
    let before = counted(run, "met")?;
    ensure!(before > 0, "the rules see what passes");
    for _ in 0..4 {
        case.moves(&case.dial)?;
    }
    ensure!(case.upload(&case.dial, &payload::bytes(1 << 20, 2))?.resumed, "not resumed");
    run.connect(&run.new_client()?, &case.dial, |stays| {
        let whole = |turn| {
            let body = payload::bytes(1 << 20, turn);
            (payload::sha256(&body), body)
        };
        stays.keep_open(true);
        stays.get("/files/file")?;
        let (sum, body) = whole(3);
        stays.put("/files/up", &body)?;
        ensure!(run.servers[FIRST].uploaded("up")? == sum, "it arrived changed");
        assert_eq!(counted(run, "met")? - before, 0, "packets of flows met the rules");
        case.expect(&[(Counter::SpliceOpened, 5), (Counter::Rehome, 5)])?;
        case.unharmed(5)?;
        case.steer.steer("detach")?;
        let (sum, body) = whole(4);
        stays.put("/files/up", &body)?;
        ensure!(run.servers[FIRST].uploaded("up")? == sum, "it arrived changed");
        ensure!(counted(run, "met")? > before, "it does not go by the rules");
        Ok(())
    })?;
    Ok(())
}
