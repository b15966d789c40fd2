//! Layout v4, and what its values say in the layout of today.
//!
//! Keys, hops and what was read of a stream are those of today. Whoever changes a type of today
//! gets an error here, and writes what becomes of the old one by hand.

use anyhow::Result;
use steer_common::{
    shared::{self, Endpoint, FlowKey, Hop, SessionKey, SourceKey},
    wire::tls::server_flight::Follow,
};

use super::layout::{Version, no_padding, slots};
use crate::plane::{PinDir, resize::Becomes};

no_padding!(Endpoint, 20);
no_padding!(FlowKey, 20);
no_padding!(SessionKey, 36);
no_padding!(SourceKey, 20);
no_padding!(Hop, 4, 12, 2, 2, 4);
no_padding!(Follow, 76);

/// Declares a value's type, and that it says the same today.
macro_rules! same {
    ($($name:ident { $($field:ident: $type:ty,)+ } $size:literal)+) => { $(
        #[repr(C)]
        #[derive(Clone, Copy)]
        pub(super) struct $name { $(pub(super) $field: $type,)+ }
        no_padding!($name, $(size_of::<$type>()),+);
        const _: () = assert!(size_of::<$name>() == $size);
        // SAFETY: repr(C), no padding (checked above), every bit pattern valid, no references.
        unsafe impl aya::Pod for $name {}

        impl Becomes<shared::$name> for $name {
            fn becomes(&self) -> Option<shared::$name> {
                let Self { $($field),+ } = *self;
                Some(shared::$name { $($field),+ })
            }
        }
    )+ };
}

same! {
    Session { owner: u16, flags: u16, first_seen: u32, last_seen: u32, uses: u32, } 16
    Source { since: u32, n_sessions: u32, } 8
    Backend {
        endpoint: Endpoint, vip: Endpoint, vip_id: u16, flags: u16, weight: u16, vlan: u16, drain_until: u32,
    } 52
    BackendPath { hop: Hop, mss: u16, mss_before: u16, mss_since: u32, flags: u32, } 36
    Configured { vip: Endpoint, weight: u32, } 24
    Vip {
        id: u16, flags: u16, lookup_base: u32, session_timeout: u32, session_limit: u32, flow_timeout: u32, mss: u16,
        owner_tries: u16, name_at: u8, name_len: u8, zero: u16, name_timeout: u32, sessions_per_source: u32, since: u32,
    } 40
    Settings { xdp: u32, takeover_until: u32, secret: u64, } 16
    Flow {
        word: u64, flags: u32, seen: u32, client_next: u32, server_next: u32, delta: u32, ts_delta: u32, first: u16,
        owner: u16, first_port: [u8; 2], owner_port: [u8; 2], first_scale: u8, owner_scale: u8, client_scale: u8,
        owner_tries: u8, client_hop: Hop, first_isn: u32, owner_isn: u32, owner_syn_at: u32, client_ts: u32,
        first_ts: u32, hello_ts: u32, ip_word: [u8; 4], hello_len: u32, syn_window: u16, hello_window: u16,
        first_window: u16, client_mss: u16, advertised_mss: u16, offered: u8, agreed: u8, offered_kind: u8, offered_len: u8,
        offered_index: u8, answer: u8, follow: Follow, offered_bytes: [u8; 32],
    } 224
    Foreign { seen: u32, zero: u32, } 8
    Leg { seen: u32, port: [u8; 2], service: u16, } 8
    TraceLine { slots: [u64; 8], } 64
    Refusals { accepted: [u32; 3], in_a_row: [u16; 3], held_back: [u16; 3], } 24
}

/// Who has a ticket key. Six backends that rejected its tickets, or first two bytes of the first
/// ticket of it that was accepted.
#[repr(C)]
#[derive(Clone, Copy)]
pub(super) struct KeyName {
    pub(super) owner: u16,
    pub(super) flags: u16,
    pub(super) first_seen: u32,
    pub(super) last_seen: u32,
    pub(super) hits: u32,
    pub(super) accepted: u32,
    pub(super) tried: [u16; 6],
}
no_padding!(KeyName, 2, 2, 4, 4, 4, 4, 2 * 6);
// SAFETY: as above.
unsafe impl aya::Pod for KeyName {}

impl Becomes<shared::KeyName> for KeyName {
    fn becomes(&self) -> Option<shared::KeyName> {
        let Self { owner, flags, first_seen, last_seen, hits, accepted, tried: [tail, ..] } = *self;
        Some(shared::KeyName {
            owner,
            flags,
            first_seen,
            last_seen,
            hits,
            accepted,
            tail,
            zero: 0,
            tried: 0,
        })
    }
}

/// What resumptions came to.
pub(super) type Outcomes = [u64; 3];

#[repr(C)]
#[derive(Clone, Copy)]
pub(super) struct BackendStats {
    pub(super) flows: u64,
    pub(super) rehomed: u64,
    pub(super) learned: u64,
    pub(super) hits: u64,
    pub(super) tls12: Outcomes,
    pub(super) tls13: Outcomes,
    pub(super) packets: u64,
    pub(super) bytes: u64,
    pub(super) syns: u64,
    pub(super) syn_acks: u64,
}
no_padding!(BackendStats, 8 * 8, 24, 24);
// SAFETY: as above.
unsafe impl aya::Pod for BackendStats {}

impl Becomes<shared::BackendStats> for BackendStats {
    fn becomes(&self) -> Option<shared::BackendStats> {
        let Self { flows, rehomed, learned, hits, tls12, tls13, packets, bytes, syns, syn_acks } =
            *self;
        let [tls12, tls13] = [tls12, tls13].map(|[accepted, rejected, not_offered]| {
            shared::Outcomes { accepted, rejected, not_offered }
        });
        Some(shared::BackendStats {
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
        })
    }
}

/// The words of the counters, by index.
pub(super) const COUNTERS: &str = "from-client from-backend not-ours malformed malformed-dropped other-station vlan-passed xdp-forwarded \
     xdp-to-tc xdp-unfinished-checksum xdp-egress fragment-forwarded fragment-passed fragment-held syn syn-repeated \
     syn-known-flow option-cleared no-backend syn-ack mss-clamped flow-established ack-swallowed no-flow-forwarded \
     foreign-passed left trace-found handshake-mismatch no-flow-translated direct-access leg-translated leg-taken \
     leg-collided backend-passed flow-replaced forwarded spliced-forwarded hello proxy-header not-tls \
     hello-malformed hello-no-session session-miss ticket-miss key-name-hit key-name-shared key-name-search \
     key-name-due key-name-given-up hello-cut session-expired session-hit owner-down owner-drained owner-refuses \
     observed bypassed not-movable server-first ack-invalid gather buffered gather-limit gather-window \
     gather-stalled gather-ended gather-holes gather-beyond bad-checksum rehome owner-syn-repeated splice-opened \
     splices-full owner-no-route owner-refused owner-silent owner-incompatible owner-challenge pending-lost flushed \
     emit-failed wait-dropped wait-reset reset-invalid first-reset owner-reset stray-backend owner-syn-ack-repeated \
     flow-waited flow-busy options-malformed learned resumed owner-changed resumption-rejected server-no-session \
     server-tls13 server-retry second-hello second-hello-unread key-name-learned key-name-became-shared \
     key-name-rejected psk-other learn-resumed learn-given-up ticket-told not-authenticated session-no-certificate \
     session-certificate-unseen session-quota bad-copy hop-asked no-route neighbour-asked hop-limit too-big \
     too-big-cut too-big-dropped icmp-translated icmp-passed events-lost";
/// Layout v4.
pub(super) struct V4;

impl Version for V4 {
    type Session = Session;
    type KeyName = KeyName;
    type Source = Source;
    type Flow = Flow;
    type Vip = Vip;
    type Backend = Backend;
    type Configured = Configured;
    type BackendStats = BackendStats;

    const COUNTERS: &str = COUNTERS;

    fn settings(dir: &PinDir) -> Result<(shared::Settings, Vec<u32>)> {
        let settings = slots::<Settings, shared::Settings>(dir, "settings")?;
        Ok((settings.first().copied().unwrap_or_default(), slots::<u32, u32>(dir, "switches")?))
    }

    fn backend_paths(dir: &PinDir) -> Result<Vec<shared::BackendPath>> {
        slots::<BackendPath, _>(dir, "backend_paths")
    }
}

#[cfg(test)]
mod tests {
    use steer_common::counters::Counter;

    use super::*;
    use crate::plane::{
        carry::tests::{at, counting, value},
        sys::bytes,
    };

    /// Types that are today what they were: whoever changes one takes it out here and says what
    /// becomes of each field.
    #[test]
    fn what_did_not_change_keeps_every_byte() {
        macro_rules! same {
            ($($name:ident $size:literal)+) => { $(
                let image = counting::<$size>();
                let now: shared::$name = value::<$name>(&image).becomes().expect("a value");
                assert_eq!(bytes(&now), image, stringify!($name));
            )+ };
        }
        same! {
            Session 16 Source 8 Backend 52 BackendPath 36 Configured 24 Vip 40 Settings 16 Flow 224 Foreign 8 Leg 8
            TraceLine 64 Refusals 24 BackendStats 112
        }
    }

    #[test]
    fn a_key_name_keeps_its_owner_its_times_and_its_hits() {
        let image = counting::<32>();
        let name: shared::KeyName = value::<KeyName>(&image).becomes().expect("a name");
        assert_eq!((name.owner, name.flags), (at(&image, 0), at(&image, 2)));
        assert_eq!((name.first_seen, name.last_seen), (at(&image, 4), at(&image, 8)));
        assert_eq!((name.hits, name.accepted), (at(&image, 12), at(&image, 16)));
        assert_eq!((name.tail, name.tried), (at(&image, 20), 0));
    }

    #[test]
    fn every_counter_of_v4_is_still_one() {
        let words = COUNTERS.split_whitespace().collect::<Vec<_>>();
        assert_eq!((words.len(), words[0], words[121]), (122, "from-client", "events-lost"));
        assert!(words.iter().all(|word| Counter::from_word(word).is_some()));
    }
}
