//! The decision table: whose a hello is once its session was found, and where a client goes without
//! one.

use steer_common::{
    counters::Counter,
    decide::{self, Verdict},
    shared::{
        Address, BACKEND_DRAINING, BACKEND_PRESENT, BACKEND_UP, Backend, KEY_NAME_CONFIGURED,
        KEY_NAME_SHARED, KeyName, LOOKUP_SLOTS, Session, VIP_FALLBACK_FLOW, Vip, backend_bit,
    },
};

const NOW: u32 = 100_000;
const FIRST: u16 = 3;
const OWNER: u16 = 5;
const VIP: u16 = 7;
const TIMEOUT: u32 = 600;
const LIMIT: u32 = 3_600;
const NAME_TIMEOUT: u32 = 86_400;
const UP: u16 = BACKEND_PRESENT | BACKEND_UP;

fn vip() -> Vip {
    Vip {
        id: VIP,
        session_timeout: TIMEOUT,
        session_limit: LIMIT,
        name_timeout: NAME_TIMEOUT,
        ..Vip::default()
    }
}

fn session() -> Session {
    Session { owner: OWNER, first_seen: NOW - 60, last_seen: NOW - 10, ..Session::default() }
}

fn owner() -> Backend {
    Backend { vip_id: VIP, flags: UP, ..Backend::default() }
}

#[track_caller]
fn decides(session: Session, owner: Backend, verdict: Verdict) {
    assert_eq!(
        decide::session(&session, &owner, &vip(), FIRST, NOW),
        verdict,
        "{session:?} {owner:?}"
    );
}

#[test]
fn a_fresh_session_belongs_to_its_owner() {
    decides(session(), owner(), Verdict::Owner(OWNER));
}

#[test]
fn a_session_of_the_first_backend_stays_there() {
    let at_first = Session { owner: FIRST, ..session() };
    for flags in [UP, 0, UP | BACKEND_DRAINING] {
        decides(at_first, Backend { flags, ..owner() }, Verdict::First(Counter::SessionHit));
    }
}

#[test]
fn a_session_idle_for_longer_than_the_timeout_is_expired() {
    let idle =
        |seconds| Session { first_seen: NOW - seconds, last_seen: NOW - seconds, ..session() };
    decides(idle(TIMEOUT), owner(), Verdict::Owner(OWNER));
    decides(idle(TIMEOUT + 1), owner(), Verdict::First(Counter::SessionExpired));
}

#[test]
fn a_session_older_than_the_limit_is_expired_however_often_it_is_used() {
    let aged = |seconds| Session { first_seen: NOW - seconds, ..session() };
    decides(aged(LIMIT), owner(), Verdict::Owner(OWNER));
    decides(aged(LIMIT + 1), owner(), Verdict::First(Counter::SessionExpired));
}

#[test]
fn without_a_limit_a_used_session_never_expires() {
    let unlimited = Vip { session_limit: 0, ..vip() };
    let aged = Session { first_seen: 0, ..session() };
    assert_eq!(decide::session(&aged, &owner(), &unlimited, FIRST, NOW), Verdict::Owner(OWNER));
}

#[test]
fn an_expired_session_is_no_hit_even_at_its_owner() {
    let expired = Session { owner: FIRST, last_seen: 0, ..session() };
    decides(expired, owner(), Verdict::First(Counter::SessionExpired));
}

#[test]
fn a_session_stamped_by_another_cpu_a_moment_ahead_is_fresh() {
    decides(
        Session { first_seen: NOW + 1, last_seen: NOW + 1, ..session() },
        owner(),
        Verdict::Owner(OWNER),
    );
}

#[test]
fn ages_are_right_when_the_clock_wraps() {
    let session = Session { first_seen: u32::MAX - 10, last_seen: u32::MAX - 10, ..session() };
    let at = |now| decide::session(&session, &owner(), &vip(), FIRST, now);
    assert_eq!(at(20), Verdict::Owner(OWNER));
    assert_eq!(at(TIMEOUT), Verdict::First(Counter::SessionExpired));
}

#[test]
fn an_owner_that_is_down_or_gone_gets_nothing() {
    for flags in [0, BACKEND_PRESENT, BACKEND_UP, BACKEND_PRESENT | BACKEND_DRAINING] {
        decides(session(), Backend { flags, ..owner() }, Verdict::First(Counter::OwnerDown));
    }
}

#[test]
fn an_owner_that_serves_another_vip_now_gets_nothing() {
    decides(session(), Backend { vip_id: VIP + 1, ..owner() }, Verdict::First(Counter::OwnerDown));
}

#[test]
fn a_draining_owner_is_honoured_until_its_deadline() {
    let draining = |drain_until| Backend { flags: UP | BACKEND_DRAINING, drain_until, ..owner() };
    decides(session(), draining(NOW + 1), Verdict::Owner(OWNER));
    decides(session(), draining(NOW), Verdict::Owner(OWNER));
    decides(session(), draining(NOW - 1), Verdict::First(Counter::OwnerDrained));
    decides(session(), draining(0), Verdict::Owner(OWNER));
}

#[test]
fn a_deadline_of_an_earlier_drain_means_nothing() {
    decides(session(), Backend { drain_until: NOW - 1, ..owner() }, Verdict::Owner(OWNER));
}

/// Client `i` of a test: one address each, or one address and a port each.
fn client(i: u16) -> (Address, [u8; 2]) {
    let [high, low] = i.to_be_bytes();
    (Address::from_v4([10, 9, high, low]), i.to_be_bytes())
}

/// Asserts that the slots of these clients spread: no quarter of the table gets less than a fifth
/// or more than 30 %.
#[track_caller]
fn assert_spread(slots: impl Iterator<Item = u32>) {
    let mut quarters = [0u32; 4];
    let mut n = 0;
    for slot in slots {
        assert!(slot < LOOKUP_SLOTS);
        quarters[(slot * 4 / LOOKUP_SLOTS) as usize] += 1;
        n += 1;
    }
    assert!(
        quarters.iter().all(|quarter| (n / 5..=n * 3 / 10).contains(quarter)),
        "{quarters:?} of {n}"
    );
}

#[test]
fn neighbouring_addresses_spread_over_the_table() {
    assert_spread((0..4_000).map(|i| decide::slot(&vip(), &client(i).0, [0, 0])));
}

#[test]
fn neighbouring_ipv6_addresses_spread_over_the_table() {
    let address = |i: u16| {
        let [high, low] = i.to_be_bytes();
        Address::from_v6([0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, high, low])
    };
    assert_spread((0..4_000).map(|i| decide::slot(&vip(), &address(i), [0, 0])));
}

#[test]
fn by_source_every_port_of_a_client_has_one_slot() {
    let (address, _) = client(1);
    let slot = |port: u16| decide::slot(&vip(), &address, port.to_be_bytes());
    assert!((1..4_000).all(|port| slot(port) == slot(0)));
}

#[test]
fn by_flow_the_ports_of_one_client_spread() {
    let by_flow = Vip { flags: VIP_FALLBACK_FLOW, ..vip() };
    assert_spread((0..4_000).map(|i| decide::slot(&by_flow, &client(1).0, client(i).1)));
}

#[test]
fn the_same_client_always_has_the_same_slot() {
    // Held across versions: a changed hash would move every client without a session at the next
    // update.
    let v6 = Address::from_v6([0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
    let by_flow = Vip { flags: VIP_FALLBACK_FLOW, ..vip() };
    let port = 40_000u16.to_be_bytes();
    assert_eq!(decide::slot(&vip(), &Address::from_v4([192, 0, 2, 1]), port), 1239);
    assert_eq!(decide::slot(&vip(), &v6, port), 15959);
    assert_eq!(decide::slot(&by_flow, &v6, port), 4143);
}

fn name() -> KeyName {
    KeyName { owner: OWNER, first_seen: NOW - 60, last_seen: NOW - 10, ..KeyName::default() }
}

#[track_caller]
fn name_decides(name: KeyName, owner: Backend, verdict: Verdict) {
    assert_eq!(decide::key_name(&name, &owner, &vip(), FIRST, NOW), verdict, "{name:?} {owner:?}");
}

#[test]
fn a_key_name_leads_to_its_owner_as_a_session_does() {
    name_decides(name(), owner(), Verdict::Owner(OWNER));
    name_decides(KeyName { owner: FIRST, ..name() }, owner(), Verdict::First(Counter::SessionHit));
    name_decides(
        name(),
        Backend { flags: BACKEND_PRESENT, ..owner() },
        Verdict::First(Counter::OwnerDown),
    );
    let drained = Backend { flags: UP | BACKEND_DRAINING, drain_until: NOW - 1, ..owner() };
    name_decides(name(), drained, Verdict::First(Counter::OwnerDrained));
}

#[test]
fn a_shared_key_name_leads_nowhere() {
    for flags in [KEY_NAME_SHARED, KEY_NAME_SHARED | KEY_NAME_CONFIGURED] {
        name_decides(KeyName { flags, ..name() }, owner(), Verdict::First(Counter::KeyNameShared));
    }
}

#[test]
fn a_learned_key_name_expires_and_a_configured_one_does_not() {
    let idle = |seconds, flags| KeyName { last_seen: NOW - seconds, flags, ..name() };
    name_decides(idle(NAME_TIMEOUT, 0), owner(), Verdict::Owner(OWNER));
    name_decides(idle(NAME_TIMEOUT + 1, 0), owner(), Verdict::First(Counter::SessionExpired));
    name_decides(idle(NAME_TIMEOUT + 1, KEY_NAME_CONFIGURED), owner(), Verdict::Owner(OWNER));
}

#[test]
fn a_search_remembers_each_backend_once_and_goes_through_a_pool_of_twenty() {
    let tried =
        |backends: &[u16]| backends.iter().fold(0, |tried, backend| tried | backend_bit(*backend));
    assert_eq!(tried(&[4, 9, 4, 9, 9]).count_ones(), 2);
    let pool = (100..120).collect::<Vec<_>>();
    assert_eq!(tried(&pool).count_ones(), 20, "numbers across a multiple of 64");
    assert!(!decide::search_is_over(tried(&pool)));
    assert!(decide::search_is_over(tried(&(0..64).collect::<Vec<_>>())));
}
