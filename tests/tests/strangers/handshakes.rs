//! SYNs that come to nothing: clients hear of it at once, and what comes next does not.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use steer_common::{
    counters::Counter,
    shared::{FLOW_CLOSED, FLOW_RESET, FlowKey},
};
use steer_tests::{
    agent::Agent,
    flood::{LINUX, at_clients, from_clients},
    frames::Tap,
    icmp_errors::{Teller, Trouble},
    packets::Segment,
    setting::{Setting, in_settings},
    topology::{Family, PORT},
};
use steer_user::{
    address::{address, endpoint},
    plane::{PinDir, Plane},
};

use crate::street::{Since, Street, nothing_was_guessed};

/// Well before a client would repeat its SYN.
const AT_ONCE: Duration = Duration::from_millis(500);
const PATIENCE: Duration = Duration::from_secs(5);
const ISN: u32 = 0x1000_0000;

#[test]
fn a_refused_client_hears_of_it_at_once_and_is_served_when_its_server_is_back() -> Result<()> {
    in_settings(270, |setting| {
        let street = one_server(setting)?;
        let steer = street.agent()?;
        let source = SocketAddr::new(street.client(3), 5005);
        street.peers.close(0);
        fails_at_once(&street, source, "refused")?;
        street.peers.listen(street.lab.backend(0), street.backend(0), 0)?;
        let mut conversation = street.dial_from(source, street.vip())?;
        conversation.exchange(40_000)?;
        is_open(&street, &steer, source)?;
        conversation.finish(steer_tests::talk::Who::Client)
    })
}

/// As Windows repeats a SYN that was refused, and as any stack does where the reset was lost.
#[test]
fn a_syn_that_is_repeated_after_it_was_refused_begins_a_live_flow() -> Result<()> {
    in_settings(271, |setting| {
        let street = one_server(setting.finished())?;
        let steer = street.agent()?;
        let client = SocketAddr::new(address_of_nobody(&street)?, 5006);
        let tap = at_clients(&street.lab)?;
        let syn = from_clients(&Segment::new(client, street.vip(), ISN).syn().options(&LINUX))?;
        street.peers.close(0);
        tap.send(&syn)?;
        tap.await_frame(PATIENCE, |frame| {
            tcp(frame).is_some_and(|tcp| tcp.rst && tcp.destination == client.port())
        })?
        .context("the SYN is not refused")?;
        street.peers.listen(street.lab.backend(0), street.backend(0), 0)?;
        tap.send(&syn)?;
        let server_isn = syn_ack(&tap, client)?;
        let ack = Segment::new(client, street.vip(), ISN + 1).ack(server_isn.wrapping_add(1));
        tap.send(&from_clients(&ack.payload(&0u64.to_be_bytes()))?)?;
        std::thread::sleep(Duration::from_millis(100));
        is_open(&street, &steer, client)
    })
}

#[test]
fn a_client_whose_syn_is_rejected_by_icmp_hears_of_it_at_once() -> Result<()> {
    in_settings(272, |setting| {
        let street = one_server(setting)?;
        let steer = street.agent()?;
        let words = match street.family {
            Family::V4 => [
                "icmp type port-unreachable",
                "icmp type admin-prohibited",
                "icmp type host-unreachable",
            ],
            Family::V6 => [
                "icmpv6 type port-unreachable",
                "icmpv6 type admin-prohibited",
                "icmpv6 type addr-unreachable",
            ],
        };
        for (number, with) in words.into_iter().enumerate() {
            rejects(&street, with)?;
            let client = SocketAddr::new(street.client(number), 0);
            let plain = fails(&street, client, street.backend(0))?.0;
            let since = Since::now(&steer)?;
            let (time, error) = fails(&street, client, street.vip())?;
            ensure!(
                time < plain + AT_ONCE,
                "{with}: after {time:?}, without steer after {plain:?}: {error}"
            );
            let n_syns = since.of(Counter::Syn)? + since.of(Counter::SynRepeated)?;
            ensure!(
                since.of(Counter::IcmpTranslated)? == n_syns,
                "{with}: of {n_syns} errors not all were translated"
            );
        }
        nothing_was_guessed(&steer)
    })
}

#[test]
fn a_client_whose_syn_is_rejected_by_a_reset_hears_of_it_at_once() -> Result<()> {
    in_settings(273, |setting| {
        let street = one_server(setting)?;
        let _steer = street.agent()?;
        rejects(&street, "tcp reset")?;
        fails_at_once(&street, (street.client(1), 0).into(), "refused")
    })
}

/// The other way: a router on the clients' side cannot deliver a SYN-ACK.
#[test]
fn a_server_hears_that_its_syn_ack_cannot_be_delivered() -> Result<()> {
    in_settings(274, |setting| {
        let street = one_server(setting.finished())?;
        let steer = street.agent()?;
        let client = SocketAddr::new(address_of_nobody(&street)?, 5007);
        let tap = at_clients(&street.lab)?;
        tap.send(&from_clients(&Segment::new(client, street.vip(), ISN).syn().options(&LINUX))?)?;
        let server_isn = syn_ack(&tap, client)?;
        let heard = Tap::open(street.lab.backend(0), "eth0")?;
        let since = Since::now(&steer)?;
        let teller = Teller::open(street.lab.client(), street.client(1), street.vip().ip())?;
        teller.tell(Trouble::Unreachable(1), (street.vip(), client), server_isn)?;
        let is_error =
            |frame: &[u8]| is_icmp_error(frame, street.family) && quotes(frame, street.backend(0));
        heard.await_frame(PATIENCE, is_error)?.context("the server hears nothing")?;
        ensure!(since.of(Counter::IcmpTranslated)? == 1, "one error was translated");
        Ok(())
    })
}

/// One backend, which counts as up whatever it does.
fn one_server(setting: Setting) -> Result<Street> {
    Ok(Street::with_backends(setting, 1)?.without_health_checks())
}

fn fails_at_once(street: &Street, source: SocketAddr, with: &str) -> Result<()> {
    let (time, error) = fails(street, source, street.vip())?;
    ensure!(time < AT_ONCE, "after {time:?}: {error}");
    ensure!(error.contains(with), "{error}");
    Ok(())
}

/// How long it takes until a client knows that it is not served, and how it hears of it. IPv6
/// sockets of Linux overlook an error that comes before `connect` has let go of them: in a lab
/// without delays they hear of it at the next SYN.
fn fails(street: &Street, source: SocketAddr, target: SocketAddr) -> Result<(Duration, String)> {
    let start = Instant::now();
    match street.dial_from(source, target) {
        Ok(_) => anyhow::bail!("the client is served by {target}"),
        Err(error) => Ok((start.elapsed(), format!("{error:#}"))),
    }
}

/// The backend rejects what comes to its port.
fn rejects(street: &Street, with: &str) -> Result<()> {
    street.lab.backend(0).nft(&format!(
        "table inet rejects\nflush table inet rejects\ntable inet rejects {{\n chain input {{\n  type filter hook input \
         priority filter\n  tcp dport {PORT} reject with {with}\n }}\n}}\n"
    ))
}

/// Expects a client's flow to be known, and nobody to take it for closed.
fn is_open(street: &Street, steer: &Agent<'_>, client: SocketAddr) -> Result<()> {
    let plane = Plane::open(&PinDir::new(steer.pin_dir()))?;
    let vip = plane.vip(&endpoint(street.vip()))?.context("no VIP")?;
    let key = FlowKey::of_vip(address(client.ip()), client.port().to_be_bytes(), vip.id);
    let flow = plane.flow(&key)?.with_context(|| format!("no flow of {client}"))?;
    ensure!(
        flow.flags & (FLOW_RESET | FLOW_CLOSED) == 0,
        "{client} is taken for closed: {:#x}",
        flow.flags
    );
    Ok(())
}

/// An address on the clients' side that no host has: nobody resets what is opened from there.
fn address_of_nobody(street: &Street) -> Result<std::net::IpAddr> {
    Ok(match street.family {
        Family::V4 => "10.1.0.77".parse()?,
        Family::V6 => "fd00:1::77".parse()?,
    })
}

struct Tcp {
    rst: bool,
    destination: u16,
}

fn tcp(frame: &[u8]) -> Option<Tcp> {
    let Some(etherparse::TransportSlice::Tcp(tcp)) =
        etherparse::SlicedPacket::from_ethernet(frame).ok()?.transport
    else {
        return None;
    };
    Some(Tcp { rst: tcp.rst(), destination: tcp.destination_port() })
}

/// The sequence number of the SYN-ACK to a client.
fn syn_ack(tap: &Tap, client: SocketAddr) -> Result<u32> {
    let read = |frame: &[u8]| {
        let etherparse::TransportSlice::Tcp(tcp) =
            etherparse::SlicedPacket::from_ethernet(frame).ok()?.transport?
        else {
            return None;
        };
        (tcp.syn() && tcp.ack() && tcp.destination_port() == client.port())
            .then(|| tcp.sequence_number())
    };
    let frame =
        tap.await_frame(PATIENCE, |frame| read(frame).is_some())?.context("no SYN-ACK comes")?;
    read(&frame).context("read a SYN-ACK")
}

/// Destination Unreachable, in either family (RFC 792, RFC 4443 3.1).
fn is_icmp_error(frame: &[u8], family: Family) -> bool {
    match family {
        Family::V4 => frame.get(23) == Some(&1) && frame.get(34) == Some(&3),
        Family::V6 => frame.get(20) == Some(&58) && frame.get(54) == Some(&1),
    }
}

/// Whether the quoted packet's source is this address and port.
fn quotes(frame: &[u8], source: SocketAddr) -> bool {
    let (address, ports): (Vec<u8>, usize) = match source.ip() {
        std::net::IpAddr::V4(ip) => (ip.octets().to_vec(), 34 + 8 + 20),
        std::net::IpAddr::V6(ip) => (ip.octets().to_vec(), 54 + 8 + 40),
    };
    let from = ports - 2 * address.len();
    frame.get(from..from + address.len()) == Some(address.as_slice())
        && frame.get(ports..ports + 2) == Some(&source.port().to_be_bytes())
}
