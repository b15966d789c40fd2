//! Where frames are live: a gateway with steer, one that only forwards and one with nft DNAT, each
//! with its far ends counting and dropping.

use anyhow::{Context, Result};
use nix::net::if_::if_nametoindex;
use steer_common::shared::{Backend, FLOW_LEARNED, Flow, FlowKey, Hop, options};
use steer_common::{
    flow::{State, StateWord},
    shared::Address,
};
use steer_user::{
    clock,
    plane::{PinDir, Plane},
};

use super::frames::{self, CLIENT_ISN, Ends, SERVER_ISN};
use crate::{
    agent::{Agent, Hook, Settings},
    frames::Tap,
    netns::NetNs,
    topology::{CLIENT_SIDE, Family, Lab, Offloads, Plan, backend_side, mac, vip},
};

/// Links without any offload that would let a far end do less than a wire asks for.
pub(super) fn lab(n_backends: usize) -> Result<Lab> {
    Lab::build(&Plan { n_backends, offloads: Offloads::ChecksumsOff, ..Plan::default() })
}

/// Index of an interface of the gateway.
pub(in crate::bench) fn index(ns: &NetNs, interface: &str) -> Result<u32> {
    ns.run(|| if_nametoindex(interface).with_context(|| format!("find {interface}")))
}

/// A gateway on which steer's agent runs, with a flow that stays and one that was re-homed from
/// backend 0 to backend 1.
pub(super) struct Steered<'a> {
    pub(super) plane: Plane,
    pub(super) agent: Agent<'a>,
}

impl<'a> Steered<'a> {
    /// Starts the agent with XDP on every interface and writes the two flows.
    pub(super) fn start(lab: &'a Lab, family: Family) -> Result<Self> {
        let mut settings = Settings::new(Hook::Xdp);
        settings.health = vec!["enabled = false".to_owned()];
        let agent = Agent::start(lab, &settings)?;
        let plane = Plane::open(&PinDir::new(agent.pin_dir()))?;
        let mut steered = Self { plane, agent };
        let record = Record::read(&steered.plane, lab, family)?;
        let flows =
            [(frames::stays(family), record.settled()), (frames::moved(family), record.spliced())];
        for (ends, flow) in flows {
            steered.plane.flows.insert(&record.key(&ends), &flow)?;
            steered.plane.splices.insert(&record.key(&ends), &flow)?;
        }
        Ok(steered)
    }
}

/// What the records of flows are made of.
struct Record {
    vip_id: u16,
    /// `BackendId` of the first backend and of the owner.
    backends: [u16; 2],
    client_hop: Hop,
}

impl Record {
    fn read(plane: &Plane, lab: &Lab, family: Family) -> Result<Self> {
        let at = |address: std::net::SocketAddr, found: Address, port: u16| {
            found == frames::address(address.ip()) && port == address.port()
        };
        let is_vip = |endpoint: &steer_common::shared::Endpoint| {
            at(vip(family), endpoint.address, endpoint.port())
        };
        let vips = plane.vips()?;
        let (_, vip) =
            vips.iter().find(|(endpoint, _)| is_vip(endpoint)).context("find the VIP")?;
        let known = plane.backends()?;
        let id = |index| {
            let is = |backend: &Backend| {
                at(
                    crate::topology::backend(family, index),
                    backend.endpoint.address,
                    backend.endpoint.port(),
                )
            };
            known
                .iter()
                .find(|(_, backend)| is(backend))
                .map(|(id, _)| *id as u16)
                .context("find a backend")
        };
        let client_hop = Hop {
            ifindex: index(lab.gateway(), CLIENT_SIDE)?,
            ethernet: Hop::mac_addresses(mac(0, 2), mac(0, 1)),
            mtu: 1500,
            flags: steer_common::shared::HOP_TAKES_XDP,
            asked: clock::seconds(),
        };
        Ok(Self { vip_id: vip.id, backends: [id(0)?, id(1)?], client_hop })
    }

    fn key(&self, ends: &Ends) -> FlowKey {
        FlowKey::of_vip(
            frames::address(ends.client.ip()),
            ends.client.port().to_be_bytes(),
            self.vip_id,
        )
    }

    fn settled(&self) -> Flow {
        const AGREED: u8 = options::SACK | options::TIMESTAMPS | options::WINDOW_SCALE;
        let [first, _] = self.backends;
        Flow {
            word: StateWord::new(State::First, CLIENT_ISN).0,
            first_isn: SERVER_ISN,
            client_next: CLIENT_ISN.wrapping_add(1),
            server_next: SERVER_ISN.wrapping_add(1),
            seen: clock::seconds(),
            first,
            owner: first,
            flags: FLOW_LEARNED,
            agreed: AGREED,
            offered: AGREED,
            client_scale: 7,
            first_scale: 7,
            client_hop: self.client_hop,
            ..Flow::default()
        }
    }

    fn spliced(&self) -> Flow {
        const OWNER_ISN: u32 = 0x2000_0001;
        let [_, owner] = self.backends;
        Flow {
            word: StateWord::new(State::Spliced, CLIENT_ISN).0,
            owner_isn: OWNER_ISN,
            delta: SERVER_ISN.wrapping_sub(OWNER_ISN),
            ts_delta: 0x0102_0305,
            server_next: SERVER_ISN.wrapping_add(1),
            owner,
            // Windows are rescaled as well.
            owner_scale: 9,
            ..self.settled()
        }
    }
}

/// Opens the connection in conntrack, whose frames are DNATed from then on: the far ends swallow
/// these three segments too.
pub(super) fn open_through_dnat(lab: &Lab, family: Family) -> Result<()> {
    let ends = frames::stays(family);
    let client = Tap::open(lab.client(), "eth0")?;
    let server = Tap::open(lab.backend(0), "eth0")?;
    client.send(&ends.syn()?)?;
    server.send(&ends.syn_ack(crate::topology::backend(family, 0))?)?;
    client.send(&ends.up()?)
}

/// The gateway's interfaces towards the clients and the first backends.
pub(super) fn sides() -> [String; 3] {
    [CLIENT_SIDE.to_owned(), backend_side(0), backend_side(1)]
}
