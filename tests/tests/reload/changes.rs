//! Each kind of change, while clients come back from everywhere and a re-homed download runs.

use std::{
    fs,
    panic::resume_unwind,
    process::Command,
    sync::atomic::{AtomicBool, Ordering},
    thread,
};

use anyhow::{Context as _, Result, ensure};
use steer_common::counters::Counter;
use steer_tests::{
    agent::{Agent, Hook},
    case::{Case, OWNER},
    demo::Load,
    payload, process,
    scenario::{Run, Scenario},
    setting::in_settings,
    topology::{Family, backend, backend_side, second_vip},
};

const MEGABYTES_20: usize = 20 << 20;
const CROWD: Load = Load { clients: 16, reconnects: 300, parallel: 8 };

/// A change of the file, by its name.
type Change = (&'static str, fn(&str, Family) -> String);

const CHANGES: [Change; 8] = [
    ("a weight", |file, family| {
        let line = format!("address = \"{}\"\n", backend(family, 1));
        file.replace(&line, &format!("{line}weight = 3\n"))
    }),
    ("health", |file, _| file.replace("interval = \"200ms\"", "interval = \"300ms\"\nfall = 5")),
    ("sizes", |file, _| {
        let sizes = "[sizes]\nsessions = 300000\nflows = 300000\nsplices = 70000\n\n[[interface]]";
        file.replacen("[[interface]]", sizes, 1)
    }),
    ("metrics", |file, _| format!("metrics = \"127.0.0.1:9464\"\n{file}")),
    ("a VIP more", |file, family| {
        let (vip, server) = (second_vip(family), backend(family, 1).ip());
        format!(
            "{file}\n[[vip]]\naddress = \"{vip}\"\n[[vip.backend]]\naddress = \"{server}:4443\"\n\
             [vip.health]\nenabled = false\n"
        )
    }),
    ("that VIP gone", |file, family| {
        let at = file.find(&format!("\n[[vip]]\naddress = \"{}\"", second_vip(family)));
        file[..at.unwrap_or(file.len())].to_owned()
    }),
    ("VIPs with one pool", |file, family| shared(file, family)),
    ("settings of sessions", |file, _| {
        file.replace("owner_tries = 3", "owner_tries = 5\nsession_timeout = \"20m\"")
    }),
];

/// The VIP of a family gets a pool of its own name, and another VIP beside it.
fn shared(file: &str, family: Family) -> String {
    let (vip, other) = (steer_tests::topology::vip(family), second_vip(family));
    let head = format!("[[vip]]\naddress = \"{vip}\"\n");
    let entrances =
        format!("{head}pool = \"web\"\n\n[[vip]]\naddress = \"{other}\"\npool = \"web\"\n");
    let Some((before, rest)) = file.split_once(&head) else { return file.to_owned() };
    let (own, behind) = rest.split_at(rest.find("\n[[vip]]").unwrap_or(rest.len()));
    let own = own.replace("[vip.", "[pool.").replace("[[vip.", "[[pool.");
    format!("{before}{entrances}\n{behind}\n[[pool]]\nname = \"web\"\n{own}")
}

#[test]
fn each_kind_of_change_is_put_in_force_and_nobody_notices() -> Result<()> {
    in_settings(71, |setting| {
        let run = setting.scenario().vip_setting("owner_tries = 3").start()?;
        let case = Case::start(&run)?;
        let process = case.steer.process_id();
        for (what, change) in CHANGES {
            let changed = under_load(&case, || {
                case.steer.reload(|file| change(file, setting.family)).map(drop)
            });
            changed.with_context(|| format!("{what}; log: {}", case.steer.log()))?;
            let told = case.steer.json("status")?["agent"]["pid"].as_u64();
            ensure!(told.map(u32::try_from).transpose()? == process, "{what}: another process");
        }
        ensure!(case.steer.log().matches("is in force").count() == CHANGES.len());
        let list = case.steer.json("backends list")?;
        ensure!(list.to_string().contains("\"weight\":3"), "{list}");
        let status = case.steer.json("status")?;
        let tables = status["tables"].to_string();
        ensure!(tables.contains("\"max_entries\":300000"), "{tables}");
        ensure!(status["vips"].to_string().contains(&second_vip(setting.family).to_string()));
        case.unharmed_but_for_resets()
    })
}

#[test]
fn a_backend_and_its_interface_come_and_go() -> Result<()> {
    in_settings(72, |setting| {
        let run = setting.scenario().backends(3).start()?;
        let case = Case::start(&run)?;
        let whole = fs::read_to_string(case.steer.config_path())?;
        case.steer.reload(|file| without_third(file, &run))?;
        under_load(&case, || {
            case.steer.reload(|_| whole.clone())?;
            let added = case.steer.backend(backend(setting.family, 2))?;
            ensure!(added["state"] == "up", "{added}");
            let interfaces = case.steer.json("status")?["interfaces"].to_string();
            ensure!(interfaces.contains(&backend_side(2)), "{interfaces}");
            Ok(())
        })
        .with_context(|| case.steer.log())?;
        // Nobody who comes from now on has a session there when it goes.
        case.steer.reload(|file| {
            let line = format!("address = \"{}\"\n", backend(setting.family, 2));
            file.replace(&line, &format!("{line}weight = 0\n"))
        })?;
        under_load(&case, || {
            fs::write(case.steer.config_path(), without_third(&whole, &run))?;
            case.steer.steer("reload")?;
            let interfaces = case.steer.json("status")?["interfaces"].to_string();
            ensure!(!interfaces.contains(&backend_side(2)), "{interfaces}");
            Ok(())
        })
        .with_context(|| case.steer.log())?;
        case.unharmed_but_for_resets()
    })
}

/// A file without the third backends and the interface towards them.
fn without_third(file: &str, run: &Run) -> String {
    let third = |family| format!("\n[[vip.backend]]\naddress = \"{}\"\n", backend(family, 2));
    let hook = run.steer.hook.word();
    let interface = format!("\n[[interface]]\nname = \"{}\"\nhook = \"{hook}\"\n", backend_side(2));
    [third(Family::V4), third(Family::V6), interface]
        .iter()
        .fold(file.to_owned(), |file, lines| file.replace(lines, "\n"))
}

#[test]
fn observing_becomes_steering() -> Result<()> {
    in_settings(73, |setting| {
        let run = setting.scenario().vip_setting("mode = \"observe\"").start()?;
        let steer = run.agent()?;
        let client = run.new_client()?;
        ensure!(!run.resume_elsewhere(&client)?.resumed, "observed only");
        run.session_at(&client, OWNER)?;
        let elsewhere = run.dial(run.source_not_of(OWNER)?);
        let told = steer.reload(|file| file.replace("mode = \"observe\"", "mode = \"steer\""))?;
        ensure!(told.contains("mode is steer instead of observe"), "{told}");
        ensure!(run.visit(&client, &elsewhere)?.resumed, "what was learned before is known");
        ensure!(steer.count(Counter::SpliceOpened)? == 1);
        Ok(())
    })
}

#[test]
fn the_agent_answers_at_another_socket_and_nowhere_else() -> Result<()> {
    let run = Scenario::new(Hook::Tc, Family::V4).backends(2).start()?;
    let steer = run.agent()?;
    let (old, new) = (steer.socket(), steer.socket().with_extension("other"));
    let text = fs::read_to_string(steer.config_path())?;
    fs::write(steer.config_path(), text.replace(&format!("{old:?}"), &format!("{new:?}")))?;
    steer.steer("reload").with_context(|| steer.log())?;
    ensure!(new.exists() && !old.exists(), "{}", steer.log());
    let found = |words: &[&str]| {
        let mut command = Command::new(steer.command("").get_program());
        command.args(words).arg("--pin-dir").arg(steer.pin_dir());
        run.lab.gateway().run(|| process::run(&mut command))
    };
    let shown = found(&["config", "show"])?;
    ensure!(shown.contains(&format!("socket = {new:?}")), "{shown}");
    fs::write(steer.config_path(), text)?;
    found(&["reload"])?;
    ensure!(old.exists() && !new.exists(), "{}", steer.log());
    Ok(())
}

/// Has something done while clients come back from other addresses again and again, and while a
/// re-homed connection downloads; nothing goes wrong with either. Where the work takes longer than
/// the visits, more follow.
pub(crate) fn under_load(case: &Case<'_>, work: impl FnOnce() -> Result<()> + Send) -> Result<()> {
    let run = case.run;
    let sum = run.servers[OWNER].put("down", &payload::bytes(MEGABYTES_20, 1))?;
    let sessions = n_sessions(&case.steer)?;
    let working = AtomicBool::new(true);
    let visits = || -> Result<()> {
        loop {
            let seen = CROWD.run(run, "beside a reload")?;
            let all = CROWD.reconnects;
            ensure!(
                (seen.errors, seen.resumed, seen.on_owner) == (0, all, all),
                "errors {}, resumed {}, on their owner {}: {:?}; steer: {}",
                seen.errors,
                seen.resumed,
                seen.on_owner,
                seen.samples,
                case.grown(&case.steer.counts()?)
            );
            if !working.load(Ordering::Relaxed) {
                return Ok(());
            }
        }
    };
    thread::scope(|scope| -> Result<()> {
        let big = scope.spawn(|| {
            run.connect(&case.client, &case.dial, |connection| connection.get("/files/down"))
        });
        let crowd = scope.spawn(visits);
        let worked = work();
        working.store(false, Ordering::Relaxed);
        crowd.join().unwrap_or_else(|panic| resume_unwind(panic))?;
        let (handshake, response) = big.join().unwrap_or_else(|panic| resume_unwind(panic))?;
        worked?;
        ensure!(handshake.resumed && response.sha256 == sum, "{handshake:?}");
        Ok(())
    })?;
    ensure!(n_sessions(&case.steer)? >= sessions, "sessions are lost");
    Ok(())
}

fn n_sessions(steer: &Agent<'_>) -> Result<u64> {
    steer.json("sessions list")?["total"].as_u64().context("steer sessions list names no total")
}
