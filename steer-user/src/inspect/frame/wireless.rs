//! IEEE 802.11: frames of data in clear.

use super::{Kind, Next, take};

/// Frame control, duration, three addresses, sequence; perhaps an address, perhaps two fields more;
/// LLC.
pub(super) fn header(bytes: &[u8]) -> Option<Next<'_>> {
    frame(bytes, false, false)
}

/// A radiotap header (<https://www.radiotap.org>): version, length, which fields there are, the
/// fields. One of them says whether the header behind is padded.
pub(super) fn radiotap(bytes: &[u8]) -> Option<Next<'_>> {
    const MORE: u32 = 1 << 31;
    const TIME: u32 = 1;
    const FLAGS: u32 = 2;
    const PADDED: u8 = 0x20;
    let (h, _) = take::<8>(bytes)?;
    let word = |at: usize| Some(u32::from_le_bytes(*bytes.get(at..)?.first_chunk()?));
    let present = word(4)?;
    let mut at = 8;
    let mut last = present;
    while last & MORE != 0 {
        last = word(at)?;
        at += 4;
    }
    if present & TIME != 0 {
        at = at.next_multiple_of(8) + 8;
    }
    let padded = present & FLAGS != 0 && bytes.get(at)? & PADDED != 0;
    frame(bytes.get(usize::from(u16::from_le_bytes([h[2], h[3]]))..)?, padded, false)
}

/// Some access points swap the two bytes of frame control.
pub(super) fn of_capwap(bytes: &[u8]) -> Option<Next<'_>> {
    let (h, _) = take::<2>(bytes)?;
    frame(bytes, false, h[0] & 0xf != DATA && h[1] & 0xf == DATA)
}

/// Version 0, type 2.
const DATA: u8 = 8;

fn frame(bytes: &[u8], padded: bool, swapped: bool) -> Option<Next<'_>> {
    const WITHOUT_DATA: u8 = 0x40;
    const QOS: u8 = 0x80;
    const BETWEEN_ACCESS_POINTS: u8 = 3;
    const PROTECTED: u8 = 0x40;
    const ORDER: u8 = 0x80;
    const AGGREGATE: u8 = 0x80;
    let (h, _) = take::<2>(bytes)?;
    let (kind, flags) = if swapped { (h[1], h[0]) } else { (h[0], h[1]) };
    if kind & 0xf != DATA || kind & WITHOUT_DATA != 0 {
        return Next::no_tcp(Kind::Other("IEEE 802.11 without data"));
    }
    if flags & PROTECTED != 0 {
        return Next::unread(Kind::Other("IEEE 802.11, encrypted"));
    }
    let mut len = if flags & BETWEEN_ACCESS_POINTS == BETWEEN_ACCESS_POINTS { 30 } else { 24 };
    let is_later_fragment = bytes.get(22)? & 0xf != 0;
    let is_aggregate = kind & QOS != 0 && bytes.get(len)? & AGGREGATE != 0;
    if is_later_fragment || is_aggregate {
        return Next::unread(Kind::Other("IEEE 802.11, in fragments or aggregates"));
    }
    if kind & QOS != 0 {
        len += if flags & ORDER != 0 { 6 } else { 2 };
    }
    if padded {
        len = len.next_multiple_of(4);
    }
    Some(Next::Llc(bytes.get(len..)?))
}
