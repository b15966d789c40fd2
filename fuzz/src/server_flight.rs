//! A server's stream: it tells the same however it is cut into segments.

use steer_common::wire::tls::server_flight::{FlightEvent, Follow, RESYNC_BYTES};

/// Where the stream begins: its numbers wrap soon.
const BASE: u32 = u32::MAX - 100;

/// The first four bytes say where cuts are; the rest is the stream.
pub fn run(data: &[u8]) {
    let Some((&cuts, stream)) = data.split_first_chunk::<4>() else { return };
    let whole = follow(&[(0, stream)]);
    for size in [1, usize::from(cuts[0]) + 1] {
        let pieces: Vec<_> =
            stream.chunks(size).enumerate().map(|(n, piece)| (n * size, piece)).collect();
        assert_eq!(follow(&pieces), whole, "pieces of {size}");
    }
    let mut pieces = Vec::new();
    let (mut at, mut sizes) = (0, cuts.iter().cycle());
    while at < stream.len() {
        let size = sizes.next().map_or(1, |size| usize::from(*size) + 1);
        let end = (at + size).min(stream.len());
        // What was there already comes again with what is new.
        let from = at.saturating_sub(size / 3);
        pieces.push((from, &stream[from..end]));
        pieces.push((from, &stream[from..end]));
        at = end;
    }
    assert_eq!(follow(&pieces), whole, "cuts at {cuts:?}");
    resync(&whole.1, stream);
}

/// What a stream tells, and how far it was followed.
fn follow(segments: &[(usize, &[u8])]) -> (Vec<(FlightEvent, [u8; 32])>, Follow) {
    let (mut follow, mut told) = (Follow::new(BASE), Vec::new());
    for (offset, payload) in segments {
        let (seq, mut segment) = (BASE.wrapping_add(*offset as u32), *payload);
        loop {
            let before = follow.next;
            match follow.step(&mut segment, seq, payload.len() as u32) {
                FlightEvent::More => assert_ne!(follow.next, before, "a step without progress"),
                FlightEvent::NeedMore => break,
                FlightEvent::End(end) => {
                    told.push((FlightEvent::End(end), follow.lesson));
                    // How much of the field at hand was there is of no meaning any more.
                    return (
                        told,
                        Follow { seen: follow.seen, version: follow.version, ..Follow::default() },
                    );
                }
                other => told.push((other, follow.lesson)),
            }
            assert!(usize::from(follow.lesson_len) <= follow.lesson.len());
        }
    }
    (told, follow)
}

fn resync(follow: &Follow, stream: &[u8]) {
    let mut follow = *follow;
    let mut look = [0; RESYNC_BYTES];
    for (to, from) in look.iter_mut().zip(stream) {
        *to = *from;
    }
    let kept = follow;
    if follow.resync(&look, BASE) {
        assert_eq!((follow.next, follow.version), (BASE, kept.version));
    } else {
        assert_eq!(follow, kept);
    }
}
