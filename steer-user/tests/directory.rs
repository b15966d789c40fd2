//! What the agent lists in the directory, and what it refuses to list.

use steer_common::{
    directory::{PROBES, SLOTS, own_slot},
    shared::{Address, Endpoint, ROLE_BACKEND, ROLE_NONE, ROLE_VIP, Vip},
};
use steer_user::plane::half;

const ADDRESS: Address = Address::from_v4([10, 0, 0, 11]);

/// Endpoints that want the same slot, one more than it has places.
fn rivals() -> Vec<Endpoint> {
    let own = own_slot(&ADDRESS, Endpoint::tcp(ADDRESS, 443).port);
    let rivals =
        (0..=u16::MAX).map(|port| Endpoint::tcp(ADDRESS, port)).filter(|at| own_slot(&ADDRESS, at.port) == own);
    rivals.take(PROBES as usize + 1).collect()
}

#[test]
fn vips_and_backends_are_listed_with_their_numbers() {
    let [vip, backend] = [443, 8443].map(|port| Endpoint::tcp(ADDRESS, port));
    let record = Vip { id: 7, session_timeout: 600, ..Vip::default() };
    let listed = half(&[(vip, record)], &[(backend, 9)]).expect("room for two");
    assert_eq!(listed.len(), (SLOTS + PROBES) as usize);
    let mut listed: Vec<_> = listed.into_iter().filter(|listed| listed.role != ROLE_NONE).collect();
    listed.sort_by_key(|listed| listed.id);
    let told: Vec<_> = listed.iter().map(|listed| (listed.endpoint, listed.role, listed.id, listed.vip)).collect();
    assert_eq!(told, [(vip, ROLE_VIP, 7, record), (backend, ROLE_BACKEND, 9, Vip::default())]);
}

#[test]
fn more_endpoints_than_one_place_has_room_for_are_refused_by_name() {
    let mut backends: Vec<_> = rivals().into_iter().zip(1..).collect();
    let error = half(&[], &backends).expect_err("one too many").to_string();
    assert_eq!(error, "find a place in the directory: too many addresses and ports share one");
    backends.pop();
    assert!(half(&[], &backends).is_ok(), "as many as there is room for");
}
