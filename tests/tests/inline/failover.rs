//! Case 7: another unit of the balancer takes over while connections are open. Its frames come from
//! another station, and the old one hears nothing any more.

use std::{net::SocketAddr, panic::resume_unwind, thread, time::Duration};

use anyhow::{Context, Result, ensure};
use steer_common::counters::Counter;
use steer_tests::{
    balancer::Balancer,
    case::{Case, FIRST, OWNER},
    client::Dial,
    frames::Tap,
    l4::Snat,
    loss::Loss,
    nginx,
    packets::Segment,
    payload,
    scenario::Run,
    setting::{Setting, in_settings},
    topology::mac,
};

const PATIENCE: Duration = Duration::from_secs(5);
/// Offset of a cut before the session ID.
const BEFORE_ID: usize = 30;

/// The gateway asks who the balancer is, as gateways do.
fn run(setting: Setting) -> Result<Run> {
    let kept = nginx::Settings { keepalive: "60s".to_owned(), ..nginx::Settings::default() };
    setting.scenario().nginx(kept).unknown_neighbours().behind_stand_in().start()
}

/// A client resumes elsewhere, and the other unit takes over once this was counted.
fn moves_over_it(
    setting: Setting,
    snat: Snat,
    once: Counter,
    dial: impl Fn(Dial) -> Dial,
) -> Result<()> {
    let run = run(setting)?;
    let balancer = Balancer::start(&run.lab, snat)?;
    let case = Case::start(&run)?;
    let dial = dial(Dial { timeout: PATIENCE, ..case.dial.clone() });
    let waits = once == Counter::Rehome;
    let silence = waits.then(|| Loss::incoming(run.lab.backend(OWNER), "meta l4proto tcp"));
    thread::scope(|scope| {
        let visit = scope.spawn(|| case.moves(&dial));
        let counted = case.await_count(once, 1, PATIENCE);
        let failed_over = counted.and_then(|()| balancer.fail_over());
        drop(silence);
        visit.join().unwrap_or_else(|panic| resume_unwind(panic))?;
        failed_over
    })?;
    case.expect(&[(Counter::SpliceOpened, 1), (Counter::OwnerSilent, 0)])?;
    case.unharmed(1)
}

#[test]
fn a_flow_whose_balancer_fails_over_before_its_hello_moves() -> Result<()> {
    in_settings(340, |setting| {
        let silent = |dial| Dial { idle: Duration::from_millis(400), ..dial };
        moves_over_it(setting, Snat::No, Counter::FlowEstablished, silent)
    })
}

#[test]
fn a_flow_whose_balancer_fails_over_between_the_pieces_of_its_hello_moves() -> Result<()> {
    in_settings(341, |setting| {
        // Sooner than the client repeats its first piece, which would end the gathering.
        let pause = Duration::from_millis(150);
        let cut = |dial| Dial { cuts: vec![BEFORE_ID], cut_pause: pause, ..dial };
        moves_over_it(setting, Snat::Yes, Counter::Gather, cut)
    })
}

#[test]
fn a_flow_whose_balancer_fails_over_while_its_owner_is_asked_moves() -> Result<()> {
    in_settings(342, |setting| moves_over_it(setting, Snat::No, Counter::Rehome, |dial| dial))
}

/// Both a moved flow and one that stays; the client speaks first after the other unit took over.
#[test]
fn flows_whose_balancer_fails_over_go_on_both_ways() -> Result<()> {
    in_settings(343, |setting| {
        let run = run(setting)?;
        let balancer = Balancer::start(&run.lab, Snat::No)?;
        let case = Case::start(&run)?;
        let plain = run.new_client()?;
        run.connect(&case.client, &case.dial, |moved| {
            run.connect(&plain, &case.dial, |stays| {
                ensure!(moved.handshake.resumed && !stays.handshake.resumed);
                for turn in 0..2 {
                    for (at, connection) in [(OWNER, &mut *moved), (FIRST, &mut *stays)] {
                        connection.keep_open(true);
                        ensure!(connection.get("/files/file")?.len == 300_000);
                        let body = payload::bytes(1 << 20, turn);
                        connection.put("/files/up", &body)?;
                        ensure!(run.servers[at].uploaded("up")? == payload::sha256(&body));
                    }
                    if turn == 0 {
                        balancer.fail_over()?;
                    }
                }
                Ok(())
            })
        })?;
        case.expect(&[(Counter::SpliceOpened, 1), (Counter::Rehome, 1)])?;
        case.unharmed_but_for_resets()
    })
}

/// The client of a moved flow only listens: what its server repeats asks for the way.
#[test]
fn a_moved_download_whose_balancer_fails_over_goes_on() -> Result<()> {
    in_settings(344, |setting| {
        let run = run(setting)?;
        let balancer = Balancer::start(&run.lab, Snat::Yes)?;
        let case = Case::start(&run)?;
        let (handshake, sum) = run.connect(&case.client, &case.dial, |connection| {
            let mut failed_over = None;
            let response = connection.get_watched("/slow/file", |read| {
                if read > 50_000 && failed_over.is_none() {
                    failed_over = Some(balancer.fail_over());
                }
            })?;
            failed_over.context("it was over before")??;
            Ok(response.sha256)
        })?;
        ensure!(handshake.resumed && sum == payload::sha256(&payload::bytes(300_000, 7)));
        case.expect(&[(Counter::SpliceOpened, 1)])?;
        case.unharmed_but_for_resets()
    })
}

/// Whoever knows addresses and ports, and nothing of the numbers, draws nothing to his station.
#[test]
fn frames_sent_blindly_from_another_station_draw_no_answers() -> Result<()> {
    const PORT: u16 = 20_001;
    const STRANGER: [u8; 6] = [0x02, 0xba, 0xd0, 0, 0, 1];
    in_settings(345, |setting| {
        let run = run(setting.finished())?;
        let balancer = Balancer::start(&run.lab, Snat::No)?;
        let case = Case::start(&run)?;
        let tap = Tap::open(run.lab.balancer().context("a balancer")?, "eth0")?;
        for client in [&case.client, &run.new_client()?] {
            let dial = Dial { source_port: Some(PORT), ..case.dial.clone() };
            let from = SocketAddr::new(dial.source, PORT);
            run.connect(client, &dial, |connection| {
                connection.keep_open(true);
                connection.get("/files/file")?;
                for number in (0..16).map(|step| step << 28) {
                    let blind = || Segment::new(from, run.backend_address(FIRST), number);
                    for segment in
                        [blind().syn(), blind().rst(), blind().ack(!number).payload(b"blind")]
                    {
                        tap.send(&segment.frame(STRANGER, mac(0, 1), &[])?)?;
                    }
                }
                ensure!(connection.get("/files/file")?.len == 300_000);
                connection.keep_open(false);
                connection.get("/")?;
                connection.finish()
            })?;
        }
        assert_eq!(balancer.n_for_others(), 0, "frames to the stranger");
        case.expect(&[(Counter::SpliceOpened, 1)])?;
        case.unharmed_but_for_resets()
    })
}
