//! Datagrams in pieces, as a router makes them (RFC 791 2.3, RFC 8200 4.5), and IPv6 extension
//! headers.
//!
//! `etherparse` makes the IPv4 headers: nothing here shares code with steer's own parser.

use etherparse::Ipv4Header;

const ETHERNET: usize = 14;
const IPV4: usize = 20;
const IPV6: usize = 40;

/// Puts an extension header (a multiple of eight bytes, its first byte to be filled) behind the
/// IPv6 header of a frame.
pub fn with_extension(frame: &[u8], kind: u8, header: &[u8]) -> Vec<u8> {
    let mut frame = frame.to_vec();
    let mut header = header.to_vec();
    header[0] = frame[ETHERNET + 6];
    frame[ETHERNET + 6] = kind;
    let len = u16::from_be_bytes([frame[ETHERNET + 4], frame[ETHERNET + 5]]) + header.len() as u16;
    frame[ETHERNET + 4..ETHERNET + 6].copy_from_slice(&len.to_be_bytes());
    frame.splice(ETHERNET + IPV6..ETHERNET + IPV6, header);
    frame
}

/// Cuts the datagram of a frame behind each of `cuts`, offsets in its payload (multiples of eight,
/// ascending); its number is `id`. An IPv4 header has no options.
///
/// # Panics
/// Where a cut lies beyond the payload.
pub fn fragments(frame: &[u8], cuts: &[usize], id: u16) -> Vec<Vec<u8>> {
    let header = if frame[ETHERNET] >> 4 == 4 { IPV4 } else { IPV6 };
    let len = frame.len() - ETHERNET - header;
    let starts = [&[0], cuts].concat();
    let ends = [cuts, &[len]].concat();
    let piece = |(&from, &to): (&usize, &usize)| {
        let part = &frame[ETHERNET + header..][from..to];
        if header == IPV4 {
            piece_v4(frame, part, from, to != len, id)
        } else {
            piece_v6(frame, part, from, to != len, id)
        }
    };
    starts.iter().zip(&ends).map(piece).collect()
}

fn piece_v4(frame: &[u8], part: &[u8], offset: usize, more: bool, id: u16) -> Vec<u8> {
    let (mut header, _) = Ipv4Header::from_slice(&frame[ETHERNET..]).expect("an IPv4 header");
    header.identification = id;
    header.dont_fragment = false;
    header.more_fragments = more;
    header.fragment_offset = ((offset / 8) as u16).try_into().expect("an offset");
    header.set_payload_len(part.len()).expect("a length");
    header.header_checksum = header.calc_header_checksum();
    [&frame[..ETHERNET], &header.to_bytes(), part].concat()
}

fn piece_v6(frame: &[u8], part: &[u8], offset: usize, more: bool, id: u16) -> Vec<u8> {
    const FRAGMENT: u8 = 44;
    let mut whole = [&frame[..ETHERNET + IPV6], part].concat();
    whole[ETHERNET + 4..ETHERNET + 6].copy_from_slice(&(part.len() as u16).to_be_bytes());
    let (place, id) = ((offset as u16 | u16::from(more)).to_be_bytes(), id.to_be_bytes());
    with_extension(&whole, FRAGMENT, &[0, 0, place[0], place[1], 0, 0, id[0], id[1]])
}
