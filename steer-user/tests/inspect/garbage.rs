//! Files that nobody should send: no panic, no row without a packet, memory bounded.

use std::{fs, io::Cursor, path::Path};

use proptest::prelude::*;
use steer_user::inspect::{ROWS_MAX, inspect};

use crate::{ETHERNET, Flow, Kind::Data, Kind::Syn, client_hello, pcap, read, record};

fn captures() -> Vec<Vec<u8>> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/captures");
    let files =
        fs::read_dir(directory).expect("the captures").map(|entry| entry.expect("an entry").path());
    files
        .filter(|path| path.extension().is_some_and(|e| e == "pcap"))
        .map(|path| fs::read(path).expect("a file"))
        .collect()
}

fn survives(file: Vec<u8>) {
    let _ = inspect(Cursor::new(file), |row| serde_json::to_string(&row).map(drop));
}

/// A section header, an Ethernet interface, and the number of a packet's block.
#[rustfmt::skip]
const SECTION: [u8; 52] = [
    0x0a, 0x0d, 0x0d, 0x0a, 28, 0, 0, 0, 0x4d, 0x3c, 0x2b, 0x1a, 1, 0, 0, 0,
    0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 28, 0, 0, 0,
    1, 0, 0, 0, 20, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 20, 0, 0, 0,
    6, 0, 0, 0,
];

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn random_bytes(bytes in prop::collection::vec(any::<u8>(), 0..2000), magic in 0usize..5) {
        let magic: &[u8] = [
            &[][..],
            &[0xd4, 0xc3, 0xb2, 0xa1, 2, 0, 4, 0],
            &[0xa1, 0xb2, 0xc3, 0xd4, 0, 2, 0, 4],
            &SECTION,
            &[0x0a, 0x0d, 0x0d, 0x0a],
        ][magic];
        survives([magic, &bytes].concat());
    }

    #[test]
    fn random_frames(
        frames in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..120), 0..20),
        link in prop::sample::select(vec![0u32, 1, 12, 101, 108, 113, 228, 229, 276, 7]),
        version in prop::sample::select(vec![0x45u8, 0x60, 0x46]),
    ) {
        let frames: Vec<_> = frames
            .into_iter()
            .map(|mut frame| {
                let headers = [(0, 4), (1, 14), (108, 4), (113, 16), (276, 20)];
                let at = headers.iter().find(|header| header.0 == link).map_or(0, |header| header.1);
                for (index, byte) in [(at, version), (at + 9, 6), (at + 6, 6), (12, 8), (13, 0), (at + 2, 0)] {
                    if let Some(place) = frame.get_mut(index) {
                        *place = byte;
                    }
                }
                frame
            })
            .collect();
        survives(pcap(link, &frames));
    }

    #[test]
    fn mutated_captures(
        capture in any::<prop::sample::Index>(),
        mutations in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..40),
        cut in any::<prop::sample::Index>(),
    ) {
        let captures = captures();
        let mut file = captures[capture.index(captures.len())].clone();
        for (at, byte) in mutations {
            let at = at.index(file.len());
            file[at] = byte;
        }
        let cut = cut.index(file.len() * 2);
        file.truncate(cut.max(24));
        survives(file);
    }

    #[test]
    fn random_segments(
        segments in prop::collection::vec(
            (any::<bool>(), 0u32..70_000, prop::collection::vec(any::<u8>(), 0..90), any::<bool>()),
            1..60,
        ),
    ) {
        let flow = Flow::v4();
        let frames: Vec<_> = segments
            .iter()
            .map(|(client, offset, payload, syn)| {
                let kind = if *syn && offset % 8 == 0 { Syn } else { Data };
                if *client { flow.client(kind, *offset, payload) } else { flow.server(kind, *offset, payload) }
            })
            .collect();
        prop_assert!(!read(pcap(ETHERNET, &frames)).0.is_empty());
    }
}

#[test]
fn where_too_many_connections_are_open_the_oldest_is_told_first() {
    let hello = record(22, &client_hello(&[7; 32], &[]));
    let n = ROWS_MAX as u32 + 300;
    let flow = |n: u32| {
        let client = format!("10.{}.{}.{}:{}", n >> 16, n >> 8 & 255, n & 255, 1000 + n % 7);
        Flow::new(&client, "198.51.100.10:443", n, 1)
    };
    let mut frames: Vec<_> = (0..n).map(|n| flow(n).client(Syn, 0, &[])).collect();
    frames.extend((0..n).map(|n| flow(n).client(Data, 0, &hello)));
    let (rows, summary) = read(pcap(ETHERNET, &frames));
    assert!(rows.len() >= n as usize);
    assert_eq!(rows[0].client, flow(0).client.address);
    assert_eq!(rows[0].client_hello, None, "it was told before its hello came");
    assert!(rows[400].client_hello.is_some());
    assert!(summary.cut_short >= 300);
}

#[test]
fn streams_that_never_become_a_handshake_are_not_held() {
    // Each promises 16 kB, leaves a hole, and sends on: 10 000 times 20 kB.
    let mut frames = Vec::new();
    for n in 0..10_000u32 {
        let flow = Flow::new(&format!("10.0.{}.{}:1", n >> 8, n & 255), "198.51.100.10:443", n, 1);
        frames.push(flow.client(Syn, 0, &[]));
        frames.push(flow.client(Data, 0, &[22, 3, 1, 0x3f, 0xff, 1, 0, 0x3f, 0xf0]));
        frames.push(flow.client(Data, 19_990, &[0; 10]));
    }
    let (rows, summary) = read(pcap(ETHERNET, &frames));
    assert_eq!(rows.len(), 10_000);
    assert!(summary.cut_short > 5000, "{summary:?}");
}
