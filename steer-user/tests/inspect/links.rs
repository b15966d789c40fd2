//! Link types, tags and headers in front of TCP.

use steer_user::inspect::Kind;

use crate::{Flow, Kind::Data, client_hello, pcap, read, record, row, rows};

fn hello_frame(flow: &Flow) -> Vec<u8> {
    flow.client(Data, 0, &record(22, &client_hello(&[7; 32], &[])))
}

fn flows() -> [Flow; 2] {
    [Flow::v4(), Flow::new("[2001:db8::1]:40000", "[2001:db8::10]:443", 9, 9)]
}

#[track_caller]
fn assert_read(link: u32, frame: Vec<u8>) {
    let (rows, summary) = read(pcap(link, &[frame]));
    assert_eq!(
        (rows.len(), summary.segments, summary.not_read.total()),
        (1, 1, 0),
        "link type {link}"
    );
    assert!(rows[0].client_hello.is_some(), "link type {link}");
}

#[test]
fn every_link_type_leads_to_the_same_packet() {
    for flow in flows() {
        let frame = hello_frame(&flow);
        let (ethertype, ip) = (&frame[12..14], &frame[14..]);
        let family = if ethertype == [8, 0] { 2 } else { 10 };
        assert_read(1, frame.clone());
        for raw in [101, 12, 14] {
            assert_read(raw, ip.to_vec());
        }
        assert_read(if family == 2 { 228 } else { 229 }, ip.to_vec());
        assert_read(0, [&[family, 0, 0, 0], ip].concat());
        assert_read(108, [&[0, 0, 0, family], ip].concat());
        assert_read(113, [&[0; 14], ethertype, ip].concat());
        assert_read(276, [ethertype, &[0; 18], ip].concat());
        // What stands above the link type's 16 bits is about frame check sequences.
        assert_read(1 | 0x1400_0000, frame.clone());
    }
}

#[test]
fn tags_are_passed_over() {
    for flow in flows() {
        let frame = hello_frame(&flow);
        let customer = [&frame[..12], &[0x81, 0, 0, 7], &frame[12..]].concat();
        let service = [&frame[..12], &[0x88, 0xa8, 0, 9], &customer[12..]].concat();
        for frame in [customer, service] {
            assert!(row(&[frame]).client_hello.is_some());
        }
    }
}

#[test]
fn extension_headers_and_options_are_passed_over() {
    let [v4, v6] = flows().map(|flow| hello_frame(&flow));
    let mut options = [&v4[..34], &[0x94, 4, 0, 0], &v4[34..]].concat();
    options[14] = 0x46;
    let total = (options.len() - 14) as u16;
    options[16..18].copy_from_slice(&total.to_be_bytes());
    assert!(row(&[options]).client_hello.is_some());
    let (hop_by_hop, destination) = ([60, 0, 1, 4, 0, 0, 0, 0], [51, 0, 1, 4, 0, 0, 0, 0]);
    // Of 24 bytes, in words of four but for two (RFC 4302 2.2).
    let authentication = [&[6, 4][..], &[0; 22]].concat();
    let mut extended = [&v6[..54], &hop_by_hop, &destination, &authentication, &v6[54..]].concat();
    extended[20] = 0;
    let len = (extended.len() - 54) as u16;
    extended[18..20].copy_from_slice(&len.to_be_bytes());
    assert!(row(&[extended]).client_hello.is_some());
}

#[test]
fn padding_behind_the_packet_is_no_data() {
    let flow = Flow::v4();
    let hello = record(22, &client_hello(&[7; 32], &[]));
    let mut frames = flow.opened();
    for (at, byte) in hello.iter().enumerate() {
        let mut frame = flow.client(Data, at as u32, &[*byte]);
        frame.resize(60, 0xff);
        frames.push(frame);
    }
    assert_eq!(row(&frames).client_hello.expect("a hello").session_id, Some("07".repeat(32)));
}

#[test]
fn a_packet_captured_in_part_leaves_a_hole() {
    let flow = Flow::v4();
    let hello = record(22, &client_hello(&[7; 32], &[(35, vec![9; 200])]));
    let mut frames = flow.opened();
    let mut cut = flow.client(Data, 0, &hello[..200]);
    cut.truncate(cut.len() - 20);
    frames.push(cut);
    frames.push(flow.client(Data, 200, &hello[200..]));
    assert_eq!(row(&frames).client_hello, None);
    // The missing part comes again: then all is there.
    frames.push(flow.client(Data, 100, &hello[100..200]));
    assert_eq!(row(&frames).client_hello.expect("a hello").segments, 3);
}

#[test]
fn a_packet_cut_in_its_options_is_still_of_its_connection() {
    let mut frame = hello_frame(&Flow::v4());
    frame[46] = 0x80;
    frame.truncate(14 + 20 + 20);
    assert_eq!(row(&[frame]).client_hello, None);
}

#[test]
fn what_is_not_tcp_makes_no_row() {
    let mut udp = hello_frame(&Flow::v4());
    udp[23] = 17;
    let mut fragment = hello_frame(&Flow::v4());
    fragment[21] = 7;
    let arp = [&[0xff; 12][..], &[8, 6], &[0; 28]].concat();
    assert_eq!(rows(&[udp, fragment, arp, vec![], vec![0; 13]]), []);
}

#[test]
fn packets_of_other_link_types_are_counted() {
    let (rows, summary) = read(pcap(187, &[vec![0; 60], vec![0; 60]]));
    assert_eq!((rows.len(), summary.not_read.of(Kind::LinkType(187))), (0, 2));
}
