//! What a backend's first flight teaches: the session ID it issued, or that it accepted one.
//!
//! An ID is held in the flow from the ServerHello until the backend's ChangeCipherSpec: only then has it authenticated
//! the client, so that nobody without a certificate can write into the session table.

use aya_ebpf::{bindings::__sk_buff, helpers::generated::bpf_skb_load_bytes};
use steer_common::{
    counters::Counter,
    decide::hash_id,
    flow::{State, Word},
    learn::{GIVE_UP, Lesson, RECORDS_PER_SEGMENT, lesson, place},
    session::{SESSION_ID_WORDS, trim},
    shared::{FLOW_ECHO, FLOW_HIT, FLOW_LEARNED, Flow, Session, SessionKey},
    wire::tls::server_flight::{
        self, Extension, ExtensionWalker, LOOKED_AT, MAX_EXTENSIONS, RECORD_LOOK, SESSION_ID_AT, ServerHello,
    },
};

use crate::{
    journey::next,
    maps::{FLOWS, SESSIONS, Scratch, count, count_backend, count_index, scratch},
    verifier::{limit, size},
};

/// Looks at a backend's segment of a flow that it holds; the packet is forwarded whatever happens here.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn learn(skb: *mut __sk_buff) -> i32 {
    let Some(scratch) = scratch() else { return next::FORWARD };
    let Some(flow) = FLOWS.get_ptr_mut(&scratch.key).filter(|_| scratch.facts.payload_len != 0) else {
        return next::FORWARD;
    };
    // SAFETY: a whole map value; segments of one backend rarely race, and a lost race costs the lesson.
    let record = unsafe { &mut *flow };
    let spliced = Word(record.word).state() == State::Spliced;
    let isn = if spliced { record.owner_isn } else { record.first_isn };
    let at = scratch.facts.seq.wrapping_sub(isn.wrapping_add(1));
    if at == 0 && record.lesson_len == 0 {
        if !hello(skb, scratch, record) {
            record.flags |= FLOW_LEARNED;
        }
    } else if at > GIVE_UP {
        count(Counter::NotAuthenticated);
        record.flags |= FLOW_LEARNED;
    }
    if record.flags & FLOW_LEARNED == 0 {
        records(skb, flow);
    }
    next::FORWARD
}

/// Reads the ServerHello; false where there is nothing to learn from this flow.
#[inline(always)]
fn hello(skb: *mut __sk_buff, scratch: &mut Scratch, flow: &mut Flow) -> bool {
    let facts = &scratch.facts;
    let have = if facts.payload_len as usize > LOOKED_AT { LOOKED_AT } else { facts.payload_len as usize };
    let Some(n) = size::<LOOKED_AT>(have) else { return false };
    let to = (&raw mut scratch.extensions.stream).cast();
    // SAFETY: at most the array's size.
    if unsafe { bpf_skb_load_bytes(skb.cast(), facts.l4 + facts.header_len, to, n) } != 0 {
        return false;
    }
    let (len, extensions, end) = match server_flight::parse(&scratch.extensions.stream, n as usize) {
        ServerHello::None => return false,
        ServerHello::NoSession => {
            count(Counter::ServerNoSession);
            return false;
        }
        ServerHello::Session { len, extensions, end } => (len, extensions, end),
    };
    scratch.extensions.offset = extensions as u32;
    scratch.extensions.end = end as u32;
    if extensions != 0 && negotiated_tls13(scratch) {
        count(Counter::ServerTls13);
        return false;
    }
    // SAFETY: SESSION_ID_AT + 32 lies inside the array, and at a multiple of four from its aligned start.
    let mut words = unsafe {
        (&raw const scratch.extensions.stream).cast::<u8>().add(SESSION_ID_AT).cast::<[u32; SESSION_ID_WORDS]>().read()
    };
    trim(&mut words, len);
    let key = SessionKey::from_words(scratch.vip.id, &words, len);
    flow.lesson = key.bytes;
    flow.lesson_len = len as u8;
    if hash_id(&words, len) == flow.offered_id {
        flow.flags |= FLOW_ECHO;
    }
    true
}

const _: () = assert!(core::mem::offset_of!(Scratch, extensions) % 4 == 0);
const _: () = assert!(core::mem::offset_of!(ExtensionWalker, stream) == 0);

#[inline(always)]
fn negotiated_tls13(scratch: &mut Scratch) -> bool {
    for _ in 0..limit::<{ MAX_EXTENSIONS as i32 }>() {
        match extension_step(&mut scratch.extensions) {
            OTHER => {}
            TLS13 => return true,
            _ => return false,
        }
    }
    false
}

const OTHER: i32 = 0;
const TLS13: i32 = 1;
const DONE: i32 = 2;

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn extension_step(walker: *mut ExtensionWalker) -> i32 {
    if walker.is_null() {
        return DONE;
    }
    // SAFETY: not null, and the verifier checks that callers pass a whole structure.
    match unsafe { (*walker).step() } {
        Extension::Other => OTHER,
        Extension::Tls13 => TLS13,
        Extension::Done => DONE,
    }
}

/// Follows the record boundaries through this segment; where bytes before it are missing, only its first record counts.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn records(skb: *mut __sk_buff, flow: *mut Flow) -> i32 {
    let (Some(scratch), false) = (scratch(), flow.is_null()) else { return 0 };
    // SAFETY: not null, a whole map value.
    let flow = unsafe { &mut *flow };
    for _ in 0..limit::<{ RECORDS_PER_SEGMENT as i32 }>() {
        let place = place(flow.next_record, scratch.facts.seq);
        let mut look = [0u32; 2];
        let from = scratch.facts.l4 + scratch.facts.header_len + place.at;
        if place.at.saturating_add(RECORD_LOOK as u32) > scratch.facts.payload_len
            // SAFETY: six of eight bytes of the stack.
            || unsafe { bpf_skb_load_bytes(skb.cast(), from, (&raw mut look).cast(), RECORD_LOOK as u32) } != 0
        {
            return 0;
        }
        let (a, b) = (look[0].to_ne_bytes(), look[1].to_ne_bytes());
        match lesson(place, &[a[0], a[1], a[2], a[3], b[0], b[1]]) {
            Lesson::Publish => return publish(scratch, flow),
            Lesson::Follow(len) => flow.next_record = flow.next_record.wrapping_add(len),
            Lesson::Ignore => return 0,
            Lesson::End(reason) => {
                if let Some(reason) = reason {
                    count_index(reason as u32);
                }
                flow.flags |= FLOW_LEARNED;
                return 0;
            }
        }
    }
    0
}

/// The backend has authenticated the client: what it issued or accepted is its session.
#[inline(always)]
fn publish(scratch: &mut Scratch, flow: &mut Flow) -> i32 {
    flow.flags |= FLOW_LEARNED;
    let (owner, seconds) = (scratch.backend, scratch.facts.seconds);
    scratch.session.vip = scratch.vip.id;
    scratch.session.kind = steer_common::session::Kind::SessionId as u8;
    scratch.session.len = flow.lesson_len;
    scratch.session.bytes = flow.lesson;
    let known = SESSIONS.get_ptr_mut(&scratch.session);
    if flow.flags & FLOW_ECHO != 0 {
        // SAFETY: a map value; a lost race costs one use.
        if let Some(session) = known.map(|p| unsafe { &mut *p }).filter(|s| s.owner as u32 == owner) {
            session.last_seen = seconds;
            session.uses = session.uses.wrapping_add(1);
            count(Counter::Resumed);
            count_backend(owner, |stats| stats.resumed += 1);
        }
        return 0;
    }
    if flow.flags & FLOW_HIT != 0 {
        count(Counter::ResumptionRejected);
    }
    // SAFETY: as above.
    if known.is_some_and(|p| unsafe { (*p).owner } as u32 != owner) {
        count(Counter::OwnerChanged);
    }
    let session = Session { owner: owner as u16, flags: 0, first_seen: seconds, last_seen: seconds, uses: 0 };
    if SESSIONS.insert(&scratch.session, &session, 0).is_ok() {
        count(Counter::Learned);
        count_backend(owner, |stats| stats.learned += 1);
    }
    0
}
