//! The lookup table of a pool: Maglev hashing (Eisenbud et al., NSDI 2016, section 3.4) with
//! weights.
//!
//! Slots spread over the backends in proportion to their weights, each backend having at least one,
//! and most slots keep their backend when another comes or goes.

use steer_common::shared::{Endpoint, NO_BACKEND};

/// A backend that takes new flows.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Member {
    /// Its `BackendId`.
    pub id: u16,
    /// Its address: what its preferences are derived from, so that they outlive its number and its
    /// place in the file.
    pub endpoint: Endpoint,
    /// Its share, more than 0.
    pub weight: u16,
}

/// Fills a table of `slots` (a prime); without members every slot says [`NO_BACKEND`].
pub fn table(members: &[Member], slots: u32) -> Vec<u16> {
    let mut table = vec![NO_BACKEND; slots as usize];
    let heaviest = members.iter().map(|member| u32::from(member.weight)).max().unwrap_or_default();
    let mut pickers = pickers(members, heaviest, slots);
    let mut free = if heaviest == 0 { 0 } else { slots };
    while free > 0 {
        for picker in &mut pickers {
            free -= u32::from(free > 0 && picker.takes_turn(heaviest) && picker.pick(&mut table));
        }
    }
    table
}

/// One member walking through its preferences.
struct Picker {
    id: u16,
    weight: u32,
    credit: u32,
    next: u32,
    skip: u32,
}

/// Members in the order of their addresses: the same pool makes the same table. Each takes the
/// first turn, however light it is beside the `heaviest`.
fn pickers(members: &[Member], heaviest: u32, slots: u32) -> Vec<Picker> {
    let mut members =
        members.iter().copied().filter(|member| member.weight > 0).collect::<Vec<_>>();
    members.sort_by_key(|member| (member.endpoint.address.octets(), member.endpoint.port));
    let picker = |member: &Member| Picker {
        id: member.id,
        weight: member.weight.into(),
        credit: heaviest - u32::from(member.weight),
        next: (hash(&member.endpoint, b"offset") % u64::from(slots)) as u32,
        skip: (hash(&member.endpoint, b"skip") % u64::from(slots - 1)) as u32 + 1,
    };
    members.iter().map(picker).collect()
}

impl Picker {
    /// The heaviest takes every turn, the others as often as their weight is worth.
    fn takes_turn(&mut self, heaviest: u32) -> bool {
        self.credit += self.weight;
        let takes = self.credit >= heaviest;
        if takes {
            self.credit -= heaviest;
        }
        takes
    }

    /// Takes the free slot it prefers most. `slots` being prime, the walk meets each.
    fn pick(&mut self, table: &mut [u16]) -> bool {
        let slots = table.len() as u32;
        for _ in 0..slots {
            let slot = self.next as usize;
            self.next = (self.next + self.skip) % slots;
            if let Some(free) = table.get_mut(slot).filter(|slot| **slot == NO_BACKEND) {
                *free = self.id;
                return true;
            }
        }
        false
    }
}

/// FNV-1a over address, port and a word, stirred at the end: the same on every machine and in every
/// version.
fn hash(endpoint: &Endpoint, word: &[u8]) -> u64 {
    let address = endpoint.address.octets();
    let bytes = address.iter().chain(&endpoint.port).chain(word);
    let sum = bytes.fold(0xcbf2_9ce4_8422_2325, |sum: u64, byte| {
        (sum ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    let stirred = (sum ^ (sum >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    stirred ^ (stirred >> 33)
}

#[cfg(test)]
mod tests {
    use steer_common::shared::{Address, LOOKUP_SLOTS};

    use super::*;

    fn member(id: u16, weight: u16) -> Member {
        Member { id, endpoint: Endpoint::tcp(Address::from_v4([10, 0, 0, id as u8]), 443), weight }
    }

    fn share(table: &[u16], id: u16) -> usize {
        table.iter().filter(|slot| **slot == id).count()
    }

    #[test]
    fn equal_weights_get_equal_shares() {
        let members = (0..7).map(|id| member(id, 1)).collect::<Vec<_>>();
        let table = table(&members, LOOKUP_SLOTS);
        for id in 0..7 {
            let fair = LOOKUP_SLOTS as usize / 7;
            assert!(share(&table, id).abs_diff(fair) <= 1, "{id}: {}", share(&table, id));
        }
    }

    #[test]
    fn shares_follow_weights_even_the_largest() {
        let table = table(&[member(1, 65535), member(2, 65535 / 3), member(3, 0)], LOOKUP_SLOTS);
        let ratio = share(&table, 1) as f64 / share(&table, 2) as f64;
        assert!((2.9..3.1).contains(&ratio), "{ratio}");
        assert_eq!(share(&table, 3), 0);
    }

    #[test]
    fn the_lightest_backend_gets_a_slot() {
        let members = [member(1, 1), member(2, 20_000), member(3, 65_535)];
        let table = table(&members, LOOKUP_SLOTS);
        assert_eq!(share(&table, 1), 1);
        assert!((3800..3900).contains(&share(&table, 2)), "{}", share(&table, 2));
    }

    #[test]
    fn a_backend_that_leaves_disturbs_few_slots_of_the_others() {
        let members = (0..10).map(|id| member(id, 1)).collect::<Vec<_>>();
        let (before, after) = (table(&members, LOOKUP_SLOTS), table(&members[1..], LOOKUP_SLOTS));
        let moved = before.iter().zip(&after).filter(|(b, a)| **b != 0 && a != b).count();
        assert!(
            moved * 100 < before.len() * 5,
            "{moved} of {} slots moved without need",
            before.len()
        );
    }

    #[test]
    fn the_order_of_the_file_does_not_matter() {
        let members = [member(1, 2), member(2, 1), member(3, 5)];
        let mut turned = members;
        turned.reverse();
        assert_eq!(table(&members, LOOKUP_SLOTS), table(&turned, LOOKUP_SLOTS));
    }

    #[test]
    fn a_pool_without_members_names_no_backend() {
        assert!(table(&[], LOOKUP_SLOTS).iter().all(|slot| *slot == NO_BACKEND));
        assert!(table(&[member(1, 0)], LOOKUP_SLOTS).iter().all(|slot| *slot == NO_BACKEND));
    }
}
