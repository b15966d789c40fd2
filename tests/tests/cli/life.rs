//! Agents come and go, and so do the interfaces they serve.

use std::{collections::BTreeSet, fs, path::Path, process::Command};

use anyhow::{Context, Result, ensure};
use aya::programs::{ProgramInfo, SchedClassifier, TcAttachType};
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use steer_common::counters::Counter;
use steer_tests::{
    agent::{Agent, Hook},
    process::{self, eventually},
    scenario::{Run, Scenario},
    topology::{Family, Offloads, backend_side, vip},
};
use steer_user::plane::{Kind, PinDir};

use crate::{TEN_SECONDS, backend, binary, error, said, two_backends};

#[test]
fn without_an_agent_verbs_that_read_work_and_say_so_and_a_new_one_adopts_everything() -> Result<()>
{
    let run = two_backends()?;
    let mut steer = run.agent()?;
    let client = run.new_client()?;
    run.session_at(&client, 0)?;
    let other = run.backend_address(1).to_string();
    steer.steer(&format!("backends add --vip {} --weight 3 {other}", run.vip()))?;
    let sessions = steer.json("sessions list")?["total"].clone();
    steer.end(Signal::SIGKILL)?;
    for words in
        ["backends list", "sessions list", "flows list", "keys list", "stats", "bypass off"]
    {
        let mut command = Command::new(binary()?);
        let output =
            command.args(words.split(' ')).arg("--pin-dir").arg(steer.pin_dir()).output()?;
        assert!(
            output.status.success() && said(&output).contains("no agent runs"),
            "{words}: {output:?}"
        );
    }
    assert!(steer.steer("status")?.starts_with("agent     does not run"));
    assert_eq!(
        steer.json("status")?["agent"],
        json!({"running": false, "starting": false, "pid": null, "version": null})
    );
    assert!(
        error(steer.steer(&format!("backends drain {other}"))).contains("needs a running agent")
    );
    steer.launch()?;
    assert_eq!(steer.json("sessions list")?["total"], sessions);
    assert_eq!(backend(&steer, &other)?["weight"], 3, "changes by the CLI stay");
    assert!(run.visit(&client, &run.dial(run.source_not_of(0)?))?.resumed);
    assert_eq!(steer.count(Counter::SpliceOpened)?, 1);
    Ok(())
}

#[test]
fn sigterm_leaves_everything_in_place_and_detach_leaves_no_trace() -> Result<()> {
    let run =
        Scenario::new(Hook::Tc, Family::V4).backends(2).vip_setting("assign = true").start()?;
    let mut steer = run.agent()?;
    let interfaces = run.lab.gateway_interfaces();
    let programs =
        || interfaces.iter().map(|name| programs(&run, name)).collect::<Result<Vec<_>>>();
    let vips = || {
        let addresses = run.lab.gateway().tool("ip address show")?;
        anyhow::Ok(
            [Family::V4, Family::V6]
                .map(|family| addresses.contains(&vip(family).ip().to_string())),
        )
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

/// The agent makes the directories above `pin_dir`; one that was there before is somebody else's,
/// empty or not.
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

/// A BPF file system of the gateway's own, mounted where it pins.
#[test]
fn pins_may_be_the_mount_itself_which_is_left_as_it_was() -> Result<()> {
    let run = two_backends()?;
    let steer = Agent::prepare(&run.lab, &run.steer)?;
    let directory = tempfile::tempdir()?;
    let mount = Mount::of_bpf(directory.path())?;
    let names = || {
        let entries = fs::read_dir(mount.0)?.map(|entry| Ok(entry?.file_name()));
        entries.collect::<Result<BTreeSet<_>>>()
    };
    // The kernel may have iterators of its own there.
    let before = names()?;
    steer.rewrite(|text| {
        text.replace(&format!("{:?}", steer.pin_dir()), &format!("{:?}", mount.0))
    })?;
    let mut agent = Command::new(binary()?);
    agent.arg("agent").arg("--config").arg(steer.config_path());
    let _server = run.lab.gateway().spawn(agent)?;
    let up = || PinDir::new(mount.0).socket().filter(|_| steer.socket().exists());
    eventually(TEN_SECONDS * 3, up).context("the agent does not come up")?;
    for words in ["removed the state at", "nothing is pinned at"] {
        let mut detach = Command::new(binary()?);
        detach.arg("detach").arg("--pin-dir").arg(mount.0);
        let output = run.lab.gateway().run(|| Ok(detach.output()?))?;
        assert!(output.status.success(), "{words}: {}", said(&output));
        let told = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(told.contains(words), "{told}");
        assert_eq!(names()?, before);
    }
    Ok(())
}

/// Something mounted, until this is dropped.
struct Mount<'a>(&'a Path);

impl<'a> Mount<'a> {
    fn of_bpf(at: &'a Path) -> Result<Self> {
        process::run(Command::new("mount").args(["-t", "bpf", "bpf"]).arg(at))?;
        Ok(Self(at))
    }
}

impl Drop for Mount<'_> {
    fn drop(&mut self) {
        drop(process::run(Command::new("umount").arg("-l").arg(self.0)));
    }
}

#[test]
fn an_interface_that_went_and_came_back_gets_its_programs_again() -> Result<()> {
    let run = Scenario::new(Hook::Xdp, Family::V4).offloads(Offloads::On).backends(2).start()?;
    let steer = run.agent()?;
    let (interface, address) = (backend_side(1), run.backend_address(1).to_string());
    let attached = || programs(&run, &interface).ok().filter(|(tc, xdp)| *tc && *xdp);
    let is =
        |state: &str| backend(&steer, &address).ok().filter(|backend| backend["state"] == state);
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

/// A machine that boots, or a name with a slip of the pen: the rest is served, and what is missing
/// is named.
#[test]
fn an_interface_that_is_not_there_yet_is_named_and_served_when_it_comes() -> Result<()> {
    let run = Scenario::new(Hook::Xdp, Family::V4).offloads(Offloads::On).backends(2).start()?;
    let (interface, address) = (backend_side(1), run.backend_address(1).to_string());
    let mut steer = Agent::prepare(&run.lab, &run.steer)?;
    run.lab.gateway().ip(&format!("link del {interface}\n"))?;
    steer.launch_timed()?;
    assert!(
        steer.log().contains(&format!("there is no interface {interface}: it is waited for")),
        "{}",
        steer.log()
    );
    let named = || {
        steer
            .json("status")
            .ok()
            .filter(|status| status["warnings"].to_string().contains("b1 is gone"))
    };
    eventually(TEN_SECONDS, named).context("status does not name it")?;
    let is =
        |state: &str| backend(&steer, &address).ok().filter(|backend| backend["state"] == state);
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

/// Nothing is heard of the first one any more, and nothing waits for it.
#[test]
fn an_interface_that_is_gone_for_good_keeps_no_other_from_its_programs() -> Result<()> {
    let run = Scenario::new(Hook::Xdp, Family::V4).offloads(Offloads::On).backends(2).start()?;
    let steer = run.agent()?;
    let (gone, interface) = (backend_side(0), backend_side(1));
    let address = run.backend_address(1).to_string();
    let attached = || programs(&run, &interface).ok().filter(|(tc, xdp)| *tc && *xdp);
    attached().context("XDP and TC are not there from the start")?;
    run.lab.gateway().ip(&format!("link del {gone}\nlink del {interface}\n"))?;
    let named =
        || steer.log().contains(&format!("{gone}: tc is not where it belongs")).then_some(());
    eventually(TEN_SECONDS, named).with_context(|| steer.log())?;
    wire_again(&run)?;
    eventually(TEN_SECONDS, attached).context("the programs do not come back")?;
    // What is told counts programs where they are attached, not pins.
    let status = steer.json("status")?;
    let of = |name: &str| {
        let mut found = status["interfaces"].as_array().into_iter().flatten();
        found.find(|at| at["name"] == name).map(|at| (at["tc"].clone(), at["xdp"].clone()))
    };
    assert_eq!(of(&gone), Some((json!(false), json!(false))), "{status}");
    assert_eq!(of(&interface), Some((json!(true), json!(true))), "{status}");
    let up = || backend(&steer, &address).ok().filter(|backend| backend["state"] == "up");
    eventually(TEN_SECONDS, up).context("the health checks do not see it come back")?;
    let client = run.new_client()?;
    run.session_at(&client, 1)?;
    assert!(run.visit(&client, &run.dial(0))?.resumed);
    Ok(())
}

/// The pins stay, and say nothing of it.
#[test]
fn programs_that_somebody_detached_are_attached_again() -> Result<()> {
    let run = Scenario::new(Hook::Xdp, Family::V4).offloads(Offloads::On).backends(2).start()?;
    let mut steer = run.agent()?;
    let interface = backend_side(1);
    let dir = PinDir::new(steer.pin_dir());
    let state = || programs(&run, &interface).ok();
    let detach = || {
        for kind in [Kind::Tc, Kind::Xdp] {
            let mut bpftool = Command::new("bpftool");
            bpftool.args(["link", "detach", "pinned"]).arg(dir.link(&interface, kind));
            process::run(&mut bpftool)?;
            ensure!(dir.link(&interface, kind).exists());
        }
        anyhow::Ok(())
    };
    let attached = || state().filter(|found| *found == (true, true));
    attached().context("XDP and TC are not there from the start")?;
    detach()?;
    eventually(TEN_SECONDS, attached).with_context(|| steer.log())?;
    assert!(steer.log().contains("was not attached any more"), "{}", steer.log());
    // Without an agent they stay away, and are named; the next one attaches them at its start.
    steer.end(Signal::SIGTERM)?;
    detach()?;
    assert_eq!(state(), Some((false, false)));
    let health = steer.json("status")?["health"].to_string();
    assert!(health.contains(&format!("no program is attached at {interface}")), "{health}");
    steer.launch()?;
    assert_eq!(state(), Some((true, true)));
    assert!(run.resume_elsewhere(&run.new_client()?)?.resumed);
    Ok(())
}

/// `systemctl enable --now steer; steer status`: the agent has its directory, and no maps yet.
#[test]
fn status_says_of_an_agent_that_makes_its_maps_that_it_is_starting() -> Result<()> {
    let run = two_backends()?;
    let mut steer = Agent::prepare(&run.lab, &run.steer)?;
    let output = |words: &str| run.lab.gateway().run(|| Ok(steer.command(words).output()?));
    let dir = PinDir::new(steer.pin_dir());
    dir.create()?;
    let agent = dir.lock()?.context("somebody has the directory")?;
    let told = output("status")?;
    assert_eq!(told.status.code(), Some(1), "{told:?}");
    assert!(said(&told).contains("the agent is starting"), "{told:?}");
    let told = output("status --json")?;
    let status = serde_json::from_slice::<Value>(&told.stdout)?;
    assert_eq!(
        status["agent"],
        json!({"running": true, "starting": true, "pid": null, "version": null})
    );
    assert_eq!(
        status["health"],
        json!({"state": "degraded", "because": ["the agent is starting"]})
    );
    let told = output("backends list")?;
    assert!(said(&told).contains("is starting: try again in a moment"), "{told:?}");
    // One that died there is another matter.
    drop(agent);
    let told = output("status")?;
    assert!(
        told.status.code() == Some(2) && said(&told).contains("a start was broken off"),
        "{told:?}"
    );
    steer.launch()
}

/// Whether TC and XDP sit on an interface of the gateway.
fn programs(run: &Run, interface: &str) -> Result<(bool, bool)> {
    let gateway = run.lab.gateway();
    let xdp = gateway.tool(&format!("ip link show dev {interface}"))?.contains("steer_xdp");
    // Before Linux 6.6 a filter, since then a tcx link, which Debian 12's bpftool does not show.
    let filter =
        gateway.tool(&format!("tc filter show dev {interface} ingress"))?.contains("steer_tc");
    let links =
        gateway.run(|| Ok(SchedClassifier::query_tcx(interface, TcAttachType::Ingress).ok()));
    let named = |program: &ProgramInfo| program.name_as_str() == Some("steer_tc");
    Ok((filter || links?.is_some_and(|(_, programs)| programs.iter().any(named)), xdp))
}

/// The link to backend 1 as the lab had it (IPv4).
fn wire_again(run: &Run) -> Result<()> {
    let (near, gateway, far) = (backend_side(1), run.lab.gateway(), run.lab.backend(1));
    let link = format!(
        "link add {near} type veth peer name eth0 netns {}\nlink set {near} up\n",
        far.path()
    );
    gateway.ip(&format!("{link}addr add 10.2.1.1/24 dev {near}\n"))?;
    far.ip("link set eth0 up\naddr add 10.2.1.2/24 dev eth0\nroute add default via 10.2.1.1\n")
}

#[test]
fn the_exit_code_of_status_says_how_the_gateway_is() -> Result<()> {
    let run = two_backends()?;
    let mut steer = run.agent()?;
    let status = |steer: &Agent<'_>| {
        let output = run.lab.gateway().run(|| Ok(steer.command("status --json").output()?))?;
        let told = serde_json::from_slice::<Value>(&output.stdout).unwrap_or_default();
        anyhow::Ok((output.status.code(), told["health"].clone(), said(&output)))
    };
    let (code, health, _) = status(&steer)?;
    assert_eq!((code, health), (Some(0), json!({"state": "healthy", "because": []})));
    run.servers[1].stop()?;
    let why = format!("backend {} of VIP {} is down", run.backend_address(1), run.vip());
    let degraded = || {
        let (code, health, _) = status(&steer).ok()?;
        let told = health["because"].to_string().contains(&why);
        (code == Some(1) && health["state"] == "degraded" && told).then_some(())
    };
    eventually(TEN_SECONDS, degraded).with_context(|| format!("{:?}", status(&steer)))?;
    steer.end(Signal::SIGKILL)?;
    let (code, health, _) = status(&steer)?;
    assert_eq!((code, &health["state"]), (Some(2), &json!("down")), "{health}");
    assert!(health["because"].to_string().contains("no agent runs"), "{health}");
    steer.steer("detach")?;
    let (code, _, told) = status(&steer)?;
    assert!(code == Some(2) && told.contains("no gateway runs here"), "{code:?} {told}");
    Ok(())
}
