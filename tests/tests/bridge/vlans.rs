//! Frames with tags. No kernel here takes them: both sides are played frame by frame.

use std::{thread, time::Duration};

use anyhow::{Context as _, Result};
use steer_common::{
    counters::Counter,
    session::Kind,
    shared::{Session, SessionKey},
};
use steer_tests::{
    agent::{Agent, Hook},
    frames::Tap,
    l4::Snat,
    packets::Segment,
    scenario::{Run, Scenario},
    tables,
    topology::{Family, mac},
};
use steer_user::{clock, plane::Plane};

/// How long a frame may take.
const LIMIT: Duration = Duration::from_secs(2);
/// How long one is waited for that shall not come.
const MOMENT: Duration = Duration::from_millis(300);
/// MSS 1460.
const MSS: [u8; 4] = [2, 4, 5, 180];
/// The client's port, and one of another connection that shows the way to the owner.
const PORT: u16 = 40_000;
const OTHER: u16 = 40_001;
const CLIENT_ISN: u32 = 1000;
const FIRST_ISN: u32 = 50_000;
const OWNER_ISN: u32 = 90_000;
const ID: [u8; 32] = [0x5e; 32];
/// Backends' numbers in the lab.
const OWNER: usize = 0;
const FIRST: usize = 1;

/// Both sides of the bridge.
struct Wire<'a> {
    run: &'a Run,
    steer: Agent<'a>,
    outside: Tap,
    inside: Vec<Tap>,
}

impl<'a> Wire<'a> {
    fn new(run: &'a Run) -> Result<Self> {
        let steer = run.agent()?;
        let balancer = run.lab.balancer().context("a balancer")?;
        // What has no tag is for the tests alone, too.
        for ns in [balancer, run.lab.backend(OWNER), run.lab.backend(FIRST)] {
            ns.nft(
                "table ip quiet {\n chain pre {\n  type filter hook prerouting priority raw\n  \
                 tcp sport 40000-40001 drop\n  tcp dport 40000-40001 drop\n }\n}\n",
            )?;
        }
        let outside = Tap::open(balancer, "eth0")?;
        let inside = (0..2).map(|at| Tap::open(run.lab.backend(at), "eth0"));
        Ok(Self { run, steer, outside, inside: inside.collect::<Result<_>>()? })
    }

    /// A segment from a client to a backend that it dials, with these tags.
    fn up(
        &self,
        port: u16,
        backend: usize,
        vlans: &[u16],
        segment: impl Fn(Segment) -> Segment,
    ) -> Result<()> {
        let client = (self.run.source(0), port).into();
        let to = self.run.backend_address(backend);
        let segment = segment(Segment::new(client, to, CLIENT_ISN));
        self.outside.send(&segment.frame(mac(0, 2), mac(backend + 1, 2), vlans)?)
    }

    /// A segment from a backend to the client.
    fn down(
        &self,
        port: u16,
        backend: usize,
        vlans: &[u16],
        segment: impl Fn(Segment) -> Segment,
    ) -> Result<()> {
        let client = (self.run.source(0), port).into();
        let from = self.run.backend_address(backend);
        let segment = segment(Segment::new(from, client, 0));
        self.inside[backend].send(&segment.frame(mac(backend + 1, 2), mac(0, 2), vlans)?)
    }

    /// A handshake with a backend, in a VLAN: what shows the way to it.
    fn shake_hands(&self, port: u16, backend: usize, vlans: &[u16], isn: u32) -> Result<()> {
        self.up(port, backend, vlans, |segment| segment.syn().options(&MSS))?;
        self.await_inside(backend, |tcp| tcp.flags == SYN)?;
        self.down(port, backend, vlans, |mut segment| {
            segment.tcp.sequence_number = isn;
            segment.syn().ack(CLIENT_ISN + 1).options(&MSS)
        })?;
        self.await_outside(|tcp| tcp.flags == SYN | ACK)?;
        Ok(())
    }

    fn hello(&self, vlans: &[u16]) -> Result<()> {
        self.up(PORT, FIRST, vlans, |mut segment| {
            segment.tcp.sequence_number = CLIENT_ISN + 1;
            segment.ack(FIRST_ISN + 1).payload(&hello())
        })
    }

    /// A session that the owner holds.
    fn learn(&self) -> Result<()> {
        let mut plane = Plane::open(&tables::pins(&self.steer))?;
        let pool = plane.vips()?.into_iter().find(|(at, _)| at.pool_name() == Some("web4"));
        let (_, pool) = pool.context("the pool")?;
        let at = self.run.backend_address(OWNER);
        let backends = plane.backends()?;
        let is_owner = |port: &[u8; 2], octets: [u8; 16]| {
            u16::from_be_bytes(*port) == at.port() && octets[12..] == v4(at)
        };
        let (id, _) = backends
            .into_iter()
            .find(|(_, b)| is_owner(&b.endpoint.port, b.endpoint.address.octets()))
            .context("the owner")?;
        let now = clock::seconds();
        let key = SessionKey::new(pool.id, Kind::SessionId, &ID).context("a session ID")?;
        let owner = id as u16;
        let session = Session { owner, first_seen: now, last_seen: now, ..Session::default() };
        plane.sessions.insert(&key, &session)
    }

    fn await_outside(&self, wanted: impl Fn(&Tcp) -> bool) -> Result<Tcp> {
        read(&self.outside, LIMIT, |tcp| tcp.from != mac(0, 2) && wanted(tcp))?
            .context("nothing of the kind came out outside")
    }

    fn await_inside(&self, backend: usize, wanted: impl Fn(&Tcp) -> bool) -> Result<Tcp> {
        let own = mac(backend + 1, 2);
        read(&self.inside[backend], LIMIT, |tcp| tcp.from != own && wanted(tcp))?
            .context("nothing of the kind came out inside")
    }

    fn nothing_inside(&self, backend: usize, wanted: impl Fn(&Tcp) -> bool) -> Result<()> {
        let own = mac(backend + 1, 2);
        let came = read(&self.inside[backend], MOMENT, |tcp| tcp.from != own && wanted(tcp))?;
        assert!(came.is_none(), "{came:?}");
        Ok(())
    }
}

fn v4(at: std::net::SocketAddr) -> [u8; 4] {
    match at.ip() {
        std::net::IpAddr::V4(ip) => ip.octets(),
        std::net::IpAddr::V6(_) => unreachable!("the lab's backends here are IPv4's"),
    }
}

const SYN: u8 = 2;
const RST: u8 = 4;
const ACK: u8 = 16;

/// What a frame says that came out.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Tcp {
    from: [u8; 6],
    to: [u8; 6],
    /// The tag: priority, and the VLAN.
    tag: Option<u16>,
    ttl: u8,
    source: [u8; 4],
    flags: u8,
    payload: Vec<u8>,
}

fn read(tap: &Tap, limit: Duration, wanted: impl Fn(&Tcp) -> bool) -> Result<Option<Tcp>> {
    let frame = tap.await_tagged(limit, |frame| parse(frame).is_some_and(|tcp| wanted(&tcp)))?;
    Ok(frame.and_then(|frame| parse(&frame)))
}

fn parse(frame: &[u8]) -> Option<Tcp> {
    let (tag, at) = match frame.get(12..14)? {
        [0x81, 0x00] => (Some(u16::from_be_bytes([frame[14], frame[15]])), 18),
        _ => (None, 14),
    };
    if frame.get(at - 2..at)? != [8, 0] || *frame.get(at + 9)? != 6 {
        return None;
    }
    let len = usize::from(u16::from_be_bytes([frame[at + 2], frame[at + 3]]));
    let tcp = at + 4 * usize::from(frame[at] & 15);
    let data = tcp + 4 * usize::from(*frame.get(tcp + 12)? >> 4);
    Some(Tcp {
        to: frame[..6].try_into().ok()?,
        from: frame[6..12].try_into().ok()?,
        tag,
        ttl: frame[at + 8],
        source: frame[at + 12..at + 16].try_into().ok()?,
        flags: frame[tcp + 13] & 0x17,
        payload: frame.get(data..at + len)?.to_vec(),
    })
}

/// A ClientHello of TLS 1.2 (RFC 5246 7.4.1.2) that offers the session.
fn hello() -> Vec<u8> {
    let mut body = vec![3, 3];
    body.extend([7; 32]);
    body.push(32);
    body.extend(ID);
    body.extend([0, 2, 0xc0, 0x2f, 1, 0]);
    let mut record = vec![22, 3, 1];
    record.extend((body.len() as u16 + 4).to_be_bytes());
    record.extend([1, 0]);
    record.extend((body.len() as u16).to_be_bytes());
    record.extend(body);
    record
}

fn run(bridge: &[&str], owner: &[&str]) -> Result<Run> {
    let mut scenario = Scenario::new(Hook::Tc, Family::V4).backends(2);
    scenario = owner.iter().fold(scenario, |scenario, line| scenario.backend_setting(OWNER, line));
    let mut scenario = scenario.bridge(Snat::No);
    scenario.steer.bridge = bridge.iter().map(|line| (*line).to_owned()).collect();
    scenario.start()
}

/// The owner stands in another VLAN than the backend that was dialled: it is opened with its own
/// tag, and the client's side sees that of the backend that it dialled.
#[test]
fn a_flow_moves_to_an_owner_in_another_vlan_and_its_answers_have_the_dialled_ones_tag() -> Result<()>
{
    for (first, owner) in [(vec![101], vec![102]), (vec![101], vec![]), (vec![], vec![102])] {
        let run = run(&[], &[])?;
        let wire = Wire::new(&run)?;
        let tag = |vlans: &[u16]| vlans.first().copied();
        wire.shake_hands(OTHER, OWNER, &owner, 7)?;
        wire.learn()?;
        wire.shake_hands(PORT, FIRST, &first, FIRST_ISN)?;
        wire.hello(&first)?;
        let syn = wire.await_inside(OWNER, |tcp| tcp.flags == SYN)?;
        assert_eq!((syn.tag, syn.to, syn.from), (tag(&owner), mac(OWNER + 1, 2), mac(0, 2)));
        wire.down(PORT, OWNER, &owner, |mut segment| {
            segment.tcp.sequence_number = OWNER_ISN;
            segment.syn().ack(CLIENT_ISN + 1).options(&MSS)
        })?;
        let said = wire.await_inside(OWNER, |tcp| !tcp.payload.is_empty())?;
        assert_eq!((said.tag, &said.payload), (tag(&owner), &hello()));
        let reset = wire.await_inside(FIRST, |tcp| tcp.flags & RST != 0)?;
        assert_eq!((reset.tag, reset.to), (tag(&first), mac(FIRST + 1, 2)));
        wire.down(PORT, OWNER, &owner, |mut segment| {
            segment.tcp.sequence_number = OWNER_ISN + 1;
            segment.ack(CLIENT_ISN + 1 + hello().len() as u32).payload(b"answer")
        })?;
        let answer = wire.await_outside(|tcp| tcp.payload == b"answer")?;
        let shown = Tcp {
            from: mac(FIRST + 1, 2),
            to: mac(0, 2),
            tag: tag(&first),
            ttl: 64,
            source: v4(run.backend_address(FIRST)),
            ..answer.clone()
        };
        assert_eq!(answer, shown);
        assert_eq!(wire.steer.count(Counter::SpliceOpened)?, 1);
        // Somebody else speaks of the owner's address in a third VLAN: who was moved stays where it is,
        // also when the way there is looked up again.
        for _ in 0..3 {
            wire.up(OTHER, OWNER, &[103], |segment| segment.syn().options(&MSS))?;
            thread::sleep(Duration::from_millis(1100));
        }
        wire.up(PORT, FIRST, &first, |mut segment| {
            segment.tcp.sequence_number = CLIENT_ISN + 1 + hello().len() as u32;
            segment.ack(FIRST_ISN + 7).payload(b"more")
        })?;
        let more = wire.await_inside(OWNER, |tcp| tcp.payload == b"more")?;
        assert_eq!((more.tag, more.to), (tag(&owner), mac(OWNER + 1, 2)));
    }
    Ok(())
}

/// What is not to be read passes bit for bit: other VLANs, tags that name none, tags of providers.
#[test]
fn frames_of_other_vlans_and_with_other_tags_pass_unread() -> Result<()> {
    let run = run(&["vlans = [100]"], &[])?;
    let wire = Wire::new(&run)?;
    for vlans in [vec![], vec![101], vec![0], vec![100, 5]] {
        wire.up(PORT, FIRST, &vlans, |segment| segment.syn().options(&MSS))?;
        let came = wire.inside[FIRST].await_tagged(LIMIT, |frame| {
            let n_tags = vlans.len();
            frame[6..12] == mac(0, 2) && frame.len() > 14 + 4 * n_tags
        })?;
        let came = came.with_context(|| format!("{vlans:?} did not pass"))?;
        let segment =
            Segment::new((run.source(0), PORT).into(), run.backend_address(FIRST), CLIENT_ISN);
        let sent = segment.syn().options(&MSS).frame(mac(0, 2), mac(FIRST + 1, 2), &vlans)?;
        assert_eq!(came, sent, "{vlans:?}");
    }
    assert_eq!(wire.steer.count(Counter::Syn)?, 0);
    wire.shake_hands(PORT, FIRST, &[100], FIRST_ISN)?;
    assert_eq!(wire.steer.count(Counter::Syn)?, 1);
    Ok(())
}

/// One address in two VLANs: nobody can say which of them is meant, until the file says it.
#[test]
fn an_address_in_two_vlans_is_not_moved_to_unless_the_file_says_which() -> Result<()> {
    for told in [false, true] {
        let run = run(&[], if told { &["vlan = 102"] } else { &[] })?;
        let wire = Wire::new(&run)?;
        wire.shake_hands(OTHER, OWNER, &[102], 7)?;
        wire.up(OTHER, OWNER, &[103], |segment| segment.syn().options(&MSS))?;
        wire.await_inside(OWNER, |tcp| tcp.tag == Some(103))?;
        wire.learn()?;
        wire.shake_hands(PORT, FIRST, &[101], FIRST_ISN)?;
        wire.hello(&[101])?;
        if told {
            let syn = wire.await_inside(OWNER, |tcp| tcp.flags == SYN)?;
            assert_eq!(syn.tag, Some(102));
        } else {
            wire.await_inside(FIRST, |tcp| tcp.payload == hello())?;
            wire.nothing_inside(OWNER, |tcp| tcp.flags == SYN)?;
        }
        let ambiguous = u64::from(!told);
        assert_eq!(wire.steer.count(Counter::VlanAmbiguous)?, ambiguous, "told: {told}");
    }
    Ok(())
}
