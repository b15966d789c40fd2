//! A frame: whatever its bytes are, headers lie where they are said to lie.

use steer_common::wire::{
    ETHERNET_LEN,
    ip::{self, IPV4_LEN, IPV6_LEN, MAX_L4_OFFSET, PROTOCOL_TCP, Part},
    tcp::{self, Edits, MAX_STEPS, OPTIONS_MAX, Offer, Step, TCP_LEN, Walker},
};

/// The bytes are an Ethernet frame.
pub fn run(frame: &[u8]) {
    let Ok(ip) = ip::parse(frame) else { return };
    let header = if ip.v6 { IPV6_LEN } else { IPV4_LEN };
    assert!(ip.l4 >= ETHERNET_LEN + header && ip.l4 <= MAX_L4_OFFSET);
    assert!(frame.len() >= ETHERNET_LEN + header);
    assert!(ip.l4_len <= usize::from(u16::MAX));
    if ip.protocol != PROTOCOL_TCP || ip.part == Part::Later {
        return;
    }
    let Some(segment) = tcp::parse(frame, &ip) else { return };
    assert!(ip.l4 + TCP_LEN <= frame.len());
    assert!((TCP_LEN..=TCP_LEN + OPTIONS_MAX).contains(&segment.header_len));
    assert_eq!(segment.header_len + segment.payload_len, ip.l4_len);
    if let Some(options) = frame.get(ip.l4 + TCP_LEN..ip.l4 + segment.header_len) {
        walk(options);
    }
}

/// Options are read and translated within their bounds, and translated back to what they were.
fn walk(options: &[u8]) {
    let mut walker = Walker::empty();
    walker.bytes[..options.len()].copy_from_slice(options);
    walker.rewind(options.len() as u32);
    let mut offer = Offer::NOTHING;
    steps(&mut walker, |walker| walker.read_offer(&mut offer, false));
    assert!(offer.scale <= 14);
    assert_eq!(&walker.bytes[..options.len()], options, "reading changes nothing");
    for edits in [
        Edits { ts_value: 1 << 31 | 7, ts_echo: 9, sack: 0xffff_0001 },
        Edits {
            ts_value: (1u32 << 31 | 7).wrapping_neg(),
            ts_echo: 9u32.wrapping_neg(),
            sack: 0xffff_0001_u32.wrapping_neg(),
        },
    ] {
        walker.rewind(options.len() as u32);
        steps(&mut walker, |walker| walker.translate(&edits));
    }
    assert_eq!(&walker.bytes[..options.len()], options, "translated there and back");
}

fn steps(walker: &mut Walker, mut step: impl FnMut(&mut Walker) -> Step) {
    for _ in 0..MAX_STEPS {
        match step(walker) {
            Step::More => {}
            Step::Done | Step::Malformed => return,
        }
    }
    panic!("options without end");
}
