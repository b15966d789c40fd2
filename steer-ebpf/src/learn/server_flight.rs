//! What a backend's handshake teaches: the session it issued, the ticket key it holds
//! ([`key_names`]), and whether it resumed.
//!
//! The stream is read as it passes ([`Follow`]). What it names is held in the flow until the
//! backend's ChangeCipherSpec: only then has it accepted the client's handshake. What the client
//! answered where it was asked for a certificate is read meanwhile ([`certificate`]), so that
//! nobody without one can write into the session table.
//!
//! [`certificate`]: crate::certificate
//! [`key_names`]: crate::key_names

use aya_ebpf::{bindings::__sk_buff, helpers::generated::bpf_skb_load_bytes};
use steer_common::{
    counters::Counter,
    flow::{State, StateWord},
    learn::{Certificate, Outcome, Psk, certificate, offer, psk, taught},
    refusals,
    session::{Kind, NameLayout},
    shared::{
        FLOW_AT_OWNER, FLOW_HELLO, FLOW_HIT, FLOW_LEARNED, FLOW_NAMED, FLOW_NAMELESS, FLOW_OFFERED,
        FLOW_RETRIED, Flow, JOURNAL_SESSIONS, Outcomes, Session, VIP_LEARN_WITHOUT_CERTIFICATE,
    },
    wire::ip::Part,
    wire::tls::server_flight::{End, FOLLOW_STEPS, FlightEvent, GIVE_UP, RESYNC_BYTES, Segment},
};

use crate::{
    flows::{
        events::{note_change, tell_watchers},
        lock::{mark, unmark},
    },
    learn::{
        key_names::{LESSON, OFFERED, Turn, rejected, rotate, ticket},
        sources::admit_session,
    },
    maps::{SESSIONS, count, count_answer, count_backend, refusals},
    packet::sums::is_sound,
    scratch::{Scratch, scratch},
    stage::Stage,
    verifier::{limit, mask, size},
};

/// Looks at a backend's segment of a flow that it holds; the packet is forwarded whatever happens
/// here.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn learn(skb: *mut __sk_buff, flow: *mut Flow) -> Stage {
    let (Some(scratch), false) = (scratch(), flow.is_null()) else { return Stage::Settled };
    if scratch.payload_len() == 0 {
        return Stage::Settled;
    }
    if scratch.ip.part != Part::Whole || is_sound(skb) == 0 {
        count(Counter::BadCopy);
        return Stage::Settled;
    }
    // SAFETY: a whole map value; segments of one backend rarely race, and a lost race costs the
    // lesson.
    let record = unsafe { &mut *flow };
    let spliced = StateWord(record.word).state() == State::Spliced;
    let isn = if spliced { record.owner_isn } else { record.first_isn };
    let at = scratch.segment.seq.wrapping_sub(isn.wrapping_add(1));
    // Not stamped yet: what its kernel repeats says nothing of a process.
    if record.server_next == isn.wrapping_add(1) {
        count_answer(scratch.backend, |answers| answers.answered += 1);
    }
    if at > GIVE_UP {
        count(Counter::LearnGivenUp);
        mark(flow, FLOW_LEARNED);
        return Stage::Settled;
    }
    let behind = record.follow.next.wrapping_sub(scratch.segment.seq) as i32;
    if behind < 0 && resync(skb, flow) == 0 {
        return Stage::Settled;
    }
    for _ in 0..limit::<{ FOLLOW_STEPS as i32 }>() {
        match follow_step(skb, flow) {
            TOLD_MORE => {}
            TOLD_NEED_MORE => return Stage::Settled,
            TOLD_CHANGE_CIPHER_SPEC => {
                finished(flow);
                mark(flow, FLOW_LEARNED);
                return Stage::Settled;
            }
            TOLD_TLS13 => {
                tls13(flow);
                mark(flow, FLOW_LEARNED);
                return Stage::Settled;
            }
            end => {
                if end == TOLD_ALERT {
                    count(Counter::NotAuthenticated);
                }
                mark(flow, FLOW_LEARNED);
                return Stage::Settled;
            }
        }
    }
    count(Counter::LearnGivenUp);
    mark(flow, FLOW_LEARNED);
    Stage::Settled
}

const TOLD_MORE: i32 = 0;
const TOLD_NEED_MORE: i32 = 1;
const TOLD_CHANGE_CIPHER_SPEC: i32 = 2;
const TOLD_TLS13: i32 = 3;
const TOLD_ALERT: i32 = 4;
const TOLD_OTHER: i32 = 5;

/// The payload of the packet at hand.
struct Payload {
    skb: *mut __sk_buff,
    /// Where it starts in the frame.
    from: u32,
}

impl Segment for Payload {
    #[inline(always)]
    fn copy<const N: usize>(&mut self, to: &mut [u8; N], at: u32, from: u32, n: u32) -> bool {
        let Some(n) = size::<N>(n as usize) else { return false };
        let at = if N == 32 { mask::<31>(at as usize) } else { mask::<7>(at as usize) };
        // SAFETY: `at + n` is at most N, as the trait has it; the verifier, which does not know,
        // sees that the flow's record goes on for as long behind both arrays.
        unsafe {
            bpf_skb_load_bytes(self.skb.cast(), self.from + from, to.as_mut_ptr().add(at).cast(), n)
                == 0
        }
    }
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn follow_step(skb: *mut __sk_buff, flow: *mut Flow) -> i32 {
    let (Some(scratch), false) = (scratch(), flow.is_null()) else { return TOLD_OTHER };
    // SAFETY: not null, a whole map value.
    let flow = unsafe { &mut *flow };
    let mut payload = Payload { skb, from: scratch.payload_at() };
    match flow.follow.step(&mut payload, scratch.segment.seq, scratch.payload_len()) {
        FlightEvent::More | FlightEvent::Ticket => TOLD_MORE,
        FlightEvent::NeedMore => TOLD_NEED_MORE,
        FlightEvent::ServerHello => {
            if flow.follow.lesson_kind == 0 {
                count(Counter::ServerNoSession);
            }
            TOLD_MORE
        }
        FlightEvent::Retry => {
            // What counts now is what the client's second hello offers (RFC 8446 4.1.4).
            flow.offered_kind = 0;
            unmark(flow, FLOW_HIT | FLOW_NAMED | FLOW_AT_OWNER);
            mark(flow, FLOW_RETRIED);
            count(Counter::ServerRetry);
            TOLD_MORE
        }
        FlightEvent::End(End::ChangeCipherSpec) => TOLD_CHANGE_CIPHER_SPEC,
        FlightEvent::End(End::Tls13) => TOLD_TLS13,
        FlightEvent::End(End::Alert) => TOLD_ALERT,
        FlightEvent::End(End::Other) => TOLD_OTHER,
    }
}

/// Bytes before this segment are missing; 1 where reading can go on with it.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn resync(skb: *mut __sk_buff, flow: *mut Flow) -> i32 {
    let (Some(scratch), false) = (scratch(), flow.is_null()) else { return 0 };
    let have = scratch.segment.payload_len;
    let Some(n) = size::<RESYNC_BYTES>(if have > RESYNC_BYTES { RESYNC_BYTES } else { have })
    else {
        return 0;
    };
    scratch.resync = [0; RESYNC_BYTES];
    let from = scratch.payload_at();
    // SAFETY: at most the array's size.
    if unsafe { bpf_skb_load_bytes(skb.cast(), from, (&raw mut scratch.resync).cast(), n) } != 0 {
        return 0;
    }
    // SAFETY: not null, a whole map value.
    let known = unsafe { (*flow).follow.resync(&scratch.resync, scratch.segment.seq) };
    if known {
        count(Counter::LearnResumed);
    }
    known as i32
}

/// The backend's ChangeCipherSpec (TLS 1.2 and below): it has authenticated the client.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn finished(flow: *mut Flow) -> i32 {
    let (Some(scratch), false) = (scratch(), flow.is_null()) else { return 0 };
    // SAFETY: not null, a whole map value.
    let flow = unsafe { &mut *flow };
    let taught = taught(flow);
    count_outcome(scratch, flow, taught.outcome, |stats| &mut stats.tls12);
    let resumed = taught.outcome as u32 == Outcome::Resumed as u32;
    if taught.used {
        set_key(scratch, flow.offered_kind, flow.offered_len, &flow.offered_bytes);
        refresh(scratch);
    }
    if resumed && flow.offered_kind == Kind::Ticket as u8 {
        ticket(flow, OFFERED);
    }
    if taught.outcome as u32 == Outcome::Full as u32 {
        rejected(scratch, flow);
    }
    if taught.issued && may_have_one(scratch, flow) {
        set_key(scratch, flow.follow.lesson_kind, flow.follow.lesson_len, &flow.follow.lesson);
        if insert(scratch) && flow.follow.lesson_kind == Kind::Ticket as u8 {
            ticket(flow, LESSON);
        }
    }
    0
}

/// Whether what the flow's client was issued is learned, as far as its certificate is concerned.
#[inline(always)]
fn may_have_one(scratch: &Scratch, flow: &Flow) -> bool {
    if scratch.vip.flags & VIP_LEARN_WITHOUT_CERTIFICATE != 0 {
        return true;
    }
    match certificate(flow) {
        Certificate::Given | Certificate::NotAsked => return true,
        Certificate::Missing => count(Counter::SessionNoCertificate),
        Certificate::Unseen => count(Counter::SessionCertificateUnseen),
    }
    false
}

/// A ServerHello of TLS 1.3.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn tls13(flow: *mut Flow) -> i32 {
    let (Some(scratch), false) = (scratch(), flow.is_null()) else { return 0 };
    count(Counter::ServerTls13);
    // SAFETY: not null, a whole map value.
    let flow = unsafe { &mut *flow };
    let psk = psk(flow);
    let outcome = if psk as u32 == Psk::None as u32 { Outcome::Full } else { Outcome::Resumed };
    count_outcome(scratch, flow, outcome, |stats| &mut stats.tls13);
    rotate(scratch, scratch.backend, Turn::Answered);
    match psk {
        Psk::None => rejected(scratch, flow),
        Psk::Other => count(Counter::PskOther),
        Psk::Accepted => {
            if NameLayout::of(&scratch.vip, 0).len == 0 || flow.flags & FLOW_NAMELESS != 0 {
                // Without a name the ticket itself is all that can be known again, where clients
                // use it twice.
                set_key(scratch, flow.offered_kind, flow.offered_len, &flow.offered_bytes);
                if refresh(scratch) == 0 {
                    let _ = insert(scratch);
                }
            }
            ticket(flow, OFFERED);
        }
    }
    0
}

/// Counts how the handshake of a hello that was read came out.
#[inline(always)]
fn count_outcome(
    scratch: &Scratch,
    flow: &Flow,
    outcome: Outcome,
    of: impl Fn(&mut steer_common::shared::BackendStats) -> &mut Outcomes,
) {
    if flow.flags & FLOW_HELLO == 0 {
        return;
    }
    let (backend, seconds) = (scratch.backend, scratch.seconds);
    let offered = flow.flags & FLOW_OFFERED != 0;
    let accepted = outcome as u32 == Outcome::Resumed as u32;
    let told = core::ptr::from_ref(flow).cast_mut();
    if let (Some(offer), Some(refusals)) = (offer(flow, accepted), refusals(backend))
        && outcome as u32 != Outcome::Unknown as u32
    {
        refusals::note(refusals, offer, accepted, seconds);
    }
    match outcome {
        Outcome::Resumed => {
            count(Counter::Resumed);
            tell_watchers(told, Counter::Resumed as u32, backend);
            count_backend(backend, |stats| of(stats).accepted += 1);
        }
        Outcome::Full if offered => {
            count(Counter::ResumptionRejected);
            tell_watchers(told, Counter::ResumptionRejected as u32, backend);
            count_backend(backend, |stats| of(stats).rejected += 1);
        }
        Outcome::Full => count_backend(backend, |stats| of(stats).not_offered += 1),
        Outcome::Unknown => {}
    }
}

/// Enters an identifier into `scratch.session`.
#[inline(always)]
fn set_key(scratch: &mut Scratch, kind: u8, len: u8, bytes: &[u8; 32]) {
    scratch.session.vip = scratch.vip.id;
    scratch.session.kind = kind;
    scratch.session.len = len;
    scratch.session.bytes = *bytes;
}

/// Stamps the session in `scratch.session`; 0 where this backend does not own it.
#[inline(always)]
fn refresh(scratch: &mut Scratch) -> i32 {
    let (owner, seconds) = (scratch.backend, scratch.seconds);
    let Some(session) = SESSIONS.get_ptr_mut(&scratch.session) else { return 0 };
    // SAFETY: a map value; a lost race costs one use.
    let session = unsafe { &mut *session };
    if session.owner as u32 != owner {
        return 0;
    }
    session.last_seen = seconds;
    session.uses = session.uses.wrapping_add(1);
    1
}

/// The backend owns the session in `scratch.session`; false where its source may have no more.
#[inline(always)]
fn insert(scratch: &mut Scratch) -> bool {
    const ONLY_NEW: u64 = 1;
    let (owner, seconds) = (scratch.backend, scratch.seconds);
    let session =
        Session { owner: owner as u16, flags: 0, first_seen: seconds, last_seen: seconds, uses: 0 };
    // SAFETY: only asked whether it is there.
    let limited =
        scratch.vip.sessions_per_source != 0 && unsafe { SESSIONS.get(&scratch.session) }.is_none();
    if limited && admit_session() == 0 {
        return false;
    }
    if SESSIONS.insert(&scratch.session, &session, ONLY_NEW).is_err() {
        // SAFETY: one number is read.
        if unsafe { SESSIONS.get(&scratch.session) }
            .is_some_and(|known| known.owner as u32 != owner)
        {
            count(Counter::OwnerChanged);
        }
        if SESSIONS.insert(&scratch.session, &session, 0).is_err() {
            return true;
        }
    }
    count(Counter::Learned);
    note_change(JOURNAL_SESSIONS);
    count_backend(owner, |stats| stats.learned += 1);
    true
}
