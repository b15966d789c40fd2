//! How many entries a connection makes: whoever floods the gateway pays for what is inserted.

use anyhow::Result;
use steer_tests::packets::Segment;

use crate::{
    flights::{message, record},
    surgery::hello,
    world::{CLIENT_ISN, Ends, FIRST_ISN, Given, World, from_backend, from_client, shapes},
};
use steer_tests::programs::Program;

const CLIENT: u32 = CLIENT_ISN.wrapping_add(1);
const FIRST: u32 = FIRST_ISN.wrapping_add(1);

/// Entries of every table that packets can fill.
type Entries = [(&'static str, u64); 6];

fn entries(world: &World) -> Result<Entries> {
    let plane = &world.loaded.plane;
    Ok([
        ("handshakes", plane.handshakes.count()?),
        ("flows", plane.flows.count()?),
        ("sessions", plane.sessions.count()?),
        ("splices", plane.splices.count()?),
        ("key names", plane.key_names.count()?),
        ("key name tries", plane.key_name_tries.count()?),
    ])
}

/// The table that got an entry by this frame.
fn inserted(world: &World, frame: &[u8]) -> Result<Vec<&'static str>> {
    let before = entries(world)?;
    world.run(Program::Tc, frame)?;
    let after = entries(world)?;
    let more = before.iter().zip(after).flat_map(|(before, after)| {
        assert!(after.1 >= before.1, "{}: {} entries, {} before", after.0, after.1, before.1);
        std::iter::repeat_n(after.0, (after.1 - before.1) as usize)
    });
    Ok(more.collect())
}

#[test]
fn a_connection_makes_one_entry_at_its_syn_one_when_it_is_established_and_one_for_a_new_session()
-> Result<()> {
    let mut world = World::new()?;
    for ends in shapes() {
        world.prepare(&ends, &Given::nothing())?;
        let stream = hello(&[0x42; 32], 300);
        let (up, down) = (up(&ends), down(&ends));
        let flight = flight();
        let answered = FIRST.wrapping_add(flight.len() as u32);
        let finished = [record(0x14, &[1]), record(0x16, &[3; 40])].concat();
        let steps = [
            (
                "SYN",
                from_client(&ends.up(CLIENT_ISN).syn().options(&[2, 4, 5, 180])),
                vec!["handshakes"],
            ),
            ("SYN again", from_client(&ends.up(CLIENT_ISN).syn().options(&[2, 4, 5, 180])), vec![]),
            (
                "SYN-ACK",
                from_backend(
                    &ends.down(ends.first, FIRST_ISN).syn().ack(CLIENT).options(&[2, 4, 5, 180]),
                ),
                vec![],
            ),
            ("acknowledgement", from_client(&up(CLIENT, FIRST)), vec!["flows"]),
            ("hello", from_client(&up(CLIENT, FIRST).payload(&stream)), vec![]),
            ("hello again", from_client(&up(CLIENT, FIRST).payload(&stream)), vec![]),
            ("first flight", from_backend(&down(FIRST).payload(&flight)), vec![]),
            ("last flight", from_backend(&down(answered).payload(&finished)), vec!["sessions"]),
            ("last flight again", from_backend(&down(answered).payload(&finished)), vec![]),
            (
                "data",
                from_client(&up(CLIENT.wrapping_add(300), answered).payload(&[7; 64])),
                vec![],
            ),
            ("data back", from_backend(&down(answered.wrapping_add(51)).payload(&[7; 64])), vec![]),
            ("FIN", from_client(&up(CLIENT.wrapping_add(364), answered).fin()), vec![]),
        ];
        for (what, frame, wanted) in steps {
            assert_eq!(inserted(&world, &frame)?, wanted, "{what}, {}", ends.client);
        }
    }
    Ok(())
}

fn up(ends: &Ends) -> impl Fn(u32, u32) -> Segment + use<> {
    let ends = *ends;
    move |seq, ack| ends.up(seq).ack(ack)
}

fn down(ends: &Ends) -> impl Fn(u32) -> Segment + use<> {
    let ends = *ends;
    move |seq| ends.down(ends.first, seq).ack(CLIENT.wrapping_add(300))
}

/// A backend's first flight of TLS 1.2 with a new session ID.
fn flight() -> Vec<u8> {
    let hello = [&[3, 3][..], &[5; 32], &[32], &[8; 32], &[0xc0, 0x2f, 0]].concat();
    record(0x16, &[message(2, &hello), message(11, &[0; 200]), message(14, &[])].concat())
}
