//! Host and kernel read the same in a backend's handshake, whatever is wrong with it and however it
//! is cut.

use anyhow::Result;
use steer_common::{
    shared::{FLOW_LEARNED, Flow},
    wire::tls::server_flight::{FOLLOW_STEPS, FlightEvent, Follow, GIVE_UP, RESYNC_BYTES},
};
use steer_tests::programs::Program;

use crate::{
    random::Random,
    world::{CLIENT_ISN, FIRST_ISN, Given, World, from_backend, hex, shapes},
};

const FLIGHTS: usize = 10_000;
const FIRST: u32 = FIRST_ISN.wrapping_add(1);

#[test]
fn mutated_handshakes_of_backends_are_read_as_the_host_reads_them() -> Result<()> {
    let mut world = World::new()?;
    let ends = shapes()[0];
    let fresh = Flow { flags: 0, follow: Follow::new(FIRST), ..ends.settled() };
    world.prepare(&ends, &Given::flow(fresh))?;
    let fresh = world.flow(&ends)?;
    let mut random = Random(0x5eed_0003);
    let mut n_ends = [0; 2];
    for index in 0..FLIGHTS {
        let stream = flight(&mut random);
        world.loaded.plane.flows.insert(&ends.key(), &fresh)?;
        let (mut host, mut learned) = (fresh.follow, false);
        for (at, piece) in cut(&mut random, &stream) {
            let seq = FIRST.wrapping_add(at as u32);
            let segment =
                ends.down(ends.first, seq).ack(CLIENT_ISN.wrapping_add(400)).payload(piece);
            world.run(Program::Tc, &from_backend(&segment))?;
            if !learned {
                learned = on_host(&mut host, seq, piece);
            }
            let flow = world.flow(&ends)?;
            let shown =
                || format!("flight {index}, {} bytes at {at} of {}", piece.len(), hex(&stream));
            assert_eq!(flow.flags & FLOW_LEARNED != 0, learned, "{}", shown());
            assert_eq!(flow.follow, host, "{}", shown());
        }
        n_ends[usize::from(learned)] += 1;
    }
    assert!(n_ends.iter().all(|n| *n > FLIGHTS / 20), "read to their end, and not: {n_ends:?}");
    Ok(())
}

/// `learn::learn`; whether nothing more is to be learned.
fn on_host(follow: &mut Follow, seq: u32, mut piece: &[u8]) -> bool {
    if seq.wrapping_sub(FIRST) > GIVE_UP {
        return true;
    }
    if (follow.next.wrapping_sub(seq) as i32) < 0 {
        let mut look = [0; RESYNC_BYTES];
        let n = piece.len().min(RESYNC_BYTES);
        look[..n].copy_from_slice(&piece[..n]);
        if !follow.resync(&look, seq) {
            return false;
        }
    }
    let len = piece.len() as u32;
    for _ in 0..FOLLOW_STEPS {
        match follow.step(&mut piece, seq, len) {
            FlightEvent::NeedMore => return false,
            FlightEvent::End(_) => return true,
            FlightEvent::More
            | FlightEvent::ServerHello
            | FlightEvent::Retry
            | FlightEvent::Ticket => {}
        }
    }
    true
}

/// A stream in segments: most in order, some lost, repeated or before their turn.
fn cut<'a>(random: &mut Random, stream: &'a [u8]) -> Vec<(usize, &'a [u8])> {
    let most = [2, 9, 60, 400, 1400][random.next(5)];
    let (mut pieces, mut at) = (Vec::new(), 0);
    while at < stream.len() && pieces.len() < 24 {
        let len = (1 + random.next(most)).min(stream.len() - at);
        pieces.push((at, &stream[at..at + len]));
        at += len;
    }
    if random.next(4) == 0 && pieces.len() > 2 {
        let (a, b) = (random.next(pieces.len()), random.next(pieces.len()));
        match random.next(3) {
            0 => pieces.swap(a, b),
            1 => drop(pieces.remove(a)),
            _ => pieces.insert(b, pieces[a]),
        }
    }
    pieces
}

fn flight(random: &mut Random) -> Vec<u8> {
    let tls13 = random.next(4) == 0;
    let retry = tls13 && random.next(3) == 0;
    let mut messages = vec![server_hello(random, retry, tls13)];
    if tls13 {
        messages.push(server_hello(random, false, true));
    }
    for _ in 0..random.next(4) {
        let len = random.next(300);
        messages.push(message([11, 12, 13, 14, 22][random.next(5)], &random.bytes(len)));
    }
    if random.next(2) == 0 {
        let ticket_len = random.next(200);
        let ticket = random.bytes(ticket_len);
        let len = lie(random, ticket.len() as u16).to_be_bytes();
        messages.push(message(4, &[&[0, 0, 1, 44][..], &len, &ticket].concat()));
    }
    let bytes = messages.concat();
    let most = if random.next(3) == 0 { 1 + random.next(120) } else { bytes.len() };
    let mut stream = Vec::new();
    for piece in bytes.chunks(most) {
        stream.extend(record(0x16, piece));
    }
    match random.next(6) {
        0 => {}
        1 => stream.extend(record(0x15, &[2, 40])),
        2 => stream.extend(record(0x17, &random.bytes(40))),
        _ => stream.extend(record(0x14, &[1])),
    }
    if random.next(5) == 0 {
        let at = random.next(stream.len());
        stream[at] = random.next(256) as u8;
    }
    stream
}

fn server_hello(random: &mut Random, retry: bool, tls13: bool) -> Vec<u8> {
    const RETRY: [u8; 8] = [0xcf, 0x21, 0xad, 0x74, 0xe5, 0x9a, 0x61, 0x11];
    let mut body = vec![3, 3];
    body.extend(if retry { RETRY.to_vec() } else { random.bytes(8) });
    body.extend(random.bytes(24));
    let id_len = [0, 32, 32, 7, 33][random.next(5)];
    body.push(id_len as u8);
    body.extend(random.bytes(id_len));
    body.extend([0x13, 1, 0]);
    let mut extensions = Vec::new();
    for _ in 0..random.next(4) {
        let n = random.next(60);
        extensions
            .extend([&[0, 51, 0, lie(random, n as u16) as u8][..], &random.bytes(n)].concat());
    }
    if tls13 {
        extensions.extend([0, 43, 0, 2, 3, 4]);
    }
    if random.next(2) == 0 {
        extensions.extend([0, 41, 0, 2, 0, random.next(3) as u8]);
    }
    if random.next(8) != 0 {
        body.extend((extensions.len() as u16).to_be_bytes());
        body.extend(extensions);
    }
    message(2, &body)
}

pub(crate) fn message(kind: u8, body: &[u8]) -> Vec<u8> {
    [&[kind, 0][..], &(body.len() as u16).to_be_bytes(), body].concat()
}

pub(crate) fn record(content: u8, body: &[u8]) -> Vec<u8> {
    [&[content, 3, 3][..], &(body.len() as u16).to_be_bytes(), body].concat()
}

/// A length, and now and then a lie.
fn lie(random: &mut Random, len: u16) -> u16 {
    match random.next(60) {
        0 => random.next(0x1_0000) as u16,
        1 => len.wrapping_add(random.next(8) as u16).wrapping_sub(4),
        _ => len,
    }
}
