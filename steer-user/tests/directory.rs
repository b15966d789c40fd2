//! What the agent lists in the directory: every endpoint, whatever addresses and ports there are.

use std::collections::HashSet;

use steer_common::{
    directory::{self, PROBES, SLOTS, own_slot},
    shared::{
        ADDRESS_OF_BACKEND, ADDRESS_OF_VIP, Address, Endpoint, Listed, MAX_BACKENDS, MAX_VIPS, ROLE_ADDRESS,
        ROLE_BACKEND, ROLE_NONE, ROLE_VIP, Vip,
    },
};
use steer_user::plane::half;

const ADDRESS: Address = Address::from_v4([10, 0, 0, 11]);

#[test]
fn vips_and_backends_are_listed_with_their_numbers_and_their_addresses() {
    let [vip, backend] = [443, 8443].map(|port| Endpoint::tcp(ADDRESS, port));
    let record = Vip { id: 7, session_timeout: 600, ..Vip::default() };
    let (listed, _) = half(&[(vip, record)], &[(backend, 9)]).expect("room for two");
    assert_eq!(listed.len(), (SLOTS + PROBES) as usize);
    let mut listed: Vec<_> = listed.into_iter().filter(|listed| listed.role != ROLE_NONE).collect();
    listed.sort_by_key(|listed| listed.role);
    let told: Vec<_> = listed.iter().map(|listed| (listed.endpoint, listed.role, listed.id, listed.vip)).collect();
    let both = ADDRESS_OF_VIP | ADDRESS_OF_BACKEND;
    let address = (Endpoint::tcp(ADDRESS, 0), ROLE_ADDRESS, both, Vip::default());
    assert_eq!(told, [(vip, ROLE_VIP, 7, record), (backend, ROLE_BACKEND, 9, Vip::default()), address]);
}

/// As many VIPs and backends as a gateway can have, the backends at these addresses and ports.
#[track_caller]
fn all_fit(what: &str, backend: impl Fn(u32) -> (Address, u16)) {
    let vip = |n: u32| (Endpoint::tcp(Address::from_v4([198, 51, 100, n as u8]), 443), Vip::default());
    let vips: Vec<_> = (0..MAX_VIPS).map(vip).collect();
    let backends: Vec<_> = (0..MAX_BACKENDS).map(|n| (backend(n), n)).collect();
    let backends: Vec<_> = backends.into_iter().map(|((at, port), n)| (Endpoint::tcp(at, port), n)).collect();
    assert_eq!(backends.iter().map(|(at, _)| *at).collect::<HashSet<_>>().len(), MAX_BACKENDS as usize, "{what}");
    let (listed, seed) = half(&vips, &backends).unwrap_or_else(|error| panic!("{what}: {error:#}"));
    let head = Listed { head: directory::head(0, seed), ..Listed::default() };
    let entry = |index: u32| if index == 0 { Some(&head) } else { listed.get(index as usize - 1) };
    for (at, n) in &backends {
        let found = directory::find(&at.address, at.port, entry).map(|listed| (listed.role, u32::from(listed.id)));
        assert_eq!(found, Some((ROLE_BACKEND, *n)), "{what}: {at:?}");
    }
}

#[test]
fn a_full_gateway_fits_whatever_the_plan_of_its_addresses() {
    all_fit("one subnet", |n| (Address::from_v4([10, 77, (n >> 8) as u8, n as u8]), 443));
    all_fit("one address, a port each", |n| (ADDRESS, 1000 + n as u16));
    all_fit("addresses and ports count together", |n| {
        (Address::from_v4([10, 77, 1, (n % 250 + 1) as u8]), 1000 + n as u16)
    });
    all_fit("32 subnets of 32 hosts in IPv6", |n| {
        let mut bytes = [0; 16];
        (bytes[0], bytes[7], bytes[15]) = (0xfd, (n / 32) as u8, (n % 32) as u8);
        (Address::from_v6(bytes), 443)
    });
    all_fit("steps of 256", |n| (Address::from_v4([10, (n >> 6) as u8, (n << 2) as u8, 0]), 8443));
    for seed in 0..20u32 {
        let random = |n: u32| (n + 1).wrapping_mul(0x9e37_79b1).rotate_left(seed) ^ seed.wrapping_mul(0x85eb_ca77);
        all_fit("random", |n| (Address::from_v4(random(n).to_be_bytes()), (random(n) >> 7) as u16 | 1));
    }
}

#[test]
fn endpoints_that_all_want_one_slot_are_spread_by_another_seed() {
    let own = own_slot(&ADDRESS, Endpoint::tcp(ADDRESS, 443).port, 0);
    let wants_it = |at: &Endpoint| own_slot(&at.address, at.port, 0) == own;
    let at = |last: u8| (0..=u16::MAX).map(move |port| Endpoint::tcp(Address::from_v4([10, 0, 0, last]), port));
    let rivals = (11..20).flat_map(at).filter(wants_it);
    let backends: Vec<_> = rivals.take(PROBES as usize + 1).zip(1..).collect();
    assert_eq!(backends.len(), PROBES as usize + 1, "one more than there is room for");
    let (_, seed) = half(&[], &backends).expect("another seed");
    assert_ne!(seed, 0);
}
