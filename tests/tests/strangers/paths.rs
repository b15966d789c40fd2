//! What is known of the path to one client is not what others are told.

use std::{net::SocketAddr, panic::resume_unwind, thread, time::Duration};

use anyhow::{Context, Result, ensure};
use steer_common::{counters::Counter, shared::FlowKey};
use steer_tests::{
    agent::{Agent, Hook},
    case::{Case, OWNER},
    frames::Tap,
    icmp_errors::{Teller, Trouble},
    setting::{Setting, in_settings},
    talk::Who,
    topology::{Family, Offloads, backend_side, mac},
};
use steer_user::{
    address::{address, endpoint},
    plane::{PinDir, Plane},
};

use crate::street::{Since, Street};

/// Clients whose MSS is looked at: every backend is the first of some.
const OTHERS: std::ops::Range<usize> = 0..12;
/// The one behind the narrow path.
const NARROW: usize = 40;

/// Any client can say so about its own connection, and honest ones behind tunnels do.
#[test]
fn one_clients_error_about_its_own_path_lowers_nobody_elses_mss() -> Result<()> {
    in_settings(280, |setting| {
        let street = Street::build(setting)?;
        let steer = street.agent()?;
        let (before, own_before) =
            (told(&street)?, street.dial(NARROW, street.vip())?.client_mss()?);
        let since = Since::now(&steer)?;
        tells_of_its_path(&street, &steer, 600)?;
        ensure!(since.of(Counter::IcmpTranslated)? == 1, "its server heard of it");
        let own = street.dial(NARROW, street.vip())?.client_mss()?;
        ensure!(own < own_before, "its own MSS is {own}, it was {own_before}");
        ensure!(
            told(&street)? == before,
            "others are told {:?}, it was {before:?}",
            told(&street)?
        );
        Ok(())
    })
}

/// The same where the server knew of the path beforehand, and after the agent has started again.
#[test]
fn a_servers_narrow_route_to_one_client_lowers_nobody_elses_mss() -> Result<()> {
    in_settings(281, |setting| {
        let street = Street::build(setting)?;
        for backend in 0..3 {
            narrow_route(&street, backend, NARROW)?;
        }
        let mut steer = street.agent()?;
        let before = told(&street)?;
        for _ in 0..3 {
            let own = street.dial(NARROW, street.vip())?.client_mss()?;
            ensure!(own < before[0], "its own MSS is {own}, others' {before:?}");
        }
        ensure!(
            told(&street)? == before,
            "others are told {:?}, it was {before:?}",
            told(&street)?
        );
        steer.end(nix::sys::signal::Signal::SIGTERM)?;
        steer.launch()?;
        ensure!(
            told(&street)? == before,
            "others are told {:?} after a restart, it was {before:?}",
            told(&street)?
        );
        Ok(())
    })
}

/// "BIG TCP": stacks that make packets of more than 64 KB, which say 0 for their length.
#[test]
fn packets_above_64_kib_are_carried_both_ways() -> Result<()> {
    const LARGE: usize = 65_536 + 14;
    let street =
        Street::build(Setting { hook: Hook::Tc, family: Family::V6, offloads: Offloads::On })?;
    let large = |interface: &str| format!("link set {interface} gso_max_size 150000\n");
    let lab = &street.lab;
    lab.gateway().ip(&lab
        .gateway_interfaces()
        .iter()
        .map(|name| large(name))
        .collect::<String>())?;
    let ends =
        std::iter::once(lab.client()).chain((0..lab.n_backends()).map(|index| lab.backend(index)));
    ends.into_iter().try_for_each(|ns| ns.ip(&large("eth0")))?;
    let steer = street.agent()?;
    let since = Since::now(&steer)?;
    let mut conversation = street.dial(1, street.vip())?;
    thread::scope(|scope| {
        // What leaves the gateway towards the client and towards any backend.
        let seen = lab.gateway_interfaces().into_iter().map(|interface| {
            scope.spawn(move || {
                let to_host = mac_of_host(&interface);
                let large = move |frame: &[u8]| frame.len() > LARGE && frame.starts_with(&to_host);
                Tap::open(lab.gateway(), &interface)?.await_frame(Duration::from_secs(10), large)
            })
        });
        let seen = seen.collect::<Vec<_>>();
        for _ in 0..20 {
            conversation.exchange(1 << 20)?;
        }
        let seen = seen
            .into_iter()
            .map(|seen| Ok(seen.join().unwrap_or_else(|panic| resume_unwind(panic))?.is_some()));
        let seen = seen.collect::<Result<Vec<_>>>()?;
        ensure!(
            seen[0] && seen[1..].contains(&true),
            "packets above 64 KiB, by interface: {seen:?}"
        );
        Ok(())
    })?;
    // Where a way gets narrower, their senders hear of it.
    let narrower = |interface: &String| format!("link set {interface} mtu 1400\n");
    lab.gateway().ip(&lab.gateway_interfaces().iter().map(narrower).collect::<String>())?;
    thread::sleep(Duration::from_secs(3));
    for _ in 0..3 {
        conversation.exchange(1 << 20)?;
    }
    let (answered, dropped) = (since.of(Counter::TooBig)?, since.of(Counter::TooBigDropped)?);
    ensure!(answered >= 2 && dropped == 0, "{answered} answered, {dropped} dropped");
    conversation.finish(Who::Client)?;
    ensure!(
        since.of(Counter::Malformed)? + since.of(Counter::MalformedDropped)? == 0,
        "all of them were read"
    );
    Ok(())
}

/// The station at the far end of one of the gateway's links: of the clients, or of a backend.
fn mac_of_host(interface: &str) -> [u8; 6] {
    let backend = interface.strip_prefix('b').and_then(|number| number.parse::<usize>().ok());
    mac(backend.map_or(0, |number| number + 1), 2)
}

/// What the owner knows of the path to a client is no limit of what the owner takes.
#[test]
fn a_client_behind_a_narrow_path_resumes_at_an_owner_that_knows_of_it() -> Result<()> {
    in_settings(282, |setting| {
        let run = setting.scenario().start()?;
        let case = Case::start(&run)?;
        let (length, via) = match run.family {
            Family::V4 => (32, "10.2.0.1"),
            Family::V6 => (128, "fd00:2::1"),
        };
        let source = case.dial.source;
        run.lab.backend(OWNER).ip(&format!("route add {source}/{length} via {via} mtu 1400\n"))?;
        case.moves(&case.dial)?;
        case.expect(&[(Counter::SpliceOpened, 1), (Counter::OwnerIncompatible, 0)])?;
        case.unharmed(1)
    })
}

/// What a client's router says of the next packet of its server, about a connection that is up.
fn tells_of_its_path(street: &Street, steer: &Agent<'_>, mtu: u32) -> Result<()> {
    // IPv6 has no path narrower than this.
    let mtu = if street.family == Family::V6 { 1280 } else { mtu };
    let mut conversation = street.dial(NARROW, street.vip())?;
    conversation.exchange(3000)?;
    let client = conversation.client_address()?;
    let next = server_next(street, steer, client)?;
    let teller = Teller::open(street.lab.client(), client.ip(), street.vip().ip())?;
    teller.tell(Trouble::TooBig(mtu), (street.vip(), client), next)?;
    std::thread::sleep(std::time::Duration::from_millis(200));
    conversation.exchange(3000)?;
    conversation.finish(Who::Client)
}

/// The next sequence number of a flow's server, as steer knows it.
fn server_next(street: &Street, steer: &Agent<'_>, client: SocketAddr) -> Result<u32> {
    let plane = Plane::open(&PinDir::new(steer.pin_dir()))?;
    let vip = plane.vip(&endpoint(street.vip()))?.context("no VIP")?;
    let key = FlowKey::of_vip(address(client.ip()), client.port().to_be_bytes(), vip.id);
    Ok(plane.flow(&key)?.with_context(|| format!("no flow of {client}"))?.server_next)
}

/// What each of the other clients is told on a new connection.
fn told(street: &Street) -> Result<Vec<u32>> {
    OTHERS.map(|client| street.dial(client, street.vip())?.client_mss()).collect()
}

/// A backend's route to one client takes less than all others.
fn narrow_route(street: &Street, backend: usize, client: usize) -> Result<()> {
    let (length, via) = match street.family {
        Family::V4 => (32, format!("10.2.{backend}.1")),
        Family::V6 => (128, format!("fd00:2:{backend}::1")),
    };
    let mtu = if street.family == Family::V4 { 600 } else { 1280 };
    let to = street.client(client);
    let added =
        street.lab.backend(backend).ip(&format!("route add {to}/{length} via {via} mtu {mtu}\n"));
    added.with_context(|| format!("behind {}", backend_side(backend)))
}
