//! Host and kernel read the same in a hello, whatever is wrong with it.

use anyhow::{Context as _, Result};
use steer_common::{
    flow::{State, StateWord},
    session::Kind,
    shared::{FLOW_ECH, FLOW_HELLO, FLOW_OFFERED, Flow, NO_PSK},
    wire::tls::{
        Version,
        client_hello::{
            self, FRAMING_STEPS, Framing, HELLO_STEPS, Hello, Joined, STREAM, Span, Start, Stream,
            Walk,
        },
    },
};
use steer_tests::programs::Program;

use crate::{
    random::Random,
    world::{CLIENT_ISN, FIRST_ISN, Given, World, from_client, hex, shapes},
};

const HELLOS: usize = 100_000;
/// NOP, NOP, timestamps.
const STAMPS: [u8; 12] = [1, 1, 8, 10, 0, 0, 0x20, 1, 0, 0, 0x30, 1];

#[test]
fn mutated_and_lying_hellos_are_read_as_the_host_reads_them() -> Result<()> {
    let mut world = World::new()?;
    let ends = shapes()[0];
    world.prepare(&ends, &Given::flow(ends.established()))?;
    let established = world.flow(&ends)?;
    let mut random = Random(0x5eed_0002);
    let mut seen = std::collections::BTreeMap::<&str, usize>::new();
    let mut buffers = Buffers { text: Box::new([0; STREAM]), joined: Box::new([0; STREAM]) };
    for index in 0..HELLOS {
        let stream = hello(&mut random);
        let frame = from_client(
            &ends
                .up(CLIENT_ISN.wrapping_add(1))
                .ack(FIRST_ISN.wrapping_add(1))
                .options(&STAMPS)
                .payload(&stream),
        );
        world.loaded.plane.flows.insert(&ends.key(), &established)?;
        world.run(Program::Tc, &frame)?;
        let flow = world.flow(&ends).with_context(|| format!("hello {index}: {}", hex(&stream)))?;
        let (what, wanted) = on_host(&stream, &mut buffers);
        assert_eq!(Read::of(&flow), wanted, "hello {index}, {what}: {}", hex(&stream));
        *seen.entry(what).or_default() += 1;
    }
    // Each kind of hello was among them.
    for what in ["not TLS", "malformed", "whole", "split", "cut"] {
        assert!(seen.get(what).is_some_and(|n| *n > HELLOS / 200), "{seen:?}");
    }
    Ok(())
}

/// What of a hello stands in its flow.
#[derive(PartialEq, Eq, Debug, Default)]
struct Read {
    gathers: bool,
    kind: u8,
    bytes: Vec<u8>,
    index: u8,
    flags: u32,
}

impl Read {
    fn of(flow: &Flow) -> Self {
        Self {
            gathers: StateWord(flow.word).state() == State::Gather,
            kind: flow.offered_kind,
            bytes: flow.offered_bytes[..usize::from(flow.offered_len)].to_vec(),
            index: flow.offered_index,
            flags: flow.flags & (FLOW_HELLO | FLOW_OFFERED | FLOW_ECH),
        }
    }
}

struct Buffers {
    text: Box<Stream>,
    joined: Box<Stream>,
}

/// The same, read by the host.
fn on_host(stream: &[u8], buffers: &mut Buffers) -> (&'static str, Read) {
    let gathers = || Read { gathers: true, ..Read::default() };
    let have = stream.len();
    buffers.text[..have].copy_from_slice(stream);
    let mut hello = Hello::default();
    let (what, text) = match client_hello::start(|at| buffers.text[at], have as u32) {
        Start::NeedMore => return ("cut", gathers()),
        Start::NotTls => return ("not TLS", Read::default()),
        Start::Malformed => return ("malformed", Read::default()),
        Start::OneRecord { len } => {
            hello.begin(5, len, have as u32);
            ("whole", &buffers.text)
        }
        Start::Split => {
            let mut framing = Framing { have: have as u32, ..Framing::default() };
            for _ in 0..FRAMING_STEPS {
                match framing.step(&buffers.text, &mut buffers.joined) {
                    Joined::More => {}
                    Joined::Malformed => return ("malformed", Read::default()),
                    Joined::Whole | Joined::NeedMore => break,
                }
            }
            if framing.len == 0 {
                return ("cut", gathers());
            }
            hello.begin(0, framing.len, framing.joined);
            ("split", &buffers.joined)
        }
    };
    let mut walk = Walk::More;
    for _ in 0..HELLO_STEPS {
        if walk != Walk::More {
            break;
        }
        walk = hello.step(text);
    }
    match walk {
        Walk::Cut => return ("cut", gathers()),
        Walk::Malformed => return ("malformed", Read::default()),
        Walk::More | Walk::Done => {}
    }
    (what, offered(&hello, text))
}

/// What the first of its identifiers is.
fn offered(hello: &Hello, text: &Stream) -> Read {
    let mut read = Read { flags: FLOW_HELLO, ..Read::default() };
    if hello.ech != 0 {
        read.flags |= FLOW_ECH;
    }
    let bytes = |span: Span| {
        let at = span.at as usize;
        text[at..at + span.len.min(32) as usize].to_vec()
    };
    let mut tickets = std::iter::once((NO_PSK, hello.ticket)).chain((0..).zip(hello.psk));
    if let Some((index, ticket)) = tickets.find(|(_, span)| span.len != 0) {
        read.flags |= FLOW_OFFERED;
        (read.kind, read.bytes, read.index) = (Kind::Ticket as u8, bytes(ticket), index);
    } else if hello.session_id.len != 0 {
        (read.kind, read.bytes, read.index) =
            (Kind::SessionId as u8, bytes(hello.session_id), NO_PSK);
    }
    if hello.session_id.len != 0 && hello.version_offered() < Version::Tls13 as u16 {
        read.flags |= FLOW_OFFERED;
    }
    read
}

/// A hello such as no stack sends: any extensions in any order, lengths that lie, split over
/// records, cut short.
fn hello(random: &mut Random) -> Vec<u8> {
    let mut extensions = Vec::new();
    for _ in 0..random.next(12) {
        let body = match random.next(8) {
            0 => return_or(random, 300),
            1 => versions(random),
            2 => identities(random),
            3 => name(random),
            _ => return_or(random, 40),
        };
        let kind = [0u16, 35, 35, 41, 41, 43, 43, 0xfe0d, 10, 13, 51, 0x3a3a][random.next(12)];
        let len = lie(random, body.len() as u16);
        extensions.extend([&kind.to_be_bytes()[..], &len.to_be_bytes(), &body].concat());
    }
    let id_len = [0, 32, 32, 32, 16, 1, 33][random.next(7)];
    let id = random.bytes(id_len);
    let suites_len = 2 * random.next(20);
    let suites = random.bytes(suites_len);
    let mut body = vec![3, [3, 3, 3, 1][random.next(4)]];
    body.extend(random.bytes(32));
    body.push(id.len() as u8);
    body.extend(id);
    body.extend(lie(random, suites.len() as u16).to_be_bytes());
    body.extend(suites);
    body.extend([1, 0]);
    if random.next(10) != 0 {
        body.extend(lie(random, extensions.len() as u16).to_be_bytes());
        body.extend(&extensions);
    }
    let len = if random.next(60) == 0 { random.next(3000) } else { body.len() };
    let mut message = vec![if random.next(80) == 0 { 2 } else { 1 }, 0];
    message.extend((len as u16).to_be_bytes());
    message.extend(body);
    let piece = if random.next(4) == 0 { 1 + random.next(200) } else { message.len() };
    let mut stream = Vec::new();
    for piece in message.chunks(piece) {
        let content = if random.next(200) == 0 { 0x14 } else { 0x16 };
        stream.extend(
            [&[content, 3, 1][..], &lie(random, piece.len() as u16).to_be_bytes(), piece].concat(),
        );
    }
    if random.next(20) == 0 {
        let at = random.next(stream.len());
        stream[at] = random.next(256) as u8;
    }
    if random.next(10) == 0 {
        stream.truncate(1 + random.next(stream.len()));
    }
    stream.truncate(2400);
    stream
}

fn return_or(random: &mut Random, most: usize) -> Vec<u8> {
    let len = random.next(most);
    random.bytes(len)
}

/// A length, and now and then a lie, the worst near the end of its range.
fn lie(random: &mut Random, len: u16) -> u16 {
    match random.next(120) {
        0 => 0xfff0 + random.next(16) as u16,
        1 => random.next(0x1_0000) as u16,
        2 => len.wrapping_add(random.next(8) as u16).wrapping_sub(4),
        _ => len,
    }
}

fn versions(random: &mut Random) -> Vec<u8> {
    let n = random.next(6);
    let mut list = vec![2 * n as u8];
    for _ in 0..n {
        list.extend([[3, 4], [3, 3], [3, 1], [0x7a, 0x7a], [3, 5]][random.next(5)]);
    }
    list
}

fn identities(random: &mut Random) -> Vec<u8> {
    let mut list = Vec::new();
    for _ in 0..random.next(6) {
        let identity = return_or(random, 200);
        list.extend(
            [&lie(random, identity.len() as u16).to_be_bytes()[..], &identity, &[0; 4]].concat(),
        );
    }
    [&lie(random, list.len() as u16).to_be_bytes()[..], &list, &[0, 33, 32], &[7; 32]].concat()
}

fn name(random: &mut Random) -> Vec<u8> {
    let name = return_or(random, 30);
    let len = lie(random, name.len() as u16).to_be_bytes();
    [&(name.len() as u16 + 3).to_be_bytes()[..], &[0], &len, &name].concat()
}
