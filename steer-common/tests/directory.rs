//! The directory: what the agent places is what the programs find, and nothing else is.

use std::collections::BTreeSet;

use proptest::{prelude::*, sample::subsequence};
use steer_common::{
    directory::{ENTRIES, PROBES, SLOTS, find, free_slot, half, head, own_slot, seed},
    shared::{
        Address, Endpoint, EndpointEntry, MAX_BACKENDS, MAX_VIPS, ROLE_ADDRESS, ROLE_BACKEND,
        ROLE_VIP,
    },
};

const LISTED_MAX: usize = (MAX_VIPS + MAX_BACKENDS) as usize;

/// A directory as the map holds it.
struct Directory {
    entries: Vec<EndpointEntry>,
}

impl Directory {
    /// One whose head names a half and a seed, empty.
    fn new(head: u32) -> Self {
        let mut entries = vec![EndpointEntry::default(); ENTRIES as usize];
        entries[0].head = head;
        Self { entries }
    }

    /// One with these in the half in use, and how many of them found no room.
    fn of(listed: &[EndpointEntry], head: u32) -> (Self, usize) {
        let mut directory = Self::new(head);
        let n_refused = listed.iter().filter(|listed| !directory.place(listed)).count();
        (directory, n_refused)
    }

    /// The slots of one half, without the head and the other half.
    fn half(&mut self, number: u32) -> &mut [EndpointEntry] {
        let first = half(number) as usize;
        &mut self.entries[first..first + (SLOTS + PROBES) as usize]
    }

    /// Places one in the half in use; `false` where there is no room for it.
    fn place(&mut self, listed: &EndpointEntry) -> bool {
        let head = self.entries[0].head;
        let half = self.half(head);
        let slot = free_slot(half, &listed.endpoint, seed(head));
        slot.inspect(|slot| half[*slot] = *listed).is_some()
    }

    fn find(&self, at: &Endpoint) -> Option<&EndpointEntry> {
        find(self.entries[0].head, &at.address, at.port, |index| self.entries.get(index as usize))
    }
}

fn listed(endpoint: Endpoint, role: u16, id: u16) -> EndpointEntry {
    EndpointEntry { endpoint, role, id, ..EndpointEntry::default() }
}

/// VIPs and backends in turn, numbered as they come.
fn in_both_roles(endpoints: Vec<Endpoint>) -> Vec<EndpointEntry> {
    let roles = [ROLE_VIP, ROLE_BACKEND].into_iter().cycle();
    (0..)
        .zip(endpoints)
        .zip(roles)
        .map(|((id, endpoint), role)| listed(endpoint, role, id))
        .collect()
}

const V4: Address = Address::from_v4([10, 0, 0, 11]);
/// The same four bytes at the end, but no mapped address.
const V6: Address = Address::from_v6([0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 10, 0, 0, 11]);
const V4_NEXT: Address = Address::from_v4([10, 0, 0, 12]);
const V6_NEXT: Address =
    Address::from_v6([0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 10, 0, 0, 12]);

/// The slot of an endpoint under the seed of the tests that choose slots.
fn own(at: &Endpoint) -> u32 {
    own_slot(&at.address, at.port, 0)
}

/// Every port of two addresses of each family whose own slot is one of these.
fn at_slots(slots: impl Fn(u32) -> bool) -> Vec<Endpoint> {
    let ports = |address| (0..=u16::MAX).map(move |port| Endpoint::tcp(address, port));
    let all = ports(V4).chain(ports(V4_NEXT)).chain(ports(V6)).chain(ports(V6_NEXT));
    all.filter(|at| slots(own(at))).collect()
}

/// The endpoints of both families that want one slot.
fn rivals(slot: u32) -> (Vec<Endpoint>, Vec<Endpoint>) {
    at_slots(|own| own == slot).into_iter().partition(|at| at.address.is_v4())
}

/// Endpoints that want the same slot as this one and differ from it in one word of the address, or
/// in the port.
fn strangers(at: &Endpoint) -> Vec<Endpoint> {
    let other_word = |word: usize| {
        (1..).find_map(|difference| {
            let mut words = at.address.words();
            words[word] ^= difference;
            let stranger = Endpoint { address: Address::from_words(words), ..*at };
            (own(&stranger) == own(at)).then_some(stranger)
        })
    };
    let ports = (0..=u16::MAX).map(|port| Endpoint::tcp(at.address, port));
    let other_port =
        ports.filter(|stranger| stranger != at).find(|stranger| own(stranger) == own(at));
    (0..4).filter_map(other_word).chain(other_port).collect()
}

/// More endpoints than there is room for, in the last slots of a half.
fn crowd() -> impl Strategy<Value = Vec<Endpoint>> {
    let crowd = at_slots(|own| own >= SLOTS - 16);
    let n = crowd.len();
    subsequence(crowd, 0..n).prop_shuffle()
}

fn endpoint() -> impl Strategy<Value = Endpoint> {
    let v4 = any::<[u8; 4]>().prop_map(Address::from_v4);
    let v6 = any::<[u8; 16]>().prop_map(Address::from_v6);
    (prop_oneof![v4, v6], any::<u16>()).prop_map(|(address, port)| Endpoint::tcp(address, port))
}

/// Any head: either half, any seed.
fn heads() -> impl Strategy<Value = u32> {
    (0..2_u32, 0..1_u32 << 31).prop_map(|(number, seed)| head(number, seed))
}

/// As many endpoints as can be listed, anywhere.
fn scattered() -> impl Strategy<Value = Vec<Endpoint>> {
    prop::collection::hash_set(endpoint(), 1..LISTED_MAX)
        .prop_map(|endpoints| endpoints.into_iter().collect())
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn who_is_placed_is_found_and_nobody_else(endpoints in prop_oneof![crowd(), scattered()], head in heads()) {
        let mut directory = Directory::new(head);
        for listed in in_both_roles(endpoints) {
            prop_assert_eq!(directory.find(&listed.endpoint), None, "not placed yet");
            let found = directory.place(&listed).then_some(&listed);
            prop_assert_eq!(directory.find(&listed.endpoint), found);
        }
    }

    #[test]
    fn later_ones_hide_nobody(endpoints in prop_oneof![crowd(), scattered()], head in heads()) {
        let mut all = in_both_roles(endpoints);
        let mut directory = Directory::new(head);
        all.retain(|listed| directory.place(listed));
        for listed in &all {
            prop_assert_eq!(directory.find(&listed.endpoint), Some(listed));
        }
    }

    #[test]
    fn without_one_the_others_are_found_and_it_is_not(endpoints in crowd(), one: prop::sample::Index) {
        let mut all = in_both_roles(endpoints);
        let mut before = Directory::new(0);
        all.retain(|listed| before.place(listed));
        prop_assume!(!all.is_empty());
        let gone = all.remove(one.index(all.len()));
        let (after, n_refused) = Directory::of(&all, 1);
        prop_assert_eq!(n_refused, 0, "there is more room than before");
        prop_assert_eq!(after.find(&gone.endpoint), None);
        for listed in &all {
            prop_assert_eq!(after.find(&listed.endpoint), Some(listed));
        }
    }
}

#[test]
fn the_ninth_at_one_slot_is_refused() {
    for slot in [0, 1234, SLOTS - 1] {
        let (v4, v6) = rivals(slot);
        let mixed: Vec<Endpoint> = v4.into_iter().zip(v6).flat_map(|(v4, v6)| [v4, v6]).collect();
        let all = in_both_roles(mixed);
        let (room, over) = all.split_at(PROBES as usize);
        let (mut directory, n_refused) = Directory::of(room, 0);
        assert_eq!(n_refused, 0, "slot {slot}");
        assert!(
            !over.is_empty() && over.iter().all(|listed| !directory.place(listed)),
            "slot {slot}"
        );
        assert!(
            over.iter().all(|listed| directory.find(&listed.endpoint).is_none()),
            "slot {slot}"
        );
        assert!(
            room.iter().all(|listed| directory.find(&listed.endpoint) == Some(listed)),
            "slot {slot}"
        );
    }
}

#[test]
fn who_differs_in_one_word_or_the_port_is_somebody_else() {
    for (at, role) in [(Endpoint::tcp(V4, 443), ROLE_VIP), (Endpoint::tcp(V6, 443), ROLE_BACKEND)] {
        let (directory, _) = Directory::of(&[listed(at, role, 7)], 0);
        for stranger in strangers(&at) {
            assert_eq!(own(&stranger), own(&at));
            assert_eq!(directory.find(&stranger), None, "{stranger:?}");
        }
    }
}

#[test]
fn a_half_that_is_not_in_use_tells_nothing() {
    for head in [0, 1] {
        let one = listed(Endpoint::tcp(V4, 443), ROLE_VIP, 1);
        let (mut directory, _) = Directory::of(&[one], head);
        assert_eq!(directory.find(&one.endpoint), Some(&one));
        directory.entries[0].head ^= 1;
        assert_eq!(directory.find(&one.endpoint), None);
    }
}

#[test]
fn filling_one_half_leaves_the_other_as_it_is() {
    let (_, last) = rivals(SLOTS - 1);
    for head in [0, 1] {
        let (mut directory, _) = Directory::of(&in_both_roles(last.clone()), head);
        let untouched = vec![EndpointEntry::default(); (SLOTS + PROBES) as usize];
        assert_eq!(directory.half(head ^ 1), untouched);
        assert_eq!(directory.entries[0], EndpointEntry { head, ..EndpointEntry::default() });
    }
}

#[test]
fn a_head_tells_its_half_and_its_seed() {
    for (number, places) in
        [(0, 0), (1, 0), (0, 1), (1, 77), (0, u32::MAX >> 1), (1, u32::MAX >> 1)]
    {
        let head = head(number, places);
        assert_eq!((half(head), seed(head)), (1 + number * (SLOTS + PROBES), places));
    }
}

#[test]
fn another_seed_gives_other_places() {
    let same = (0..1000)
        .filter(|port| own_slot(&V4, [1, *port as u8], 0) == own_slot(&V4, [1, *port as u8], 1))
        .count();
    assert!(same < 10, "{same} of 1000 endpoints stand where they stood");
}

/// As many endpoints as can be listed, the way networks number them.
fn plans() -> [(&'static str, Vec<Endpoint>); 7] {
    let all =
        |endpoint: fn(u16) -> Endpoint| (0..LISTED_MAX as u16).map(endpoint).collect::<Vec<_>>();
    let v6 = |subnet: u8, host: u16| {
        let [high, low] = host.to_be_bytes();
        Address::from_v6([0xfd, 0, 0, 0, 0, 0, 0, subnet, 0, 0, 0, 0, 0, 0, high, low])
    };
    let subnets =
        (0..LISTED_MAX as u16).map(|n| Endpoint::tcp(v6((n / 32) as u8, n % 32), 443)).collect();
    let hosts_v6 = (0..LISTED_MAX as u16).map(|n| Endpoint::tcp(v6(0, n), 443)).collect();
    [
        (
            "neighbours",
            all(|n| Endpoint::tcp(Address::from_v4([10, 1, (n >> 8) as u8, n as u8]), 443)),
        ),
        ("IPv6 neighbours", hosts_v6),
        ("32 hosts in each of 34 IPv6 subnets", subnets),
        ("ports of one address", all(|n| Endpoint::tcp(V4, 8000 + n))),
        ("ports of one IPv6 address", all(|n| Endpoint::tcp(V6, 8000 + n))),
        (
            "250 addresses, a port for each endpoint",
            all(|n| Endpoint::tcp(Address::from_v4([10, 77, 1, (n % 250 + 1) as u8]), 1000 + n)),
        ),
        (
            "one host in each subnet",
            all(|n| Endpoint::tcp(Address::from_v4([10, (n >> 8) as u8, n as u8, 1]), 443)),
        ),
    ]
}

/// These, and the address of each by itself: all that a directory lists at the most.
fn with_addresses(endpoints: Vec<Endpoint>) -> Vec<EndpointEntry> {
    let addresses: BTreeSet<[u8; 16]> = endpoints.iter().map(|at| at.address.octets()).collect();
    let address = |octets| listed(Endpoint::tcp(Address::from_v6(octets), 0), ROLE_ADDRESS, 0);
    in_both_roles(endpoints).into_iter().chain(addresses.into_iter().map(address)).collect()
}

/// How many of the first so many seeds have a place for all.
fn n_fitting(all: &[EndpointEntry], seeds: u32) -> usize {
    (0..seeds).filter(|seed| Directory::of(all, head(0, *seed)).1 == 0).count()
}

#[test]
fn as_many_endpoints_as_can_be_listed_find_room_under_some_seed() {
    for (name, endpoints) in plans() {
        assert!(n_fitting(&with_addresses(endpoints), 200) > 4, "{name}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: 16, ..ProptestConfig::default() })]

    #[test]
    fn a_full_directory_finds_room_under_some_seed(endpoints in prop::collection::hash_set(endpoint(), LISTED_MAX)) {
        let all = with_addresses(endpoints.into_iter().collect());
        prop_assert!(n_fitting(&all, 200) > 4);
    }
}
