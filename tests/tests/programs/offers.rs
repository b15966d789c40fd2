//! Which backend gets a hello by what it offers, and what that backend's answer teaches: tickets
//! without a key's name, backends that accept nothing, keys that change, layouts that nobody told.

use anyhow::{Context as _, Result};
use steer_common::{
    counters::Counter,
    decide,
    refusals::{REFUSED, TRIED},
    rotation::MISSED,
    session::Kind,
    shared::{
        BACKEND_DRAINING, BACKEND_UP, FLOW_HIT, FLOW_NAMED, Flow, LOOKUP_SLOTS, Session,
        SessionKey, VIP_OBSERVE, VIP_TELL_TICKETS,
    },
    wire::tls::server_flight::Follow,
};
use steer_tests::programs::Program;

use crate::{
    flights::{message, record},
    surgery,
    world::{
        CLIENT_ISN, Ends, FIRST_ISN, Given, OWNER_ISN, STAMPS, World, from_backend, from_client,
        shapes,
    },
};

const CLIENT: u32 = CLIENT_ISN.wrapping_add(1);
const FIRST: u32 = FIRST_ISN.wrapping_add(1);
/// A backend's record, as the agent changes it.
type Change = steer_common::shared::Backend;

const OWNER: u32 = OWNER_ISN.wrapping_add(1);

/// A client that connects through the gateway, and its two backends; new connections go to the
/// first one.
struct Visits {
    world: World,
    ends: Ends,
    given: Given,
    /// What is changed of the other backend before a hello.
    change_other: Option<fn(&mut Change)>,
}

impl Visits {
    fn new(ends: Ends, vip_flags: u16) -> Result<Self> {
        let given = Given { vip_flags, ..Given::flow(ends.established()) };
        let mut world = World::new()?;
        world.prepare(&ends, &given)?;
        let vip = world.loaded.plane.vip(&ends.served())?.context("the VIP")?;
        let mut table = [ends.owner_id; LOOKUP_SLOTS as usize];
        let key = ends.key();
        table[decide::slot(&vip, &key.client, key.client_port) as usize] = ends.first_id;
        world.loaded.plane.lookup.write(vip.lookup_base, &table)?;
        Ok(Self { world, ends, given, change_other: None })
    }

    fn count(&self, counter: Counter) -> Result<u64> {
        self.world.loaded.plane.counter(counter)
    }

    /// Says a hello; true where it is led to the other backend than the first.
    fn says(&mut self, hello: &[u8]) -> Result<bool> {
        self.world.prepare(&self.ends, &self.given)?;
        if let Some(change) = self.change_other {
            let id = u32::from(self.ends.owner_id);
            let plane = &mut self.world.loaded.plane;
            let all = plane.backends()?;
            let (_, mut backend) =
                all.into_iter().find(|(other, _)| *other == id).context("the other backend")?;
            change(&mut backend);
            plane.set_backend(id, &backend)?;
        }
        let before = self.count(Counter::Rehome)?;
        let frame = self.ends.up(CLIENT).ack(FIRST).options(&STAMPS).payload(hello);
        self.world.run(Program::Tc, &from_client(&frame))?;
        Ok(self.count(Counter::Rehome)? != before)
    }

    /// Hears the answer of the backend that has the flow.
    fn hears(&mut self, moved: bool, answer: &[u8]) -> Result<()> {
        let flow = self.world.flow(&self.ends)?;
        let (from, seq) = if moved { (self.ends.owner, OWNER) } else { (self.ends.first, FIRST) };
        if moved {
            // As it is once the owner answered the SYN.
            let spliced = self.ends.spliced();
            let Flow { word, owner_isn, delta, ts_delta, server_next, owner, .. } = spliced;
            let follow = Follow::new(OWNER);
            let flow =
                Flow { word, owner_isn, delta, ts_delta, server_next, owner, follow, ..flow };
            self.world.loaded.plane.flows.insert(&self.ends.key(), &flow)?;
            self.world.move_leg(&self.ends)?;
        }
        let frame = self
            .ends
            .down(from, seq)
            .ack(CLIENT.wrapping_add(400))
            .options(&STAMPS)
            .payload(answer);
        self.world.run(Program::Tc, &from_backend(&frame)).map(drop)
    }

    /// Offers a ticket in TLS 1.3, which its issuer accepts. True where it reached it.
    fn offers(&mut self, ticket: &[u8], issuer: Backend) -> Result<bool> {
        let moved = self.says(&hello13(ticket))?;
        let accepted = moved == (issuer == Backend::Other);
        self.hears(moved, &answer13(accepted))?;
        Ok(accepted)
    }

    /// A ticket of the first backend, which gets the connection: its key's name is learned.
    fn learns_of_first(&mut self, ticket: &[u8]) -> Result<()> {
        let moved = self.says(&hello13(ticket))?;
        assert!(!moved, "an unknown ticket");
        self.hears(moved, &answer13(true))
    }

    /// As if another connection had shown that the other backend takes a ticket.
    fn learns_of_other(&mut self, ticket: &[u8]) -> Result<()> {
        self.says(&hello13(ticket))?;
        self.hears(true, &answer13(true))
    }

    /// The newest names of all backends become ten seconds older.
    fn passes_time(&mut self) -> Result<()> {
        let (rotations, vip) =
            (&mut self.world.loaded.plane.rotations, u32::from(self.ends.vip_id));
        let mut rotation = rotations.read(vip)?;
        rotation.backends.iter_mut().for_each(|known| known.since = known.since.saturating_sub(10));
        rotations.set(vip, &rotation)
    }

    fn knows_name(&self, name: &[u8]) -> Result<bool> {
        let key = SessionKey::new(self.ends.vip_id, Kind::KeyName, name).expect("a name");
        Ok(self.world.loaded.plane.key_names.find(&key)?.is_some())
    }
}

/// Whose ticket it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Backend {
    First,
    Other,
}

/// A ClientHello of TLS 1.3 (RFC 8446 4.1.2) that offers a PSK identity.
fn hello13(identity: &[u8]) -> Vec<u8> {
    hello_of(Some(identity), &[])
}

/// A ClientHello of TLS 1.3 that offers a PSK identity or none, and this session ID.
fn hello_of(identity: Option<&[u8]>, id: &[u8]) -> Vec<u8> {
    let extension = |kind: u16, body: &[u8]| {
        [&kind.to_be_bytes()[..], &(body.len() as u16).to_be_bytes(), body].concat()
    };
    let psk = identity.map_or(Vec::new(), |identity| {
        let len = identity.len() as u16;
        let first = [&(len + 6).to_be_bytes()[..], &len.to_be_bytes(), identity, &[0; 4]].concat();
        extension(41, &[&first[..], &[0, 33, 32], &[7; 32]].concat())
    });
    let extensions = [extension(43, &[2, 3, 4]), psk].concat();
    let len = (extensions.len() as u16).to_be_bytes();
    let id = [&[id.len() as u8][..], id].concat();
    let suites = &[0, 2, 0x13, 1, 1, 0];
    let body = [&[3, 3][..], &[7; 32], &id, suites, &len, &extensions].concat();
    record(0x16, &message(1, &body))
}

/// A HelloRetryRequest (RFC 8446 4.1.4): a ServerHello with the SHA-256 of its name as random bytes.
fn retry13() -> Vec<u8> {
    const NAME_HASHED: [u8; 32] = [
        0xcf, 0x21, 0xad, 0x74, 0xe5, 0x9a, 0x61, 0x11, 0xbe, 0x1d, 0x8c, 0x02, 0x1e, 0x65, 0xb8,
        0x91, 0xc2, 0xa2, 0x11, 0x16, 0x7a, 0xbb, 0x8c, 0x5e, 0x07, 0x9e, 0x09, 0xe2, 0xc8, 0xa8,
        0x33, 0x9c,
    ];
    let extensions = [0, 43, 0, 2, 3, 4, 0, 51, 0, 2, 0, 23];
    let len = (extensions.len() as u16).to_be_bytes();
    let body = [&[3, 3][..], &NAME_HASHED, &[0, 0x13, 1, 0], &len, &extensions].concat();
    record(0x16, &message(2, &body))
}

/// A ServerHello of TLS 1.3 that accepts the first PSK, or none.
fn answer13(accepts: bool) -> Vec<u8> {
    let psk: &[u8] = if accepts { &[0, 41, 0, 2, 0, 0] } else { &[] };
    let extensions = [&[0, 43, 0, 2, 3, 4][..], psk].concat();
    let len = (extensions.len() as u16).to_be_bytes();
    let body = [&[3, 3][..], &[9; 32], &[0, 0x13, 1, 0], &len, &extensions].concat();
    [record(0x16, &message(2, &body)), record(0x14, &[1]), record(0x17, &[5; 60])].concat()
}

/// A ServerHello of TLS 1.2 that resumes the session ID of the client, or makes another session.
fn answer12(id: [u8; 32], resumes: bool) -> Vec<u8> {
    let id = if resumes { id } else { [0xee; 32] };
    let hello = message(2, &[&[3, 3][..], &[9; 32], &[32], &id, &[0xc0, 0x2f, 0]].concat());
    let flight =
        if resumes { hello } else { [hello, message(11, &[1; 60]), message(14, &[])].concat() };
    [record(0x16, &flight), record(0x14, &[1])].concat()
}

/// A ticket: a name, then what differs in each.
fn ticket(name: &[u8], n: u64) -> Vec<u8> {
    let spread = |i: u64| (n * 64 + i + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes();
    let rest = (0..20).flat_map(spread).collect::<Vec<_>>();
    [name, &rest[..160 - name.len()]].concat()
}

#[test]
fn a_ticket_no_longer_than_a_session_id_is_known_by_itself_and_leaves_no_key_name() -> Result<()> {
    for ends in shapes() {
        for len in [16, 32] {
            let mut visits = Visits::new(ends, 0)?;
            let (own, others) = (&ticket(&[1; 16], 1)[..len], &ticket(&[1; 16], 2)[..len.max(33)]);
            visits.learns_of_other(own)?;
            assert_eq!(visits.world.loaded.plane.key_names.count()?, 0, "{len} bytes");
            assert!(visits.says(&hello13(own))?, "{len} bytes: not led to its owner");
            assert!(!visits.says(&hello13(others))?, "one that starts alike");
            visits.hears(false, &answer13(false))?;
            // One of those is rejected: there is no name whose owner could be searched.
            let unknown = &ticket(&[3; 16], 3)[..len];
            let searches = visits.world.loaded.plane.key_name_tries.count()?;
            assert!(!visits.offers(unknown, Backend::Other)?);
            assert_eq!(visits.world.loaded.plane.key_name_tries.count()?, searches, "{len} bytes");
        }
        let mut visits = Visits::new(ends, 0)?;
        visits.learns_of_other(&ticket(&[1; 16], 1)[..33])?;
        assert!(
            visits.knows_name(&[1; 16])? && visits.world.loaded.plane.sessions.count()? == 0,
            "33 bytes"
        );
    }
    Ok(())
}

#[test]
fn a_backend_that_accepts_no_session_of_its_own_gets_one_of_sixteen_until_it_accepts_one()
-> Result<()> {
    const ID: [u8; 32] = [0x5a; 32];
    for ends in shapes() {
        let mut visits = Visits::new(ends, 0)?;
        visits.given.session = Some(ID.to_vec());
        let mut round = |resumes: bool| -> Result<bool> {
            let moved = visits.says(&surgery::hello(&ID, 300))?;
            visits.hears(moved, &answer12(ID, resumes && moved))?;
            Ok(moved)
        };
        for n in 0..REFUSED {
            assert!(round(false)?, "refused {n} times");
        }
        let moved = (0..3 * TRIED).map(|_| round(false)).collect::<Result<Vec<_>>>()?;
        assert_eq!(moved.iter().filter(|moved| **moved).count(), 3, "{moved:?}");
        let until_accepted = (0..TRIED).take_while(|_| !round(true).expect("a round")).count();
        assert!(until_accepted < usize::from(TRIED));
        for n in 0..4 * TRIED {
            assert!(round(false)?, "it accepted one lately, and refused {n} since");
        }
        assert!(visits.count(Counter::OwnerRefuses)? > u64::from(2 * TRIED));
    }
    Ok(())
}

#[test]
fn a_refusal_counts_against_nobody_but_the_owner() -> Result<()> {
    const ID: [u8; 32] = [0x5b; 32];
    let ends = shapes()[0];
    let mut visits = Visits::new(ends, VIP_OBSERVE)?;
    visits.given.session = Some(ID.to_vec());
    // The first backend refuses what is another one's, for the gateway only looks.
    for _ in 0..4 * REFUSED {
        assert!(!visits.says(&surgery::hello(&ID, 300))?);
        visits.hears(false, &answer12(ID, false))?;
    }
    visits.given.vip_flags = 0;
    assert!(visits.says(&surgery::hello(&ID, 300))?);
    // Nor was it booked on the first one, which is an owner itself.
    let own = [0x5c; 32];
    let key = SessionKey::new(ends.vip_id, Kind::SessionId, &own).context("a session ID")?;
    let now = steer_user::clock::seconds();
    let session =
        Session { owner: ends.first_id, first_seen: now, last_seen: now, ..Session::default() };
    visits.world.loaded.plane.sessions.insert(&key, &session)?;
    let elsewhere = Flow { first: ends.owner_id, owner: ends.owner_id, ..ends.established() };
    visits.given.flow = Some(elsewhere);
    assert!(visits.says(&surgery::hello(&own, 300))?);
    assert_eq!(visits.count(Counter::OwnerRefuses)?, 0);
    Ok(())
}

/// A pool whose backends came to two key names each, the first backend before the other one, and to
/// a third.
fn rotating(ends: Ends) -> Result<Visits> {
    let mut visits = Visits::new(ends, 0)?;
    for round in 0..2 {
        for n in 0..2 {
            visits.learns_of_first(&ticket(&[1 + 2 * round; 16], n))?;
        }
        visits.passes_time()?;
        for n in 0..2 {
            visits.learns_of_other(&ticket(&[2 + 2 * round; 16], n))?;
        }
        visits.passes_time()?;
        // From the first backend's second name on it is known that keys change here.
        assert_eq!(visits.count(Counter::KeyNameDue)?, u64::from(round));
    }
    // The first backend is next, then the other one.
    visits.learns_of_first(&ticket(&[5; 16], 0))?;
    visits.passes_time()?;
    Ok(visits)
}

#[test]
fn an_unknown_key_name_goes_to_the_backend_whose_newest_one_is_the_oldest() -> Result<()> {
    for ends in shapes() {
        let mut visits = rotating(ends)?;
        assert!(visits.offers(&ticket(&[6; 16], 6), Backend::Other)?, "the other one is next");
        assert_eq!(visits.count(Counter::KeyNameDue)?, 2);
        visits.passes_time()?;
        assert!(!visits.says(&hello13(&ticket(&[7; 16], 0)))?, "and then the first one");
        visits.hears(false, &answer13(true))?;
        visits.passes_time()?;
        // Who is tried in vain is not tried again with that name.
        assert!(!visits.offers(&ticket(&[8; 16], 0), Backend::First)?, "a guess that is wrong");
        assert!(visits.offers(&ticket(&[8; 16], 1), Backend::First)?);
    }
    Ok(())
}

#[test]
fn a_backend_that_refuses_what_it_is_given_on_a_guess_is_guessed_no_more_and_keeps_its_own()
-> Result<()> {
    let mut visits = rotating(shapes()[0])?;
    let mut n_guessed = 0;
    for n in 20..60 {
        n_guessed += usize::from(visits.says(&hello13(&ticket(&[n; 16], n.into())))?);
        visits.hears(n_guessed == usize::from(n - 19), &answer13(false))?;
    }
    assert_eq!(n_guessed, usize::from(MISSED));
    assert!(visits.offers(&ticket(&[4; 16], 60), Backend::Other)?, "its known key leads there");
    assert_eq!(visits.count(Counter::OwnerRefuses)?, 0);
    Ok(())
}

#[test]
fn a_backend_that_takes_no_new_sessions_is_no_guess() -> Result<()> {
    for change in [
        |backend: &mut Change| backend.flags |= BACKEND_DRAINING,
        |backend: &mut Change| backend.flags &= !BACKEND_UP,
        |backend: &mut Change| backend.weight = 0,
    ] {
        let mut visits = rotating(shapes()[0])?;
        visits.change_other = Some(change);
        assert!(!visits.says(&hello13(&ticket(&[6; 16], 6)))?);
    }
    Ok(())
}

#[test]
fn tickets_without_names_move_nobody_under_the_usual_layout() -> Result<()> {
    for ends in shapes() {
        let mut visits = Visits::new(ends, 0)?;
        for n in 0..10 {
            visits.learns_of_other(&ticket(&[], n))?;
            // One that is offered again is the same ticket, not another one of its name.
            visits.learns_of_other(&ticket(&[], n))?;
        }
        let moved = (100..130)
            .map(|n| visits.says(&hello13(&ticket(&[], n))))
            .collect::<Result<Vec<_>>>()?;
        assert!(!moved.contains(&true), "{moved:?}");
    }
    Ok(())
}

/// Another copy of a hello says something else, and is judged by that alone.
#[test]
fn what_a_copy_with_a_wrong_checksum_offers_is_forgotten() -> Result<()> {
    let ends = shapes()[0];
    let mut visits = Visits::new(ends, 0)?;
    visits.learns_of_other(&ticket(&[2; 16], 1))?;
    visits.world.prepare(&ends, &visits.given)?;
    let segment =
        |hello: &[u8]| from_client(&ends.up(CLIENT).ack(FIRST).options(&STAMPS).payload(hello));
    let mut bad = segment(&hello13(&ticket(&[2; 16], 2)));
    *bad.last_mut().context("a frame")? ^= 1;
    visits.world.run(Program::Tc, &bad)?;
    assert_eq!(visits.count(Counter::BadChecksum)?, 1);
    visits.world.run(Program::Tc, &segment(&hello13(&ticket(&[9; 16], 3))))?;
    let flags = visits.world.flow(&ends)?.flags;
    assert_eq!(flags & (FLOW_HIT | FLOW_NAMED), 0, "{flags:#x}");
    Ok(())
}

/// A server that asks for another hello answers that one: what the first one offered is nobody's.
#[test]
fn a_second_hello_with_another_ticket_teaches_that_tickets_name_alone() -> Result<()> {
    for ends in shapes() {
        let mut visits = Visits::new(ends, 0)?;
        let (first, second) = (ticket(&[1; 16], 1), ticket(&[2; 16], 2));
        let (hello, retry) = (hello13(&first), retry13());
        assert!(!visits.says(&hello)?, "an unknown ticket");
        visits.hears(false, &retry)?;
        let (sent, heard) = (hello.len() as u32, retry.len() as u32);
        let told = FIRST.wrapping_add(heard);
        let again = ends.up(CLIENT.wrapping_add(sent)).ack(told).options(&STAMPS);
        visits.world.run(Program::Tc, &from_client(&again.payload(&hello13(&second))))?;
        assert_eq!(visits.count(Counter::SecondHello)?, 1);
        let answer = ends.down(ends.first, told).ack(CLIENT.wrapping_add(2 * sent));
        let answer = answer.options(&STAMPS).payload(&answer13(true));
        visits.world.run(Program::Tc, &from_backend(&answer))?;
        assert!(visits.knows_name(&[2; 16])?, "what was accepted");
        assert!(!visits.knows_name(&[1; 16])?, "what nobody answered");
    }
    Ok(())
}

/// Who speaks TLS 1.3 makes up a session ID (RFC 8446 D.4): nothing is missed where it is not known.
#[test]
fn a_session_is_missed_only_where_one_was_offered() -> Result<()> {
    for ends in shapes() {
        let mut visits = Visits::new(ends, 0)?;
        for (what, hello, missed) in [
            ("TLS 1.3 without a PSK", hello_of(None, &[8; 32]), Counter::HelloNoSession),
            ("TLS 1.3 without anything", hello_of(None, &[]), Counter::HelloNoSession),
            ("TLS 1.2 with a session ID", surgery::hello(&[8; 32], 120), Counter::SessionMiss),
        ] {
            let counters = [Counter::HelloNoSession, Counter::SessionMiss, Counter::TicketMiss];
            let before = counters.map(|counter| visits.count(counter));
            assert!(!visits.says(&hello)?, "{what}");
            for (counter, before) in counters.into_iter().zip(before) {
                let grown = visits.count(counter)? - before?;
                assert_eq!(grown, u64::from(counter == missed), "{what}: {}", counter.word());
            }
        }
    }
    Ok(())
}

/// Tickets of both backends in turn, each another one; how many did not reach their issuer.
fn misses(
    visits: &mut Visits,
    of_first: impl Fn(u64) -> Vec<u8>,
    of_other: impl Fn(u64) -> Vec<u8>,
) -> Result<usize> {
    let mut n = 0;
    for i in 0..24 {
        n += usize::from(!visits.offers(&of_first(i), Backend::First)?);
        n += usize::from(!visits.offers(&of_other(100 + i), Backend::Other)?);
    }
    Ok(n)
}

#[test]
fn while_nobody_told_the_layout_names_of_every_layout_lead_to_their_owner() -> Result<()> {
    let s2n = |last: u8| [&[1][..], b"key-of-server-1", &[last]].concat();
    let layouts = [
        ("16@0", vec![1; 16], vec![2; 16]),
        ("4@0", vec![1, 2, 3, 4], vec![1, 2, 3, 5]),
        ("16@1", s2n(b'1'), s2n(b'2')),
        ("16@0, which start alike", b"lab backend key0".to_vec(), b"lab backend key1".to_vec()),
    ];
    for ends in shapes() {
        for (layout, first, other) in &layouts {
            let mut visits = Visits::new(ends, VIP_TELL_TICKETS)?;
            let n = misses(&mut visits, |i| ticket(first, i), |i| ticket(other, i))?;
            assert!(n <= 4, "{layout}: {n} of 48 missed");
        }
    }
    Ok(())
}

#[test]
fn tickets_without_names_and_a_shared_key_are_led_nowhere_while_nobody_told_the_layout()
-> Result<()> {
    let ends = shapes()[0];
    for name in [&[][..], b"NSS!", &[7; 16]] {
        let mut visits = Visits::new(ends, VIP_TELL_TICKETS)?;
        visits.learns_of_other(&ticket(name, 1))?;
        // While the gateway only looks the first backend keeps the flow, and accepts a ticket of
        // that name, too.
        visits.given.vip_flags |= VIP_OBSERVE;
        visits.learns_of_first(&ticket(name, 2))?;
        visits.given.vip_flags &= !VIP_OBSERVE;
        let moved = (10..34)
            .map(|n| visits.says(&hello13(&ticket(name, n))))
            .collect::<Result<Vec<_>>>()?;
        assert!(!moved.contains(&true), "{name:?}: {moved:?}");
        assert_eq!(visits.count(Counter::KeyNameDue)?, 0);
    }
    Ok(())
}
