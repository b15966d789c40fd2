//! An agent that cannot start says what is wrong and where, leaves nothing half done, and leaves a
//! running gateway as it is.

use std::{
    fs,
    net::TcpListener,
    os::unix::{fs::PermissionsExt as _, net::UnixListener},
};

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use steer_tests::{
    agent::{Agent, Settings},
    case::Case,
    setting::in_one_setting,
    traces::Traces,
};

/// The most that a configuration may ask for: 2.2 TB of hello buffers, more than a machine has
/// memory for.
const TOO_MANY: &str = "pending = 134217728";
const METRICS: &str = "127.0.0.1:9464";

/// What is wrong with a start.
struct Wrong {
    what: &'static str,
    /// What the agent's last words must hold.
    says: &'static [&'static str],
    /// The configuration that asks for it.
    settings: fn(Settings) -> Settings,
    /// Whether one that adopts a gateway is refused, too.
    adopting: bool,
    /// A command that runs the agent with less than it needs.
    before: &'static [&'static str],
}

const WRONG: [Wrong; 5] = [
    Wrong {
        what: "bpffs is read-only",
        says: &["/sys/fs/bpf/steer-lab-", "Read-only file system"],
        settings: |settings| settings,
        // Nothing is to be pinned any more.
        adopting: false,
        // In a mount namespace of its own.
        before: &[
            "unshare",
            "--mount",
            "sh",
            "-c",
            "mount -o remount,bind,ro /sys/fs/bpf && exec \"$@\"",
            "sh",
        ],
    },
    Wrong {
        what: "maps are larger than the memory",
        says: &["of memory and the machine has", "make [sizes] smaller (pending alone takes"],
        settings: |settings| Settings { sizes: vec![TOO_MANY.to_owned()], ..settings },
        adopting: true,
        before: &[],
    },
    Wrong {
        what: "the capability to make maps is missing",
        says: &["needs root, or the capabilities CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON"],
        settings: |settings| settings,
        adopting: true,
        before: &["setpriv", "--bounding-set=-bpf,-sys_admin"],
    },
    Wrong {
        what: "the metrics port is taken",
        says: &[METRICS, "Address already in use"],
        settings: |settings| Settings { top: vec![format!("metrics = \"{METRICS}\"")], ..settings },
        adopting: true,
        before: &[],
    },
    Wrong {
        what: "an interface cannot have XDP",
        says: &["attach XDP to lo in its driver"],
        settings: |settings| Settings {
            top: vec!["[[interface]]\nname = \"lo\"\nhook = \"xdp\"".to_owned()],
            ..settings
        },
        adopting: true,
        before: &[],
    },
];

#[test]
fn an_agent_that_cannot_start_says_why_and_leaves_nothing() -> Result<()> {
    in_one_setting(|setting| {
        let run = setting.scenario().vip_setting("assign = true").start()?;
        let _taken = run.lab.gateway().run(|| Ok(TcpListener::bind(METRICS)?))?;
        for Wrong { what, says, settings, before, .. } in WRONG {
            let steer = Agent::prepare(&run.lab, &settings(run.steer.clone()))?;
            refused(&steer, before, says).context(what)?;
            ensure!(!steer.socket().exists(), "{what}: the socket is left");
            Traces::of(&run, &steer)?.none().context(what)?;
        }
        Ok(())
    })
}

#[test]
fn an_agent_that_cannot_adopt_a_gateway_leaves_it_running() -> Result<()> {
    in_one_setting(|setting| {
        let run = setting.scenario().start()?;
        let mut case = Case::start(&run)?;
        let _taken = run.lab.gateway().run(|| Ok(TcpListener::bind(METRICS)?))?;
        case.steer.end(Signal::SIGKILL)?;
        let before = Traces::of(&run, &case.steer)?;
        let wrong: Vec<_> = WRONG.into_iter().filter(|wrong| wrong.adopting).collect();
        for (number, Wrong { what, says, settings, before: command, .. }) in
            wrong.iter().enumerate()
        {
            case.steer.configure(&settings(run.steer.clone()))?;
            refused(&case.steer, command, says).context(*what)?;
            case.moves(&case.dial).context(*what)?;
            case.expect(&[(steer_common::counters::Counter::SpliceOpened, number as u64 + 1)])?;
            let mut after = Traces::of(&run, &case.steer)?;
            // What an agent had begun elsewhere the next one takes away.
            after.pins.retain(|pin| !pin.starts_with("link_lo_"));
            ensure!(after == before, "{what}: {after:?}, before it {before:?}");
        }
        case.steer.configure(&run.steer)?;
        case.steer.launch()?;
        ensure!(
            Traces::of(&run, &case.steer)? == before,
            "the next agent takes away what was begun"
        );
        case.moves(&case.dial)?;
        case.unharmed(wrong.len() as i64 + 1)
    })
}

/// Only root's own right to override permissions lets it write here; a service manager may take
/// that away.
#[test]
fn a_pin_directory_that_cannot_be_written_is_named() -> Result<()> {
    in_one_setting(|setting| {
        let run = setting.scenario().start()?;
        let steer = Agent::prepare(&run.lab, &run.steer)?;
        fs::create_dir(steer.pin_dir())?;
        fs::set_permissions(steer.pin_dir(), fs::Permissions::from_mode(0o555))?;
        let before = ["setpriv", "--bounding-set=-dac_override"];
        refused(
            &steer,
            &before,
            &["create ", &steer.pin_dir().to_string_lossy(), "Permission denied"],
        )?;
        ensure!(fs::read_dir(steer.pin_dir())?.count() == 0, "something was pinned");
        fs::remove_dir(steer.pin_dir())?;
        Traces::of(&run, &steer)?.none()
    })
}

#[test]
fn a_control_socket_that_is_taken_is_named_and_left_alone() -> Result<()> {
    in_one_setting(|setting| {
        let run = setting.scenario().start()?;
        let steer = Agent::prepare(&run.lab, &run.steer)?;
        let socket = steer.socket();
        let path = socket.to_string_lossy().into_owned();

        fs::write(&socket, "somebody's file")?;
        refused(&steer, &[], &[&path, "is there and is no socket"])?;
        ensure!(fs::read_to_string(&socket)? == "somebody's file", "the file is as it was");
        fs::remove_file(&socket)?;

        fs::create_dir(&socket)?;
        refused(&steer, &[], &[&path, "is there and is no socket"])?;
        fs::remove_dir(&socket)?;

        let _other = UnixListener::bind(&socket)?;
        refused(&steer, &[], &["another agent listens at", &path])?;
        ensure!(socket.exists(), "the other's socket is as it was");
        let beside = fs::read_dir(socket.parent().context("a directory")?)?.count();
        // Configuration, log and the socket itself.
        ensure!(beside == 3, "something is left beside the socket");
        Traces::of(&run, &steer)?.none()
    })
}

#[test]
fn a_second_agent_of_the_same_gateway_is_refused_and_the_first_goes_on() -> Result<()> {
    in_one_setting(|setting| {
        let run = setting.scenario().start()?;
        let case = Case::start(&run)?;
        let before = Traces::of(&run, &case.steer)?;
        refused(
            &case.steer,
            &[],
            &["an agent runs already for", &case.steer.pin_dir().to_string_lossy()],
        )?;
        ensure!(Traces::of(&run, &case.steer)? == before, "the gateway changed");
        ensure!(case.steer.json("status")?["agent"]["running"] == true, "the first agent is gone");
        case.moves(&case.dial)?;
        case.unharmed(1)
    })
}

/// Expects the agent to end with exit code 1, its last line to be one sentence with all of these
/// words, and no panic.
fn refused(steer: &Agent<'_>, before: &[&str], says: &[&str]) -> Result<()> {
    let ended = steer.launch_to_end(before, &[])?;
    let log = steer.log();
    let last = log.lines().last().unwrap_or_default();
    ensure!(ended.code() == Some(1) && last.starts_with("steer: "), "{ended}: {log}");
    ensure!(says.iter().all(|words| last.contains(words)), "not said: {says:?} in {last}");
    ensure!(!log.contains("panicked"), "{log}");
    Ok(())
}
