//! Settings of the machine are looked at for as long as the agent runs.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use steer_tests::{
    agent::{Agent, Hook},
    process::eventually,
    scenario::Scenario,
    topology::Family,
};

use crate::{METRICS, calm, logged, metered, metrics, warned};

fn two_backends() -> Scenario {
    let mut scenario = Scenario::new(Hook::Tc, Family::V4).backends(2);
    scenario.steer.top.push(format!("metrics = \"{METRICS}\""));
    scenario
}

#[test]
fn settings_that_change_under_a_running_agent_are_named_and_forgotten_when_they_are_right_again()
-> Result<()> {
    let run = two_backends().start()?;
    let steer = run.agent()?;
    let gateway = run.lab.gateway();
    for (sysctl, wrong, right, words, kind) in [
        ("ipv4/conf/b0/forwarding", "0", "1", "net.ipv4.conf.b0.forwarding is 0", "forwarding"),
        (
            "ipv6/conf/clients/forwarding",
            "0",
            "1",
            "net.ipv6.conf.clients.forwarding is 0",
            "forwarding",
        ),
        ("ipv4/conf/clients/rp_filter", "1", "0", "rp_filter is strict on clients", "reverse-path"),
    ] {
        calm(&steer, words)?;
        gateway.sysctl(sysctl, wrong)?;
        warned(&steer, words)?;
        logged(&steer, words)?;
        metered(&run, kind, 1)?;
        gateway.sysctl(sysctl, right)?;
        metered(&run, kind, 0)?;
        calm(&steer, words)?;
    }
    Ok(())
}

#[test]
fn ipsec_policies_that_cover_backends_are_named() -> Result<()> {
    let run = two_backends().start()?;
    let steer = run.agent()?;
    let gateway = run.lab.gateway();
    gateway.ip("xfrm policy add src 10.64.0.0/24 dst 10.9.0.0/24 dir fwd action block\n")?;
    metered(&run, "ipsec", 0)?;
    gateway.ip("xfrm policy add src 10.64.0.0/24 dst 10.2.0.0/16 dir fwd action block\n")?;
    metered(&run, "ipsec", 1)?;
    warned(&steer, "(fwd, 10.64.0.0/24 to 10.2.0.0/16, block)")?;
    gateway.ip("xfrm policy flush\n")?;
    metered(&run, "ipsec", 0)
}

#[test]
fn an_interface_without_ethernet_header_is_refused_by_name() -> Result<()> {
    let run = two_backends().start()?;
    run.lab.gateway().ip("tuntap add mode tun name tun0\nlink set tun0 up\n")?;
    let steer = Agent::prepare(&run.lab, &run.steer)?;
    let text = std::fs::read_to_string(steer.config_path())?;
    std::fs::write(steer.config_path(), text.replace("name = \"clients\"", "name = \"tun0\""))?;
    ensure!(!steer.launch_to_end(&[], &[])?.success());
    ensure!(steer.log().contains("tun0 carries no Ethernet header"), "{}", steer.log());
    Ok(())
}

#[test]
fn metrics_tell_capacities_switches_and_the_build() -> Result<()> {
    let run = two_backends().size("splices = 77").start()?;
    let steer = run.agent()?;
    let text = metrics(&run)?;
    for line in
        ["steer_table_max_entries{table=\"splices\"} 77\n", "steer_bypass 0\n", "steer_leave 0\n"]
    {
        ensure!(text.contains(line), "{line} in {text}");
    }
    ensure!(
        text.contains("steer_build_info{version=\"")
            && text.contains("steer_agent_start_time_seconds 1"),
        "{text}"
    );
    steer.steer("bypass on")?;
    ensure!(metrics(&run)?.contains("steer_bypass 1\n"));
    Ok(())
}

/// Interfaces that a start takes or refuses, and `config check` with it, in the same words.
#[test]
fn config_check_says_of_every_interface_what_a_start_says() -> Result<()> {
    const NO_XDP: &str = "in its driver";
    let run = two_backends().start()?;
    let gateway = run.lab.gateway();
    gateway.ip("tuntap add mode tun name tun0\nlink add br0 type bridge\nlink add v0 type veth peer name v1\n")?;
    for (name, hook, refused) in [
        ("tun0", "tc", Some("tun0 carries no Ethernet header")),
        ("lo", "xdp", Some(NO_XDP)),
        ("br0", "xdp", Some(NO_XDP)),
        ("br0", "auto", None),
        ("lo", "tc", None),
        ("v0", "xdp", None),
    ] {
        let mut settings = run.steer.clone();
        settings.top.push(format!("[[interface]]\nname = \"{name}\"\nhook = \"{hook}\""));
        let mut steer = Agent::prepare(&run.lab, &settings)?;
        let mut check = steer.command("config check");
        let checked = gateway.run(|| Ok(check.arg(steer.config_path()).output()?))?;
        let told = String::from_utf8_lossy(&checked.stderr).into_owned();
        ensure!(checked.status.success(), "{name}, {hook}: {told}");
        match refused {
            Some(why) => {
                ensure!(
                    !steer.launch_to_end(&[], &[])?.success(),
                    "{name}, {hook}: {}",
                    steer.log()
                );
                let warned = told
                    .lines()
                    .find(|line| line.contains("warning: here a start would be refused: "));
                let warned = warned.is_some_and(|line| line.contains(name) && line.contains(why));
                ensure!(
                    warned && steer.log().contains(why),
                    "{name}, {hook}: {told}{}",
                    steer.log()
                );
            }
            None => {
                ensure!(!told.contains("refused"), "{name}, {hook}: {told}");
                steer.launch_timed().map_err(|error| error.context(format!("{name}, {hook}")))?;
            }
        }
    }
    Ok(())
}

/// A server on the gateway itself answers health checks, and no client's packet is ever forwarded
/// to it.
#[test]
fn a_backend_at_the_gateways_own_address_is_warned_of_and_counts_as_down() -> Result<()> {
    let run = two_backends().start()?;
    let _server = run.lab.gateway().run(|| Ok(std::net::TcpListener::bind("10.2.0.1:8443")?))?;
    let mut settings = run.steer.clone();
    let vip = "[[vip]]\naddress = \"192.0.2.50:443\"\n[[vip.backend]]\naddress = \"10.2.0.1:8443\"";
    let assigned = "[[vip]]\naddress = \"192.0.2.51:443\"\nassign = true\n[[vip.backend]]\naddress = \"192.0.2.51:8443\"";
    settings.top.extend([vip.to_owned(), assigned.to_owned()]);
    let mut steer = Agent::prepare(&run.lab, &settings)?;
    let mut check = steer.command("config check");
    let checked = run.lab.gateway().run(|| Ok(check.arg(steer.config_path()).output()?))?;
    let told = String::from_utf8_lossy(&checked.stderr).into_owned();
    steer.launch_timed()?;
    for own in ["10.2.0.1:8443", "192.0.2.51:8443"] {
        let words = format!("backend {own}: this machine has the address itself");
        ensure!(checked.status.success() && told.contains(&format!("warning: {words}")), "{told}");
        ensure!(steer.log().contains(&words), "{}", steer.log());
    }
    ensure!(told.matches("has the address itself").count() == 2, "{told}");
    logged(&steer, "backend 10.2.0.1:8443 is down (this machine has the address itself")
}

#[test]
fn metrics_tell_the_states_of_backends_and_what_they_hold() -> Result<()> {
    let run = two_backends().start()?;
    let steer = run.agent()?;
    let address = run.backend_address(0);
    steer.steer(&format!("backends disable {address}"))?;
    let counted = || steer.backend(address).ok().filter(|backend| backend["open_flows"] == 0);
    eventually(Duration::from_secs(20), counted).context("nothing is counted")?;
    let text = metrics(&run)?;
    let of = format!("{{backend=\"{address}\",vip=\"{}\"", run.vip());
    for (family, more, value) in [
        ("state", ",state=\"disabled\"", 1),
        ("state", ",state=\"up\"", 0),
        ("open_flows", "", 0),
        ("sessions", "", 0),
        ("key_names", "", 0),
    ] {
        let line = format!("steer_backend_{family}{of}{more}}} {value}\n");
        ensure!(text.contains(&line), "no {line} in {text}");
    }
    Ok(())
}
