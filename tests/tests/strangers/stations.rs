//! Frames for other stations: a mirror, a switch that floods, a standby gateway that somebody looks
//! at with tcpdump.

use std::{net::SocketAddr, time::Duration};

use anyhow::{Context, Result, ensure};
use steer_common::counters::Counter;
use steer_tests::{
    flood::{LINUX, at_backend, at_clients},
    frames::Tap,
    packets::Segment,
    setting::in_settings,
    talk::Who,
    topology::{CLIENT_SIDE, Family, backend_side, mac},
};

use crate::street::{Since, Street};

/// Another host's, everybody's, and a group's.
const OTHERS: [[u8; 6]; 3] = [[2, 0, 0, 0, 0, 0x99], [0xff; 6], [1, 0, 0x5e, 0, 0, 1]];
const SILENCE: Duration = Duration::from_millis(300);

#[test]
fn a_frame_for_another_station_is_not_taken_though_the_gateway_sees_it() -> Result<()> {
    in_settings(290, |setting| {
        let street = Street::with_backends(setting.finished(), 1)?.without_health_checks();
        promiscuous(&street)?;
        let steer = street.agent()?;
        let (tap, arrives) = (at_clients(&street.lab)?, at_backend(&street.lab, 0)?);
        let client = SocketAddr::new(nobody(&street)?, 6001);
        let syn = Segment::new(client, street.vip(), 77).syn().options(&LINUX);
        let is_ours = |frame: &[u8]| has_port(frame, client.port());
        for station in OTHERS {
            let since = Since::now(&steer)?;
            tap.send(&syn.frame(mac(0, 2), station, &[])?)?;
            ensure!(
                arrives.await_frame(SILENCE, is_ours)?.is_none(),
                "a SYN for {station:x?} was forwarded"
            );
            ensure!(since.of(Counter::Syn)? == 0, "a SYN for {station:x?} was taken");
            if station[0] & 1 == 0 {
                let n = since.of(Counter::OtherStation)?;
                ensure!(n >= 1, "a SYN for {station:x?} was counted {n} times");
            }
        }
        tap.send(&syn.frame(mac(0, 2), mac(0, 1), &[])?)?;
        arrives
            .await_frame(SILENCE * 10, is_ours)?
            .context("the SYN for the gateway itself does not arrive")?;
        Ok(())
    })
}

/// Of a flow that is up every packet is seen twice: once for the gateway, once for another station.
#[test]
fn copies_for_other_stations_of_a_live_flows_packets_are_not_forwarded() -> Result<()> {
    in_settings(291, |setting| {
        let street = Street::with_backends(setting.finished(), 1)?.without_health_checks();
        promiscuous(&street)?;
        let steer = street.agent()?;
        let mut conversation = street.dial(1, street.vip())?;
        conversation.exchange(40_000)?;
        let (client, server) = (conversation.client_address()?, street.backend(0));
        let (at_client, at_server) = (at_clients(&street.lab)?, at_backend(&street.lab, 0)?);
        let since = Since::now(&steer)?;
        // Neither would change the flow if it arrived, for it is far from where the flow stands.
        let up =
            Segment::new(client, street.vip(), 1).ack(1).payload(b"a copy for another station");
        let down = Segment::new(server, client, 1).ack(1).payload(b"a copy for another station");
        for station in OTHERS {
            at_client.send(&up.frame(mac(0, 2), station, &[])?)?;
            ensure!(!comes(&at_server)?, "what was for {station:x?} came to the backend");
            at_server.send(&down.frame(mac(1, 2), station, &[])?)?;
            ensure!(!comes(&at_client)?, "what was for {station:x?} came to the client");
        }
        ensure!(
            since.of(Counter::Forwarded)? == 0,
            "{} were forwarded",
            since.of(Counter::Forwarded)?
        );
        conversation.exchange(40_000)?;
        conversation.finish(Who::Server)
    })
}

/// Whether a copy arrives; what this host sent itself, for another station, does not count.
fn comes(tap: &Tap) -> Result<bool> {
    let copy = |frame: &[u8]| {
        frame.windows(4).any(|bytes| bytes == b"copy")
            && !OTHERS.iter().any(|to| frame.starts_with(to))
    };
    Ok(tap.await_frame(SILENCE, copy)?.is_some())
}

fn promiscuous(street: &Street) -> Result<()> {
    let interfaces = [CLIENT_SIDE.to_owned(), backend_side(0)];
    interfaces
        .iter()
        .try_for_each(|name| street.lab.gateway().ip(&format!("link set {name} promisc on\n")))
}

fn has_port(frame: &[u8], port: u16) -> bool {
    let sliced = etherparse::SlicedPacket::from_ethernet(frame).ok();
    sliced.is_some_and(|sliced| match sliced.transport {
        Some(etherparse::TransportSlice::Tcp(tcp)) => tcp.source_port() == port,
        _ => false,
    })
}

/// An address on the clients' side that no host has.
fn nobody(street: &Street) -> Result<std::net::IpAddr> {
    Ok(match street.family {
        Family::V4 => "10.1.0.78".parse()?,
        Family::V6 => "fd00:1::78".parse()?,
    })
}
