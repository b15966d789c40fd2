//! The agent's capabilities, and the modes of what it makes.

use std::{
    collections::BTreeMap, fs, net::TcpListener, os::unix::fs::PermissionsExt as _, path::Path,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use steer_common::counters::Counter;
use steer_tests::{
    agent::{Agent, Hook},
    process::{self, eventually},
    scenario::{Run, Scenario},
    topology::Family,
};

use crate::bystander::{Bystander, binary};

/// What packagers run.
const UNIT: &str = include_str!("../../../deploy/steer.service");
/// Only `CAP_NET_ADMIN` (linux/capability.h).
const NET_ADMIN: &str = "0000000000001000";
const NONE: &str = "0000000000000000";
/// `CAP_NET_ADMIN`, `CAP_NET_RAW`, `CAP_PERFMON` and `CAP_BPF`.
const START: &str = "000000c000003000";
/// Longer than an agent takes to come up.
const PATIENCE: Duration = Duration::from_secs(20);

#[test]
fn a_running_agent_has_one_capability_in_every_thread_and_can_get_no_other() -> Result<()> {
    let run = two_backends()?;
    let mut steer = run.agent()?;
    only_net_admin(&steer)?;
    let other = run.backend_address(1);
    steer.steer(&format!("backends drain {other}"))?;
    steer.steer(&format!("backends undrain {other}"))?;
    steer.steer("bypass on")?;
    steer.steer("bypass off")?;
    ensure!(run.resume_elsewhere(&run.new_client()?)?.resumed);
    steer.end(Signal::SIGKILL)?;
    steer.launch()?;
    only_net_admin(&steer)?;
    ensure!(
        run.resume_elsewhere(&run.new_client()?)?.resumed,
        "the next agent has what it needs to adopt"
    );
    let text = fs::read_to_string(steer.config_path())?;
    fs::write(steer.config_path(), text.replace("\"200ms\"", "\"300ms\""))?;
    steer.steer("reload")?;
    only_net_admin(&steer)?;
    ensure!(steer.count(Counter::SpliceOpened)? == 2);
    Ok(())
}

#[test]
fn an_agent_of_a_plain_user_steers_with_the_capabilities_of_the_unit() -> Result<()> {
    let run = two_backends()?;
    let user = Bystander::new()?;
    let (pins, place) = (pins("user"), user.path().join("own"));
    user.own(&place)?;
    user.own(&pins.0)?;
    let socket = place.join("steer.sock");
    let config = user.path().join("steer.toml");
    fs::write(
        &config,
        config_of(&run)?
            .replace("PINS", &pins.0.display().to_string())
            .replace("SOCKET", &socket.display().to_string()),
    )?;
    let log = fs::File::create(place.join("log"))?;
    let mut command = user.steer(&capabilities());
    command.arg("agent").arg("--config").arg(&config).stderr(log);
    let mut agent = run.lab.gateway().spawn(command)?;

    let steer = |words: &str| {
        let mut command = std::process::Command::new(binary()?);
        command.args(words.split(' ')).arg("--pin-dir").arg(&pins.0).arg("--socket").arg(&socket);
        run.lab.gateway().run(|| process::run(&mut command))
    };
    let up = eventually(PATIENCE, || {
        let status = steer("status --json").ok()?;
        (status.contains("\"running\":true") && status.contains("\"backends_up\":2")).then_some(())
    });
    let said = fs::read_to_string(place.join("log"))?;
    up.with_context(|| format!("it does not come up: {said}"))?;
    let status = status_of(&process::worker_of(agent.id()).to_string())?;
    ensure!(
        status["CapEff"] == NET_ADMIN && status["Uid"].starts_with("65534\t65534"),
        "{status:?}"
    );
    ensure!(run.resume_elsewhere(&run.new_client()?)?.resumed);
    steer(&format!("backends drain {}", run.backend_address(1)))?;
    let addresses = run.lab.gateway().tool("ip address show")?;
    ensure!(
        addresses.contains(&run.vip().ip().to_string()),
        "the VIP is not assigned: {addresses}"
    );
    agent.end(Signal::SIGTERM)?;
    steer("detach").map(drop)
}

#[test]
fn an_agent_that_lacks_something_says_what() -> Result<()> {
    let user = Bystander::new()?;
    // It does without this one, and says so: `silent.rs`.
    let all = capabilities().into_iter().filter(|name| name != "net_raw").collect::<Vec<_>>();
    fs::write(user.path().join("steer.toml"), SMALL)?;
    for missing in &all {
        let rest = all.iter().filter(|name| *name != missing).cloned().collect::<Vec<_>>();
        let output = user.steer(&rest).args(["agent", "--config", "steer.toml"]).output()?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        let lacks = format!("this process lacks CAP_{}", missing.to_uppercase());
        ensure!(
            output.status.code() == Some(1) && said.lines().count() == 1 && said.contains(&lacks),
            "{said}"
        );
    }
    let pins = pins("root");
    fs::create_dir(&pins.0)?;
    fs::set_permissions(&pins.0, fs::Permissions::from_mode(0o700))?;
    let output = user
        .steer(&all)
        .args(["agent", "--config", "steer.toml", "--pin-dir"])
        .arg(&pins.0)
        .output()?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(
        output.status.code() == Some(1) && said.contains(&pins.0.display().to_string()),
        "{said}"
    );
    ensure!(said.contains("Permission denied"), "{said}");
    Ok(())
}

#[test]
fn pins_and_socket_are_closed_to_other_users_and_no_port_is_open_unasked() -> Result<()> {
    let run = two_backends()?;
    let steer = run.agent()?;
    let state = steer.map_pin("");
    for (path, mode) in
        [(steer.socket(), 0o600), (steer.pin_dir().to_owned(), 0o700), (state.clone(), 0o700)]
    {
        ensure!(mode_of(&path)? == mode, "{}: {:o}", path.display(), mode_of(&path)?);
    }
    for entry in fs::read_dir(&state)? {
        let path = entry?.path();
        // The mode of a symbolic link says nothing.
        if path.is_symlink() {
            continue;
        }
        ensure!(mode_of(&path)? & 0o077 == 0, "{}: {:o}", path.display(), mode_of(&path)?);
    }
    let user = Bystander::new()?;
    for program in ["/bin/ls", "/bin/cat"] {
        let output = user.command(program, &[]).arg(&state).output()?;
        ensure!(
            String::from_utf8_lossy(&output.stderr).contains("Permission denied"),
            "{output:?}"
        );
    }
    let lock =
        user.command("/usr/bin/flock", &[]).arg("--nonblock").arg(&state).arg("true").output()?;
    ensure!(
        String::from_utf8_lossy(&lock.stderr).contains("Permission denied"),
        "held by a stranger: {lock:?}"
    );
    // The loopback port that deploy/steer.toml serves metrics at, and any other: nobody listens.
    let listening = run.lab.gateway().proc_net("tcp")? + &run.lab.gateway().proc_net("tcp6")?;
    ensure!(!listening.lines().any(|line| line.contains(" 0A ")), "{listening}");
    run.lab.gateway().run(|| Ok(TcpListener::bind("127.0.0.1:9464")?)).map(drop)
}

#[test]
fn pins_that_an_older_version_left_open_are_closed() -> Result<()> {
    let run = two_backends()?;
    let mut steer = run.agent()?;
    let state = steer.map_pin("");
    steer.end(Signal::SIGTERM)?;
    fs::set_permissions(&state, fs::Permissions::from_mode(0o755))?;
    steer.launch()?;
    ensure!(mode_of(&state)? == 0o700);
    Ok(())
}

/// A gateway that assigns its VIPs.
fn two_backends() -> Result<Run> {
    Scenario::new(Hook::Tc, Family::V4).backends(2).vip_setting("assign = true").start()
}

/// The worker, which hears from outside, has one capability; its supervisor, which hears nobody but
/// it, has those of a start.
#[track_caller]
fn only_net_admin(steer: &Agent<'_>) -> Result<()> {
    let pid = steer.json("status")?["agent"]["pid"].as_u64().context("no agent answers")?;
    let worker = process::worker_of(u32::try_from(pid)?);
    ensure!(u64::from(worker) != pid, "there is no supervisor");
    for thread in fs::read_dir(format!("/proc/{worker}/task"))? {
        let name = thread?.file_name().to_string_lossy().into_owned();
        let status = status_of(&format!("{worker}/task/{name}"))?;
        let sets =
            ["CapEff", "CapPrm", "CapInh", "CapAmb", "NoNewPrivs"].map(|key| status[key].as_str());
        ensure!(sets == [NET_ADMIN, NET_ADMIN, NONE, NONE, "1"], "{sets:?}");
    }
    let status = status_of(&pid.to_string())?;
    let sets =
        ["CapEff", "CapPrm", "CapInh", "CapAmb", "NoNewPrivs"].map(|key| status[key].as_str());
    ensure!(sets == [START, START, NONE, NONE, "1"], "{sets:?}");
    let sockets = fs::read_dir(format!("/proc/{pid}/fd"))?.flatten();
    let sockets = sockets.filter_map(|fd| fs::read_link(fd.path()).ok());
    let n = sockets.filter(|fd| fd.to_string_lossy().starts_with("socket:")).count();
    ensure!(n == 1, "the supervisor has {n} sockets; one leads to its worker");
    ensure!(steer.log().contains("the agent keeps only CAP_NET_ADMIN"), "{}", steer.log());
    Ok(())
}

/// The lines of a process's status.
fn status_of(process: &str) -> Result<BTreeMap<String, String>> {
    let text =
        fs::read_to_string(format!("/proc/{process}/status")).context("read the agent's status")?;
    let pairs = text.lines().filter_map(|line| line.split_once(":\t"));
    Ok(pairs.map(|(key, value)| (key.to_owned(), value.to_owned())).collect())
}

fn mode_of(path: &Path) -> Result<u32> {
    let metadata = fs::metadata(path).with_context(|| format!("look at {}", path.display()))?;
    Ok(metadata.permissions().mode() & 0o777)
}

/// The capabilities of the unit, as setpriv spells them.
fn capabilities() -> Vec<String> {
    let line = UNIT.lines().find_map(|line| line.strip_prefix("CapabilityBoundingSet="));
    let names = line.unwrap_or_default().split_whitespace();
    names.map(|name| name.trim_start_matches("CAP_").to_lowercase()).collect()
}

const SMALL: &str = "[[interface]]\nname = \"none\"\n[[vip]]\naddress = \"198.51.100.10:443\"\n\
                     [[vip.backend]]\naddress = \"10.0.0.11:443\"\n";

/// The lab's configuration, for an agent that is not the lab's.
fn config_of(run: &Run) -> Result<String> {
    let steer = run.agent()?;
    let text = fs::read_to_string(steer.config_path())?;
    let (pins, socket) =
        (steer.pin_dir().display().to_string(), steer.socket().display().to_string());
    Ok(text.replace(&pins, "PINS").replace(&socket, "SOCKET"))
}

/// A pin directory that goes with its guard; by its name, labs remove it where this process was
/// killed.
struct Pins(std::path::PathBuf);

fn pins(name: &str) -> Pins {
    Pins(format!("/sys/fs/bpf/steer-lab-{}-{name}", std::process::id()).into())
}

impl Drop for Pins {
    fn drop(&mut self) {
        drop(fs::remove_dir_all(&self.0));
    }
}
