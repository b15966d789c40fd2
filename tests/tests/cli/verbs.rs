//! The words of the command line on a live gateway, and what they print.

use std::{
    collections::BTreeSet, fs, mem::discriminant, os::unix::fs::PermissionsExt as _,
    process::Command,
};

use anyhow::{Context, Result};
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use steer_common::counters::Counter;
use steer_tests::{
    agent::{Agent, Hook, Settings},
    scenario::Scenario,
    tables,
    topology::{Family, backend as backend_address, vip},
};

use crate::{GOOD, backend, binary, error, said, two_backends};

/// What `--json` prints, for readers.
const DOCUMENTATION: &str = include_str!("../../../docs/cli.md");

/// Keys that are null where there is nothing to name.
const MAY_BE_NULL: [&str; 15] = [
    "counted_seconds",
    "open_flows",
    "sessions",
    "key_names",
    "resumed_percent",
    "resumed_percent_ever",
    "pid",
    "version",
    "drain_seconds",
    "vip",
    "owner",
    "owner_address",
    "port_at_holder",
    "offered",
    "identity",
];

#[test]
fn json_has_the_documented_shapes_on_a_live_gateway() -> Result<()> {
    let run = two_backends()?;
    let steer = run.agent()?;
    run.resume_elsewhere(&run.new_client()?)?;
    steer.steer(&format!("backends drain --for 10m {}", run.backend_address(1)))?;
    for verb in ["status", "backends list", "sessions list", "keys list", "top"] {
        same_shape(verb, &documented(verb)?, &steer.json(verb)?);
    }
    let listed = steer.json("sessions list --limit 1")?;
    assert!(
        listed["total"].as_u64() > Some(1)
            && listed["sessions"].as_array().map(Vec::len) == Some(1),
        "{listed}"
    );
    let prefix = listed["sessions"][0]["id"].as_str().context("a session without id")?;
    same_shape(
        "sessions show",
        &documented("sessions list")?,
        &steer.json(&format!("sessions show {prefix}"))?,
    );
    same_shape("bypass", &json!({"done": "a sentence"}), &steer.json("bypass off")?);
    let flows = steer.json("flows list --ended")?;
    assert!(flows["total"].as_u64() > Some(1), "{flows}");
    same_shape("flows list", &documented("flows list")?, &flows);
    let client = flows["flows"][0]["client"].as_str().context("a flow without client")?;
    let whys = documented("why")?;
    for words in [client, prefix] {
        let why = steer.json(&format!("why {words}"))?;
        same_shape("why", &whys, &why);
    }
    let stats = steer.json("stats")?;
    assert_eq!(
        keys(&stats["counters"]),
        Counter::ALL.iter().map(|counter| counter.word().to_owned()).collect()
    );
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
        steer.json("status")?["drift"]
            .to_string()
            .contains(&format!("{other} is removed; the configuration has it"))
    );
    assert!(error(run.source_of(1)).contains("no source address leads"), "nothing new goes there");
    steer.steer(&format!("backends add --vip {vip} --weight 3 {other}"))?;
    assert_eq!(backend(&steer, &other)?["weight"], 3);
    assert!(
        steer.json("status")?["drift"]
            .to_string()
            .contains(&format!("{other} has weight 3; the configuration says 1"))
    );
    run.source_of(1).map(drop)
}

#[test]
fn a_change_that_makes_no_sense_is_refused_with_a_sentence() -> Result<()> {
    let run = two_backends()?;
    let steer = run.agent()?;
    for (words, sentence) in [
        (format!("backends add --vip {} 10.9.9.9:443", vip(Family::V6)), "families do not mix"),
        (
            "backends add --vip 192.0.2.1:443 10.9.9.9:443".to_owned(),
            "there is no VIP 192.0.2.1:443",
        ),
        ("backends drain 10.9.9.9:443".to_owned(), "there is no backend 10.9.9.9:443"),
        ("sessions show 00".to_owned(), "no session starts with 00"),
    ] {
        let said = error(steer.steer(&words));
        assert!(said.contains(sentence), "{words}: {said}");
    }
    Ok(())
}

/// A slip of the pen in an address is no empty list.
#[test]
fn sessions_of_nobody_are_refused_with_a_sentence() -> Result<()> {
    let run = two_backends()?;
    let steer = run.agent()?;
    run.session_at(&run.new_client()?, 0)?;
    for verb in ["list", "remove"] {
        for (words, sentence) in [
            ("--owner 10.9.9.9:443", "there is no backend 10.9.9.9:443"),
            ("--vip 192.0.2.1:443", "there is no VIP 192.0.2.1:443"),
        ] {
            let said = error(steer.steer(&format!("sessions {verb} {words}")));
            assert!(said.contains(sentence), "{verb} {words}: {said}");
        }
    }
    let of = |owner| {
        let list = steer.json(&format!("sessions list --owner {owner}"))?;
        list["total"].as_u64().context("no total")
    };
    let (owner, other) = (run.backend_address(0), run.backend_address(1));
    assert!(of(owner)? > 0, "somebody's are listed");
    assert_eq!(of(other)?, 0, "a backend that is there and owns none");
    steer.steer(&format!("backends remove {owner}"))?;
    assert!(of(owner)? > 0, "one that left its pool is known for as long as it owns any");
    Ok(())
}

/// As many as these, all in memory as they are told, would take several times as much.
#[test]
fn a_long_list_of_sessions_takes_little_memory() -> Result<()> {
    const SESSIONS: u32 = 300_000;
    const BYTES: u32 = 64 << 20;
    let run = Scenario::new(Hook::Tc, Family::V4).backends(2).size("sessions = 400000").start()?;
    let steer = run.agent()?;
    tables::fill_sessions(&steer, SESSIONS)?;
    let list = steer.command(&format!("sessions list --json --limit {SESSIONS}"));
    let mut limited = Command::new("prlimit");
    limited.arg(format!("--data={BYTES}")).arg(list.get_program()).args(list.get_args());
    let output = run.lab.gateway().run(|| Ok(limited.output()?))?;
    assert!(output.status.success(), "{:?}: {}", output.status, said(&output));
    let list = serde_json::from_slice::<Value>(&output.stdout)?;
    assert_eq!(list["total"], SESSIONS);
    assert_eq!(list["sessions"].as_array().map(Vec::len), Some(SESSIONS as usize));
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

/// A second gateway on the same interfaces that has a VIP of the first, and what is done with the
/// words for one of them.
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
    let backends = (0..2)
        .flat_map(|index| [Family::V4, Family::V6].map(|family| backend_address(family, index)));
    let text = backends
        .fold(text, |text, at| text.replace(&format!("\"{at}\""), &other(format!("\"{at}\""))));
    fs::write(second.config_path(), text)?;
    second.launch()?;
    let warned = second.json("status")?.to_string();
    assert!(warned.contains("manages"), "{warned}");

    // The directory says who its agent is, whatever socket is named.
    let mut mixed = Command::new(binary()?);
    mixed.arg("detach").arg("--pin-dir").arg(second.pin_dir()).arg("--socket").arg(steer.socket());
    let output = run.lab.gateway().run(|| Ok(mixed.output()?))?;
    assert!(output.status.success(), "{}", said(&output));
    assert!(
        !second.pin_dir().join("v4").exists() && !second.socket().exists(),
        "the second one is gone"
    );
    assert!(steer.json("status")?["agent"]["running"] == true);
    assert!(
        run.visit(&run.new_client()?, &run.dial(run.source_of(0)?)).is_ok(),
        "the first one serves"
    );
    Ok(())
}

/// `ip netns exec` has a mount namespace of its own, with an empty /sys.
#[test]
fn a_gateway_whose_pins_are_hidden_is_not_called_absent() -> Result<()> {
    let run = two_backends()?;
    let steer = run.agent()?;
    for words in ["status", "stats", "sessions list", "flows list", "why 192.0.2.1", "detach"] {
        let verb = steer.command(words);
        let mut hidden = Command::new("unshare");
        hidden.args([
            "--mount",
            "sh",
            "-c",
            "mount -t tmpfs none /sys/fs/bpf && exec \"$@\"",
            "sh",
        ]);
        hidden.arg(verb.get_program()).args(verb.get_args());
        let output = run.lab.gateway().run(|| Ok(hidden.output()?))?;
        let told = said(&output);
        assert!(
            output.status.code() == Some(1) && told.contains("this is another mount namespace"),
            "{words}: {told}"
        );
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
fn without_root_one_sentence_says_what_is_needed() -> Result<()> {
    // The checkout may lie where only root can look.
    let directory = tempfile::tempdir()?;
    let (program, file) = (directory.path().join("steer"), directory.path().join("s.toml"));
    fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755))?;
    fs::copy(binary()?, &program)?;
    fs::write(&file, GOOD)?;
    let as_nobody = |words: &[&str]| {
        let mut command = Command::new("setpriv");
        command
            .args(["--reuid=65534", "--regid=65534", "--clear-groups"])
            .arg(&program)
            .args(words);
        command.current_dir(directory.path()).output()
    };
    for words in [
        "status",
        "backends list",
        "sessions list",
        "flows list",
        "why 192.0.2.1",
        "stats",
        "bypass on",
        "detach",
        "agent --config s.toml",
    ] {
        let output = as_nobody(&words.split(' ').collect::<Vec<_>>())?;
        let said = said(&output);
        assert!(output.status.code() == Some(1) && said.lines().count() == 1, "{words}: {said}");
        let needed = if words.starts_with("agent") {
            "CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON"
        } else {
            "CAP_BPF and CAP_NET_ADMIN"
        };
        assert!(
            said.contains(&format!("needs root, or the capabilities {needed}")),
            "{words}: {said}"
        );
    }
    assert!(as_nobody(&["config", "check", "s.toml"])?.status.success(), "a file needs no rights");
    Ok(())
}

/// The JSON under a heading of the documentation.
fn documented(verb: &str) -> Result<Value> {
    let (_, section) =
        DOCUMENTATION.split_once(&format!("\n### `{verb}`")).context("no such heading")?;
    let (_, rest) = section.split_once("```json\n").context("no example")?;
    Ok(serde_json::from_str(rest.split("```").next().unwrap_or_default())?)
}

/// Every key that is documented and no other, every value of the documented type.
#[track_caller]
fn same_shape(path: &str, documented: &Value, live: &Value) {
    match (documented, live) {
        (Value::Object(_), Value::Object(fields)) => {
            assert_eq!(keys(live), keys(documented), "{path}");
            fields.iter().for_each(|(key, value)| {
                same_shape(&format!("{path}.{key}"), &documented[key], value)
            });
        }
        (Value::Array(_), Value::Array(values)) => {
            values.iter().for_each(|v| same_shape(path, &documented[0], v))
        }
        (Value::Null, _) | (_, Value::Null) => {
            assert!(
                MAY_BE_NULL.iter().any(|key| path.ends_with(&format!(".{key}"))),
                "{path} is {live}"
            );
        }
        _ => assert_eq!(discriminant(live), discriminant(documented), "{path} is {live}"),
    }
}

fn keys(value: &Value) -> BTreeSet<String> {
    value.as_object().into_iter().flatten().map(|(key, _)| key.clone()).collect()
}
