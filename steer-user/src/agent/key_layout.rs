//! Finds out where the names of ticket keys stand: by the first bytes that come again in other
//! tickets of one backend (RFC 5077 4 puts the name of the key in front, in clear). Knows nothing
//! of maps and events; `events` feeds it.
//!
//! Meanwhile the programs go by every layout at once ([`NameLayout::of`]), so that nothing waits
//! for what is found here.

use std::collections::HashMap;

use steer_common::session::NameLayout;

/// First bytes of a ticket that are told.
const TICKET_BYTES: usize = 32;
/// Different tickets of one backend with the same name that make a layout.
const REPEATS: usize = 4;
/// Different tickets of one backend without any name twice that make none.
const TICKETS: usize = 64;

type Ticket = [u8; TICKET_BYTES];

const LONG: NameLayout = NameLayout { at: 0, len: 16 };
/// Behind a version byte (s2n-tls), which all tickets have in common.
const BEHIND_VERSION: NameLayout = NameLayout { at: 1, len: 16 };
const SHORT: NameLayout = NameLayout { at: 0, len: 4 };
const NONE: NameLayout = NameLayout { at: 0, len: 0 };

/// What was found.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Finding {
    /// Where names stand; length 0: nowhere.
    pub(crate) layout: NameLayout,
    /// The names in the tickets seen so far.
    pub(crate) names: Vec<SeenName>,
}

/// A name in the tickets seen so far.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct SeenName {
    /// The name.
    pub(crate) name: Vec<u8>,
    /// Who issued or accepted its tickets.
    pub(crate) backend: u16,
    /// Whether another backend did, too.
    pub(crate) shared: bool,
    /// Different tickets of it that this backend issued or accepted.
    pub(crate) tickets: u32,
}

/// The tickets that the backends of one VIP issued or accepted: at most [`TICKETS`] of each.
#[derive(Clone, Default, Debug)]
pub(crate) struct Search {
    seen: HashMap<u16, Vec<Ticket>>,
}

impl Search {
    /// A backend issued or accepted a ticket; says what is found once it is.
    pub(crate) fn told(&mut self, backend: u16, ticket: &Ticket) -> Option<Finding> {
        let own = self.seen.entry(backend).or_default();
        if own.contains(ticket) {
            return None;
        }
        own.push(*ticket);
        if n_named(own, LONG, ticket) >= REPEATS {
            return self.long(backend, ticket).map(|layout| self.finding(layout));
        }
        if self.has_short_name(backend, ticket) {
            return Some(self.finding(SHORT));
        }
        let own = self.own(backend);
        if own.len() < TICKETS {
            return None;
        }
        let repeats = |ticket: &Ticket, layout| n_named(own, layout, ticket) > 1;
        if own
            .iter()
            .any(|t| repeats(t, LONG) || (repeats(t, SHORT) && !self.others_have(backend, t)))
        {
            // Too seldom to tell anything: keys that change with every other ticket, or chance.
            self.seen.clear();
            return None;
        }
        Some(self.finding(NONE))
    }

    /// Where a name of 16 bytes stands whose bytes from 0 on come again: behind a version byte if
    /// one more byte comes again with them and all tickets of all backends start alike. That one
    /// more byte of a name's nonce does by chance is as likely as to draw the same byte four times.
    /// `None` where that needs more tickets.
    fn long(&self, backend: u16, ticket: &Ticket) -> Option<NameLayout> {
        if self.seen.values().flatten().any(|other| other[0] != ticket[0]) {
            return Some(LONG);
        }
        let own = self.own(backend);
        let n_alike =
            |ticket: &Ticket| own.iter().filter(|other| other[..=16] == ticket[..=16]).count();
        match own.iter().map(n_alike).max().unwrap_or_default() {
            REPEATS.. => Some(BEHIND_VERSION),
            2.. if own.len() < TICKETS => None,
            _ => Some(LONG),
        }
    }

    /// Whether four bytes come again while the rest of a long name does not.
    fn has_short_name(&self, backend: u16, ticket: &Ticket) -> bool {
        let own = self.own(backend).iter();
        let alike = own
            .filter(|other| name(other, SHORT) == name(ticket, SHORT))
            .copied()
            .collect::<Vec<_>>();
        alike.len() >= REPEATS
            && alike.iter().all(|other| n_named(&alike, LONG, other) == 1)
            && !self.others_have(backend, ticket)
    }

    /// Four bytes that other backends have as well are no name, but what all tickets of that stack
    /// start with.
    fn others_have(&self, backend: u16, ticket: &Ticket) -> bool {
        let others = self.seen.iter().filter(|(other, _)| **other != backend);
        others.flat_map(|(_, seen)| seen).any(|other| name(other, SHORT) == name(ticket, SHORT))
    }

    fn own(&self, backend: u16) -> &[Ticket] {
        self.seen.get(&backend).map(Vec::as_slice).unwrap_or_default()
    }

    fn finding(&self, layout: NameLayout) -> Finding {
        if layout == NONE {
            return Finding { layout, names: Vec::new() };
        }
        let mut tickets = HashMap::<_, u32>::new();
        for (backend, seen) in &self.seen {
            for ticket in seen {
                *tickets.entry((name(ticket, layout).to_vec(), *backend)).or_default() += 1;
            }
        }
        let mut backends = HashMap::<_, usize>::new();
        for (name, _) in tickets.keys() {
            *backends.entry(name.clone()).or_default() += 1;
        }
        let seen = |((name, backend), tickets): ((Vec<u8>, u16), u32)| {
            let shared = backends.get(&name).is_some_and(|n| *n > 1);
            SeenName { name, backend, shared, tickets }
        };
        let mut names = tickets.into_iter().map(seen).collect::<Vec<_>>();
        names.sort_by(|a, b| (a.backend, &a.name).cmp(&(b.backend, &b.name)));
        Finding { layout, names }
    }
}

fn name(ticket: &Ticket, layout: NameLayout) -> &[u8] {
    let from = usize::from(layout.at);
    ticket.get(from..from + usize::from(layout.len)).unwrap_or_default()
}

/// How many of the tickets have this one's name.
fn n_named(tickets: &[Ticket], layout: NameLayout, ticket: &Ticket) -> usize {
    tickets.iter().filter(|other| name(other, layout) == name(ticket, layout)).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bytes that never repeat: a counter, spread by an odd constant.
    fn random(n: u64) -> [u8; 16] {
        let spread = |salt: u64| (n + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15 ^ salt).to_be_bytes();
        [spread(0), spread(0x5555_0000_aaaa_0002)].concat().try_into().unwrap()
    }

    /// A ticket: a name, then what differs.
    fn ticket(name: &[u8], n: u64) -> Ticket {
        let rest = [random(n), random(n + 1_000_000)].concat();
        [name, &rest].concat()[..TICKET_BYTES].try_into().unwrap()
    }

    /// Tells tickets in turn; what was found, and after how many.
    fn tell(tickets: impl IntoIterator<Item = (u16, Ticket)>) -> Option<(Finding, usize)> {
        let mut search = Search::default();
        let found = |(n, (backend, ticket))| Some((search.told(backend, &ticket)?, n + 1));
        tickets.into_iter().enumerate().find_map(found)
    }

    #[test]
    fn a_name_of_sixteen_bytes_is_found_at_the_fourth_ticket() {
        let (found, after) = tell((0..9).map(|n| (3, ticket(&[7; 16], n)))).unwrap();
        assert_eq!((found.layout, after), (LONG, 4));
        assert_eq!(
            found.names,
            [SeenName { name: vec![7; 16], backend: 3, shared: false, tickets: 4 }]
        );
    }

    #[test]
    fn a_name_of_four_bytes_is_found_at_the_fourth_ticket() {
        let (found, after) = tell((0..9).map(|n| (3, ticket(&[1, 2, 3, 4], n)))).unwrap();
        assert_eq!((found.layout, after), (SHORT, 4));
        assert_eq!(
            found.names,
            [SeenName { name: vec![1, 2, 3, 4], backend: 3, shared: false, tickets: 4 }]
        );
    }

    #[test]
    fn the_same_ticket_again_proves_nothing() {
        assert_eq!(tell((0..1000).map(|_| (3, ticket(&[7; 16], 1)))), None);
    }

    #[test]
    fn tickets_without_a_name_are_known_after_sixty_four() {
        let (found, after) = tell((0..99).map(|n| (3, ticket(&[], n)))).unwrap();
        assert_eq!((found, after), (Finding { layout: NONE, names: Vec::new() }, 64));
    }

    #[test]
    fn backends_are_judged_one_by_one() {
        let (found, after) =
            tell((0..99).map(|n| (n as u16 % 3, ticket(&[n as u8 % 3; 16], n)))).unwrap();
        assert_eq!((found.layout, after, found.names.len()), (LONG, 10, 3));
        assert!(
            found.names.iter().all(|name| !name.shared && name.name == [name.backend as u8; 16])
        );
    }

    #[test]
    fn what_all_backends_start_with_is_no_name_of_four_bytes() {
        let (found, after) = tell((0..999).map(|n| (n as u16 % 2, ticket(b"NSS!", n)))).unwrap();
        assert_eq!((found.layout, after), (NONE, 127));
    }

    #[test]
    fn keys_that_start_alike_are_sixteen_bytes_long() {
        let named = |n: u64| ticket(&[b"NSS!".as_slice(), &[n as u8 % 2; 12]].concat(), n);
        let (found, after) = tell((0..99).map(|n| (3, named(n)))).unwrap();
        assert_eq!(
            (found.layout, after),
            (LONG, 7),
            "two keys in turn: no ticket's rest of the name differs"
        );
        assert_eq!(found.names.iter().map(|name| name.tickets).collect::<Vec<_>>(), [4, 3]);
    }

    #[test]
    fn a_key_that_two_backends_have_is_shared_from_the_start() {
        let (found, _) = tell((0..99).map(|n| (n as u16 % 2, ticket(&[7; 16], n)))).unwrap();
        assert_eq!(found.layout, LONG);
        assert!(found.names.len() == 2 && found.names.iter().all(|name| name.shared));
    }

    /// A ticket of s2n-tls: a version byte, and a name that the application chose.
    fn s2n(name: &[u8; 16], n: u64) -> Ticket {
        ticket(&[[1].as_slice(), name].concat(), n)
    }

    #[test]
    fn names_behind_a_version_byte_that_differ_in_their_last_byte_are_told_apart() {
        let name =
            |n: u64| if n.is_multiple_of(2) { b"key-of-server-11" } else { b"key-of-server-12" };
        let (found, after) = tell((0..99).map(|n| (n as u16 % 2, s2n(name(n), n)))).unwrap();
        assert_eq!((found.layout, after), (BEHIND_VERSION, 7));
        let names = found
            .names
            .iter()
            .map(|name| (name.name.as_slice(), name.backend, name.shared))
            .collect::<Vec<_>>();
        assert_eq!(
            names,
            [(&b"key-of-server-11"[..], 0, false), (&b"key-of-server-12"[..], 1, false)]
        );
    }

    #[test]
    fn two_names_of_one_backend_behind_a_version_byte_are_waited_for() {
        let name =
            |n: u64| if n.is_multiple_of(2) { b"key-of-server-11" } else { b"key-of-server-12" };
        let (found, after) = tell((0..99).map(|n| (3, s2n(name(n), n)))).unwrap();
        assert_eq!((found.layout, after, found.names.len()), (BEHIND_VERSION, 7, 2));
    }

    #[test]
    fn a_name_behind_which_a_byte_is_constant_starts_at_the_first_byte_where_those_differ() {
        let named = |n: u64| ticket(&[[n as u8 % 2; 16].as_slice(), &[9]].concat(), n);
        let (found, _) = tell((0..99).map(|n| (n as u16 % 2, named(n)))).unwrap();
        assert_eq!(found.layout, LONG);
    }

    #[test]
    fn a_key_that_two_backends_share_is_no_name_behind_a_version_byte() {
        let (found, _) =
            tell((0..99).map(|n| (n as u16 % 2, ticket(b"\x01 shared by all ", n)))).unwrap();
        assert!(found.layout == LONG && found.names.iter().all(|name| name.shared), "{found:?}");
    }

    #[test]
    fn a_search_without_end_keeps_its_size() {
        let mut search = Search::default();
        for n in 0..10_000 {
            assert_eq!(
                search.told(3, &ticket(&random(n / 2), n)),
                None,
                "every name twice, none four times"
            );
            assert!(search.own(3).len() < TICKETS);
        }
    }
}
