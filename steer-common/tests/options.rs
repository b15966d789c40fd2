//! The TCP option walker against a plain oracle, and its checksum difference against a full
//! recompute.

mod support;

use proptest::prelude::*;
use steer_common::{
    checksum::update,
    shared::options,
    wire::tcp::{Edits, MAX_STEPS, OPTIONS_MAX, Offer, Step, Walker, kind},
};
use support::checksum;

/// TCP Fast Open (RFC 7413), a kind the walker does not know.
const FAST_OPEN: u8 = 34;
/// Multipath TCP (RFC 8684), another.
const MULTIPATH: u8 = 30;

/// The options of a list as (kind, start, length); `None` where a length lies.
fn list(bytes: &[u8]) -> Option<Vec<(u8, usize, usize)>> {
    let mut found = Vec::new();
    let mut at = 0;
    while at < bytes.len() && bytes[at] != kind::END {
        let len = if bytes[at] == kind::NOP { 1 } else { *bytes.get(at + 1)? as usize };
        if at + len > bytes.len() || (bytes[at] != kind::NOP && len < 2) {
            return None;
        }
        found.push((bytes[at], at, len));
        at += len;
    }
    Some(found)
}

/// What translation must make of a list.
fn translated(bytes: &[u8], edits: &Edits) -> Option<Vec<u8>> {
    let mut new = bytes.to_vec();
    for (kind, at, len) in list(bytes)? {
        match (kind, len) {
            (kind::TIMESTAMPS, 10) => {
                add(&mut new[at + 2..at + 6], edits.ts_value);
                add(&mut new[at + 6..at + 10], edits.ts_echo);
            }
            (kind::SACK, 10 | 18 | 26 | 34) => {
                new[at + 2..at + len].chunks_mut(4).for_each(|edge| add(edge, edits.sack));
            }
            _ => {}
        }
    }
    Some(new)
}

fn add(bytes: &mut [u8], number: u32) {
    bytes.copy_from_slice(&word(bytes).wrapping_add(number).to_be_bytes());
}

fn word(bytes: &[u8]) -> u32 {
    u32::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])
}

/// What reading must make of a list, and the list with everything unknown cleared.
fn read(bytes: &[u8]) -> Option<(Offer, Vec<u8>)> {
    let (mut offer, mut cleared) = (Offer::NOTHING, bytes.to_vec());
    for (kind, at, len) in list(bytes)? {
        match (kind, len) {
            (kind::NOP, 1) => {}
            (kind::MSS, 4) => {
                offer.mss = u16::from_be_bytes([bytes[at + 2], bytes[at + 3]]);
                offer.mss_at = at as u16 + 3;
            }
            (kind::WINDOW_SCALE, 3) => {
                offer.scale = bytes[at + 2].min(14);
                offer.options |= options::WINDOW_SCALE;
            }
            (kind::SACK_PERMITTED, 2) => offer.options |= options::SACK,
            (kind::TIMESTAMPS, 10) => {
                offer.options |= options::TIMESTAMPS;
                (offer.ts, offer.ts_echo) = (word(&bytes[at + 2..]), word(&bytes[at + 6..]));
            }
            (kind::MD5 | kind::AUTHENTICATION, _) => offer.options |= options::SIGNED,
            _ => {
                offer.cleared += 1;
                cleared[at..at + len].fill(kind::NOP);
            }
        }
    }
    Some((offer, cleared))
}

/// A walker over these options, the rest of its room full of what the last packet left.
fn walker(bytes: &[u8]) -> Walker {
    let mut walker = Walker { bytes: [2; 64], ..Walker::empty() };
    walker.bytes[..bytes.len()].copy_from_slice(bytes);
    walker.rewind(bytes.len() as u32);
    walker
}

/// Walks as the kernel programs do; `false` where the list is malformed.
#[track_caller]
fn walk(walker: &mut Walker, mut step: impl FnMut(&mut Walker) -> Step) -> bool {
    for _ in 0..MAX_STEPS {
        match step(walker) {
            Step::More => {}
            Step::Done => return true,
            Step::Malformed => return false,
        }
    }
    panic!("not over after {MAX_STEPS} steps");
}

/// Asserts that `difference` carries the checksum of a segment with options `old` over to one with
/// `new`.
#[track_caller]
fn assert_difference(old: &[u8], new: &[u8], difference: u64) {
    let segment =
        |options: &[u8]| checksum(&[&[0x12, 0x34, 0x01, 0xbb, 0xff, 0xff], options].concat());
    let carried = update(u16::from_ne_bytes(segment(old).to_be_bytes()), difference);
    assert_eq!(
        u16::from_be_bytes(carried.to_ne_bytes()),
        segment(new),
        "{old:02x?} became {new:02x?}"
    );
}

#[track_caller]
fn assert_translates(bytes: &[u8], edits: &Edits) {
    let mut walker = walker(bytes);
    let whole = walk(&mut walker, |walker| walker.translate(edits));
    let expected = translated(bytes, edits);
    assert_eq!(whole, expected.is_some(), "{bytes:02x?}");
    if let Some(expected) = expected {
        assert_eq!(&walker.bytes[..bytes.len()], expected, "{bytes:02x?}");
        assert_difference(bytes, &expected, walker.difference);
    }
    assert_eq!(
        walker.bytes[bytes.len()..],
        [2; 64][bytes.len()..],
        "nothing behind the options is touched"
    );
}

#[track_caller]
fn assert_reads(bytes: &[u8], clear: bool) {
    let (mut walker, mut offer) = (walker(bytes), Offer::NOTHING);
    let whole = walk(&mut walker, |walker| walker.read_offer(&mut offer, clear));
    let expected = read(bytes);
    assert_eq!(whole, expected.is_some(), "{bytes:02x?}");
    if let Some((expected, cleared)) = expected {
        let new = if clear { cleared } else { bytes.to_vec() };
        assert_eq!(offer, expected, "{bytes:02x?}");
        assert_eq!(&walker.bytes[..bytes.len()], new, "{bytes:02x?}");
        assert_difference(bytes, &new, walker.difference);
    }
    assert_eq!(
        walker.bytes[bytes.len()..],
        [2; 64][bytes.len()..],
        "nothing behind the options is touched"
    );
}

/// One option, well formed or with a length of its own.
fn option() -> impl Strategy<Value = Vec<u8>> {
    let of = |kind: u8, len: usize| {
        prop::collection::vec(any::<u8>(), len - 2)
            .prop_map(move |body| [&[kind, len as u8][..], &body].concat())
    };
    prop_oneof![
        4 => Just(vec![kind::NOP]),
        1 => Just(vec![kind::END]),
        2 => of(kind::MSS, 4),
        2 => of(kind::WINDOW_SCALE, 3),
        2 => of(kind::SACK_PERMITTED, 2),
        4 => of(kind::TIMESTAMPS, 10),
        4 => (1usize..=4).prop_flat_map(move |blocks| of(kind::SACK, 2 + 8 * blocks)),
        1 => of(kind::MD5, 18),
        1 => of(kind::AUTHENTICATION, 16),
        1 => of(FAST_OPEN, 2),
        1 => of(FAST_OPEN, 10),
        1 => of(MULTIPATH, 12),
        2 => (any::<u8>(), 2usize..12).prop_flat_map(move |(kind, len)| of(kind, len)),
        1 => any::<[u8; 2]>().prop_map(Vec::from),
    ]
}

/// A whole list: options one after the other, cut at what a header holds; or no list at all.
fn options() -> impl Strategy<Value = Vec<u8>> {
    let built = prop::collection::vec(option(), 0..14).prop_map(|options| {
        let mut bytes = options.concat();
        bytes.truncate(OPTIONS_MAX);
        bytes
    });
    prop_oneof![4 => built, 1 => prop::collection::vec(any::<u8>(), 0..=OPTIONS_MAX)]
}

fn edits() -> impl Strategy<Value = Edits> {
    (any::<u32>(), any::<u32>(), any::<u32>()).prop_map(|(ts_value, ts_echo, sack)| Edits {
        ts_value,
        ts_echo,
        sack,
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn translation_agrees_with_the_oracle(bytes in options(), edits in edits()) {
        assert_translates(&bytes, &edits);
    }

    #[test]
    fn reading_agrees_with_the_oracle(bytes in options()) {
        assert_reads(&bytes, false);
    }

    #[test]
    fn clearing_agrees_with_the_oracle(bytes in options()) {
        assert_reads(&bytes, true);
    }

    #[test]
    fn translating_back_restores_every_byte(bytes in options(), edits in edits()) {
        let back = Edits {
            ts_value: edits.ts_value.wrapping_neg(),
            ts_echo: edits.ts_echo.wrapping_neg(),
            sack: edits.sack.wrapping_neg(),
        };
        if let Some(there) = translated(&bytes, &edits) {
            let mut walker = walker(&there);
            prop_assert!(walk(&mut walker, |walker| walker.translate(&back)));
            prop_assert_eq!(&walker.bytes[..bytes.len()], bytes);
        }
    }
}

const ADD: Edits = Edits { ts_value: 0x0101_0101, ts_echo: 0xffff_fff0, sack: 0x8000_0001 };

#[test]
fn timestamps_are_translated_at_even_and_odd_offsets() {
    let timestamps = [kind::TIMESTAMPS, 10, 0xff, 0xff, 0xff, 0xfe, 0, 0, 0, 1];
    for nops in 0..=3 {
        assert_translates(&[&vec![kind::NOP; nops][..], &timestamps].concat(), &ADD);
    }
}

#[test]
fn three_sack_blocks_beside_timestamps_are_translated() {
    let mut bytes = vec![kind::NOP, kind::NOP, kind::TIMESTAMPS, 10, 1, 2, 3, 4, 5, 6, 7, 8];
    bytes.extend([kind::NOP, kind::NOP, kind::SACK, 26]);
    bytes.extend(0xe0..0xe0 + 24);
    assert_eq!(bytes.len(), OPTIONS_MAX);
    assert_translates(&bytes, &ADD);
}

#[test]
fn four_sack_blocks_at_an_odd_offset_are_translated() {
    let bytes = [&[kind::NOP, kind::SACK, 34][..], &[0xfe; 32]].concat();
    assert_translates(&bytes, &ADD);
}

#[test]
fn what_stands_behind_the_end_is_left_alone() {
    assert_translates(&[kind::END, kind::TIMESTAMPS, 10, 1, 2, 3, 4, 5, 6, 7, 8, 0], &ADD);
}

#[test]
fn lists_with_lying_lengths_are_refused() {
    for bytes in [
        &[kind::TIMESTAMPS][..],
        &[kind::TIMESTAMPS, 0, 1, 2],
        &[kind::TIMESTAMPS, 1, 1, 2],
        &[kind::TIMESTAMPS, 10, 1, 2],
        &[kind::NOP, kind::NOP, kind::SACK, 255],
        &[kind::NOP, kind::NOP, kind::NOP, FAST_OPEN],
    ] {
        assert!(!walk(&mut walker(bytes), |walker| walker.translate(&ADD)), "{bytes:02x?}");
        for clear in [false, true] {
            let mut offer = Offer::NOTHING;
            assert!(
                !walk(&mut walker(bytes), |walker| walker.read_offer(&mut offer, clear)),
                "{bytes:02x?}"
            );
        }
    }
}

/// The SYN of a Linux client that also tries TCP Fast Open.
const SYN: [u8; 24] = [
    2, 4, 0x05, 0xb4, 4, 2, 8, 10, 0xde, 0xad, 0xbe, 0xef, 0, 0, 0, 0, 1, 3, 3, 7, FAST_OPEN, 2, 1,
    1,
];

#[test]
fn an_ordinary_syn_is_read() {
    let (mut walker, mut offer) = (walker(&SYN), Offer::NOTHING);
    assert!(walk(&mut walker, |walker| walker.read_offer(&mut offer, false)));
    let all = options::SACK | options::TIMESTAMPS | options::WINDOW_SCALE;
    let expected = Offer {
        ts: 0xdead_beef,
        mss: 1460,
        mss_at: 3,
        scale: 7,
        options: all,
        cleared: 1,
        ..Offer::NOTHING
    };
    assert_eq!(offer, expected);
    assert_eq!(walker.bytes[..24], SYN);
}

#[test]
fn what_would_keep_a_flow_from_moving_becomes_nops() {
    let (mut walker, mut offer) = (walker(&SYN), Offer::NOTHING);
    assert!(walk(&mut walker, |walker| walker.read_offer(&mut offer, true)));
    assert_eq!(walker.bytes[..20], SYN[..20]);
    assert_eq!(walker.bytes[20..24], [kind::NOP; 4]);
}

#[test]
fn signed_options_are_never_touched() {
    let md5 = [&[kind::MD5, 18][..], &[0xaa; 16], &[FAST_OPEN, 2]].concat();
    let authentication =
        [&[kind::AUTHENTICATION, 16][..], &[0xbb; 14], &[MULTIPATH, 4, 9, 9]].concat();
    for bytes in [md5, authentication] {
        for clear in [false, true] {
            let (mut walker, mut offer) = (walker(&bytes), Offer::NOTHING);
            assert!(walk(&mut walker, |walker| walker.read_offer(&mut offer, clear)));
            let signed = bytes[1] as usize;
            assert_eq!(offer.options, options::SIGNED);
            assert_eq!(walker.bytes[..signed], bytes[..signed]);
            assert_eq!(walker.bytes[..bytes.len()] == bytes, !clear);
        }
    }
}

#[test]
fn a_window_scale_beyond_14_reads_as_14() {
    let mut offer = Offer::NOTHING;
    assert!(walk(&mut walker(&[kind::WINDOW_SCALE, 3, 200, 1]), |walker| walker
        .read_offer(&mut offer, false)));
    assert_eq!(offer.scale, 14);
}

#[test]
fn a_header_full_of_the_shortest_unknown_options_is_cleared() {
    assert_reads(&[FAST_OPEN, 2].repeat(OPTIONS_MAX / 2), true);
}
