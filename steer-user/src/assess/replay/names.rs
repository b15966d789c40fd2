//! What a server's answer teaches of ticket keys, in the programs' order (`key_names` of
//! steer-ebpf), and where their names stand, as the agent finds out.

use steer_common::{
    rotation,
    session::{Kind, LAYOUTS, NameLayout, SESSION_ID_MAX},
    shared::{
        FLOW_ECH, FLOW_HIT, FLOW_NAMED, FLOW_NAMELESS, Flow, KEY_NAME_CONFIGURED,
        KEY_NAME_OPENED_TWO, KEY_NAME_PROVEN, KEY_NAME_SHARED, KeyName, NO_BACKEND, SessionKey,
        VIP_NAME_FOUND, VIP_TELL_TICKETS, backend_bit,
    },
};

use super::{Replay, key};
use crate::agent::key_layout::Finding;

/// Which ticket of a flow.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Which {
    /// The one that the client offered.
    Offered,
    /// The one that the server issued.
    Lesson,
}

/// What was said of a name.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Name {
    Known,
    New,
}

impl Replay {
    /// A member issued or accepted a ticket: it has the key (`ticket`).
    pub(super) fn learn_ticket(&mut self, flow: &Flow, which: Which, seconds: u32) {
        let (bytes, nameless) = match which {
            Which::Lesson => {
                (flow.follow.lesson, usize::from(flow.follow.lesson_len) < SESSION_ID_MAX)
            }
            Which::Offered => (flow.offered_bytes, flow.flags & FLOW_NAMELESS != 0),
        };
        if nameless {
            return;
        }
        // Behind ECH the client chooses what is read here.
        let vouched = which == Which::Lesson || flow.flags & FLOW_ECH == 0;
        let told = self.vip.flags & VIP_TELL_TICKETS != 0 && vouched;
        let mut said = Name::Known;
        for i in 0..LAYOUTS {
            let Some(key) = self.name_key(&bytes, i) else { break };
            said = self.learn_name(key, &bytes, flow.first, vouched, said, seconds);
        }
        // The agent hears of it afterwards.
        if told && let Some(finding) = self.layout.told(flow.first, &bytes) {
            self.layout_found(&finding, seconds);
        }
    }

    /// Notes a name (`learn_name`); `longer` is what was said of the one before, which is longer.
    fn learn_name(
        &mut self,
        key: SessionKey,
        bytes: &[u8; 32],
        member: u16,
        vouched: bool,
        longer: Name,
        seconds: u32,
    ) -> Name {
        let tail = u16::from_ne_bytes([bytes[30], bytes[31]]);
        let followed = self.vip.flags & VIP_TELL_TICKETS == 0 && vouched;
        if let Some(name) = self.names.get_mut(&key) {
            name.last_seen = seconds;
            if name.owner == member {
                name.accepted = name.accepted.wrapping_add(1);
                let second = name.flags & (KEY_NAME_OPENED_TWO | KEY_NAME_CONFIGURED) == 0
                    && name.tail != tail;
                if longer == Name::New {
                    name.flags |= KEY_NAME_PROVEN;
                }
                if second && followed {
                    name.flags |= KEY_NAME_OPENED_TWO;
                    rotation::confirm(&mut self.rotation, member);
                }
            } else if name.flags & KEY_NAME_SHARED == 0 && vouched {
                name.flags |= KEY_NAME_SHARED;
            }
            return Name::Known;
        }
        self.names.insert(key, KeyName { accepted: 1, tail, ..new_name(member, 0, seconds) });
        self.n_found_later += self.waiting.remove(&key).unwrap_or_default();
        if followed {
            rotation::note(&mut self.rotation, member, seconds);
        }
        self.tries.remove(&key);
        Name::New
    }

    /// The member could not open the client's ticket (`rejected`).
    pub(super) fn rejected(&mut self, flow: &Flow, seconds: u32) {
        let named = flow.flags & FLOW_NAMED != 0;
        let guessed = named && self.vip.flags & VIP_TELL_TICKETS != 0;
        let unknown = flow.flags & (FLOW_HIT | FLOW_ECH) == 0;
        if flow.offered_kind != Kind::Ticket as u8
            || flow.flags & FLOW_NAMELESS != 0
            || !(guessed || unknown)
        {
            return;
        }
        if unknown {
            self.wait_for(flow);
        }
        for i in 0..LAYOUTS {
            let Some(key) = self.name_key(&flow.offered_bytes, i) else { break };
            if self.names.get_mut(&key).is_some() {
                continue;
            }
            match self.tries.get_mut(&key) {
                Some(tries) => {
                    tries.last_seen = seconds;
                    tries.tried |= backend_bit(flow.first);
                }
                None => {
                    let tried = backend_bit(flow.first);
                    self.tries.insert(key, KeyName { tried, ..new_name(NO_BACKEND, 0, seconds) });
                }
            }
        }
    }

    /// Counts a refused ticket until somebody turns out to have its key. While the place of names
    /// is not known it is taken for one of 16 bytes, which most stacks have.
    fn wait_for(&mut self, flow: &Flow) {
        const USUAL: usize = 16;
        let known = self.vip.flags & VIP_TELL_TICKETS == 0;
        let named = if known {
            self.name_key(&flow.offered_bytes, 0)
        } else {
            key(Kind::KeyName, &flow.offered_bytes[..USUAL])
        };
        let Some(key) = named else { return };
        match self.waiting.get_mut(&key) {
            Some(n) => *n += 1,
            None => self.waiting.insert(key, 1),
        }
    }

    /// Takes over where names were found to stand, and the names seen meanwhile (`Pools::found` of
    /// the agent).
    fn layout_found(&mut self, finding: &Finding, seconds: u32) {
        let NameLayout { at, len } = finding.layout;
        (self.vip.name_at, self.vip.name_len) = (at, len);
        self.vip.flags = (self.vip.flags & !VIP_TELL_TICKETS) | VIP_NAME_FOUND;
        let mut named = Vec::new();
        for seen in &finding.names {
            let Some(key) = key(Kind::KeyName, &seen.name) else { continue };
            if self.names.get_mut(&key).is_none() {
                let flags = if seen.shared { KEY_NAME_SHARED } else { 0 };
                let name = new_name(seen.backend, flags, seconds);
                self.names.insert(key, KeyName { accepted: seen.tickets, ..name });
            }
            named.push(key);
        }
        self.names.retain(|key| named.contains(key) || (key.len == len && at == 0));
        self.tries.retain(|_| false);
    }
}

fn new_name(owner: u16, flags: u16, now: u32) -> KeyName {
    KeyName { owner, flags, first_seen: now, last_seen: now, ..KeyName::default() }
}
