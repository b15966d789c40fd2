//! Case 13: the agent is killed at any step, or detached, while flows move all the time. Flows that
//! stay lose nothing. Moved ones go on or are reset at once; nobody is told wrong bytes.

use std::{
    io::ErrorKind,
    os::unix::process::ExitStatusExt as _,
    panic::resume_unwind,
    sync::{
        Barrier,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use steer_common::counters::Counter;
use steer_tests::{
    agent::{Agent, Hook},
    case::{Case, OWNER, is_any},
    client::{Client, Connection, Dial, Handshake},
    l4::Snat,
    nginx, payload,
    process::eventually,
    scenario::Run,
    setting::{Setting, in_settings},
    topology::{Family, Offloads},
};
use steer_user::crash::{self, Starts, Step};

/// Threads of each kind.
const CROWD: usize = 3;
const PATIENCE: Duration = Duration::from_secs(20);

/// What came of the transfers so far.
#[derive(Default)]
struct Tally {
    plain: AtomicUsize,
    moved: AtomicUsize,
    stayed: AtomicUsize,
    reset: AtomicUsize,
    silent: AtomicUsize,
}

fn one_more(count: &AtomicUsize) {
    count.fetch_add(1, Ordering::Relaxed);
}

fn of(count: &AtomicUsize) -> usize {
    count.load(Ordering::Relaxed)
}

/// Whether a client was told at once that its connection is over.
fn was_reset(error: &anyhow::Error) -> bool {
    is_any(error, &[ErrorKind::ConnectionReset, ErrorKind::BrokenPipe])
}

/// Where clients go, without a hold on the agent.
struct Way<'a> {
    run: &'a Run,
    /// To the first backend, and to the owner.
    dial: Dial,
    home: Dial,
}

impl<'a> Way<'a> {
    fn of(case: &Case<'a>) -> Self {
        Self { run: case.run, dial: case.dial.clone(), home: case.home.clone() }
    }

    fn fetch(&self, client: &Client, dial: &Dial) -> Result<Handshake> {
        let (handshake, ()) = self.run.connect(client, dial, |connection| {
            fetch(connection)?;
            connection.finish()
        })?;
        Ok(handshake)
    }

    /// Clients without a session fetch a file again and again; that may not fail.
    fn stay(&self, over: &AtomicBool, tally: &Tally) -> Result<()> {
        let client = self.run.new_client()?;
        while !over.load(Ordering::Relaxed) {
            client.forget();
            self.fetch(&client, &self.dial).context("a flow that stays")?;
            one_more(&tally.plain);
        }
        Ok(())
    }

    /// Clients with a session of the owner offer it elsewhere again and again. Wrong bytes are an
    /// error, and so is any other that TLS makes of them.
    fn move_on(&self, over: &AtomicBool, tally: &Tally) -> Result<()> {
        let client = self.run.new_client()?;
        let mut has_session = false;
        while !over.load(Ordering::Relaxed) {
            let to = if has_session { &self.dial } else { &self.home };
            let dial = Dial { timeout: Duration::from_secs(5), ..to.clone() };
            match self.fetch(&client, &dial) {
                Ok(seen) => {
                    if has_session {
                        one_more(if seen.resumed { &tally.moved } else { &tally.stayed });
                    }
                    has_session = self.run.backend_named(&seen.server)? == OWNER;
                }
                Err(error) if was_reset(&error) => {
                    one_more(&tally.reset);
                    has_session = false;
                }
                // A client that only listens hears nothing of it.
                Err(error) if is_any(&error, &[ErrorKind::WouldBlock]) => {
                    one_more(&tally.silent);
                    has_session = false;
                }
                Err(error) => return Err(error.context("a flow that moves")),
            }
            if !has_session {
                client.forget();
            }
        }
        Ok(())
    }

    /// Lets both kinds go on while `happens` happens.
    fn meanwhile(&self, happens: impl FnOnce(&Tally) -> Result<()>) -> Result<Tally> {
        let (over, tally) = (AtomicBool::new(false), Tally::default());
        let (on, count) = (&over, &tally);
        thread::scope(|scope| {
            let threads: Vec<_> = (0..CROWD)
                .flat_map(|_| {
                    [
                        scope.spawn(move || self.stay(on, count)),
                        scope.spawn(move || self.move_on(on, count)),
                    ]
                })
                .collect();
            let happened = happens(count);
            on.store(true, Ordering::Relaxed);
            for thread in threads {
                thread.join().unwrap_or_else(|panic| resume_unwind(panic))?;
            }
            happened
        })?;
        println!(
            "{} stayed as they should, {} moved, {} did not, {} were reset, {} heard nothing",
            of(&tally.plain),
            of(&tally.moved),
            of(&tally.stayed),
            of(&tally.reset),
            of(&tally.silent)
        );
        Ok(tally)
    }
}

fn fetch(connection: &mut Connection) -> Result<()> {
    let response = connection.get("/files/file")?;
    ensure!(response.sha256 == payload::sha256(&payload::bytes(300_000, 7)), "it arrived changed");
    Ok(())
}

/// Waits until so many more of each kind are through.
fn goes_on(tally: &Tally, moves: bool) -> Result<()> {
    const MORE: usize = 4;
    let (plain, moved) = (of(&tally.plain) + MORE, of(&tally.moved) + MORE);
    let on = || (of(&tally.plain) >= plain && (!moves || of(&tally.moved) >= moved)).then_some(());
    eventually(PATIENCE, on).context("flows do not go on")
}

/// One more agent, which dies at this step.
fn dies_at(steer: &Agent<'_>, step: Step) -> Result<()> {
    let ended = steer.launch_to_end(&[], &[(crash::VARIABLE, step.word())])?;
    ensure!(ended.signal() == Some(Signal::SIGKILL as i32), "{ended}: {}", steer.log());
    Ok(())
}

fn run(setting: Setting) -> Result<Run> {
    let kept = nginx::Settings { keepalive: "60s".to_owned(), ..nginx::Settings::default() };
    setting.scenario().nginx(kept).inline(Snat::Yes).start()
}

/// The programs go on without it: not even what moves is harmed.
#[test]
fn agents_that_die_at_any_step_while_flows_move_harm_none_of_them() -> Result<()> {
    // XDP besides TC, so that every step is come by.
    let offloads = Offloads::ChecksumsOff;
    let run = run(Setting { hook: Hook::Xdp, family: Family::V4, offloads })?;
    let mut case = Case::start(&run)?;
    let tally = Way::of(&case).meanwhile(|tally| {
        let steer = &mut case.steer;
        for step in Step::ALL.iter().copied().filter(|step| step.starts() == Starts::Every) {
            let context = || format!("after a death at {}", step.word());
            steer.end(Signal::SIGKILL)?;
            dies_at(steer, step).with_context(context)?;
            goes_on(tally, true).with_context(context)?;
            steer.launch().with_context(context)?;
        }
        goes_on(tally, true)
    })?;
    let failed = [&tally.reset, &tally.silent, &tally.stayed].map(of);
    assert_eq!(failed, [0, 0, 0], "moves that failed: {}", case.grown(&case.steer.counts()?));
    case.expect(&[(Counter::LegCollided, 0), (Counter::OwnerSilent, 0)])
}

/// What an open connection was told when steer had gone.
#[derive(PartialEq, Eq, Debug)]
enum Told {
    GoesOn,
    Reset,
    Else(String),
}

/// Opens a connection, and speaks again behind both barriers.
fn speaks_again(way: &Way<'_>, client: &Client, gone: &Barrier) -> Result<(bool, Told)> {
    let (handshake, told) = way.run.connect(client, &way.dial, |connection| {
        connection.keep_open(true);
        let opened = fetch(connection);
        gone.wait();
        gone.wait();
        opened?;
        Ok(match fetch(connection) {
            Ok(()) => Told::GoesOn,
            Err(error) if was_reset(&error) => Told::Reset,
            Err(error) => Told::Else(format!("{error:#}")),
        })
    })?;
    Ok((handshake.resumed, told))
}

#[test]
fn while_steer_is_detached_flows_that_stay_lose_nothing_and_moved_ones_are_reset_at_once()
-> Result<()> {
    /// Open connections of each kind.
    const OPEN: usize = 8;
    in_settings(390, |setting| {
        let run = run(setting)?;
        let case = Case::start(&run)?;
        let (way, stranger, gone) = (Way::of(&case), run.new_client()?, Barrier::new(2 * OPEN + 1));
        let tally = thread::scope(|scope| {
            let (way, gone, mover, stranger) = (&way, &gone, &case.client, &stranger);
            let open = |client: &'static str| {
                let client = if client == "moved" { mover.clone() } else { stranger.sibling() };
                scope.spawn(move || speaks_again(way, &client, gone))
            };
            let opened: Vec<_> = (0..OPEN).flat_map(|_| [open("moved"), open("stays")]).collect();
            let tally = way.meanwhile(|tally| {
                let on = goes_on(tally, true);
                gone.wait();
                let detached = case.steer.steer("detach");
                gone.wait();
                on?;
                detached?;
                let stays = || (of(&tally.stayed) > 0).then_some(());
                eventually(PATIENCE, stays).context("no session is offered")?;
                goes_on(tally, false)
            })?;
            for (number, thread) in opened.into_iter().enumerate() {
                let (moved, told) = thread.join().unwrap_or_else(|panic| resume_unwind(panic))?;
                ensure!(moved == (number % 2 == 0), "number {number} moved: {moved}");
                let expected = if moved { Told::Reset } else { Told::GoesOn };
                ensure!(told == expected, "moved: {moved}, told {told:?}");
            }
            Ok(tally)
        })?;
        ensure!(of(&tally.moved) > 0, "no moves");
        Ok(())
    })
}

/// Of a download whose client only listens nothing comes back that the client could be told by: it
/// is asked.
#[test]
fn a_moved_download_is_reset_at_once_when_steer_is_detached() -> Result<()> {
    in_settings(391, |setting| Case::start(&run(setting)?)?.detach_in_a_download())
}
