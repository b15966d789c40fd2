//! Both ends of a flow, as records in steer's maps and as segments on the wire: what tests and
//! benchmarks of the programs run on without any link.

use std::net::{IpAddr, SocketAddr};

use steer_common::{
    flow::{State, StateWord},
    shared::{Address, Endpoint, FLOW_LEARNED, Flow, FlowKey, Leg, SERVICE_BACKEND, options},
    wire::tls::server_flight::Follow,
};

use crate::packets::Segment;

/// Station of the client's router.
pub const CLIENT_MAC: [u8; 6] = [2, 0, 0, 0, 0, 0xc];
/// Station of the gateway towards clients.
pub const GATE_MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
/// Station of the gateway towards backends: the same interface, for the programs take only frames
/// for the station that they come in by.
pub const INNER_MAC: [u8; 6] = GATE_MAC;
/// Station of a backend.
pub const BACKEND_MAC: [u8; 6] = [2, 0, 0, 0, 0, 0xb];

/// Initial sequence number of the client.
pub const CLIENT_ISN: u32 = 0x1000_0000;
/// Initial sequence number of the first backend.
pub const FIRST_ISN: u32 = 0xffff_fff0;
/// Initial sequence number of the owner.
pub const OWNER_ISN: u32 = 0x2000_0001;
/// What is added to the owner's timestamps.
pub const TS_DELTA: u32 = 0x0102_0305;

/// Who speaks with whom.
#[derive(Clone, Copy, Debug)]
pub struct Ends {
    /// Number of the VIP, or of the inline pool.
    pub vip_id: u16,
    /// Number of the first backend.
    pub first_id: u16,
    /// Number of the owner.
    pub owner_id: u16,
    /// The client.
    pub client: SocketAddr,
    /// What it dialled: a VIP, or in an inline pool the first backend.
    pub vip: SocketAddr,
    /// The first backend.
    pub first: SocketAddr,
    /// The owner.
    pub owner: SocketAddr,
    /// Whether their frames pass a bridge.
    pub bridged: bool,
}

/// Such ends in both families.
///
/// # Panics
/// Never.
pub fn families() -> [Ends; 2] {
    let at = |text: &str| text.parse().expect("an address and port");
    [
        Ends {
            vip_id: 1,
            first_id: 13,
            owner_id: 14,
            client: at("192.0.2.7:40001"),
            vip: at("198.51.100.10:443"),
            first: at("10.0.0.1:8443"),
            owner: at("10.0.0.2:9443"),
            bridged: false,
        },
        Ends {
            vip_id: 2,
            first_id: 23,
            owner_id: 24,
            client: at("[2001:db8::7]:40001"),
            vip: at("[2001:db8:1::10]:443"),
            first: at("[fd00::1]:8443"),
            owner: at("[fd00::2]:9443"),
            bridged: false,
        },
    ]
}

/// As [`families`], behind a balancer that dials the backends of an inline pool.
///
/// # Panics
/// Never.
pub fn inline() -> [Ends; 2] {
    let at = |text: &str| text.parse().expect("an address and port");
    [
        Ends {
            vip_id: 3,
            first_id: 33,
            owner_id: 34,
            client: at("192.0.2.7:40001"),
            vip: at("10.0.3.1:8443"),
            first: at("10.0.3.1:8443"),
            owner: at("10.0.3.2:9443"),
            bridged: false,
        },
        Ends {
            vip_id: 4,
            first_id: 43,
            owner_id: 44,
            client: at("[2001:db8::7]:40001"),
            vip: at("[fd00:3::1]:8443"),
            first: at("[fd00:3::1]:8443"),
            owner: at("[fd00:3::2]:9443"),
            bridged: false,
        },
    ]
}

/// As [`inline`], at the ports of a bridge.
///
/// # Panics
/// Never.
pub fn bridged() -> [Ends; 2] {
    inline().map(|ends| Ends { bridged: true, ..ends })
}

/// Such ends of both shapes, in both families.
///
/// # Panics
/// Never.
pub fn shapes() -> [Ends; 4] {
    let ([a, b], [c, d]) = (families(), inline());
    [a, b, c, d]
}

impl Ends {
    /// Whether the client dials a backend itself.
    pub fn is_inline(&self) -> bool {
        self.vip == self.first
    }

    /// What stands for the VIP, or for the inline pool, in the maps.
    ///
    /// # Panics
    /// Never.
    pub fn served(&self) -> Endpoint {
        if !self.is_inline() {
            return endpoint(self.vip);
        }
        let name = if self.client.is_ipv4() { "web4" } else { "web6" };
        Endpoint::of_pool(name).expect("a short name")
    }

    /// The flow's key.
    pub fn key(&self) -> FlowKey {
        let service = if self.is_inline() { SERVICE_BACKEND | self.first_id } else { self.vip_id };
        let client_port = self.client.port().to_be_bytes();
        FlowKey { client: address(self.client.ip()), client_port, service }
    }

    /// How the owner's packets tell a flow of an inline pool that was moved there.
    pub fn leg(&self) -> (FlowKey, Leg) {
        let key = self.key();
        let leg = Leg { seen: 0, port: key.client_port, service: key.service };
        (FlowKey { service: SERVICE_BACKEND | self.owner_id, ..key }, leg)
    }

    /// A segment of the client.
    pub fn up(&self, seq: u32) -> Segment {
        Segment::new(self.client, self.vip, seq)
    }

    /// A segment of a backend.
    pub fn down(&self, from: SocketAddr, seq: u32) -> Segment {
        Segment::new(from, self.client, seq)
    }

    /// An established flow that stays on its first backend, with nothing left to learn.
    pub fn settled(&self) -> Flow {
        let word = StateWord::new(State::First, CLIENT_ISN).0;
        Flow {
            word,
            first: self.first_id,
            owner: self.first_id,
            flags: FLOW_LEARNED,
            ..self.established()
        }
    }

    /// A re-homed flow.
    pub fn spliced(&self) -> Flow {
        let delta = FIRST_ISN.wrapping_sub(OWNER_ISN);
        let word = StateWord::new(State::Spliced, CLIENT_ISN).0;
        Flow {
            word,
            owner_isn: OWNER_ISN,
            delta,
            ts_delta: TS_DELTA,
            server_next: OWNER_ISN.wrapping_add(1),
            owner: self.owner_id,
            first_scale: 7,
            owner_scale: 7,
            flags: FLOW_LEARNED,
            ..self.established()
        }
    }

    /// A flow whose client acknowledged its first backend and said nothing yet.
    pub fn established(&self) -> Flow {
        const AGREED: u8 = options::SACK | options::TIMESTAMPS | options::WINDOW_SCALE;
        Flow {
            word: StateWord::new(State::Established, CLIENT_ISN).0,
            first_isn: FIRST_ISN,
            client_next: CLIENT_ISN.wrapping_add(1),
            server_next: FIRST_ISN.wrapping_add(1),
            follow: Follow::new(FIRST_ISN.wrapping_add(1)),
            first: self.first_id,
            owner: self.first_id,
            client_ts: 7000,
            syn_window: 64240,
            first_window: 65160,
            client_mss: 1460,
            advertised_mss: 1460,
            offered: AGREED,
            agreed: AGREED,
            client_scale: 7,
            first_scale: 7,
            ..Flow::default()
        }
    }

    /// A SYN that was forwarded.
    pub fn handshake(&self) -> Flow {
        Flow { word: StateWord::new(State::Syn, CLIENT_ISN).0, ..self.established() }
    }
}

/// An address as maps hold it.
pub fn address(ip: IpAddr) -> Address {
    match ip {
        IpAddr::V4(ip) => Address::from_v4(ip.octets()),
        IpAddr::V6(ip) => Address::from_v6(ip.octets()),
    }
}

/// An endpoint as maps hold it.
pub fn endpoint(at: SocketAddr) -> Endpoint {
    Endpoint::tcp(address(at.ip()), at.port())
}
