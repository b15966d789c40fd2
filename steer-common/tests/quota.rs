//! How many sessions a source of clients may have.

use std::iter;

use steer_common::{
    learn::one_more,
    shared::{Address, Source, SourceKey, Vip},
};

fn vip(sessions_per_source: u32) -> Vip {
    Vip { session_timeout: 600, sessions_per_source, ..Vip::default() }
}

fn v6(last: [u8; 2], subnet: u8) -> Address {
    let mut bytes = [0x20, 1, 0xd, 0xb8, 0, 0, 0, subnet, 0, 0, 0, 0, 0, 0, 0, 0];
    bytes[8] = last[0];
    bytes[15] = last[1];
    Address::from_v6(bytes)
}

#[test]
fn a_source_has_as_many_as_the_vip_says_and_no_more() {
    let sources = iter::successors(one_more(None, &vip(3), 1000), |source| {
        one_more(Some(*source), &vip(3), 1599)
    });
    assert_eq!(sources.map(|source| source.n_sessions).collect::<Vec<_>>(), [1, 2, 3]);
}

#[test]
fn a_new_window_begins_when_sessions_of_the_last_one_have_aged() {
    let full = Source { since: 1000, n_sessions: 3 };
    assert_eq!(one_more(Some(full), &vip(3), 1599), None);
    assert_eq!(one_more(Some(full), &vip(3), 1600), Some(Source { since: 1600, n_sessions: 1 }));
}

#[test]
fn the_clock_of_another_cpu_may_be_behind() {
    let full = Source { since: 1000, n_sessions: 3 };
    assert_eq!(one_more(Some(full), &vip(3), 999), None, "a moment is no window");
}

#[test]
fn hosts_of_one_ipv6_subnet_are_one_source() {
    assert_eq!(SourceKey::new(1, &v6([0, 1], 1)), SourceKey::new(1, &v6([0xfe, 2], 1)));
    assert_ne!(SourceKey::new(1, &v6([0, 1], 1)), SourceKey::new(1, &v6([0, 1], 2)));
}

#[test]
fn every_ipv4_address_is_a_source_at_each_vip() {
    let at = |last| Address::from_v4([192, 0, 2, last]);
    assert_ne!(SourceKey::new(1, &at(1)), SourceKey::new(1, &at(2)));
    assert_ne!(SourceKey::new(1, &at(1)), SourceKey::new(2, &at(1)));
    assert_eq!(SourceKey::new(1, &at(1)).address, at(1));
}
