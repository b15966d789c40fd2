//! The command line and the agent's life on a live gateway: what docs/cli.md and docs/config.md promise.

use std::{
    collections::BTreeSet,
    env, fs,
    mem::discriminant,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Command, Output},
    time::Duration,
};

use anyhow::{Context, Result};
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use steer_common::counters::Counter;
use steer_tests::{
    agent::{Agent, Hook},
    process::eventually,
    scenario::{Run, Scenario},
    topology::{Family, Offloads, backend_side, vip},
};

/// What `--json` prints, for readers.
const DOCUMENTATION: &str = include_str!("../../docs/cli.md");
/// Keys that are null where there is nothing to name.
const MAY_BE_NULL: [&str; 5] = ["pid", "version", "drain_seconds", "vip", "owner_address"];

/// A configuration without fault; tests damage a copy.
const GOOD: &str = r#"[[interface]]
name = "eth0"

[[vip]]
address = "198.51.100.10:443"
session_timeout = "10m"

[[vip.backend]]
address = "10.0.0.11:443"
"#;

fn two_backends() -> Result<Run> {
    Scenario::new(Hook::Tc, Family::V4).backends(2).start()
}

#[test]
fn json_has_the_documented_shapes_on_a_live_gateway() -> Result<()> {
    let run = two_backends()?;
    let steer = run.agent()?;
    run.resume_elsewhere(&run.new_client()?)?;
    steer.steer(&format!("backends drain --for 10m {}", run.backend_address(1)))?;
    for verb in ["status", "backends list", "sessions list"] {
        same_shape(verb, &documented(verb)?, &steer.json(verb)?);
    }
    let listed = steer.json("sessions list --limit 1")?;
    assert!(listed["total"].as_u64() > Some(1) && listed["sessions"].as_array().map(Vec::len) == Some(1), "{listed}");
    let prefix = listed["sessions"][0]["id"].as_str().context("a session without id")?;
    same_shape("sessions show", &documented("sessions list")?, &steer.json(&format!("sessions show {prefix}"))?);
    same_shape("bypass", &json!({"done": "a sentence"}), &steer.json("bypass off")?);
    let stats = steer.json("stats")?;
    assert_eq!(keys(&stats), ["counters"].map(str::to_owned).into());
    assert_eq!(keys(&stats["counters"]), Counter::ALL.iter().map(|counter| counter.word().to_owned()).collect());
    Ok(())
}

#[test]
fn backends_leave_and_enter_a_pool_at_once_and_status_shows_the_drift() -> Result<()> {
    let run = two_backends()?;
    let steer = run.agent()?;
    let (other, vip) = (run.backend_address(1).to_string(), run.vip());
    steer.steer(&format!("backends drain {other}"))?;
    assert_eq!(backend(&steer, &other)?["state"], "draining");
    steer.steer(&format!("backends undrain {other}"))?;
    assert_eq!(backend(&steer, &other)?["state"], "up");

    steer.steer(&format!("backends remove {other}"))?;
    assert!(drift(&steer)?.contains(&format!("{other} is removed; the configuration has it")));
    assert!(error(run.source_of(1)).contains("no source address leads"), "nothing new goes there");

    steer.steer(&format!("backends add --vip {vip} --weight 3 {other}"))?;
    assert_eq!(backend(&steer, &other)?["weight"], 3);
    assert!(drift(&steer)?.contains(&format!("{other} has weight 3; the configuration says 1")));
    run.source_of(1)?;
    Ok(())
}

#[test]
fn a_change_that_makes_no_sense_is_refused_with_a_sentence() -> Result<()> {
    let run = two_backends()?;
    let steer = run.agent()?;
    let (v4, v6, known) = (vip(Family::V4), vip(Family::V6), run.backend_address(0));
    for (words, sentence) in [
        (format!("backends add --vip {v6} 10.9.9.9:443"), "families do not mix"),
        (format!("backends add --vip 192.0.2.1:443 {known}"), "there is no VIP 192.0.2.1:443"),
        (format!("backends add --vip {v4} {v4}"), "is a VIP"),
        ("backends drain 10.9.9.9:443".to_owned(), "there is no backend 10.9.9.9:443"),
        ("sessions show xyz".to_owned(), "expected hexadecimal digits"),
        ("sessions show 00".to_owned(), "no session starts with 00"),
    ] {
        let said = error(steer.steer(&words));
        assert!(said.contains(sentence), "{words}: {said}");
    }
    Ok(())
}

#[test]
fn bypass_and_removed_sessions_leave_a_flow_with_its_first_backend() -> Result<()> {
    let run = two_backends()?;
    let steer = run.agent()?;
    let client = run.new_client()?;
    let (at_owner, elsewhere) = (run.dial(run.source_of(0)?), run.dial(run.source_of(1)?));
    run.visit(&client, &at_owner)?;
    steer.steer("bypass on")?;
    assert_eq!(steer.json("status")?["bypass"], true);
    assert!(!run.visit(&client, &elsewhere)?.resumed, "the session is of backend 1 from here");
    steer.steer("bypass off")?;
    assert!(run.visit(&client, &at_owner)?.resumed);
    steer.steer("sessions remove --all")?;
    assert_eq!(steer.json("sessions list")?["total"], 0);
    assert!(!run.visit(&client, &at_owner)?.resumed);
    let counted = [Counter::Bypassed, Counter::SpliceOpened].map(|counter| steer.count(counter).ok());
    assert_eq!(counted, [Some(1), Some(1)]);
    Ok(())
}

#[test]
fn without_an_agent_verbs_that_read_work_and_say_so_and_a_new_one_adopts_everything() -> Result<()> {
    let run = two_backends()?;
    let mut steer = run.agent()?;
    let client = run.new_client()?;
    run.session_at(&client, 0)?;
    steer.steer(&format!("backends add --vip {} --weight 3 {}", run.vip(), run.backend_address(1)))?;
    let sessions = steer.json("sessions list")?["total"].clone();
    steer.end(Signal::SIGKILL)?;

    for words in ["status", "backends list", "sessions list", "stats", "bypass off"] {
        let output = in_gateway(&run, &steer, words)?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        let silent = words == "status" && said.is_empty();
        assert!(output.status.success() && (silent || said.contains("no agent runs")), "{words}: {said}");
    }
    assert_eq!(steer.json("status")?["agent"], json!({"running": false, "pid": null, "version": null}));
    assert!(error(steer.steer(&format!("backends drain {}", run.backend_address(1)))).contains("needs a running agent"));

    steer.launch()?;
    assert_eq!(steer.json("status")?["agent"]["running"], true);
    assert_eq!(steer.json("sessions list")?["total"], sessions);
    assert_eq!(backend(&steer, &run.backend_address(1).to_string())?["weight"], 3, "changes by the CLI stay");
    assert!(run.visit(&client, &run.dial(run.source_not_of(0)?))?.resumed);
    assert_eq!(steer.count(Counter::SpliceOpened)?, 1);
    Ok(())
}

#[test]
fn sigterm_leaves_everything_in_place_and_detach_leaves_no_trace() -> Result<()> {
    let run = Scenario::new(Hook::Tc, Family::V4).backends(2).vip_setting("assign = true").start()?;
    let mut steer = run.agent()?;
    let programs = || run.lab.gateway().tool("bpftool net");
    let assigned = || run.lab.gateway().tool("ip -details address show");
    let vips = [Family::V4, Family::V6].map(|family| vip(family).ip().to_string());
    steer.end(Signal::SIGTERM)?;
    assert!(steer.map_pin("sessions").exists() && programs()?.contains("steer_tc"));
    assert!(vips.iter().all(|vip| assigned().is_ok_and(|text| text.contains(vip))), "{}", assigned()?);
    assert!(run.resume_elsewhere(&run.new_client()?)?.resumed, "traffic goes on");

    steer.steer("detach")?;
    assert!(!steer.pin_dir().exists());
    assert!(!programs()?.contains("steer_"), "{}", programs()?);
    assert!(!vips.iter().any(|vip| assigned().is_ok_and(|text| text.contains(vip))), "{}", assigned()?);
    assert!(steer.steer("detach")?.contains("nothing is pinned"), "again does no harm");
    assert!(error(steer.steer("status")).contains("no gateway runs here"));
    Ok(())
}

#[test]
fn an_interface_that_went_and_came_back_gets_its_programs_again() -> Result<()> {
    let run = Scenario::new(Hook::Xdp, Family::V4).offloads(Offloads::ChecksumsOff).backends(2).start()?;
    let steer = run.agent()?;
    let attached = || {
        let text = run.lab.gateway().tool("bpftool net").ok()?;
        let named = |line: &&str| line.starts_with(&backend_side(1));
        (text.lines().filter(named).count() == 2).then_some(())
    };
    attached().context("XDP and TC are not there from the start")?;
    run.lab.gateway().ip(&format!("link del {}\n", backend_side(1)))?;
    let address = run.backend_address(1).to_string();
    let down = || backend(&steer, &address).ok().filter(|backend| backend["state"] == "down");
    eventually(Duration::from_secs(10), down).context("the health checks do not see it go")?;
    wire_again(&run)?;
    eventually(Duration::from_secs(15), attached).context("the programs do not come back")?;
    let up = || backend(&steer, &address).ok().filter(|backend| backend["state"] == "up");
    eventually(Duration::from_secs(10), up).context("the health checks do not see it come back")?;
    let client = run.new_client()?;
    run.session_at(&client, 1)?;
    assert!(run.visit(&client, &run.dial(run.source_not_of(1)?))?.resumed);
    Ok(())
}

#[test]
fn config_check_names_file_line_and_key() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let file = directory.path().join("steer.toml");
    let check = |text: &str| -> Result<Output> {
        fs::write(&file, text)?;
        Ok(Command::new(binary()?).args(["config", "check"]).arg(&file).output()?)
    };
    let good = check(GOOD)?;
    assert!(good.status.success() && String::from_utf8_lossy(&good.stdout).contains("good"), "{good:?}");
    for (from, to, place) in [
        ("name = \"eth0\"", "name = \"eth0\"\nhook = \"fast\"", "3: interface.hook: "),
        ("198.51.100.10:443", "198.51.100.10", "5: vip.address: "),
        ("session_timeout", "sesion_timeout", "6: vip.sesion_timeout: "),
        ("\"10m\"", "\"soon\"", "6: vip.session_timeout: "),
        ("10.0.0.11:443", "[2001:db8::11]:443", "9: vip.backend.address: "),
        ("10.0.0.11:443", "198.51.100.10:443", "9: vip.backend.address: "),
    ] {
        let output = check(&GOOD.replace(from, to))?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        let expected = format!("steer: {}:{place}", file.display());
        assert!(output.status.code() == Some(1) && said.starts_with(&expected), "{said}");
        assert!(said.contains("expected") && said.lines().count() == 1, "{said}");
    }
    Ok(())
}

#[test]
fn without_root_one_sentence_says_what_is_needed() -> Result<()> {
    // The checkout may lie where only root can look.
    let directory = tempfile::tempdir()?;
    let (program, file) = (directory.path().join("steer"), directory.path().join("steer.toml"));
    fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755))?;
    fs::copy(binary()?, &program)?;
    fs::write(&file, GOOD)?;
    let as_nobody = |words: &[&str]| {
        let mut command = Command::new("setpriv");
        command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]).arg(&program).args(words);
        command.current_dir(directory.path()).output()
    };
    for words in ["status", "backends list", "sessions list", "stats", "bypass on", "detach", "agent --config steer.toml"] {
        let output = as_nobody(&words.split(' ').collect::<Vec<_>>())?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.code() == Some(1) && said.lines().count() == 1, "{words}: {said}");
        assert!(said.contains("needs root, or the capabilities CAP_BPF and CAP_NET_ADMIN"), "{words}: {said}");
    }
    assert!(as_nobody(&["config", "check", "steer.toml"])?.status.success(), "a file needs no rights");
    Ok(())
}

/// The JSON under a heading of the documentation.
fn documented(verb: &str) -> Result<Value> {
    let (_, section) = DOCUMENTATION.split_once(&format!("\n### `{verb}`")).context("no such heading")?;
    let (_, rest) = section.split_once("```json\n").context("no example")?;
    Ok(serde_json::from_str(rest.split("```").next().unwrap_or_default())?)
}

/// Every key that is documented and no other, every value of the documented type.
#[track_caller]
fn same_shape(path: &str, documented: &Value, live: &Value) {
    match (documented, live) {
        (Value::Object(_), Value::Object(fields)) => {
            assert_eq!(keys(live), keys(documented), "{path}");
            fields.iter().for_each(|(key, value)| same_shape(&format!("{path}.{key}"), &documented[key], value));
        }
        (Value::Array(_), Value::Array(values)) => values.iter().for_each(|v| same_shape(path, &documented[0], v)),
        (Value::Null, _) | (_, Value::Null) => {
            assert!(MAY_BE_NULL.iter().any(|key| path.ends_with(&format!(".{key}"))), "{path} is {live}");
        }
        _ => assert_eq!(discriminant(live), discriminant(documented), "{path} is {live}"),
    }
}

fn keys(value: &Value) -> BTreeSet<String> {
    value.as_object().into_iter().flatten().map(|(key, _)| key.clone()).collect()
}

fn backend(steer: &Agent<'_>, address: &str) -> Result<Value> {
    let list = steer.json("backends list")?;
    let found = list["backends"].as_array().into_iter().flatten().find(|backend| backend["address"] == address);
    found.cloned().with_context(|| format!("no backend {address} in {list}"))
}

fn drift(steer: &Agent<'_>) -> Result<String> {
    Ok(steer.json("status")?["drift"].to_string())
}

#[track_caller]
fn error<T>(outcome: Result<T>) -> String {
    outcome.err().map(|error| format!("{error:#}")).expect("this was refused")
}

/// Runs `steer` as [`Agent::steer`] does, and returns all it said.
fn in_gateway(run: &Run, steer: &Agent<'_>, words: &str) -> Result<Output> {
    let mut command = Command::new(binary()?);
    command.args(words.split(' ')).arg("--pin-dir").arg(steer.pin_dir()).arg("--socket").arg(steer.socket());
    run.lab.gateway().run(|| Ok(command.output()?))
}

/// The program that the lab's agents run.
fn binary() -> Result<PathBuf> {
    let beside = env::current_exe()?.ancestors().nth(2).map(|directory| directory.join("steer"));
    env::var_os("STEER_BIN").map(PathBuf::from).or(beside).filter(|path| Path::exists(path)).context("no binary steer")
}

/// The link to backend 1 as the lab had it (IPv4).
fn wire_again(run: &Run) -> Result<()> {
    let (near, gateway, far) = (backend_side(1), run.lab.gateway(), run.lab.backend(1));
    let link = format!("link add {near} type veth peer name eth0 netns {}\nlink set {near} up\n", far.path());
    gateway.ip(&format!("{link}addr add 10.2.1.1/24 dev {near}\n"))?;
    far.ip("link set eth0 up\naddr add 10.2.1.2/24 dev eth0\nroute add default via 10.2.1.1\n")?;
    gateway.tool(&format!("ethtool -K {near} tx off gro on"))?;
    far.tool("ethtool -K eth0 tx off gro on").map(drop)
}
