//! Files: pcapng, other byte orders, truncated, damaged, none.

use std::io::{self, Cursor, Read, Write as _};

use flate2::{Compression, write::GzEncoder};

use steer_user::inspect::{Ending, Kind, Refused, Stopped, inspect};

use crate::{ETHERNET, Flow, Kind::Data, client_hello, pcap, read, read_from, record};

fn frames(n: u16) -> Vec<Vec<u8>> {
    let hello = record(22, &client_hello(&[7; 32], &[]));
    (1..=n)
        .map(|port| {
            Flow::new(&format!("192.0.2.1:{port}"), "198.51.100.10:443", 1, 1)
                .client(Data, 0, &hello)
        })
        .collect()
}

fn block(big: bool, kind: u32, body: &[u8]) -> Vec<u8> {
    let number = |n: u32| if big { n.to_be_bytes() } else { n.to_le_bytes() };
    let body = [body, &vec![0; body.len().next_multiple_of(4) - body.len()]].concat();
    let len = number(body.len() as u32 + 12);
    [&number(kind)[..], &len, &body, &len].concat()
}

fn pcapng(big: bool, links: &[u16], packets: &[(u32, Vec<u8>)]) -> Vec<u8> {
    let number = |n: u32| if big { n.to_be_bytes() } else { n.to_le_bytes() };
    let short = |n: u16| if big { n.to_be_bytes() } else { n.to_le_bytes() };
    let head = [&number(0x1a2b_3c4d)[..], &short(1), &short(0), &[0xff; 8]].concat();
    let mut file = block(big, 0x0a0d_0d0a, &head);
    for link in links {
        file.extend(block(big, 1, &[&short(*link)[..], &[0; 2], &number(0)].concat()));
    }
    // Name resolution and statistics, which say nothing here.
    file.extend(block(big, 4, &[0; 4]));
    for (interface, packet) in packets {
        let len = number(packet.len() as u32);
        file.extend(block(
            big,
            6,
            &[&number(*interface)[..], &[0; 8], &len, &len, packet].concat(),
        ));
    }
    file
}

#[test]
fn pcapng_is_read_in_both_byte_orders_with_several_interfaces() {
    for big in [false, true] {
        let packets: Vec<_> = frames(6)
            .into_iter()
            .enumerate()
            .map(|(n, frame)| if n % 2 == 0 { (0, frame) } else { (1, frame[14..].to_vec()) })
            .collect();
        let file = pcapng(big, &[1, 101], &packets);
        // A second section begins anew.
        let file =
            [file, pcapng(!big, &[101], &[(0, frames(7)[6][14..].to_vec()), (5, vec![1; 40])])]
                .concat();
        let (rows, summary) = read(file);
        assert_eq!(rows.len(), 7);
        assert!(rows.iter().all(|row| row.client_hello.is_some()));
        assert_eq!((summary.ending, summary.frames, summary.segments), (Ending::Whole, 8, 7));
        assert_eq!((summary.not_read.total(), summary.not_read.of(Kind::NoInterface)), (1, 1));
    }
}

#[test]
fn simple_packets_are_read() {
    let mut file = pcapng(false, &[1], &[]);
    let frame = &frames(1)[0];
    file.extend(block(false, 3, &[&(frame.len() as u32).to_le_bytes()[..], frame].concat()));
    assert!(read(file).0[0].client_hello.is_some());
}

/// The block that packets were in before there was another (draft-ietf-opsawg-pcapng A).
fn obsolete_packet(big: bool, interface: u16, packet: &[u8]) -> Vec<u8> {
    let number = |n: u32| if big { n.to_be_bytes() } else { n.to_le_bytes() };
    let interface = if big { interface.to_be_bytes() } else { interface.to_le_bytes() };
    let len = number(packet.len() as u32);
    // Options behind the packet and its padding.
    let padding = vec![0; packet.len().next_multiple_of(4) - packet.len()];
    block(big, 2, &[&interface[..], &[0; 10], &len, &len, packet, &padding, &[0; 4]].concat())
}

#[test]
fn obsolete_packets_are_read_in_both_byte_orders() {
    for big in [false, true] {
        let frames = frames(2);
        let mut file = pcapng(big, &[1, 101], &[]);
        file.extend(obsolete_packet(big, 0, &frames[0]));
        file.extend(obsolete_packet(big, 1, &frames[1][14..]));
        file.extend(obsolete_packet(big, 2, &frames[1]));
        let (rows, summary) = read(file);
        assert!(rows.len() == 2 && rows.iter().all(|row| row.client_hello.is_some()));
        assert_eq!((summary.frames, summary.not_read.of(Kind::NoInterface)), (3, 1));
        assert_eq!(summary.blocks_not_read.total(), 0);
    }
}

#[test]
fn blocks_that_are_not_read_are_counted_by_type() {
    for big in [false, true] {
        let mut file = pcapng(big, &[1], &[(0, frames(1).remove(0))]);
        for (kind, body) in [
            (0x204, &[0; 40][..]),
            (0x8000_0777, &[0; 8]),
            (0x0bad, &[0; 8]),
            (0x204, &[0; 4]),
            (2, &[0; 8]),
        ] {
            file.extend(block(big, kind, body));
        }
        // Secrets, which hold no packets.
        file.extend(block(big, 10, &[&[0x4b, 0x53, 0x4c, 0x54][..], &[0; 4]].concat()));
        let (rows, summary) = read(file);
        assert_eq!((rows.len(), summary.ending, summary.frames), (1, Ending::Whole, 1));
        assert_eq!(
            summary.blocks_not_read.to_string(),
            "2 block type 0x00000204 (Sysdig), 1 block type 0x00000002 (obsolete packet), 1 block type 0x00000bad \
             (custom), 1 block type 0x80000777 (private)"
        );
    }
}

#[test]
fn packets_before_any_interface_are_counted() {
    let mut file = pcapng(false, &[], &[(0, frames(1).remove(0))]);
    file.extend(block(false, 3, &[&60u32.to_le_bytes()[..], &[0; 60]].concat()));
    let (rows, summary) = read(file);
    assert_eq!((rows.len(), summary.frames, summary.not_read.of(Kind::NoInterface)), (0, 2, 2));
}

#[test]
fn a_section_may_begin_with_a_long_comment() {
    for (big, len) in [(false, 10), (true, 60_000), (false, 65_532)] {
        let number = |n: u16| if big { n.to_be_bytes() } else { n.to_le_bytes() };
        let magic = if big { 0x1a2b_3c4d_u32.to_be_bytes() } else { 0x1a2b_3c4d_u32.to_le_bytes() };
        let comment = |len: u16| {
            [&number(1)[..], &number(len), &vec![b'c'; usize::from(len).next_multiple_of(4)]]
                .concat()
        };
        // Twice, so that it is longer than 64 KiB.
        let head =
            [&magic[..], &number(1), &number(0), &[0xff; 8], &comment(len), &comment(len), &[0; 4]]
                .concat();
        let section = block(big, 0x0a0d_0d0a, &head);
        let rest = pcapng(big, &[1], &[(0, frames(1).remove(0))]);
        assert_eq!(read([section, rest].concat()).0.len(), 1, "{len}");
    }
}

fn packed(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(bytes).and_then(|()| encoder.finish()).expect("memory")
}

#[test]
fn packed_captures_are_read() {
    let plain = pcap(ETHERNET, &frames(300));
    let packets: Vec<_> = frames(300).into_iter().map(|frame| (0, frame)).collect();
    for file in [plain.clone(), pcapng(false, &[1], &packets)] {
        let (rows, summary) = read(packed(&file));
        assert_eq!((rows.len(), summary.ending), (300, Ending::Whole));
        // Some tools write many members one after the other.
        let members: Vec<u8> = file.chunks(1000).flat_map(packed).collect();
        assert_eq!(read(members).0.len(), 300);
        assert_eq!(read_from(Pipe::new(packed(&file))).0.len(), 300);
    }
}

#[test]
fn packed_captures_that_are_cut_or_damaged_give_what_stands_before() {
    let file = packed(&pcap(ETHERNET, &frames(300)));
    let (rows, summary) = read(file[..file.len() / 2].to_vec());
    assert!(!rows.is_empty() && rows.len() < 300);
    assert_eq!(summary.ending, Ending::Truncated);
    let (rows, summary) = read([&file[..file.len() - 4], &[9; 4]].concat());
    assert_eq!((rows.len(), summary.ending), (300, Ending::Damaged), "another length than it has");
    for no_capture in
        [packed(b"no capture"), packed(&[]), packed(&packed(&pcap(ETHERNET, &frames(1))))]
    {
        let result = inspect(Cursor::new(no_capture), |_| Ok::<(), ()>(()));
        assert!(matches!(result, Err(Stopped::Refused(Refused::NoCapture))), "{result:?}");
    }
}

#[test]
fn pcap_is_read_with_other_byte_order_and_nanoseconds() {
    let little = pcap(ETHERNET, &frames(1));
    for magic in [0xa1b2_c3d4_u32, 0xa1b2_3c4d] {
        let mut file = little.clone();
        file[..4].copy_from_slice(&magic.to_le_bytes());
        assert!(read(file.clone()).0[0].client_hello.is_some());
        for at in (0..40).step_by(4).filter(|at| *at != 4) {
            file[at..at + 4].reverse();
        }
        file[4..6].reverse();
        file[6..8].reverse();
        assert!(read(file).0[0].client_hello.is_some());
    }
}

#[test]
fn rows_stand_in_the_order_of_their_first_packet() {
    let mut all = frames(300);
    let again: Vec<_> = all.iter().rev().cloned().collect();
    all.extend(again);
    let ports: Vec<u16> =
        read(pcap(ETHERNET, &all)).0.iter().map(|row| row.client.port()).collect();
    assert_eq!(ports, (1..=300).collect::<Vec<_>>());
}

#[test]
fn a_truncated_capture_gives_what_is_whole() {
    let (n, file) = (3, pcap(ETHERNET, &frames(3)));
    let packet = (file.len() - 24) / n;
    for len in 24..file.len() {
        let (rows, summary) = read(file[..len].to_vec());
        assert_eq!(rows.len(), (len - 24) / packet, "{len} bytes");
        let whole = (len - 24).is_multiple_of(packet);
        assert_eq!(
            summary.ending,
            if whole { Ending::Whole } else { Ending::Truncated },
            "{len} bytes"
        );
    }
    let packets: Vec<_> = frames(3).into_iter().map(|frame| (0, frame)).collect();
    let file = pcapng(false, &[1], &packets);
    for cut in 1..200 {
        let (rows, summary) = read(file[..file.len() - cut].to_vec());
        assert!(rows.len() < 3 && summary.ending != Ending::Damaged, "{cut} bytes less");
    }
}

#[test]
fn a_damaged_capture_gives_what_stands_before() {
    let mut file = pcap(ETHERNET, &frames(2));
    file.extend([0, 0, 0xffff_fff0_u32, 60].map(u32::to_le_bytes).concat());
    file.extend([0; 90_000]);
    let (rows, summary) = read(file);
    assert_eq!((rows.len(), summary.ending), (2, Ending::Truncated));
    let mut file = pcapng(false, &[1], &[(0, frames(1)[0].clone())]);
    // Its two lengths differ.
    file.extend([6u32, 32, 0, 0, 0, 0, 0, 36].map(u32::to_le_bytes).concat());
    let (rows, summary) = read(file);
    assert_eq!((rows.len(), summary.ending), (1, Ending::Damaged));
}

#[test]
fn large_packets_are_read() {
    let hello = record(22, &client_hello(&[7; 32], &[]));
    let mut large = frames(1).remove(0);
    large.resize(400_000, 0);
    let after = Flow::new("192.0.2.1:9", "198.51.100.10:443", 1, 1).client(Data, 0, &hello);
    assert_eq!(read(pcap(ETHERNET, &[large, after])).0.len(), 2);
}

#[test]
fn what_is_no_capture_is_refused() {
    let capture = pcap(ETHERNET, &frames(1));
    for file in [
        &b""[..],
        b"a",
        b"GET / HTTP/1.1\r\n",
        &[0; 100],
        &capture[..23],
        &[0x1f, 0x8b, 8, 0],
        &capture[1..],
    ] {
        let result = inspect(Cursor::new(file.to_vec()), |_| Ok::<(), ()>(()));
        assert!(
            matches!(result, Err(Stopped::Refused(Refused::NoCapture))),
            "{file:02x?}: {result:?}"
        );
    }
}

/// Gives a byte at a time, and if so told an error instead of the end.
struct Pipe {
    bytes: Cursor<Vec<u8>>,
    fails: bool,
}

impl Pipe {
    fn new(bytes: Vec<u8>) -> Self {
        Self { bytes: Cursor::new(bytes), fails: false }
    }

    fn failing(bytes: Vec<u8>) -> Self {
        Self { fails: true, ..Self::new(bytes) }
    }
}

impl Read for Pipe {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        let n = to.len().min(1);
        match self.bytes.read(&mut to[..n])? {
            0 if n != 0 && self.fails => Err(io::ErrorKind::TimedOut.into()),
            n => Ok(n),
        }
    }
}

#[test]
fn a_pipe_is_read_as_a_file_and_errors_are_told() {
    let mut n = 0;
    let result = inspect(Pipe::failing(pcap(ETHERNET, &frames(5))), |_| {
        n += 1;
        Ok::<(), ()>(())
    });
    assert_eq!(result.expect("a capture").ending, Ending::Unreadable);
    assert_eq!(n, 5);
    let refused = inspect(Pipe::failing(Vec::new()), |_| Ok::<(), ()>(()));
    assert!(matches!(refused, Err(Stopped::Refused(Refused::Unreadable))));
    let mut packed = packed(&pcap(ETHERNET, &frames(5)));
    packed.truncate(packed.len() - 9);
    assert_eq!(
        read_from(Pipe::failing(packed)).1.ending,
        Ending::Unreadable,
        "the disk's fault, not the packer's"
    );
}

#[test]
fn a_failing_receiver_ends_it() {
    let result = inspect(Cursor::new(pcap(ETHERNET, &frames(5))), |_| Err("full"));
    assert!(matches!(result, Err(Stopped::Emit("full"))));
}
