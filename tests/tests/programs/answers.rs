//! The programs look for the client's certificate behind its hello: what they make of its segments,
//! honest or not.

use anyhow::Result;
use aya::maps::{Map, MapData, RingBuf};
use steer_common::{
    counters::Counter,
    shared::{
        Flow, JOURNAL_SESSIONS, JOURNAL_SPLICES, JournalEntry, VIP_LEARN_WITHOUT_CERTIFICATE,
    },
};
use steer_tests::{pieces::fragments, programs::Program};
use steer_user::clock;

use crate::world::{
    CLIENT_ISN, Ends, FIRST_ISN, Given, OWNER_ISN, STAMPS, World, from_backend, from_client, shapes,
};

const ID: [u8; 32] = [0x1d; 32];
/// Length of the client's hello with its record header, bytes.
const HELLO: u32 = 209;

fn record(content: u8, body: &[u8]) -> Vec<u8> {
    [&[content, 3, 3][..], &(body.len() as u16).to_be_bytes(), body].concat()
}

fn message(kind: u8, body: &[u8]) -> Vec<u8> {
    [&[kind, 0][..], &(body.len() as u16).to_be_bytes(), body].concat()
}

/// A hello of TLS 1.2 without a session, so much shorter than [`HELLO`] bytes.
fn hello(shorter_by: usize) -> Vec<u8> {
    let padding = HELLO as usize - 5 - 4 - 2 - 32 - 1 - 4 - 2 - 2 - 4 - shorter_by;
    let filler = [&[0, 21][..], &(padding as u16).to_be_bytes(), &vec![0; padding]].concat();
    let mut body = [&[3, 3][..], &[0x5a; 32], &[0, 0, 2, 0xc0, 0x2f, 1, 0]].concat();
    body.extend((filler.len() as u16).to_be_bytes());
    body.extend(filler);
    record(0x16, &message(1, &body))
}

/// ServerHello with a session ID, Certificate, CertificateRequest where one is asked for,
/// ServerHelloDone.
fn first_flight(asked: bool) -> Vec<u8> {
    let hello = message(2, &[&[3, 3][..], &[0x5a; 32], &[32], &ID, &[0xc0, 0x2f, 0]].concat());
    let request = if asked { message(13, &[1, 1, 0, 2, 4, 3, 0, 0]) } else { Vec::new() };
    record(0x16, &[hello, message(11, &[0x30; 500]), request, message(14, &[])].concat())
}

/// ChangeCipherSpec and an encrypted Finished.
fn finished() -> Vec<u8> {
    [record(0x14, &[1]), record(0x16, &[0xee; 40])].concat()
}

/// A client's second flight: a list of so many bytes of certificates, ClientKeyExchange, and its
/// Finished.
fn second_flight(list: usize) -> Vec<u8> {
    let certificates = [&[0][..], &(list as u16).to_be_bytes(), &vec![0x30; list]].concat();
    [record(0x16, &message(11, &certificates)), record(0x16, &message(16, &[0x41; 66])), finished()]
        .concat()
}

/// A piece of the client's stream behind its hello.
type Piece = (i32, Vec<u8>);

/// Cuts a stream at one place.
fn cut(stream: &[u8], at: usize) -> Vec<Piece> {
    vec![(0, stream[..at].to_vec()), (at as i32, stream[at..].to_vec())]
}

/// What clients send behind their hellos where they were asked for a certificate, and what is
/// counted of it.
fn answers() -> Vec<(&'static str, Vec<Piece>, Counter)> {
    use Counter::{Learned, SessionCertificateUnseen as Unseen, SessionNoCertificate as Missing};
    let (with, without) = (second_flight(700), second_flight(0));
    // The header of an encrypted record and its nonce, which a client chooses (RFC 5288 3), look
    // like a certificate.
    let forged = record(0x16, &message(11, &[&[0, 0, 33][..], &[0x30; 33]].concat()));
    let behind_key_exchange = without.len() as i32 - 45;
    vec![
        ("a certificate", vec![(0, with.clone())], Learned),
        ("one in a segment of its own", cut(&with, 712), Learned),
        ("one cut behind what is looked at", cut(&with, 12), Learned),
        ("one repeated", vec![(0, with.clone()), (0, with.clone())], Learned),
        ("its end before its start", cut(&with, 100).into_iter().rev().collect(), Learned),
        (
            "one behind the last byte of a repeated hello",
            vec![(-1, [&[0][..], &with].concat())],
            Learned,
        ),
        ("none", vec![(0, without.clone())], Missing),
        (
            "none, and one that its backend does not read",
            vec![(0, without.clone()), (0, with.clone())],
            Missing,
        ),
        (
            "one that its backend does not read, and none",
            vec![(0, with.clone()), (0, without.clone())],
            Missing,
        ),
        (
            "none, in two pieces, and one",
            [cut(&without, 7), vec![(0, with.clone())]].concat(),
            Unseen,
        ),
        ("one cut where nobody cuts it", cut(&with, 11), Unseen),
        ("one byte by byte", (0..40).map(|i| (i, vec![with[i as usize]])).collect(), Unseen),
        ("nothing", vec![], Unseen),
        ("no such message", vec![(0, finished())], Unseen),
        (
            "none, and bytes that look like one further on",
            vec![(0, without), (behind_key_exchange, forged)],
            Missing,
        ),
    ]
}

/// A world with the flow of a client that said its hello, and its backend.
struct Talk<'a> {
    world: &'a mut World,
    ends: Ends,
    /// Moved to the owner.
    spliced: bool,
}

impl Talk<'_> {
    fn begin(world: &mut World, ends: Ends, spliced: bool, vip_flags: u16) -> Result<Talk<'_>> {
        let flow = if spliced { ends.spliced() } else { ends.settled() };
        let next = if spliced { OWNER_ISN } else { FIRST_ISN }.wrapping_add(1);
        let follow = steer_common::wire::tls::server_flight::Follow::new(next);
        let flow = Flow { flags: 0, hello_len: HELLO, follow, ..flow };
        world.prepare(&ends, &Given { vip_flags, ..Given::flow(flow) })?;
        Ok(Talk { world, ends, spliced })
    }

    /// The client's bytes at this place of its stream, counted from the end of its hello.
    fn client(&self, at: i32, bytes: &[u8]) -> Result<()> {
        self.world.run(Program::Tc, &self.frame(at, bytes)).map(drop)
    }

    /// The frame that brings them.
    fn frame(&self, at: i32, bytes: &[u8]) -> Vec<u8> {
        let seq = CLIENT_ISN.wrapping_add(1 + HELLO).wrapping_add_signed(at);
        from_client(
            &self.ends.up(seq).ack(FIRST_ISN.wrapping_add(1)).options(&STAMPS).payload(bytes),
        )
    }

    fn backend(&self, at: usize, bytes: &[u8]) -> Result<()> {
        let (from, isn) =
            if self.spliced { (self.ends.owner, OWNER_ISN) } else { (self.ends.first, FIRST_ISN) };
        let segment = self
            .ends
            .down(from, isn.wrapping_add(1 + at as u32))
            .ack(CLIENT_ISN.wrapping_add(1 + HELLO));
        self.world.run(Program::Tc, &from_backend(&segment.payload(bytes))).map(drop)
    }

    /// The whole handshake; what it was counted as.
    fn handshake(&self, asked: bool, pieces: &[Piece]) -> Result<Vec<Counter>> {
        self.told(asked, || pieces.iter().try_for_each(|(at, bytes)| self.client(*at, bytes)))
    }

    /// As [`Talk::handshake`], of a client that is asked for a certificate and sends these frames.
    fn handshake_of(&self, frames: &[Vec<u8>]) -> Result<Vec<Counter>> {
        self.told(true, || {
            frames.iter().try_for_each(|frame| self.world.run(Program::Tc, frame).map(drop))
        })
    }

    fn told(&self, asked: bool, client: impl Fn() -> Result<()>) -> Result<Vec<Counter>> {
        let before = self.counts()?;
        let flight = first_flight(asked);
        self.backend(0, &flight)?;
        client()?;
        self.backend(flight.len(), &finished())?;
        let after = self.counts()?;
        Ok(COUNTED
            .into_iter()
            .zip(before.into_iter().zip(after))
            .filter(|(_, (b, a))| a > b)
            .map(|(c, _)| c)
            .collect())
    }

    fn counts(&self) -> Result<Vec<u64>> {
        COUNTED.into_iter().map(|counter| self.world.loaded.plane.counter(counter)).collect()
    }
}

const COUNTED: [Counter; 3] =
    [Counter::Learned, Counter::SessionNoCertificate, Counter::SessionCertificateUnseen];

#[test]
fn only_a_certificate_that_every_copy_has_is_learned_from() -> Result<()> {
    let mut world = World::new()?;
    for ends in shapes() {
        for spliced in [false, true] {
            for (what, pieces, counted) in answers() {
                let talk = Talk::begin(&mut world, ends, spliced, 0)?;
                assert_eq!(talk.handshake(true, &pieces)?, [counted], "{what}, moved: {spliced}");
            }
        }
    }
    Ok(())
}

/// Nobody but its receiver can read an answer in fragments, and a copy with a wrong checksum is
/// nobody's.
#[test]
fn neither_fragments_nor_copies_with_a_wrong_checksum_are_a_certificate() -> Result<()> {
    let mut world = World::new()?;
    let (with, without) = (second_flight(700), second_flight(0));
    for ends in shapes() {
        let talk = Talk::begin(&mut world, ends, false, 0)?;
        let mut damaged = talk.frame(0, &with);
        *damaged.last_mut().expect("a byte") ^= 1;
        let bad = [vec![damaged.clone()], vec![talk.frame(0, &without)]].concat();
        assert_eq!(talk.handshake_of(&bad)?, [Counter::SessionNoCertificate], "{}", ends.client);
        let talk = Talk::begin(&mut world, ends, false, 0)?;
        assert_eq!(
            talk.handshake_of(&[damaged])?,
            [Counter::SessionCertificateUnseen],
            "{}",
            ends.client
        );
        let talk = Talk::begin(&mut world, ends, false, 0)?;
        // Its backend has read that there is none when it drops the other one as repeated.
        let pieces =
            [fragments(&talk.frame(0, &without), &[64], 7), vec![talk.frame(0, &with)]].concat();
        assert_eq!(
            talk.handshake_of(&pieces)?,
            [Counter::SessionCertificateUnseen],
            "{}",
            ends.client
        );
    }
    Ok(())
}

#[test]
fn whoever_is_not_asked_needs_none() -> Result<()> {
    let mut world = World::new()?;
    let key_exchange = [record(0x16, &message(16, &[0x41; 66])), finished()].concat();
    for pieces in [vec![(0, key_exchange.clone())], cut(&key_exchange, 5), vec![]] {
        let talk = Talk::begin(&mut world, shapes()[0], false, 0)?;
        assert_eq!(talk.handshake(false, &pieces)?, [Counter::Learned]);
    }
    Ok(())
}

#[test]
fn where_the_operator_says_so_nobody_needs_one() -> Result<()> {
    let mut world = World::new()?;
    for (what, pieces, _) in answers() {
        let talk = Talk::begin(&mut world, shapes()[0], false, VIP_LEARN_WITHOUT_CERTIFICATE)?;
        assert_eq!(talk.handshake(true, &pieces)?, [Counter::Learned], "{what}");
    }
    Ok(())
}

/// The first data of a client, as it stands in its hello's segment and what follows.
#[test]
fn what_a_client_says_before_it_is_asked_does_not_count() -> Result<()> {
    let mut world = World::new()?;
    let (with, without) = (second_flight(700), second_flight(0));
    for (what, first, pieces, counted) in [
        ("an honest one", hello(0), vec![(0, with.clone())], Counter::Learned),
        (
            "an honest one that repeats its hello",
            hello(0),
            vec![(-209, hello(0)), (0, with.clone())],
            Counter::Learned,
        ),
        (
            "an empty list behind the hello",
            [hello(0), without[..12].to_vec()].concat(),
            vec![(0, with.clone())],
            Counter::SessionCertificateUnseen,
        ),
        (
            "another hello than the one before",
            hello(0),
            vec![(-209, hello(57)), (0, with)],
            Counter::SessionCertificateUnseen,
        ),
    ] {
        let ends = shapes()[0];
        world.prepare(&ends, &Given::flow(ends.established()))?;
        let talk = Talk { world: &mut world, ends, spliced: false };
        talk.client(-209, &first)?;
        assert_eq!(talk.world.flow(&ends)?.hello_len, HELLO, "{what}");
        assert_eq!(talk.handshake(true, &pieces)?, [counted], "{what}");
    }
    Ok(())
}

/// The first byte comes again with nothing new behind it: the flow is settled before its hello is
/// whole.
#[test]
fn a_certificate_is_seen_behind_a_hello_whose_pieces_stalled() -> Result<()> {
    let mut world = World::new()?;
    let (ends, hello) = (shapes()[0], hello(0));
    world.prepare(&ends, &Given::flow(ends.established()))?;
    let talk = Talk { world: &mut world, ends, spliced: false };
    talk.client(-209, &hello[..3])?;
    talk.client(-206, &hello[3..63])?;
    std::thread::sleep(std::time::Duration::from_millis(150));
    let before = talk.world.loaded.plane.counter(Counter::GatherStalled)?;
    talk.client(-209, &hello[..3])?;
    assert_eq!(talk.world.loaded.plane.counter(Counter::GatherStalled)? - before, 1);
    talk.client(-146, &hello[63..])?;
    assert_eq!(talk.handshake(true, &[(0, second_flight(700))])?, [Counter::Learned]);
    Ok(())
}

#[test]
fn a_client_that_talks_on_without_an_answer_is_not_read_for_ever() -> Result<()> {
    use steer_common::shared::FLOW_LEARNED;
    let mut world = World::new()?;
    let ends = shapes()[0];
    let talk = Talk::begin(&mut world, ends, false, 0)?;
    talk.client(60_000, b"more")?;
    assert_eq!(talk.world.flow(&ends)?.flags & FLOW_LEARNED, 0);
    talk.client(66_000, b"and more")?;
    assert_ne!(talk.world.flow(&ends)?.flags & FLOW_LEARNED, 0);
    Ok(())
}

/// What the programs noted for other gateways.
fn noted(ring: &mut RingBuf<MapData>) -> Vec<JournalEntry> {
    std::iter::from_fn(|| {
        let item = ring.next()?;
        assert_eq!(item.len(), size_of::<JournalEntry>());
        // SAFETY: there are enough bytes, and the type is valid for every bit pattern.
        Some(unsafe { item.as_ptr().cast::<JournalEntry>().read_unaligned() })
    })
    .collect()
}

#[test]
fn what_is_learned_or_ends_is_noted_while_somebody_tells_it_to_others() -> Result<()> {
    let mut world = World::new()?;
    let ring = MapData::from_pin(world.loaded.pin("journal"))?;
    let mut ring = RingBuf::try_from(Map::from_map_data(ring)?)?;
    let handshake = |world: &mut World| -> Result<()> {
        let talk = Talk::begin(world, shapes()[0], true, 0)?;
        assert_eq!(talk.handshake(true, &[(0, second_flight(700))])?, [Counter::Learned]);
        Ok(())
    };
    handshake(&mut world)?;
    assert_eq!(noted(&mut ring), [], "nobody reads");
    world.loaded.plane.set_journaling(clock::seconds() + 100)?;
    handshake(&mut world)?;
    let [learned] = noted(&mut ring)[..] else { panic!("one session was learned") };
    assert_eq!(learned.table, JOURNAL_SESSIONS);
    assert_eq!((usize::from(learned.session.len), learned.session.bytes), (ID.len(), ID));
    assert!(world.loaded.plane.sessions.find(&learned.session)?.is_some());
    // Its owner resets the flow, which was moved.
    let ends = shapes()[0];
    let flow = ends.spliced();
    world.prepare(&ends, &Given::flow(flow))?;
    let reset = ends.down(ends.owner, flow.server_next).rst().ack(flow.client_next);
    world.run(Program::Tc, &from_backend(&reset))?;
    let [over] = noted(&mut ring)[..] else { panic!("one flow ended") };
    assert_eq!((over.table, over.flow), (JOURNAL_SPLICES, ends.key()));
    assert!(world.loaded.plane.splices.find(&over.flow)?.is_none());
    world.loaded.plane.set_journaling(clock::seconds() - 1)?;
    handshake(&mut world)?;
    assert_eq!(noted(&mut ring), [], "nobody reads any more");
    Ok(())
}
