//! Bridges: what a start is refused for, and that the ports of one are looked at while they forward.

use std::{
    collections::BTreeMap,
    fs,
    path::PathBuf,
    process::{Command, Output},
    sync::atomic::{AtomicU32, Ordering},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use serde_json::Value;
use steer_common::shared::{BACKEND_BRIDGED, BACKEND_DIALLED, INTERFACE_INSIDE, INTERFACE_OUTSIDE};
use steer_tests::{
    netns::NetNs,
    process::{Server, eventually},
};
use steer_user::plane::{PinDir, Plane};
use tempfile::TempDir;

use crate::{TEN_SECONDS, binary, said};

/// How long it may take until a port is looked at no more, or again.
const A_SECOND: Duration = Duration::from_secs(1);

/// A machine with a bridge `br0` of the ports `p0` and `p1`, whose other ends are up.
struct Machine {
    ns: NetNs,
    directory: TempDir,
    pin_dir: PathBuf,
    agent: Option<Server>,
}

impl Machine {
    fn build() -> Result<Self> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let ns = NetNs::create()?;
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let pin_dir =
            PathBuf::from(format!("/sys/fs/bpf/steer-bridge-{}-{number}", std::process::id()));
        ns.ip("link add br0 type bridge\nlink set br0 up\n")?;
        let machine = Self { ns, directory: TempDir::new()?, pin_dir, agent: None };
        for port in ["p0", "p1"] {
            machine.port(port)?;
        }
        // Linux has it on in every new network namespace, where it is built in.
        machine.filter("iptables", "0")?;
        Ok(machine)
    }

    fn port(&self, port: &str) -> Result<()> {
        self.ns.ip(&format!(
            "link add {port} type veth peer name {port}w\nlink set {port} master br0 up\nlink set {port}w up\n"
        ))
    }

    /// Has the packet filter called for packets at bridges, or not, where there is such a setting.
    fn filter(&self, family: &str, value: &str) -> Result<bool> {
        let path = format!("bridge/bridge-nf-call-{family}");
        let is_there = self.ns.run(|| Ok(fs::exists(format!("/proc/sys/net/{path}"))?))?;
        if is_there {
            self.ns.sysctl(&path, value)?;
        }
        Ok(is_there)
    }

    fn file(&self, lines: &str) -> Result<PathBuf> {
        let file = self.directory.path().join("steer.toml");
        let (pins, socket) = (&self.pin_dir, self.directory.path().join("steer.sock"));
        let text = format!(
            "pin_dir = {pins:?}\nsocket = {socket:?}\n[[bridge]]\nname = \"br0\"\noutside = [\"p0\"]\n\
             inside = [\"p1\"]\nvlans = [0, 33]\n{lines}\n[[pool]]\nname = \"web\"\nshape = \"bridge\"\n\
             [[pool.backend]]\naddress = \"10.0.0.11:443\"\nvlan = 33\n[[pool.backend]]\n\
             address = \"10.0.0.12:443\"\n"
        );
        fs::write(&file, text)?;
        Ok(file)
    }

    fn run(&self, arguments: &[&str]) -> Result<Output> {
        let mut command = Command::new(binary()?);
        command.args(arguments).arg("--pin-dir").arg(&self.pin_dir);
        self.ns.run(|| Ok(command.output()?))
    }

    /// What `steer config check` says beside the result.
    fn check(&self, lines: &str) -> Result<String> {
        let file = self.file(lines)?;
        let output = self.run(&["config", "check", &file.to_string_lossy()])?;
        ensure!(output.status.success(), "{}", said(&output));
        Ok(said(&output))
    }

    fn start(&mut self, lines: &str) -> Result<()> {
        let mut command = Command::new(binary()?);
        command.arg("agent").arg("--config").arg(self.file(lines)?);
        self.agent = Some(self.ns.spawn(command)?);
        let runs = || self.status().ok()?["agent"]["pid"].as_u64();
        eventually(TEN_SECONDS * 3, runs).context("the agent does not start")?;
        Ok(())
    }

    fn status(&self) -> Result<Value> {
        let output = self.run(&["--json", "status"])?;
        serde_json::from_slice(&output.stdout).with_context(|| said(&output))
    }

    fn plane(&self) -> Result<Plane> {
        Plane::open(&PinDir::new(&self.pin_dir))
    }

    /// The bits of every interface that is a port which is looked at, by name.
    fn bits(&self) -> Result<BTreeMap<String, u32>> {
        let side = INTERFACE_OUTSIDE | INTERFACE_INSIDE;
        let bits = self.plane()?.interfaces.entries()?;
        self.ns.run(|| {
            let name = |index: u32| {
                nix::net::if_::if_nameindex()
                    .ok()?
                    .iter()
                    .find(|interface| interface.index() == index)
                    .map(|interface| interface.name().to_string_lossy().into_owned())
            };
            let ports = bits.into_iter().filter(|(_, bits)| bits & side != 0);
            Ok(ports.map(|(index, bits)| (name(index).unwrap_or_default(), bits)).collect())
        })
    }

    /// Waits until these ports are looked at, and no others; how long that took.
    #[track_caller]
    fn looks_at(&self, ports: &[&str]) {
        let wanted = ports.iter().map(|&port| {
            (port.to_owned(), if port == "p0" { INTERFACE_OUTSIDE } else { INTERFACE_INSIDE })
        });
        let wanted = wanted.collect::<BTreeMap<_, _>>();
        let began = Instant::now();
        let mut last = None;
        let done = eventually(TEN_SECONDS, || {
            last = self.bits().ok();
            (last.as_ref() == Some(&wanted)).then_some(())
        });
        assert!(done.is_some(), "{last:?}; expected {wanted:?}");
        assert!(began.elapsed() < A_SECOND, "it took {:?}", began.elapsed());
    }

    fn ip(&self, line: &str) -> Result<()> {
        self.ns.ip(&format!("{line}\n"))
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = self.run(&["detach"]);
        if let Some(mut agent) = self.agent.take() {
            let _ = agent.end(Signal::SIGKILL);
        }
    }
}

#[test]
fn config_check_and_a_start_say_what_is_wrong_with_a_bridge() -> Result<()> {
    let machine = Machine::build()?;
    let refused = "warning: here a start would be refused: ";
    let good = machine.check("")?;
    assert!(!good.contains("warning"), "{good}");
    assert!(
        good.contains("pool web: the network needs nothing") && good.contains("0x400c"),
        "{good}"
    );
    for (wrong, right, told) in [
        (
            "link set br0 type bridge stp_state 1",
            "link set br0 type bridge stp_state 0",
            "STP is on at br0",
        ),
        ("link set p1 nomaster", "link set p1 master br0", "bridge br0: p1 is no port of br0"),
        (
            "link set p1 mtu 1400",
            "link set p1 mtu 1500",
            "the ports of br0 have several MTUs (p0 1500, p1 1400)",
        ),
        ("link set p1 name p7", "link set p7 name p1", "bridge br0: there is no interface p1"),
        ("link set br0 name br7", "link set br7 name br0", "there is no bridge br0"),
    ] {
        machine.ip(wrong)?;
        let said = machine.check("")?;
        assert!(said.contains(&format!("{refused}{told}")), "{wrong}: {said}");
        let file = machine.file("")?;
        let started = machine.run(&["agent", "--config", &file.to_string_lossy()])?;
        let told_all = String::from_utf8_lossy(&started.stderr).into_owned();
        assert!(started.status.code() == Some(1) && told_all.contains(told), "{wrong}: {told_all}");
        assert!(!machine.pin_dir.exists(), "{wrong}: nothing is left");
        machine.ip(right)?;
        machine.ip("link set p1 up")?;
    }
    machine.ip("link set br0 type bridge stp_state 1")?;
    assert!(!machine.check("stp = \"watched\"")?.contains("refused"));
    machine.ip("link set br0 type bridge stp_state 0")?;
    if machine.filter("iptables", "1")? {
        let said = machine.check("")?;
        assert!(said.contains("warning: bridge-nf-call-iptables is on"), "{said}");
    }
    Ok(())
}

#[test]
fn ports_are_looked_at_while_they_forward() -> Result<()> {
    let mut machine = Machine::build()?;
    machine.start("")?;
    machine.looks_at(&["p0", "p1"]);
    machine.ip("link set p1 nomaster")?;
    machine.looks_at(&["p0"]);
    machine.ip("link set p1 master br0")?;
    machine.looks_at(&["p0", "p1"]);
    machine.ip("link set p1 down")?;
    machine.looks_at(&["p0"]);
    machine.ip("link set p1 up")?;
    machine.looks_at(&["p0", "p1"]);
    // The other end loses its carrier, and so the port its state.
    machine.ip("link set p0w down")?;
    machine.looks_at(&["p1"]);
    machine.ip("link set p0w up")?;
    machine.looks_at(&["p0", "p1"]);
    machine.ip("link del p1")?;
    machine.looks_at(&["p0"]);
    machine.port("p1")?;
    machine.looks_at(&["p0", "p1"]);
    machine.ip("link set br0 type bridge stp_state 1")?;
    machine.looks_at(&[]);
    let status = machine.status()?;
    assert_eq!(status["bridges"][0]["ports"][0]["state"], "unfit");
    assert!(status["warnings"].to_string().contains("STP is on at br0"), "{status}");
    machine.ip("link set br0 type bridge stp_state 0")?;
    machine.looks_at(&["p0", "p1"]);
    machine.ip("link del br0")?;
    machine.looks_at(&[]);
    machine.ip("link add br0 type bridge")?;
    machine.ip("link set br0 up")?;
    machine.ip("link set p0 master br0")?;
    machine.looks_at(&["p0"]);
    machine.ip("link set p1 master br0")?;
    machine.looks_at(&["p0", "p1"]);
    let attached = || {
        let status = machine.status().ok()?;
        let all = status["interfaces"]
            .as_array()?
            .iter()
            .all(|port| port["tc"] == true && port["xdp"] == false);
        (all && !status["warnings"].to_string().contains("not attached")).then_some(())
    };
    eventually(TEN_SECONDS, attached).context("the new port gets its program")?;
    Ok(())
}

#[test]
fn what_a_bridge_is_to_the_programs_stands_in_the_maps() -> Result<()> {
    let mut machine = Machine::build()?;
    machine.start("")?;
    machine.looks_at(&["p0", "p1"]);
    let plane = machine.plane()?;
    let vlans = plane.vlans()?;
    assert_eq!((vlans[0], vlans[1]), (1, 2));
    assert_eq!(vlans.iter().map(|word| word.count_ones()).sum::<u32>(), 2);
    let backends = plane
        .backends()?
        .into_iter()
        .map(|(_, backend)| (backend.vlan, backend.flags & (BACKEND_DIALLED | BACKEND_BRIDGED)));
    let both = BACKEND_DIALLED | BACKEND_BRIDGED;
    assert_eq!(backends.collect::<Vec<_>>(), [(33, both), (0, both)]);
    let status = machine.status()?;
    let port = |name: &str, side: &str| serde_json::json!({"name": name, "side": side, "state": "forwarding", "looked_at": true});
    assert_eq!(
        status["bridges"][0]["ports"],
        serde_json::json!([port("p0", "outside"), port("p1", "inside")])
    );
    assert_eq!(status["unseen"].as_array().map(Vec::len), Some(2), "{status}");
    assert_eq!(status["warnings"], serde_json::json!([]), "nothing is routed here");
    let detached = machine.run(&["detach"])?;
    assert!(detached.status.success() && !machine.pin_dir.exists(), "{}", said(&detached));
    Ok(())
}
