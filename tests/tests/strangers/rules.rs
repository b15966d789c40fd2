//! Connections that the kernel's own rules carry, or a program on the gateway: what was there
//! before the cut-over.

use std::{
    net::{IpAddr, SocketAddr},
    thread,
    time::Duration,
};

use anyhow::{Result, ensure};
use nix::sys::signal::Signal;
use steer_common::counters::Counter;
use steer_tests::{
    agent::Agent,
    l4::PlainL4,
    setting::in_settings,
    talk::{Crowd, Who},
    topology::{Family, PORT},
};

use crate::street::{CROWD, Since, Street, nothing_was_guessed};

#[test]
fn conversations_that_rules_carry_to_the_same_vip_go_on_after_the_cut_over() -> Result<()> {
    in_settings(220, |setting| {
        let street = Street::build(setting)?;
        let _rules = PlainL4::start(&street.lab)?;
        let older = street.to_vip(0..CROWD)?;
        older.goes_on();
        let steer = street.agent()?;
        older.goes_on();
        let younger = are_steers(&street, &steer)?;
        older.goes_on();
        older.end()?;
        younger.end()?;
        nothing_was_guessed(&steer)
    })
}

#[test]
fn conversations_that_rules_carry_go_on_whatever_becomes_of_the_agent() -> Result<()> {
    in_settings(221, |setting| {
        let street = Street::build(setting)?;
        let _rules = PlainL4::start(&street.lab)?;
        let older = street.to_vip(0..CROWD)?;
        let mut steer = street.agent()?;
        older.goes_on();
        for signal in [Signal::SIGTERM, Signal::SIGKILL] {
            steer.end(signal)?;
            older.goes_on();
            steer.launch()?;
            older.goes_on();
        }
        nothing_was_guessed(&steer)?;
        steer.steer("detach")?;
        older.goes_on();
        let back = street.to_vip(0..CROWD)?;
        back.goes_on();
        older.end()?;
        back.end()
    })
}

/// Back to the rules without a loss: what is steer's ends in peace, what is new is the rules' own,
/// and what they took meanwhile stays theirs where steer is to have new ones again.
#[test]
fn a_gateway_that_is_left_keeps_its_conversations_until_they_end() -> Result<()> {
    in_settings(226, |setting| {
        let street = Street::build(setting)?;
        let _rules = PlainL4::start(&street.lab)?;
        let steer = street.agent()?;
        let own = are_steers(&street, &steer)?;
        steer.steer("leave on")?;
        ensure!(steer.json("status")?["leave"] == true, "status does not tell");
        let since = Since::now(&steer)?;
        let of_rules = street.to_vip(0..CROWD / 2)?;
        own.goes_on();
        of_rules.goes_on();
        ensure!(
            since.of(Counter::Syn)? == 0 && since.of(Counter::Left)? > 0,
            "new ones pass to the rules"
        );

        steer.steer("leave off")?;
        let again = street.dials(CROWD / 2..CROWD, |_| street.vip())?;
        ensure!(since.of(Counter::Syn)? >= (CROWD / 2) as u64, "new ones are steer's again");
        of_rules.goes_on();
        Crowd::of(again).end()?;

        thread::scope(|scope| {
            let detach = scope.spawn(|| steer.steer("detach --wait 1m"));
            thread::sleep(Duration::from_secs(3));
            ensure!(!detach.is_finished(), "it did not wait");
            own.goes_on();
            own.end()?;
            let said = detach.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
            ensure!(said.contains("removed the state"), "{said}");
            of_rules.goes_on();
            of_rules.end()
        })
    })
}

#[test]
fn a_detach_that_waits_in_vain_removes_nothing() -> Result<()> {
    in_settings(227, |setting| {
        let street = Street::build(setting)?;
        let steer = street.agent()?;
        let own = are_steers(&street, &steer)?;
        let said = steer.steer("detach --wait 2s").unwrap_or_else(|error| format!("{error:#}"));
        ensure!(said.contains("still open after 2s: nothing was removed"), "{said}");
        own.goes_on();
        own.end()
    })
}

/// The first packet that steer sees of such a connection is its server's, or its client's.
#[test]
fn silent_conversations_that_rules_carry_go_on_after_the_cut_over() -> Result<()> {
    in_settings(222, |setting| {
        let street = Street::build(setting)?;
        let _rules = PlainL4::start(&street.lab)?;
        let mut silent = street.dials(0..CROWD, |_| street.vip())?;
        let steer = street.agent()?;
        for (number, conversation) in silent.iter_mut().enumerate() {
            let first = if number % 2 == 0 { Who::Server } else { Who::Client };
            conversation.say(first, 50_000)?;
            conversation.exchange(50_000)?;
        }
        nothing_was_guessed(&steer)?;
        silent.into_iter().try_for_each(|conversation| conversation.finish(Who::Server))
    })
}

#[test]
fn an_agent_that_only_observes_leaves_older_conversations_to_the_rules() -> Result<()> {
    in_settings(223, |setting| {
        let street = Street::build(setting)?.vip_setting("mode = \"observe\"");
        let _rules = PlainL4::start(&street.lab)?;
        let older = street.to_vip(0..CROWD)?;
        let steer = street.agent()?;
        older.goes_on();
        nothing_was_guessed(&steer)?;
        older.end()
    })
}

/// Another VIP over the same servers and ports, which steer knows nothing of.
#[test]
fn conversations_of_another_vip_over_the_same_servers_are_the_rules_own() -> Result<()> {
    in_settings(224, |setting| {
        let street = Street::build(setting)?;
        let other = other_vip(&street)?;
        let older = Crowd::of(street.dials(0..CROWD / 2, |_| other)?);
        let mut steer = street.agent()?;
        let younger = Crowd::of(street.dials(CROWD / 2..CROWD, |_| other)?);
        let own = street.to_vip(0..CROWD)?;
        for crowd in [&older, &younger, &own] {
            crowd.goes_on();
        }
        steer.end(Signal::SIGKILL)?;
        steer.launch()?;
        older.goes_on();
        nothing_was_guessed(&steer)?;
        let since = Since::now(&steer)?;
        own.end()?;
        ensure!(since.of(Counter::FromClient)? > 0, "the VIP's own are steer's");
        for crowd in [older, younger] {
            crowd.goes_on();
            crowd.end()?;
        }
        Ok(())
    })
}

/// A proxy on the gateway took the VIP's connections before: it has the address, and dials backends
/// itself.
#[test]
fn conversations_of_a_program_at_the_vips_own_address_go_on_after_the_cut_over() -> Result<()> {
    const PROXY: usize = 99;
    in_settings(225, |setting| {
        let street = Street::build(setting)?;
        let gateway = street.lab.gateway();
        let length = if street.family == Family::V4 { 32 } else { 128 };
        gateway.ip(&format!("addr add {}/{length} dev lo nodad\n", street.vip().ip()))?;
        street.peers.listen(gateway, street.vip(), PROXY)?;
        let older = street.dials(0..CROWD, |_| street.vip())?;
        ensure!(
            older.iter().all(|conversation| conversation.server_name == PROXY),
            "the proxy has them"
        );
        let older = Crowd::of(older);
        let steer = street.agent()?;
        older.goes_on();
        let younger = are_steers(&street, &steer)?;
        older.end()?;
        younger.end()?;
        nothing_was_guessed(&steer)
    })
}

/// Begins new conversations, and expects them to be flows of steer's.
fn are_steers(street: &Street, steer: &Agent<'_>) -> Result<Crowd> {
    let since = Since::now(steer)?;
    let conversations = street.dials(CROWD..2 * CROWD, |_| street.vip())?;
    let n_backends = street.lab.n_backends();
    ensure!(
        conversations.iter().all(|conversation| conversation.server_name < n_backends),
        "a backend has each"
    );
    ensure!(
        since.of(Counter::FlowEstablished)? == CROWD as u64,
        "{} flows",
        since.of(Counter::FlowEstablished)?
    );
    let crowd = Crowd::of(conversations);
    crowd.goes_on();
    Ok(crowd)
}

/// Sends the connections of an address that is not configured to the backends by rules of nftables.
fn other_vip(street: &Street) -> Result<SocketAddr> {
    let (ip, address) = match street.vip().ip() {
        IpAddr::V4(_) => ("ip", "198.51.100.20".to_owned()),
        IpAddr::V6(_) => ("ip6", "2001:db8:100::20".to_owned()),
    };
    let backends: Vec<_> = (0..street.lab.n_backends())
        .map(|index| format!("{index} : {}", street.backend(index).ip()))
        .collect();
    street.lab.gateway().nft(&format!(
        "table {ip} other_vip {{\n chain balance {{\n  type nat hook prerouting priority dstnat\n  {ip} daddr {address} \
         tcp dport {PORT} dnat to jhash {ip} saddr mod {} map {{ {} }}\n }}\n}}\n",
        backends.len(),
        backends.join(", ")
    ))?;
    Ok(SocketAddr::new(address.parse()?, PORT))
}
