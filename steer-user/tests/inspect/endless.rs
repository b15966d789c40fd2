//! Captures that go on for ever or claim to: they end, and cost no more than a capture may.

use std::{
    io::{BufRead as _, BufReader, BufWriter, Write as _},
    process::{Command, Output, Stdio},
};

use crate::{
    Flow,
    Kind::{Data, Syn},
    client_hello, pcap, record,
};

/// What `steer inspect` may have as memory, bytes: 64 MiB of streams, 16 MiB for a packet twice,
/// rows, itself.
const MEMORY: u64 = 256 << 20;
/// More than any of that.
const LONG: usize = 512 << 20;

/// A section header and an Ethernet interface.
#[rustfmt::skip]
const SECTION: [u8; 48] = [
    0x0a, 0x0d, 0x0d, 0x0a, 28, 0, 0, 0, 0x4d, 0x3c, 0x2b, 0x1a, 1, 0, 0, 0,
    0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 28, 0, 0, 0,
    1, 0, 0, 0, 20, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 20, 0, 0, 0,
];
/// A pcap file's header, Ethernet.
const HEADER: [u8; 24] =
    [0xd4, 0xc3, 0xb2, 0xa1, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 1, 0, 0, 0];

/// Reads `start`, then `rest` again and again, through a pipe.
fn inspect(start: &[u8], rest: &[u8]) -> Output {
    let mut steer = Command::new("prlimit");
    steer.arg(format!("--as={MEMORY}")).arg(env!("CARGO_BIN_EXE_steer")).args([
        "inspect",
        "/dev/stdin",
        "--json",
    ]);
    steer.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = steer.spawn().expect("it runs");
    let mut pipe = child.stdin.take().expect("a pipe");
    let many = rest.repeat((1 << 20) / rest.len());
    let writing = std::thread::spawn({
        let start = start.to_owned();
        move || {
            // It hangs up when it has seen enough.
            let mut sent = pipe.write_all(&start).map_or(LONG, |()| 0);
            while sent < LONG && pipe.write_all(&many).is_ok() {
                sent += many.len();
            }
            sent
        }
    });
    let output = child.wait_with_output().expect("its end");
    writing.join().expect("all is written");
    output
}

#[track_caller]
fn ends(output: &Output, code: i32, says: &str) {
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!((output.status.code(), said.lines().count()), (Some(code), 1), "{said}");
    assert!(said.contains(says), "{said}");
}

#[test]
fn a_block_or_a_packet_without_end_is_not_waited_for() {
    for len in [0xffff_fffcu32, 0x7fff_fffc, 1 << 25] {
        let block = [&SECTION[..], &6u32.to_le_bytes(), &len.to_le_bytes()].concat();
        ends(&inspect(&block, &[0]), 0, "is damaged");
        let packet = [&HEADER[..], &[0; 8], &len.to_le_bytes(), &len.to_le_bytes()].concat();
        ends(&inspect(&packet, &[0]), 0, "is damaged");
    }
}

/// A connection's SYN and hello as packets of an Ethernet capture.
fn connection() -> [Vec<u8>; 2] {
    let hello = record(22, &client_hello(&[7; 32], &[(35, vec![9; 200])]));
    let flow = Flow::v4();
    [flow.client(Syn, 0, &[]), flow.client(Data, 0, &hello)]
        .map(|frame| pcap(1, &[frame])[24..].to_vec())
}

/// The same of the client with this number; checksums are not looked at.
fn of_client(connection: &[Vec<u8>; 2], number: u32) -> Vec<u8> {
    const SOURCE_AT: usize = 16 + 26;
    let mut packets = connection.clone();
    for packet in &mut packets {
        packet[SOURCE_AT..SOURCE_AT + 4].copy_from_slice(&number.to_be_bytes());
    }
    packets.concat()
}

#[test]
fn rows_without_end_are_printed_in_bounded_memory() {
    const ROWS: u32 = 80_000;
    for (flags, headers) in [(&["--json"][..], 0), (&[], ROWS / 1000)] {
        let mut steer = Command::new("prlimit");
        steer
            .arg(format!("--as={MEMORY}"))
            .arg(env!("CARGO_BIN_EXE_steer"))
            .args(["inspect", "-"])
            .args(flags);
        let mut child = steer
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("it runs");
        let mut pipe = BufWriter::with_capacity(1 << 16, child.stdin.take().expect("a pipe"));
        let writing = std::thread::spawn(move || {
            let connection = connection();
            pipe.write_all(&HEADER).and_then(|()| {
                (1..=ROWS).try_for_each(|number| pipe.write_all(&of_client(&connection, number)))
            })
        });
        let lines = BufReader::new(child.stdout.take().expect("a pipe"))
            .lines()
            .map_while(Result::ok)
            .count();
        assert!(
            writing.join().expect("no panic").is_ok() && child.wait().expect("its end").success()
        );
        assert_eq!(lines as u32, ROWS + headers);
    }
}

#[test]
fn zeros_without_end_are_no_capture() {
    ends(&inspect(&[], &[0]), 1, "no capture");
    ends(&inspect(&[0xff], &[0xff]), 1, "no capture");
}

#[test]
fn interfaces_without_end_are_counted_no_further() {
    let output = inspect(&SECTION, &SECTION[28..]);
    assert!(output.status.success() && output.stdout.is_empty(), "{output:?}");
}
