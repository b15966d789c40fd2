//! The command line and the agent's life on a live gateway: what docs/cli.md and docs/config.md promise.

use std::process::{Command, Output};
use std::{collections::BTreeSet, env, fs, mem::discriminant, os::unix::fs::PermissionsExt as _, path::PathBuf};

use anyhow::{Context, Result};
use aya::programs::{ProgramInfo, SchedClassifier, TcAttachType};
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use steer_common::counters::Counter;
use steer_tests::{
    agent::{Agent, Hook, Settings},
    process::eventually,
    scenario::{Run, Scenario},
    topology::{Family, Offloads, backend as backend_address, backend_side, vip},
};
use steer_user::plane::PinDir;

const TEN_SECONDS: std::time::Duration = std::time::Duration::from_secs(10);
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
    for verb in ["status", "backends list", "sessions list", "keys list"] {
        same_shape(verb, &documented(verb)?, &steer.json(verb)?);
    }
    let listed = steer.json("sessions list --limit 1")?;
    assert!(listed["total"].as_u64() > Some(1) && listed["sessions"].as_array().map(Vec::len) == Some(1), "{listed}");
    let prefix = listed["sessions"][0]["id"].as_str().context("a session without id")?;
    same_shape("sessions show", &documented("sessions list")?, &steer.json(&format!("sessions show {prefix}"))?);
    same_shape("bypass", &json!({"done": "a sentence"}), &steer.json("bypass off")?);
    let stats = steer.json("stats")?;
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
    assert!(
        steer.json("status")?["drift"].to_string().contains(&format!("{other} is removed; the configuration has it"))
    );
    assert!(error(run.source_of(1)).contains("no source address leads"), "nothing new goes there");
    steer.steer(&format!("backends add --vip {vip} --weight 3 {other}"))?;
    assert_eq!(backend(&steer, &other)?["weight"], 3);
    assert!(
        steer.json("status")?["drift"].to_string().contains(&format!("{other} has weight 3; the configuration says 1"))
    );
    run.source_of(1).map(drop)
}

#[test]
fn a_change_that_makes_no_sense_is_refused_with_a_sentence() -> Result<()> {
    let run = two_backends()?;
    let steer = run.agent()?;
    for (words, sentence) in [
        (format!("backends add --vip {} 10.9.9.9:443", vip(Family::V6)), "families do not mix"),
        ("backends add --vip 192.0.2.1:443 10.9.9.9:443".to_owned(), "there is no VIP 192.0.2.1:443"),
        ("backends drain 10.9.9.9:443".to_owned(), "there is no backend 10.9.9.9:443"),
        ("sessions show 00".to_owned(), "no session starts with 00"),
    ] {
        let said = error(steer.steer(&words));
        assert!(said.contains(sentence), "{words}: {said}");
    }
    Ok(())
}

#[test]
fn no_word_forgets_every_session_but_the_one_that_says_so() -> Result<()> {
    let run = two_backends()?;
    let steer = run.agent()?;
    run.session_at(&run.new_client()?, 0)?;
    let sessions = || Ok::<_, anyhow::Error>(steer.json("sessions list")?["total"].clone());
    let before = sessions()?;
    for nothing in [&[""][..], &[], &["--owner", ""], &["zz"]] {
        let mut command = steer.command("sessions remove");
        let output = command.args(nothing).output()?;
        assert_eq!(output.status.code(), Some(2), "{nothing:?}: {}", said(&output));
    }
    assert_eq!(sessions()?, before);
    steer.steer("sessions remove --all")?;
    assert_eq!(sessions()?, 0);
    Ok(())
}

/// A second gateway on the same interfaces that has a VIP of the first, and what is done with the words for one of them.
#[test]
fn two_gateways_do_not_get_into_each_others_way() -> Result<()> {
    let run = two_backends()?;
    let steer = run.agent()?;
    let mut second = Agent::prepare(&run.lab, &Settings::new(Hook::Tc))?;
    let ended = second.launch_to_end(&[], &[])?;
    let told = second.log();
    assert!(!ended.success() && told.contains("has interfaces in common with this one"), "{told}");

    let text = fs::read_to_string(second.config_path())?;
    let other = |address: String| address.replace(":443", ":8443");
    let text = [Family::V4, Family::V6].iter().fold(text, |text, family| {
        let at = format!("address = \"{}\"", vip(*family));
        text.replace(&at, &other(at.clone()))
    });
    let backends = (0..2).flat_map(|index| [Family::V4, Family::V6].map(|family| backend_address(family, index)));
    let text = backends.fold(text, |text, at| text.replace(&format!("\"{at}\""), &other(format!("\"{at}\""))));
    fs::write(second.config_path(), text)?;
    second.launch()?;
    let warned = second.json("status")?.to_string();
    assert!(warned.contains("manages"), "{warned}");

    // The directory says who its agent is, whatever socket is named.
    let mut mixed = Command::new(binary()?);
    mixed.arg("detach").arg("--pin-dir").arg(second.pin_dir()).arg("--socket").arg(steer.socket());
    let output = run.lab.gateway().run(|| Ok(mixed.output()?))?;
    assert!(output.status.success(), "{}", said(&output));
    assert!(!second.pin_dir().join("v4").exists() && !second.socket().exists(), "the second one is gone");
    assert!(steer.json("status")?["agent"]["running"] == true);
    assert!(run.visit(&run.new_client()?, &run.dial(run.source_of(0)?)).is_ok(), "the first one serves");
    Ok(())
}

/// `ip netns exec` has a mount namespace of its own, with an empty /sys.
#[test]
fn a_gateway_whose_pins_are_hidden_is_not_called_absent() -> Result<()> {
    let run = two_backends()?;
    let steer = run.agent()?;
    for words in ["status", "stats", "sessions list", "detach"] {
        let verb = steer.command(words);
        let mut hidden = Command::new("unshare");
        hidden.args(["--mount", "sh", "-c", "mount -t tmpfs none /sys/fs/bpf && exec \"$@\"", "sh"]);
        hidden.arg(verb.get_program()).args(verb.get_args());
        let output = run.lab.gateway().run(|| Ok(hidden.output()?))?;
        let told = said(&output);
        assert!(output.status.code() == Some(1) && told.contains("this is another mount namespace"), "{words}: {told}");
        assert!(told.contains("nsenter --net="), "{words}: {told}");
    }
    assert!(steer.json("status")?["agent"]["running"] == true);
    Ok(())
}

#[test]
fn bypass_and_removed_sessions_leave_a_flow_with_its_first_backend() -> Result<()> {
    let run = two_backends()?;
    let mut steer = run.agent()?;
    let client = run.new_client()?;
    let (at_owner, elsewhere) = (run.dial(run.source_of(0)?), run.dial(run.source_of(1)?));
    run.visit(&client, &at_owner)?;
    steer.steer("bypass on")?;
    assert_eq!(steer.json("status")?["bypass"], true);
    // A new agent leaves the switch as it is.
    steer.end(Signal::SIGTERM)?;
    steer.launch()?;
    assert_eq!(steer.json("status")?["bypass"], true);
    assert!(!run.visit(&client, &elsewhere)?.resumed, "the session is of backend 1 from here");
    steer.steer("bypass off")?;
    assert!(run.visit(&client, &at_owner)?.resumed);
    steer.steer("sessions remove --all")?;
    assert_eq!(steer.json("sessions list")?["total"], 0);
    assert!(!run.visit(&client, &at_owner)?.resumed);
    assert_eq!((steer.count(Counter::Bypassed)?, steer.count(Counter::SpliceOpened)?), (1, 1));
    Ok(())
}

#[test]
fn without_an_agent_verbs_that_read_work_and_say_so_and_a_new_one_adopts_everything() -> Result<()> {
    let run = two_backends()?;
    let mut steer = run.agent()?;
    let client = run.new_client()?;
    run.session_at(&client, 0)?;
    let other = run.backend_address(1).to_string();
    steer.steer(&format!("backends add --vip {} --weight 3 {other}", run.vip()))?;
    let sessions = steer.json("sessions list")?["total"].clone();
    steer.end(Signal::SIGKILL)?;
    for words in ["backends list", "sessions list", "keys list", "stats", "bypass off"] {
        let mut command = Command::new(binary()?);
        let output = command.args(words.split(' ')).arg("--pin-dir").arg(steer.pin_dir()).output()?;
        assert!(output.status.success() && said(&output).contains("no agent runs"), "{words}: {output:?}");
    }
    assert!(steer.steer("status")?.starts_with("agent     does not run"));
    assert_eq!(
        steer.json("status")?["agent"],
        json!({"running": false, "starting": false, "pid": null, "version": null})
    );
    assert!(error(steer.steer(&format!("backends drain {other}"))).contains("needs a running agent"));
    steer.launch()?;
    assert_eq!(steer.json("sessions list")?["total"], sessions);
    assert_eq!(backend(&steer, &other)?["weight"], 3, "changes by the CLI stay");
    assert!(run.visit(&client, &run.dial(run.source_not_of(0)?))?.resumed);
    assert_eq!(steer.count(Counter::SpliceOpened)?, 1);
    Ok(())
}

#[test]
fn sigterm_leaves_everything_in_place_and_detach_leaves_no_trace() -> Result<()> {
    let run = Scenario::new(Hook::Tc, Family::V4).backends(2).vip_setting("assign = true").start()?;
    let mut steer = run.agent()?;
    let interfaces = run.lab.gateway_interfaces();
    let programs = || interfaces.iter().map(|name| programs(&run, name)).collect::<Result<Vec<_>>>();
    let vips = || {
        let addresses = run.lab.gateway().tool("ip address show")?;
        anyhow::Ok([Family::V4, Family::V6].map(|family| addresses.contains(&vip(family).ip().to_string())))
    };
    steer.end(Signal::SIGTERM)?;
    assert!(steer.map_pin("sessions").exists() && programs()?.iter().all(|(tc, _)| *tc));
    assert_eq!(vips()?, [true, true]);
    assert!(run.resume_elsewhere(&run.new_client()?)?.resumed, "traffic goes on");
    steer.steer("detach")?;
    assert!(!steer.pin_dir().exists());
    assert_eq!(programs()?, vec![(false, false); interfaces.len()]);
    assert_eq!(vips()?, [false, false]);
    assert!(steer.steer("detach")?.contains("nothing is pinned"), "again does no harm");
    assert!(error(steer.steer("status")).contains("no gateway runs here"));
    Ok(())
}

/// The agent makes the directories above `pin_dir`; one that was there before is somebody else's, empty or not.
#[test]
fn directories_that_were_made_for_the_pins_go_with_them() -> Result<()> {
    let run = two_backends()?;
    let steer = Agent::prepare(&run.lab, &run.steer)?;
    let text = fs::read_to_string(steer.config_path())?;
    let (top, old) = (steer.pin_dir().join("new"), steer.pin_dir());
    let deep = top.join("er/est");
    fs::write(steer.config_path(), text.replace(&format!("{old:?}"), &format!("{deep:?}")))?;
    fs::create_dir(old)?;
    let agent = || {
        let mut command = Command::new(binary()?);
        command.arg("agent").arg("--config").arg(steer.config_path());
        run.lab.gateway().spawn(command)
    };
    let _server = agent()?;
    let up = || PinDir::new(&deep).socket().filter(|_| deep.is_dir() && steer.socket().exists());
    eventually(TEN_SECONDS * 3, up).context("the agent does not come up")?;
    let mut detach = Command::new(binary()?);
    detach.arg("detach").arg("--pin-dir").arg(&deep);
    let output = run.lab.gateway().run(|| Ok(detach.output()?))?;
    assert!(output.status.success(), "{}", said(&output));
    assert!(!top.exists() && old.is_dir() && fs::read_dir(old)?.next().is_none());
    Ok(())
}

#[test]
fn an_interface_that_went_and_came_back_gets_its_programs_again() -> Result<()> {
    let run = Scenario::new(Hook::Xdp, Family::V4).offloads(Offloads::On).backends(2).start()?;
    let steer = run.agent()?;
    let (interface, address) = (backend_side(1), run.backend_address(1).to_string());
    let attached = || programs(&run, &interface).ok().filter(|(tc, xdp)| *tc && *xdp);
    let is = |state: &str| backend(&steer, &address).ok().filter(|backend| backend["state"] == state);
    attached().context("XDP and TC are not there from the start")?;
    run.lab.gateway().ip(&format!("link del {interface}\n"))?;
    eventually(TEN_SECONDS, || is("down")).context("the health checks do not see it go")?;
    wire_again(&run)?;
    eventually(TEN_SECONDS, attached).context("the programs do not come back")?;
    eventually(TEN_SECONDS, || is("up")).context("the health checks do not see it come back")?;
    let client = run.new_client()?;
    run.session_at(&client, 1)?;
    assert!(run.visit(&client, &run.dial(run.source_not_of(1)?))?.resumed);
    Ok(())
}

/// A machine that boots, or a name with a slip of the pen: the rest is served, and what is missing is named.
#[test]
fn an_interface_that_is_not_there_yet_is_named_and_served_when_it_comes() -> Result<()> {
    let run = Scenario::new(Hook::Xdp, Family::V4).offloads(Offloads::On).backends(2).start()?;
    let (interface, address) = (backend_side(1), run.backend_address(1).to_string());
    let mut steer = Agent::prepare(&run.lab, &run.steer)?;
    run.lab.gateway().ip(&format!("link del {interface}\n"))?;
    steer.launch_timed()?;
    assert!(steer.log().contains(&format!("there is no interface {interface}: it is waited for")), "{}", steer.log());
    let named = || steer.json("status").ok().filter(|status| status["warnings"].to_string().contains("b1 is gone"));
    eventually(TEN_SECONDS, named).context("status does not name it")?;
    let is = |state: &str| backend(&steer, &address).ok().filter(|backend| backend["state"] == state);
    eventually(TEN_SECONDS, || is("down")).context("the health checks do not miss it")?;
    assert!(!run.visit(&run.new_client()?, &run.dial(0))?.resumed, "the other backend serves");
    wire_again(&run)?;
    let attached = || programs(&run, &interface).ok().filter(|(tc, xdp)| *tc && *xdp);
    eventually(TEN_SECONDS, attached).context("the programs do not come")?;
    eventually(TEN_SECONDS, || is("up")).context("the health checks do not see it come")?;
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
    // The file is good, and the machine has not the memory.
    let large = check(&format!("{GOOD}[sizes]\npending = 134217728\n"))?;
    let told = String::from_utf8_lossy(&large.stderr).into_owned();
    assert!(large.status.code() == Some(1) && told.contains("a start would be refused: the tables take"), "{told}");
    for (from, to, place) in [
        ("name = \"eth0\"", "name = \"eth0\"\nhook = \"fast\"", "3: interface.hook: "),
        ("198.51.100.10:443", "198.51.100.10", "5: vip.address: "),
        ("session_timeout", "sesion_timeout", "6: vip.sesion_timeout: "),
        ("\"10m\"", "\"soon\"", "6: vip.session_timeout: "),
        ("10.0.0.11:443", "[2001:db8::11]:443", "9: vip.backend.address: "),
        ("10.0.0.11:443", "198.51.100.10:443", "9: vip.backend.address: "),
    ] {
        let output = check(&GOOD.replace(from, to))?;
        let said = said(&output);
        let expected = format!("steer: {}:{place}", file.display());
        assert!(output.status.code() == Some(1) && said.starts_with(&expected), "{said}");
        assert!(said.contains("expected") && said.lines().count() == 1, "{said}");
    }
    Ok(())
}

/// A file may be checked on another machine than its gateway: what this one would refuse is a warning.
#[test]
fn config_check_tells_what_a_start_here_would_be_refused_for() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let file = directory.path().join("s.toml");
    let taken = directory.path().join("file");
    fs::write(&taken, "")?;
    let check = |lines: &str| -> Result<String> {
        fs::write(&file, format!("{lines}\n{GOOD}"))?;
        let output = Command::new(binary()?).args(["config", "check"]).arg(&file).output()?;
        assert!(output.status.success(), "{}", said(&output));
        Ok(said(&output))
    };
    for (lines, told) in [
        (format!("pin_dir = {:?}", directory.path().join("pins")), "is on no BPF file system"),
        (format!("socket = {taken:?}"), "is there and is no socket"),
        ("metrics = \"192.0.2.99:9464\"".to_owned(), "no interface has this address"),
    ] {
        let text = check(&lines)?;
        assert!(text.contains("warning: here a start would be refused: ") && text.contains(told), "{lines}: {text}");
    }
    assert!(!check("")?.contains("would be refused"), "nothing is wrong with the rest");
    Ok(())
}

#[test]
fn without_root_one_sentence_says_what_is_needed() -> Result<()> {
    // The checkout may lie where only root can look.
    let directory = tempfile::tempdir()?;
    let (program, file) = (directory.path().join("steer"), directory.path().join("s.toml"));
    fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755))?;
    fs::copy(binary()?, &program)?;
    fs::write(&file, GOOD)?;
    let as_nobody = |words: &[&str]| {
        let mut command = Command::new("setpriv");
        command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]).arg(&program).args(words);
        command.current_dir(directory.path()).output()
    };
    for words in ["status", "backends list", "sessions list", "stats", "bypass on", "detach", "agent --config s.toml"] {
        let output = as_nobody(&words.split(' ').collect::<Vec<_>>())?;
        let said = said(&output);
        assert!(output.status.code() == Some(1) && said.lines().count() == 1, "{words}: {said}");
        let needed = if words.starts_with("agent") {
            "CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON"
        } else {
            "CAP_BPF and CAP_NET_ADMIN"
        };
        assert!(said.contains(&format!("needs root, or the capabilities {needed}")), "{words}: {said}");
    }
    assert!(as_nobody(&["config", "check", "s.toml"])?.status.success(), "a file needs no rights");
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

#[track_caller]
fn error<T>(outcome: Result<T>) -> String {
    outcome.err().map(|error| format!("{error:#}")).expect("this was refused")
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Whether TC and XDP sit on an interface of the gateway.
fn programs(run: &Run, interface: &str) -> Result<(bool, bool)> {
    let gateway = run.lab.gateway();
    let xdp = gateway.tool(&format!("ip link show dev {interface}"))?.contains("steer_xdp");
    // Before Linux 6.6 a filter, since then a tcx link, which Debian 12's bpftool does not show.
    let filter = gateway.tool(&format!("tc filter show dev {interface} ingress"))?.contains("steer_tc");
    let links = gateway.run(|| Ok(SchedClassifier::query_tcx(interface, TcAttachType::Ingress).ok()));
    let named = |program: &ProgramInfo| program.name_as_str() == Some("steer_tc");
    Ok((filter || links?.is_some_and(|(_, programs)| programs.iter().any(named)), xdp))
}

/// The program that the lab's agents run.
fn binary() -> Result<PathBuf> {
    let beside = env::current_exe()?.ancestors().nth(2).map(|directory| directory.join("steer"));
    env::var_os("STEER_BIN").map(PathBuf::from).or(beside).filter(|path| path.exists()).context("no binary steer")
}

/// The link to backend 1 as the lab had it (IPv4).
fn wire_again(run: &Run) -> Result<()> {
    let (near, gateway, far) = (backend_side(1), run.lab.gateway(), run.lab.backend(1));
    let link = format!("link add {near} type veth peer name eth0 netns {}\nlink set {near} up\n", far.path());
    gateway.ip(&format!("{link}addr add 10.2.1.1/24 dev {near}\n"))?;
    far.ip("link set eth0 up\naddr add 10.2.1.2/24 dev eth0\nroute add default via 10.2.1.1\n")
}
