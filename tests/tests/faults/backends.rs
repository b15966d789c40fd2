//! Backends that die, freeze, vanish or come and go while clients do: no client fails whom plain
//! layer 4 would have carried to its first backend.

use std::{
    panic::resume_unwind,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, anyhow, ensure};
use nix::sys::signal::Signal;
use steer_common::counters::Counter;
use steer_tests::{
    case::{Case, FIRST, OWNER},
    client::{Client, Dial, Handshake},
    loss::Loss,
    payload,
    process::eventually,
    setting::in_numbered_setting,
};

/// Clients at work at a time.
const PARALLEL: usize = 6;
/// So often does a backend's state change.
const BEAT: Duration = Duration::from_secs(1);

#[test]
fn an_owner_that_is_killed_and_started_again_and_again_costs_only_what_was_on_it() -> Result<()> {
    in_numbered_setting(85, |setting| {
        let run = setting.scenario().start()?;
        let case = Case::start(&run)?;
        let mut deaths = Vec::new();
        let visits = churn(&case, || {
            for _ in 0..3 {
                let before = Instant::now();
                run.servers[OWNER].stop()?;
                deaths.push((before, Instant::now()));
                thread::sleep(BEAT);
                run.servers[OWNER].restart(run.lab.backend(OWNER))?;
                thread::sleep(BEAT / 2);
            }
            Ok(())
        })?;
        // A server that dies takes the connections along that it has.
        let on_it = |visit: &&Visit| {
            deaths.iter().any(|(before, after)| visit.start <= *after && *before <= visit.end)
        };
        let failed: Vec<_> = visits.iter().filter(|visit| visit.seen.is_err()).collect();
        ensure!(failed.iter().all(on_it), "{failed:?}");
        ensure!(failed.len() <= PARALLEL * deaths.len(), "{failed:?}");
        told("killed", &case, &visits)?;
        ensure!(
            case.counted(Counter::OwnerRefused)? + case.counted(Counter::OwnerDown)? > 0,
            "nobody met it dead"
        );
        case.unharmed_but_for_resets()
    })
}

/// Its kernel still accepts connections, so that it takes its flows: they wait, and go on when it
/// does.
#[test]
fn a_frozen_owner_keeps_its_own_clients_waiting_and_nobody_else() -> Result<()> {
    in_numbered_setting(86, |setting| {
        let run = setting.scenario().start()?;
        let case = Case::start(&run)?;
        let stranger = run.new_client()?;
        thread::scope(|scope| {
            run.servers[OWNER].signal(Signal::SIGSTOP)?;
            let waiting = scope.spawn(|| case.visit_at_once(PARALLEL, &case.dial));
            for _ in 0..10 {
                stranger.forget();
                let handshake = case.fetch_with(&stranger, &case.dial)?;
                ensure!(
                    run.backend_named(&handshake.server)? == FIRST && handshake.time < BEAT,
                    "{handshake:?}"
                );
            }
            thread::sleep(BEAT);
            let early = waiting.is_finished();
            run.servers[OWNER].signal(Signal::SIGCONT)?;
            let handshakes = waiting.join().unwrap_or_else(|panic| resume_unwind(panic))?;
            ensure!(
                !early && handshakes.iter().all(|handshake| handshake.resumed),
                "{handshakes:?}"
            );
            Ok(())
        })?;
        case.expect(&[(Counter::SpliceOpened, PARALLEL as u64), (Counter::Flushed, 0)])?;
        case.unharmed_but_for_resets()
    })
}

/// Whoever reaches for it within the time of its checks falls back by its own timer, the others at
/// once; and what was on it goes on.
#[test]
fn an_owner_in_a_black_hole_is_given_up_and_what_was_on_it_goes_on_afterwards() -> Result<()> {
    in_numbered_setting(87, |setting| {
        let run = setting.scenario().start()?;
        let case = Case::start(&run)?;
        let sum = run.servers[OWNER].put("down", &payload::bytes(24 << 20, 1))?;
        thread::scope(|scope| {
            let download = scope.spawn(|| paced_download(&case));
            let visits = churn(&case, || {
                let _hole = Loss::incoming(run.lab.backend(OWNER), "meta l4proto { tcp, icmp }")?;
                thread::sleep(3 * BEAT);
                Ok(())
            })?;
            ensure!(visits.iter().all(|visit| visit.seen.is_ok()), "{visits:?}");
            told("in a black hole", &case, &visits)?;
            ensure!(
                case.counted(Counter::OwnerSilent)? + case.counted(Counter::OwnerDown)? > 0,
                "nobody met it so"
            );
            let (handshake, arrived) =
                download.join().unwrap_or_else(|panic| resume_unwind(panic))?;
            ensure!(handshake.resumed && arrived == sum, "{handshake:?}");
            case.unharmed_but_for_resets()
        })
    })
}

#[test]
fn an_owner_that_comes_and_goes_every_second_costs_nobody_an_error() -> Result<()> {
    in_numbered_setting(88, |setting| {
        let run = setting.scenario().start()?;
        let case = Case::start(&run)?;
        let visits = churn(&case, || {
            for _ in 0..4 {
                let hole = Loss::incoming(run.lab.backend(OWNER), "meta l4proto { tcp, icmp }")?;
                thread::sleep(BEAT);
                drop(hole);
                thread::sleep(BEAT);
            }
            Ok(())
        })?;
        ensure!(visits.iter().all(|visit| visit.seen.is_ok()), "{visits:?}");
        told("flapping", &case, &visits)?;
        ensure!(
            case.counted(Counter::OwnerSilent)? + case.counted(Counter::OwnerDown)? > 0,
            "nobody met it away"
        );
        // When it stays, it gets its flows again.
        let up = || {
            (case.steer.backend(run.backend_address(OWNER)).ok()?["state"] == "up").then_some(())
        };
        ensure!(
            eventually(Duration::from_secs(5), up).is_some(),
            "its checks do not see it come back"
        );
        let back = run.new_client()?;
        case.fetch_with(&back, &case.home)?;
        ensure!(case.fetch_with(&back, &case.dial)?.resumed, "not resumed after all");
        case.unharmed_but_for_resets()
    })
}

/// One visit of one client.
#[derive(Debug)]
struct Visit {
    start: Instant,
    end: Instant,
    seen: Result<Handshake>,
}

/// Clients get sessions of the owner and offer them from an address that leads to the other
/// backend, again and again, while `chaos` is under way; what each saw of the latter.
fn churn(case: &Case<'_>, chaos: impl FnOnce() -> Result<()>) -> Result<Vec<Visit>> {
    let (working, visits) = (AtomicBool::new(true), Mutex::new(Vec::new()));
    let model = case.run.new_client()?;
    thread::scope(|scope| {
        let workers: Vec<_> = (0..PARALLEL)
            .map(|_| scope.spawn(|| work(case, &model.sibling(), &working, &visits)))
            .collect();
        // Chaos finds everybody at work, with a session.
        let at_work = || {
            (visits.lock().unwrap_or_else(PoisonError::into_inner).len() >= 4 * PARALLEL)
                .then_some(())
        };
        let at_work = eventually(Duration::from_secs(20), at_work);
        let done = if at_work.is_some() { chaos() } else { Err(anyhow!("nobody comes to work")) };
        working.store(false, Ordering::Relaxed);
        for worker in workers {
            worker.join().unwrap_or_else(|panic| resume_unwind(panic))?;
        }
        done
    })?;
    Ok(visits.into_inner().unwrap_or_else(PoisonError::into_inner))
}

/// One client: it visits until it was not resumed, for then its session is another backend's; and
/// begins anew.
fn work(
    case: &Case<'_>,
    client: &Client,
    working: &AtomicBool,
    visits: &Mutex<Vec<Visit>>,
) -> Result<()> {
    case.run.lab.client().enter()?;
    // May fail while the owner is away: then it has none of its sessions.
    let home = Dial { timeout: BEAT, ..case.home.clone() };
    while working.load(Ordering::Relaxed) {
        client.forget();
        let mut resumed = client.visit(&home).is_ok();
        for _ in 0..20 {
            if !resumed || !working.load(Ordering::Relaxed) {
                break;
            }
            let start = Instant::now();
            let seen = client.visit(&case.dial);
            resumed = seen.as_ref().is_ok_and(|handshake| handshake.resumed);
            let visit = Visit { start, end: Instant::now(), seen };
            visits.lock().unwrap_or_else(PoisonError::into_inner).push(visit);
            thread::sleep(Duration::from_millis(10));
        }
    }
    Ok(())
}

/// Says what was seen, for people.
fn told(what: &str, case: &Case<'_>, visits: &[Visit]) -> Result<()> {
    let resumed =
        visits.iter().filter(|visit| visit.seen.as_ref().is_ok_and(|seen| seen.resumed)).count();
    let failed = visits.iter().filter(|visit| visit.seen.is_err()).count();
    let slowest = visits.iter().map(|visit| visit.end - visit.start).max().unwrap_or_default();
    let count = |counter| case.counted(counter).map(|n| format!("{} {n}", Counter::word(counter)));
    let counters =
        [Counter::SpliceOpened, Counter::OwnerRefused, Counter::OwnerSilent, Counter::OwnerDown];
    let counters = counters.into_iter().map(count).collect::<Result<Vec<_>>>()?.join(", ");
    println!(
        "{what}: {} visits, {resumed} resumed, {failed} failed, slowest {slowest:?}; {counters}",
        visits.len()
    );
    ensure!(visits.len() > 50, "hardly anybody came: {} visits", visits.len());
    Ok(())
}

/// A download over a splice that takes a few seconds.
fn paced_download(case: &Case<'_>) -> Result<(Handshake, String)> {
    case.run.connect(&case.client, &case.dial, |connection| {
        let pace = |_| thread::sleep(Duration::from_millis(2));
        Ok(connection.get_watched("/files/down", pace)?.sha256)
    })
}
