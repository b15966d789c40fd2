//! What a backend's first flight teaches, however it is cut into segments, repeated, reordered and
//! lost: what it issued, at its ChangeCipherSpec and never before.

mod any_order;
mod certificates;
mod cuts;
mod flights;
mod holes;
mod outcomes;

use steer_common::{
    learn::{Outcome, Psk, Taught, psk, taught},
    session::Kind,
    shared::{FLOW_HIT, Flow},
    wire::tls::server_flight::{End, FOLLOW_STEPS, FlightEvent, Follow, RESYNC_BYTES},
};

/// The backend's numbers wrap inside its first flight.
const FIRST: u32 = u32::MAX - 700;

/// What a client offered that is followed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Offered {
    Nothing,
    Id([u8; 32]),
    Ticket([u8; 32]),
}

/// What a stream came to.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Lesson {
    /// Nothing so far.
    Open,
    /// A ChangeCipherSpec: how the handshake came out, and what was issued.
    Finished(Outcome, Option<Issued>),
    /// A ServerHello of TLS 1.3.
    Tls13(Psk),
    /// No lesson.
    Ended(End),
}

/// Kind and bytes of what a backend issued.
type Issued = (Kind, Vec<u8>);

/// Follows a backend's segments as the programs do.
struct Follower {
    flow: Flow,
    lesson: Lesson,
    n_retries: u32,
}

impl Follower {
    fn new(offered: Offered) -> Self {
        let (kind, bytes) = match offered {
            Offered::Nothing => (0, None),
            Offered::Id(id) => (Kind::SessionId as u8, Some(id)),
            Offered::Ticket(ticket) => (Kind::Ticket as u8, Some(ticket)),
        };
        let flow = Flow {
            follow: Follow::new(FIRST),
            offered_kind: kind,
            offered_len: bytes.map_or(0, |bytes| bytes.len() as u8),
            offered_bytes: bytes.unwrap_or_default(),
            flags: FLOW_HIT,
            ..Flow::default()
        };
        Self { flow, lesson: Lesson::Open, n_retries: 0 }
    }

    /// The backend's segment at `offset` of its stream passes.
    fn segment(&mut self, offset: usize, payload: &[u8]) {
        let seq = FIRST.wrapping_add(offset as u32);
        if self.lesson != Lesson::Open || payload.is_empty() {
            return;
        }
        if (self.flow.follow.next.wrapping_sub(seq) as i32) < 0 && !self.resync(seq, payload) {
            return;
        }
        let mut segment = payload;
        for _ in 0..FOLLOW_STEPS {
            match self.flow.follow.step(&mut segment, seq, payload.len() as u32) {
                FlightEvent::More | FlightEvent::Ticket | FlightEvent::ServerHello => {}
                FlightEvent::Retry => self.n_retries += 1,
                FlightEvent::NeedMore => return,
                FlightEvent::End(end) => {
                    self.lesson = self.learned(end);
                    return;
                }
            }
        }
        panic!("more steps than the programs take");
    }

    fn resync(&mut self, seq: u32, payload: &[u8]) -> bool {
        let mut look = [0; RESYNC_BYTES];
        for (to, from) in look.iter_mut().zip(payload) {
            *to = *from;
        }
        self.flow.follow.resync(&look, seq)
    }

    fn learned(&self, end: End) -> Lesson {
        match end {
            End::ChangeCipherSpec => {
                let Taught { outcome, issued, .. } = taught(&self.flow);
                Lesson::Finished(outcome, issued.then(|| self.issued()))
            }
            End::Tls13 => Lesson::Tls13(psk(&self.flow)),
            End::Alert | End::Other => Lesson::Ended(end),
        }
    }

    fn issued(&self) -> Issued {
        let follow = &self.flow.follow;
        let kind = Kind::from_number(follow.lesson_kind).expect("a kind");
        assert!(
            follow.lesson[usize::from(follow.lesson_len)..].iter().all(|byte| *byte == 0),
            "zero behind its end"
        );
        (kind, follow.lesson[..usize::from(follow.lesson_len)].to_vec())
    }

    fn used(&self) -> bool {
        taught(&self.flow).used
    }
}

/// What a whole stream teaches in one segment.
fn whole(stream: &[u8], offered: Offered) -> Follower {
    let mut follower = Follower::new(offered);
    follower.segment(0, stream);
    follower
}
