//! What the agent lists in the directory, and that everything that a configuration may hold has a
//! place.

use steer_common::{
    directory::{PROBES, SLOTS},
    shared::{
        ADDRESS_OF_BACKEND, ADDRESS_OF_MEMBER, ADDRESS_OF_VIP, Address, BACKEND_BRIDGED,
        BACKEND_DIALLED, BACKEND_PRESENT, Backend, Endpoint, EndpointEntry, Entrance, MAX_BACKENDS,
        MAX_VIPS, ROLE_ADDRESS, ROLE_BACKEND, ROLE_BRIDGED, ROLE_MEMBER, ROLE_NONE, ROLE_VIP, Vip,
    },
};
use steer_user::plane::half;

const ADDRESS: Address = Address::from_v4([10, 0, 0, 11]);

/// A full configuration: as many VIPs and backends as there may be.
struct Full {
    vips: Vec<(Endpoint, Vip)>,
    backends: Vec<(u32, Backend)>,
}

fn full(vip: impl Fn(u32) -> Endpoint, backend: impl Fn(u32) -> Endpoint) -> Full {
    let record = |id: u32| Vip { id: id as u16, ..Vip::default() };
    Full {
        vips: (0..MAX_VIPS).map(|id| (vip(id), record(id))).collect(),
        backends: (0..MAX_BACKENDS).map(|id| (id, at(backend(id)))).collect(),
    }
}

fn at(endpoint: Endpoint) -> Backend {
    Backend { endpoint, ..Backend::default() }
}

fn v4(c: u32, d: u32, port: u32) -> Endpoint {
    Endpoint::tcp(Address::from_v4([10, 77, c as u8, d as u8]), port as u16)
}

/// Addresses as operators give them out.
fn plans() -> Vec<Full> {
    let vip = |id| v4(255, id, 443);
    let mut plans = vec![
        full(vip, |id| v4(id / 250, id % 250 + 1, 443)),
        full(vip, |id| v4(1, id % 250 + 1, 1000 + id)),
        full(vip, |id| v4(1, 1, 1000 + id)),
        full(vip, |id| v4(id % 32, id / 32, 8443)),
        full(
            |id| {
                Endpoint::tcp(
                    Address::from_v6([0xfd, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, id as u8]),
                    443,
                )
            },
            |id| {
                let (subnet, host) = ((id / 32) as u8, (id % 32) as u8);
                Endpoint::tcp(
                    Address::from_v6([0xfd, 0, 0, 0, 0, 0, 0, subnet, 0, 0, 0, 0, 0, 0, 0, host]),
                    443,
                )
            },
        ),
    ];
    // Addresses and ports of no order at all (xorshift32, Marsaglia 2003).
    for seed in 1..=40_u32 {
        let mut state = seed.wrapping_mul(0x9e37_79b9);
        let mut random = || {
            state ^= state << 13;
            state ^= state >> 17;
            state ^= state << 5;
            state
        };
        let words = (0..MAX_BACKENDS).map(|_| (random(), random())).collect::<Vec<_>>();
        plans.push(full(vip, |id| {
            let (address, port) = words[id as usize];
            Endpoint::tcp(Address::from_v4(address.to_be_bytes()), port as u16)
        }));
    }
    plans
}

#[test]
fn vips_and_backends_are_listed_with_their_numbers() {
    let [vip, backend] = [443, 8443].map(|port| Endpoint::tcp(ADDRESS, port));
    let record = Vip { id: 7, session_timeout: 600, ..Vip::default() };
    let (listed, _) = half(&[(vip, record)], &[], &[(9, at(backend))]).expect("room for two");
    assert_eq!(listed.len(), (SLOTS + PROBES) as usize);
    let mut listed: Vec<_> = listed
        .into_iter()
        .filter(|listed| [ROLE_VIP, ROLE_BACKEND].contains(&listed.role))
        .collect();
    listed.sort_by_key(|listed| listed.id);
    let told: Vec<_> =
        listed.iter().map(|listed| (listed.endpoint, listed.role, listed.id, listed.vip)).collect();
    assert_eq!(told, [(vip, ROLE_VIP, 7, record), (backend, ROLE_BACKEND, 9, Vip::default())]);
}

/// Who stands at an endpoint: role, number, and the record with it.
fn found(half: &[EndpointEntry], at: Endpoint) -> Option<(u16, u16, Vip)> {
    let listed = half.iter().find(|listed| listed.role != ROLE_NONE && listed.endpoint == at)?;
    Some((listed.role, listed.id, listed.vip))
}

#[test]
fn vips_that_share_a_pool_have_its_record_and_number_and_their_own() {
    let [home, second, alone, gone] = [1, 2, 3, 4].map(|last| v4(9, last, 443));
    let record = Vip { id: 7, flow_timeout: 9, since: 5, ..Vip::default() };
    let own = Vip { id: 3, ..Vip::default() };
    let entrance = |endpoint, pool| Entrance { endpoint, pool, zero: 0, since: 8 };
    // One has a pool of its own still; the pool of another is gone.
    let entrances = [(37, entrance(second, 7)), (38, entrance(alone, 7)), (39, entrance(gone, 60))];
    let (listed, _) = half(&[(home, record), (alone, own)], &entrances, &[]).expect("room");
    let entry = |at| listed.iter().find(|listed| listed.endpoint == at);
    let told = |at| entry(at).map(|it| (it.role, it.pool_and_entrance(), it.vip));
    assert_eq!(told(home), Some((ROLE_VIP, (7, 0), record)));
    assert_eq!(told(second), Some((ROLE_VIP, (7, 37), Vip { since: 8, ..record })));
    assert_eq!(told(alone), Some((ROLE_VIP, (3, 0), own)));
    assert_eq!(told(gone), None);
    let address = found(&listed, Endpoint { port: [0; 2], ..second });
    assert_eq!(address, Some((ROLE_ADDRESS, ADDRESS_OF_VIP, Vip::default())));
}

#[test]
fn a_pool_has_no_entry_and_its_members_have_its_record() {
    let pool = Endpoint::of_pool("web").expect("a name");
    let (vip, [member, left, behind]) = (v4(9, 1, 443), [1, 2, 3].map(|last| v4(0, last, 443)));
    let (record, of_vip) =
        (Vip { id: 3, flow_timeout: 9, ..Vip::default() }, Vip { id: 1, ..Vip::default() });
    let backends = [
        (5, Backend { vip: pool, flags: BACKEND_PRESENT | BACKEND_DIALLED, ..at(member) }),
        (6, Backend { vip: pool, flags: BACKEND_DIALLED, ..at(left) }),
        (7, Backend { vip, flags: BACKEND_PRESENT, ..at(behind) }),
    ];
    let (listed, _) = half(&[(pool, record), (vip, of_vip)], &[], &backends).expect("room");
    let nobody = Vip::default();
    assert_eq!(found(&listed, pool), None);
    assert_eq!(found(&listed, member), Some((ROLE_MEMBER, 5, record)));
    assert_eq!(found(&listed, left), Some((ROLE_MEMBER, 6, record)), "its flows go on");
    assert_eq!(found(&listed, behind), Some((ROLE_BACKEND, 7, nobody)));
    assert_eq!(found(&listed, vip), Some((ROLE_VIP, 1, of_vip)));
    for backend in [member, left, behind] {
        let address = Endpoint { port: [0; 2], ..backend };
        let of_pool = if backend == behind { 0 } else { ADDRESS_OF_MEMBER };
        let is = (ROLE_ADDRESS, ADDRESS_OF_BACKEND | of_pool, nobody);
        assert_eq!(found(&listed, address), Some(is));
    }
    assert_eq!(listed.iter().filter(|listed| listed.role != ROLE_NONE).count(), 8);
    let (listed, _) = half(&[], &[], &backends).expect("room");
    assert_eq!(found(&listed, member), Some((ROLE_BACKEND, 5, nobody)), "its pool is gone");
}

#[test]
fn members_at_a_bridge_have_a_role_of_their_own() {
    let (pool, member) = (Endpoint::of_pool("web").expect("a name"), v4(0, 1, 443));
    let record = Vip { id: 3, ..Vip::default() };
    let flags = BACKEND_PRESENT | BACKEND_DIALLED | BACKEND_BRIDGED;
    let backends = [(5, Backend { vip: pool, flags, ..at(member) })];
    let (listed, _) = half(&[(pool, record)], &[], &backends).expect("room");
    assert_eq!(found(&listed, member), Some((ROLE_BRIDGED, 5, record)));
}

#[test]
fn as_many_vips_and_backends_as_there_may_be_always_have_a_place() {
    for (number, Full { vips, backends }) in plans().iter().enumerate() {
        if let Err(error) = half(vips, &[], backends) {
            panic!("plan {number}: {error:#}");
        }
    }
}

#[test]
fn the_order_in_which_maps_are_read_does_not_matter() {
    for Full { mut vips, mut backends } in plans().into_iter().take(5) {
        let told = half(&vips, &[], &backends).expect("a place for each");
        vips.reverse();
        backends.rotate_left(333);
        let turned = half(&vips, &[], &backends).expect("a place for each");
        assert!(told == turned, "another order makes another directory");
    }
}
