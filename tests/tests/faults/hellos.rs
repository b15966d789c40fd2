//! Hellos of every length and in every number of segments.

use anyhow::Result;
use steer_common::counters::Counter;
use steer_tests::{
    case::{Case, OWNER},
    loss::Loss,
    setting::{PLAIN, Setting, in_settings},
    topology::Offloads,
};

use crate::owners::unchecked;

#[test]
fn a_hello_in_one_segment_moves() -> Result<()> {
    in_settings(0, |setting| hello_in_segments(setting, 536, 1))?;
    hello_in_segments(PLAIN.wire(), 536, 1)
}

#[test]
fn a_hello_in_two_segments_moves() -> Result<()> {
    in_settings(1, |setting| hello_in_segments(setting, 150, 2))?;
    hello_in_segments(PLAIN.wire(), 150, 2)
}

#[test]
fn a_hello_in_three_segments_moves() -> Result<()> {
    in_settings(2, |setting| hello_in_segments(setting, 100, 3))?;
    hello_in_segments(PLAIN.wire(), 100, 3)
}

#[test]
fn a_hello_of_2400_bytes_moves() -> Result<()> {
    in_settings(3, |setting| long_hello(setting, 2_400))
}

#[test]
fn a_hello_of_6200_bytes_moves() -> Result<()> {
    in_settings(4, |setting| long_hello(setting, 6_200))
}

#[test]
fn a_hello_of_11_kilobytes_moves() -> Result<()> {
    in_settings(5, |setting| long_hello(setting, 11_000))
}

#[test]
fn a_hello_longer_than_the_buffer_moves() -> Result<()> {
    in_settings(6, |setting| long_hello(setting, 15_000))
}

/// The session ID lies within the first 76 bytes: the first segment decides, the others come while
/// the owner is opened.
fn hello_in_segments(setting: Setting, mss: u32, n_segments: u64) -> Result<()> {
    let run = unchecked(setting).start()?;
    let mut case = Case::start(&run)?;
    case.dial.mss = Some(mss);
    case.moves(&case.dial)?;
    case.expect(&[(Counter::SpliceOpened, 1), (Counter::Hello, 1)])?;
    // The client's MSS holds in its SYN to the owner, so that the answers come in such segments
    // too.
    case.upload(&case.dial, &[7; 100_000])?;
    case.unharmed(2)?;
    if setting.offloads == Offloads::Off { waits_for_all(&mut case, n_segments) } else { Ok(()) }
}

/// With the owner's first SYN-ACK lost, every segment of the hello comes before the splice, and is
/// buffered.
fn waits_for_all(case: &mut Case<'_>, n_segments: u64) -> Result<()> {
    case.count_from_here()?;
    let once = "tcp flags & (syn | ack) == syn | ack numgen inc mod 1000 == 0";
    let _loss = Loss::outgoing(case.run.lab.backend(OWNER), once)?;
    case.moves(&case.dial)?;
    case.expect(&[
        (Counter::Buffered, n_segments),
        (Counter::OwnerSynRepeated, 1),
        (Counter::SpliceOpened, 1),
    ])?;
    case.unharmed(1)
}

fn long_hello(setting: Setting, len: usize) -> Result<()> {
    let run = setting.scenario().start()?;
    let mut client = run.new_client()?;
    client.lengthen_hello(len);
    let case = Case::start_with(&run, client)?;
    let handshake = case.moves(&case.dial)?;
    case.expect(&[(Counter::SpliceOpened, 1)])?;
    assert!(handshake.time.as_millis() < 800, "no waiting for timers: {:?}", handshake.time);
    case.unharmed(1)
}
