//! How many sessions a second one core can learn: backends' handshakes as live frames, up the stack
//! to `steer_tc`.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use steer_common::{counters::Counter, shared::Hop};
use steer_user::{
    clock,
    plane::{PinDir, Plane},
};

use super::{
    super::live::{Programs, Run, interface_index},
    entries::{self, SERVER_ISN},
};
use crate::{
    agent::{Agent, Hook, Settings},
    packets::Segment,
    topology::{CLIENT_SIDE, Family, Lab, Offloads, Plan, backend, backend_side, mac, source},
};

/// What is measured.
pub(super) struct Learned {
    /// Slots of the session table.
    pub(super) slots: u32,
    /// Sessions learned at the end of each part, and nanoseconds for each of it.
    pub(super) parts: Vec<(u32, f64)>,
    /// Nanoseconds of the same packets of the same flows once there is nothing to learn from them.
    pub(super) forwarded: Vec<f64>,
    /// Events that found no place in the ring.
    pub(super) events_lost: u64,
}

/// Learns twice as many sessions as the table has slots, in parts.
pub(super) fn measure(object: &Path, slots: u32, part: u32) -> Result<Learned> {
    let n_flows = slots * 2;
    let lab =
        Lab::build(&Plan { n_backends: 1, offloads: Offloads::ChecksumsOff, ..Plan::default() })?;
    let mut settings = Settings::new(Hook::Tc);
    settings.health = vec!["enabled = false".to_owned()];
    settings.sizes = vec![format!("sessions = {slots}"), format!("flows = {}", n_flows * 2)];
    let agent = Agent::start(&lab, &settings)?;
    let mut plane = Plane::open(&PinDir::new(agent.pin_dir()))?;
    fill_flows(&lab, &mut plane, n_flows)?;

    let mut programs = Programs::load(object)?;
    for program in ["live_open", "scale_handshake"] {
        programs.ready(program)?;
    }
    programs.ready_tc_sink()?;
    programs.attach("live_open", lab.gateway(), &backend_side(0))?;
    programs.attach_tc_sink(lab.client(), "eth0")?;

    let before = plane.counter(Counter::EventsLost)?;
    let parts = pass(&lab, &mut programs, &plane, n_flows / part, part, true)?;
    programs.begin_anew()?;
    let forwarded = pass(&lab, &mut programs, &plane, n_flows / part, part, false)?;
    let parts = (1..).map(|n| n * part).zip(parts).collect();
    Ok(Learned {
        slots,
        parts,
        forwarded,
        events_lost: plane.counter(Counter::EventsLost)? - before,
    })
}

/// Nanoseconds a packet in each part; every packet teaches one session, or none.
fn pass(
    lab: &Lab,
    programs: &mut Programs,
    plane: &Plane,
    n_parts: u32,
    part: u32,
    teaches: bool,
) -> Result<Vec<f64>> {
    let frame = handshake()?;
    let ingress = interface_index(lab.gateway(), &backend_side(0))?;
    let run =
        Run { program: "scale_handshake", ingress, frame: &frame, n_frames: part, arrive: true };
    let mut times = Vec::new();
    for _ in 0..n_parts {
        let before = plane.counter(Counter::Learned)?;
        times.push(programs.run(lab.gateway(), &run)?);
        let learned = plane.counter(Counter::Learned)? - before;
        let wanted = if teaches { u64::from(part) } else { 0 };
        ensure!(learned == wanted, "{learned} sessions were learned, not {wanted}");
    }
    Ok(times)
}

fn fill_flows(lab: &Lab, plane: &mut Plane, n_flows: u32) -> Result<()> {
    let (at, vip) = (super::super::live::address(backend(Family::V4, 0).ip()), plane.vips()?);
    let owner = plane.backends()?.into_iter().find(|(_, found)| found.endpoint.address == at);
    let (owner, record) = owner.context("no backend")?;
    let vip = vip.iter().find(|(endpoint, _)| *endpoint == record.vip).context("no VIP")?.1.id;
    let client_hop = Hop {
        ifindex: interface_index(lab.gateway(), CLIENT_SIDE)?,
        ethernet: Hop::mac_addresses(mac(0, 2), mac(0, 1)),
        mtu: 1500,
        flags: steer_common::shared::HOP_TAKES_XDP,
        asked: clock::seconds(),
    };
    for number in 0..n_flows {
        plane.flows.insert(
            &entries::flow_key(vip, number),
            &entries::listening(owner as u16, client_hop),
        )?;
    }
    Ok(())
}

/// All that a backend says in one packet of a full handshake, from its ServerHello to its
/// ChangeCipherSpec. Client and session ID are entered by the program.
fn handshake() -> Result<Vec<u8>> {
    const TIMESTAMPS: [u8; 12] = [1, 1, 8, 10, 0, 0, 0x10, 1, 0, 0, 0x20, 2];
    let hello = [&[3, 3][..], &[5; 32], &[32], &[0; 32], &[0xc0, 0x2f, 0]].concat();
    let messages = [&[2, 0, 0, hello.len() as u8][..], &hello, &[14, 0, 0, 0]].concat();
    let flight =
        [&[0x16, 3, 3, 0, messages.len() as u8][..], &messages, &[0x14, 3, 3, 0, 1, 1]].concat();
    let client = std::net::SocketAddr::new(source(Family::V4, 0), 40_000);
    let segment = Segment::new(backend(Family::V4, 0), client, SERVER_ISN + 1).ack(0x1000_0001);
    segment.options(&TIMESTAMPS).payload(&flight).frame(mac(1, 2), mac(1, 1), &[])
}
