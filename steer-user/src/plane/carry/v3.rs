//! Layout v3 (commit 36ead6f), and what its values say in layout v4.

use anyhow::Result;
use steer_common::{
    flow::{State, StateWord},
    shared::{
        self, BACKEND_DRAINING, BACKEND_PRESENT, BACKEND_UP, Endpoint, Hop, PATH_RETURN_SEEN,
        SWITCHES,
    },
    wire::tls::server_flight::Follow,
};

use super::{
    layout::{Version, no_padding, slots},
    v4,
};
use crate::{
    clock,
    plane::{PinDir, resize::Becomes},
};

/// The next hop of v3, whose MTU had four bytes.
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub(super) struct OldHop {
    pub(super) ifindex: u32,
    pub(super) ethernet: [u8; 12],
    pub(super) mtu: u32,
    pub(super) asked: u32,
}
no_padding!(OldHop, 4, 12, 4, 4);

impl OldHop {
    /// Whether XDP may take it is asked anew.
    fn hop(self) -> Hop {
        let Self { ifindex, ethernet, mtu, asked } = self;
        Hop { ifindex, ethernet, mtu: u16::try_from(mtu).unwrap_or(u16::MAX), flags: 0, asked }
    }
}

#[repr(C)]
#[derive(Clone, Copy)]
pub(super) struct Backend {
    pub(super) endpoint: Endpoint,
    pub(super) vip: Endpoint,
    pub(super) vip_id: u16,
    pub(super) flags: u16,
    pub(super) weight: u16,
    pub(super) mss: u16,
    pub(super) drain_until: u32,
    pub(super) hop: OldHop,
}
no_padding!(Backend, 20, 20, 2, 2, 2, 2, 4, 24);
// SAFETY: repr(C), no padding (checked above), every bit pattern valid, no references.
unsafe impl aya::Pod for Backend {}

/// Bit of [`Backend::flags`]: a packet of a steered flow came back from it.
const RETURN_SEEN: u16 = 8;

impl Becomes<shared::Backend> for Backend {
    fn becomes(&self) -> Option<shared::Backend> {
        let Self { endpoint, vip, vip_id, flags, weight, drain_until, .. } = *self;
        let flags = flags & (BACKEND_PRESENT | BACKEND_UP | BACKEND_DRAINING);
        v4::Backend { endpoint, vip, vip_id, flags, weight, vlan: 0, drain_until }.becomes()
    }
}

impl Backend {
    /// The way to it. The next hop is asked for at the first packet.
    fn path(&self, now: u32) -> v4::BackendPath {
        let flags = if self.flags & RETURN_SEEN != 0 { PATH_RETURN_SEEN } else { 0 };
        v4::BackendPath { hop: Hop::default(), mss: self.mss, mss_before: 0, mss_since: now, flags }
    }
}

#[repr(C)]
#[derive(Clone, Copy)]
pub(super) struct Vip {
    pub(super) id: u16,
    pub(super) flags: u16,
    pub(super) lookup_base: u32,
    pub(super) session_timeout: u32,
    pub(super) session_limit: u32,
    pub(super) flow_timeout: u32,
    pub(super) mss: u16,
    pub(super) owner_tries: u16,
    pub(super) name_at: u8,
    pub(super) name_len: u8,
    pub(super) zero: u16,
    pub(super) name_timeout: u32,
    pub(super) sessions_per_source: u32,
}
no_padding!(Vip, 2, 2, 4, 4, 4, 4, 2, 2, 1, 1, 2, 4, 4);
// SAFETY: as above.
unsafe impl aya::Pod for Vip {}

impl Becomes<shared::Vip> for Vip {
    fn becomes(&self) -> Option<shared::Vip> {
        let Self {
            id,
            flags,
            lookup_base,
            session_timeout,
            session_limit,
            flow_timeout,
            mss,
            owner_tries,
            name_at,
            name_len,
            zero: _,
            name_timeout,
            sessions_per_source,
        } = *self;
        // v3 took a packet of no known flow for one of its own, and its flows left no trace: so it
        // stays for those that lost their record.
        let since = 0;
        v4::Vip {
            id,
            flags,
            lookup_base,
            session_timeout,
            session_limit,
            flow_timeout,
            mss,
            owner_tries,
            name_at,
            name_len,
            zero: 0,
            name_timeout,
            sessions_per_source,
            since,
        }
        .becomes()
    }
}

#[repr(C)]
#[derive(Clone, Copy)]
struct Settings {
    bypass: u32,
    xdp: u32,
}
no_padding!(Settings, 4, 4);
// SAFETY: as above.
unsafe impl aya::Pod for Settings {}

#[repr(C)]
#[derive(Clone, Copy)]
pub(super) struct Flow {
    pub(super) word: u64,
    pub(super) owner_syn_at: u64,
    pub(super) first_isn: u32,
    pub(super) owner_isn: u32,
    pub(super) delta: u32,
    pub(super) ts_delta: u32,
    pub(super) client_ts: u32,
    pub(super) first_ts: u32,
    pub(super) hello_ts: u32,
    pub(super) seen: u32,
    pub(super) client_next: u32,
    pub(super) server_next: u32,
    pub(super) ip_word: [u8; 4],
    pub(super) hello_len: u32,
    pub(super) first: u16,
    pub(super) owner: u16,
    pub(super) syn_window: u16,
    pub(super) hello_window: u16,
    pub(super) first_window: u16,
    pub(super) client_mss: u16,
    pub(super) advertised_mss: u16,
    pub(super) flags: u16,
    pub(super) offered: u8,
    pub(super) agreed: u8,
    pub(super) client_scale: u8,
    pub(super) first_scale: u8,
    pub(super) owner_scale: u8,
    pub(super) owner_tries: u8,
    pub(super) offered_kind: u8,
    pub(super) offered_len: u8,
    pub(super) offered_index: u16,
    pub(super) answer: u8,
    pub(super) zero: u8,
    pub(super) offered_bytes: [u8; 32],
    pub(super) follow: Follow,
    pub(super) client_hop: OldHop,
}
no_padding!(Flow, 8, 8, 4 * 12, 2 * 8, 8, 4, 32, 76, 24);
// SAFETY: as above.
unsafe impl aya::Pod for Flow {}

/// The state that v3 gave connections that dial a backend itself. v4 has another state of this
/// number.
const DIRECT: u8 = 8;

impl Becomes<shared::Flow> for Flow {
    /// A connection that dials a backend itself says nothing in v4, which lets it pass without a
    /// note.
    fn becomes(&self) -> Option<shared::Flow> {
        let old = *self;
        if State::from_number(old.word as u8).is_none() || old.word as u8 == DIRECT {
            return None;
        }
        v4::Flow {
            word: old.word & !StateWord::LOCK,
            // The same bits mean the same.
            flags: old.flags.into(),
            seen: old.seen,
            client_next: old.client_next,
            server_next: old.server_next,
            delta: old.delta,
            ts_delta: old.ts_delta,
            first: old.first,
            owner: old.owner,
            first_port: [0; 2],
            owner_port: [0; 2],
            first_scale: old.first_scale,
            owner_scale: old.owner_scale,
            client_scale: old.client_scale,
            owner_tries: old.owner_tries,
            client_hop: old.client_hop.hop(),
            first_isn: old.first_isn,
            owner_isn: old.owner_isn,
            // Of nanoseconds.
            owner_syn_at: (old.owner_syn_at / 1_000_000) as u32,
            client_ts: old.client_ts,
            first_ts: old.first_ts,
            hello_ts: old.hello_ts,
            ip_word: old.ip_word,
            hello_len: old.hello_len,
            syn_window: old.syn_window,
            hello_window: old.hello_window,
            first_window: old.first_window,
            client_mss: old.client_mss,
            advertised_mss: old.advertised_mss,
            offered: old.offered,
            agreed: old.agreed,
            offered_kind: old.offered_kind,
            offered_len: old.offered_len,
            // A hello has not so many identities: the largest number is none of them.
            offered_index: u8::try_from(old.offered_index).unwrap_or(u8::MAX),
            answer: old.answer,
            follow: old.follow,
            offered_bytes: old.offered_bytes,
        }
        .becomes()
    }
}

#[repr(C)]
#[derive(Clone, Copy)]
pub(super) struct BackendStats {
    pub(super) flows: u64,
    pub(super) rehomed: u64,
    pub(super) learned: u64,
    pub(super) hits: u64,
    pub(super) tls12: v4::Outcomes,
    pub(super) tls13: v4::Outcomes,
    pub(super) packets: u64,
    pub(super) bytes: u64,
}
no_padding!(BackendStats, 8 * 6, 24, 24);
// SAFETY: as above.
unsafe impl aya::Pod for BackendStats {}

impl Becomes<shared::BackendStats> for BackendStats {
    fn becomes(&self) -> Option<shared::BackendStats> {
        let Self { flows, rehomed, learned, hits, tls12, tls13, packets, bytes } = *self;
        let (syns, syn_acks) = (0, 0);
        v4::BackendStats {
            flows,
            rehomed,
            learned,
            hits,
            tls12,
            tls13,
            packets,
            bytes,
            syns,
            syn_acks,
        }
        .becomes()
    }
}

/// The words of the counters, by index.
pub(super) const COUNTERS: &str = "from-client from-backend not-ours malformed vlan-passed xdp-forwarded xdp-to-tc xdp-unfinished-checksum \
     fragment-forwarded fragment-passed syn syn-repeated syn-known-flow option-cleared no-backend syn-ack \
     mss-clamped flow-established ack-swallowed no-flow-forwarded handshake-mismatch no-flow-translated \
     direct-access backend-passed flow-replaced forwarded spliced-forwarded hello not-tls hello-malformed \
     hello-no-session session-miss ticket-miss key-name-hit key-name-shared key-name-search key-name-given-up \
     hello-cut session-expired session-hit owner-down owner-drained observed bypassed not-movable server-first \
     gather buffered gather-limit gather-window gather-stalled gather-holes gather-beyond bad-checksum rehome \
     owner-syn-repeated splice-opened splices-full owner-no-route owner-refused owner-silent owner-incompatible \
     owner-challenge pending-lost flushed emit-failed wait-dropped wait-reset reset-invalid first-reset owner-reset \
     stray-backend owner-syn-ack-repeated flow-waited flow-busy options-malformed learned resumed owner-changed \
     resumption-rejected server-no-session server-tls13 server-retry key-name-learned key-name-became-shared \
     key-name-rejected psk-other learn-resumed learn-given-up ticket-told not-authenticated session-no-certificate \
     session-certificate-unseen session-quota hop-asked no-route neighbour-asked hop-limit too-big icmp-translated \
     icmp-passed events-lost";
/// Layout v3.
pub(super) struct V3;

impl Version for V3 {
    type Session = v4::Session;
    type KeyName = v4::KeyName;
    type Source = v4::Source;
    type Flow = Flow;
    type Vip = Vip;
    type Backend = Backend;
    type Configured = v4::Configured;
    type BackendStats = BackendStats;

    const COUNTERS: &str = COUNTERS;

    fn settings(dir: &PinDir) -> Result<(shared::Settings, Vec<u32>)> {
        let [Settings { bypass, .. }] = slots::<Settings, Settings>(dir, "settings")?[..] else {
            return Ok(Default::default());
        };
        let mut switches = vec![0; SWITCHES as usize];
        switches[shared::SWITCH_BYPASS as usize] = bypass;
        Ok((shared::Settings::default(), switches))
    }

    fn backend_paths(dir: &PinDir) -> Result<Vec<shared::BackendPath>> {
        let (backends, now) = (slots::<Backend, Backend>(dir, "backends")?, clock::seconds());
        Ok(backends.iter().filter_map(|backend| backend.path(now).becomes()).collect())
    }
}

#[cfg(test)]
mod tests {
    use steer_common::{
        counters::Counter,
        shared::{FLOW_HIT, FLOW_LEARNED, FLOW_OFFERED},
    };

    use super::*;
    use crate::plane::carry::tests::{at, counting, value};

    /// The bytes of each field by where it stood in v3 (`git show
    /// 36ead6f:steer-common/src/shared/flow.rs`).
    #[test]
    fn every_field_of_a_flow_is_taken_from_where_it_stood() {
        let mut image = counting::<224>();
        // A lock that a packet held, on a flow of the first backend.
        image[..2].copy_from_slice(&[State::First as u8, 1]);
        // Its MTU.
        image[216..220].copy_from_slice(&1400_u32.to_ne_bytes());
        // The flags.
        image[78..80].copy_from_slice(&0x62_u16.to_ne_bytes());
        // No PSK identity.
        image[88..90].copy_from_slice(&u16::MAX.to_ne_bytes());
        let flow: shared::Flow = value::<Flow>(&image).becomes().expect("a flow");
        let word = StateWord(flow.word);
        assert_eq!((word.state(), word.locked(), word.isn()), (State::First, false, at(&image, 4)));
        assert_eq!(flow.flags, FLOW_LEARNED | FLOW_HIT | FLOW_OFFERED);
        assert_eq!(
            u64::from(flow.owner_syn_at),
            (at::<u64>(&image, 8) / 1_000_000) & u64::from(u32::MAX)
        );
        let words = [
            (flow.first_isn, 16),
            (flow.owner_isn, 20),
            (flow.delta, 24),
            (flow.ts_delta, 28),
            (flow.client_ts, 32),
            (flow.first_ts, 36),
            (flow.hello_ts, 40),
            (flow.seen, 44),
            (flow.client_next, 48),
            (flow.server_next, 52),
            (u32::from_ne_bytes(flow.ip_word), 56),
            (flow.hello_len, 60),
        ];
        assert!(words.iter().all(|(found, place)| *found == at::<u32>(&image, *place)), "{flow:?}");
        let halves = [
            (flow.first, 64),
            (flow.owner, 66),
            (flow.syn_window, 68),
            (flow.hello_window, 70),
            (flow.first_window, 72),
            (flow.client_mss, 74),
            (flow.advertised_mss, 76),
        ];
        assert!(
            halves.iter().all(|(found, place)| *found == at::<u16>(&image, *place)),
            "{flow:?}"
        );
        let bytes =
            [flow.offered, flow.agreed, flow.client_scale, flow.first_scale, flow.owner_scale];
        assert_eq!(bytes, image[80..85]);
        assert_eq!([flow.owner_tries, flow.offered_kind, flow.offered_len], image[85..88]);
        assert_eq!((flow.offered_index, flow.answer), (shared::NO_PSK, image[90]));
        assert_eq!(flow.offered_bytes, image[92..124]);
        let follow = flow.follow;
        assert_eq!(
            (follow.next, follow.version, follow.seen),
            (at(&image, 124), at(&image, 138), image[147])
        );
        assert_eq!(
            (follow.lesson, follow.lesson_len),
            (image[148..180].try_into().expect("32"), image[197])
        );
        let hop = flow.client_hop;
        assert_eq!(
            (hop.ifindex, hop.mtu, hop.flags, hop.asked),
            (at(&image, 200), 1400, 0, at(&image, 220))
        );
        assert_eq!(hop.ethernet, image[204..216]);
        assert_eq!((flow.first_port, flow.owner_port), ([0; 2], [0; 2]), "its own port everywhere");
    }

    #[test]
    fn a_note_of_a_connection_to_a_backend_itself_is_no_adopted_flow() {
        for state in 0..=u8::MAX {
            let mut image = [0; 224];
            image[0] = state;
            let becomes: Option<shared::Flow> = value::<Flow>(&image).becomes();
            assert_eq!(becomes.is_some(), (1..=7).contains(&state), "{state}");
        }
    }

    #[test]
    fn a_backend_keeps_its_drain_and_what_is_known_of_the_way_to_it() {
        let mut image = counting::<76>();
        image[42..44].copy_from_slice(&0xf_u16.to_ne_bytes());
        let old = value::<Backend>(&image);
        let now: shared::Backend = old.becomes().expect("a backend");
        assert_eq!(now.flags, BACKEND_PRESENT | BACKEND_UP | BACKEND_DRAINING);
        assert_eq!(now.endpoint.address.octets(), image[..16]);
        assert_eq!(now.vip.address.octets(), image[20..36]);
        assert_eq!(
            (now.vip_id, now.weight, now.drain_until),
            (at(&image, 40), at(&image, 44), at(&image, 48))
        );
        let path = old.path(7);
        assert_eq!((path.mss, path.mss_since, path.flags), (at(&image, 46), 7, PATH_RETURN_SEEN));
        assert_eq!(path.hop, Hop::default(), "asked for anew");
    }

    #[test]
    fn a_vip_keeps_its_number_and_what_was_found_out_of_its_tickets() {
        let image = counting::<36>();
        let vip: shared::Vip = value::<Vip>(&image).becomes().expect("a VIP");
        assert_eq!(
            (vip.id, vip.flags, vip.lookup_base),
            (at(&image, 0), at(&image, 2), at(&image, 4))
        );
        assert_eq!(
            (vip.session_timeout, vip.flow_timeout, vip.mss),
            (at(&image, 8), at(&image, 16), at(&image, 20))
        );
        assert_eq!(
            (vip.name_at, vip.name_len, vip.name_timeout),
            (image[24], image[25], at(&image, 28))
        );
        assert_eq!((vip.sessions_per_source, vip.since), (at(&image, 32), 0));
    }

    #[test]
    fn every_counter_of_v3_is_still_one() {
        let words = COUNTERS.split_whitespace().collect::<Vec<_>>();
        assert_eq!(
            (words.len(), words[0], words[76], words[101]),
            (102, "from-client", "learned", "events-lost")
        );
        assert!(words.iter().all(|word| Counter::from_word(word).is_some()));
    }
}
