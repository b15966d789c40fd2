//! The lab itself, without steer: what it says about steer is worth as much as this.

use std::{sync::Arc, time::Duration};

use anyhow::{Context, Result};
use steer_tests::{
    agent::Hook,
    client::{Client, Dial},
    frames::Tap,
    l4::PlainL4,
    loss::Loss,
    packets::{Segment, judge_checksums},
    payload,
    scenario::{Run, Scenario},
    topology::{Family, Offloads, mac},
};

const MEGABYTES_20: usize = 20 * 1024 * 1024;

fn direct(run: &Run, source: usize) -> Dial {
    Dial::new(run.source(source), run.backend_address(0))
}

#[test]
fn a_client_resumes_at_the_same_backend_from_any_address() -> Result<()> {
    for (family, offloads) in [(Family::V4, Offloads::On), (Family::V6, Offloads::ChecksumsOff)] {
        let run = Scenario::new(Hook::Tc, family).offloads(offloads).backends(1).start()?;
        let client = run.new_client()?;
        assert!(!run.visit(&client, &direct(&run, 0))?.offered);
        for source in 1..64 {
            let handshake = run.visit(&client, &direct(&run, source))?;
            assert!(handshake.offered && handshake.resumed, "{handshake:?}");
        }
    }
    Ok(())
}

#[test]
fn a_session_means_nothing_to_another_backend() -> Result<()> {
    let run = Scenario::new(Hook::Tc, Family::V4).backends(2).start()?;
    let client = run.new_client()?;
    run.visit(&client, &direct(&run, 0))?;
    let elsewhere = run.visit(&client, &Dial::new(run.source(0), run.backend_address(1)))?;
    assert!(elsewhere.offered && !elsewhere.resumed);
    assert_eq!(elsewhere.server, "backend-1");
    Ok(())
}

#[test]
fn a_client_without_a_certificate_is_refused() -> Result<()> {
    let run = Scenario::new(Hook::Tc, Family::V4).backends(1).start()?;
    let nobody =
        Client::with_config(&run.pki, run.pki.client_config(false, &rustls::version::TLS12)?);
    assert!(run.visit(&nobody, &direct(&run, 0)).is_err());
    Ok(())
}

#[test]
fn plain_layer_4_loses_most_sessions_of_clients_that_move() -> Result<()> {
    for family in [Family::V4, Family::V6] {
        let run = Scenario::new(Hook::Tc, family).start()?;
        let _rival = PlainL4::start(&run.lab)?;
        let client = run.new_client()?;
        run.visit(&client, &run.dial(0))?;
        assert!(run.visit(&client, &run.dial(0))?.resumed, "same address, same backend");
        let mut resumed = 0;
        for source in 1..64 {
            resumed += usize::from(run.visit(&client, &run.dial(source))?.resumed);
        }
        assert!((8..=40).contains(&resumed), "{resumed} of 63 resumed");
    }
    Ok(())
}

#[test]
fn a_long_hello_in_pieces_with_pauses_is_understood() -> Result<()> {
    let run = Scenario::new(Hook::Tc, Family::V4).backends(1).start()?;
    let mut client = run.new_client()?;
    client.lengthen_hello(11_000);
    run.visit(&client, &direct(&run, 0))?;
    let mut dial = direct(&run, 1);
    (dial.cuts, dial.cut_pause, dial.mss) =
        (vec![1, 50, 3000], Duration::from_millis(20), Some(536));
    let handshake = run.visit(&client, &dial)?;
    assert!(handshake.resumed && handshake.time > Duration::from_millis(60), "{handshake:?}");
    Ok(())
}

#[test]
fn twenty_megabytes_arrive_whole_both_ways_with_and_without_loss() -> Result<()> {
    let run = Scenario::new(Hook::Tc, Family::V4).offloads(Offloads::Off).backends(1).start()?;
    let client = run.new_client()?;
    let bytes = payload::bytes(MEGABYTES_20, 1);
    let sum = run.servers[0].put("down", &bytes)?;
    for percent in [0, 1] {
        let _loss = Loss::everywhere(&run.lab, percent)?;
        let (_, response) = run.connect(&client, &direct(&run, 0), |c| c.get("/files/down"))?;
        assert_eq!((response.len, &response.sha256), (MEGABYTES_20, &sum));
        run.connect(&client, &direct(&run, 0), |c| c.put("/files/up", &bytes))?;
        assert_eq!(run.servers[0].uploaded("up")?, sum);
    }
    for counters in [run.client_counters()?, run.backend_counters(0)?] {
        assert!(counters.of("Tcp.RetransSegs") > 50, "the loss was real");
        assert_eq!(counters.of("Tcp.InCsumErrors"), 0);
    }
    Ok(())
}

#[test]
fn a_spoofed_syn_made_by_hand_is_answered_by_a_kernel() -> Result<()> {
    for family in [Family::V4, Family::V6] {
        let run = Scenario::new(Hook::Tc, family).offloads(Offloads::Off).backends(1).start()?;
        let syn =
            Segment::new((run.source(5), 4321).into(), run.backend_address(0), 0x0102_0304).syn();
        let frame = syn.frame(mac(0, 2), mac(0, 1), &[])?;
        judge_checksums(&frame)?;
        let answers = Tap::open(run.lab.backend(0), "eth0")?;
        Tap::open(run.lab.client(), "eth0")?.send(&frame)?;
        let acknowledges = |frame: &[u8]| frame.windows(4).any(|bytes| bytes == [1, 2, 3, 5]);
        let answer =
            answers.await_frame(Duration::from_secs(1), acknowledges)?.context("no SYN-ACK")?;
        judge_checksums(&answer)?;
    }
    Ok(())
}

#[test]
fn labs_do_not_see_each_other() -> Result<()> {
    let runs = [0, 1].map(|_| Scenario::new(Hook::Tc, Family::V4).backends(1).start());
    let [first, second] = runs;
    let (first, second) = (first?, second?);
    let client = first.new_client()?;
    first.visit(&client, &direct(&first, 0))?;
    assert!(!Arc::ptr_eq(&first.pki, &second.pki));
    assert!(second.visit(&client, &direct(&second, 0)).is_err(), "another authority's certificate");
    Ok(())
}
