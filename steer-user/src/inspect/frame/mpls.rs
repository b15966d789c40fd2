//! MPLS (RFC 3032), with IP behind, or a pseudowire of Ethernet (RFC 4448).

use super::{Kind, Next, Path, ethernet, path::Layer, take};

/// Reads labels down to the bottom of the stack, and finds out what is behind: the labels do not
/// say.
pub(super) fn labels<'a>(mut bytes: &'a [u8], path: &mut Path) -> Option<Next<'a>> {
    /// Labels of one stack that are read; routers look at far fewer.
    const LABELS_MAX: usize = 32;
    for _ in 0..LABELS_MAX {
        let (h, behind) = take::<4>(bytes)?;
        let entry = u32::from_be_bytes(*h);
        bytes = behind;
        // Label 20 bits, class 3, bottom of stack 1, time to live 8.
        if entry & 0x100 != 0 {
            path.push(Layer::Mpls, entry >> 12);
            return payload(bytes);
        }
    }
    Next::unread(Kind::Deep)
}

fn payload(bytes: &[u8]) -> Option<Next<'_>> {
    /// Length of a control word (RFC 4385 3), bytes.
    const CONTROL_WORD: usize = 4;
    let first = *bytes.first()?;
    let behind_control_word = bytes.get(CONTROL_WORD..).unwrap_or_default();
    // RFC 4928: IP begins with its version, a control word with 0, an associated channel with 1.
    // Where a pseudowire has none of these, an address of Ethernet stands there and may begin with
    // anything.
    Some(match first >> 4 {
        4 if adds_up(bytes) => Next::Ip(bytes),
        0 if ethernet::is_likely(behind_control_word) => Next::Ethernet(behind_control_word),
        _ if ethernet::is_likely(bytes) => Next::Ethernet(bytes),
        4 | 6 => Next::Ip(bytes),
        1 => return Next::no_tcp(Kind::Other("MPLS associated channel")),
        _ => return Next::unread(Kind::Other("MPLS with neither IP nor Ethernet behind")),
    })
}

/// Whether an IPv4 header's checksum holds (RFC 791 3.1).
fn adds_up(bytes: &[u8]) -> bool {
    let len = usize::from(bytes[0] & 0xf) * 4;
    let Some(header) = bytes.get(..len) else { return false };
    let sum: u32 =
        header.chunks_exact(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum();
    len >= 20 && (sum & 0xffff) + (sum >> 16) == 0xffff
}
