//! A client's stream: what is read of a hello is the same whatever records it is split over.

use steer_common::wire::tls::{
    RECORD_HEADER,
    client_hello::{
        FRAMING_STEPS, Framing, HELLO_STEPS, Hello, Joined, PSK_IDENTITIES, STREAM, Span, Start,
        Stream, Walk, start, word,
    },
};

/// The first byte says how long the records are that the message is split over; the rest is the
/// stream.
pub fn run(data: &[u8]) {
    let Some((&piece, bytes)) = data.split_first() else { return };
    let bytes = &bytes[..bytes.len().min(STREAM)];
    let have = bytes.len() as u32;
    let stream = padded(bytes);
    let mut joined = Box::new([0; STREAM]);
    let framing = join(&stream, have, &mut joined);
    let Start::OneRecord { len } = start(|at| stream[at], have) else { return };
    let base = RECORD_HEADER as u32;
    let whole = walk(&stream, base, len, have);
    let end = base + len;
    if have < end {
        // What is missing names nothing: it lies behind the last extension.
        let named = spans(&whole.1).into_iter().map(|span| span.at + span.len).max();
        assert!(whole.0 != Walk::Done || named <= Some(have), "what is not there was read");
        return;
    }
    let (framing, joint) = framing.expect("a message in one record is joined");
    assert_eq!((framing, joint), (len, end));
    assert_same(&joined, 0, &walk(&joined, 0, len, len), &stream, base, &whole);
    cut(&stream, base, len, &whole);

    let message = &bytes[RECORD_HEADER..end as usize];
    let records: Vec<u8> = message.chunks(usize::from(piece).max(4) * 8).flat_map(record).collect();
    if records.len() <= STREAM && framing_fits(message.len(), records.len()) {
        let stream = padded(&records);
        let (framing, joint) =
            join(&stream, records.len() as u32, &mut joined).expect("a split message is joined");
        assert_eq!((framing as usize, joint as usize), (message.len(), records.len()));
        assert_eq!(&joined[..message.len()], message);
    }
}

/// Whether [`FRAMING_STEPS`] suffice: they are counted for real hellos.
fn framing_fits(message: usize, records: usize) -> bool {
    let n_records = (records - message) / RECORD_HEADER;
    message / 64 + 2 * n_records + 8 < FRAMING_STEPS as usize
}

fn record(piece: &[u8]) -> Vec<u8> {
    [&[22, 3, 1][..], &(piece.len() as u16).to_be_bytes(), piece].concat()
}

/// What lies behind the bytes at hand is another flow's.
fn padded(bytes: &[u8]) -> Box<Stream> {
    let mut stream = Box::new([0x16; STREAM]);
    stream[..bytes.len()].copy_from_slice(bytes);
    stream
}

/// Joins the message of a stream: its length, and the offset of the byte behind it.
fn join(stream: &Stream, have: u32, to: &mut Stream) -> Option<(u32, u32)> {
    let mut framing = Framing { have, ..Framing::default() };
    for _ in 0..FRAMING_STEPS {
        let joined = framing.step(stream, to);
        assert!(framing.at <= have && framing.joined <= framing.at);
        match joined {
            Joined::More => {}
            Joined::Whole => return Some((framing.len, framing.at)),
            Joined::NeedMore => {
                assert!(framing.needed > have, "more is asked for than is missing");
                return None;
            }
            Joined::Malformed => return None,
        }
    }
    None
}

fn walk(stream: &Stream, base: u32, len: u32, end: u32) -> (Walk, Hello) {
    let mut hello = Hello::default();
    hello.begin(base, len, end);
    let walk = (0..HELLO_STEPS).map(|_| hello.step(stream)).find(|walk| *walk != Walk::More);
    (walk.unwrap_or(Walk::More), hello)
}

/// A message that is cut short says the same of what is there, and never that it was read to its
/// end before it was.
fn cut(stream: &Stream, base: u32, len: u32, whole: &(Walk, Hello)) {
    for end in (base..base + len).step_by(len as usize / 16 + 1) {
        let (walk, hello) = walk(stream, base, len, end);
        for (cut, whole) in spans(&hello).into_iter().zip(spans(&whole.1)) {
            assert!(
                cut == whole || cut.len == 0 || whole.len == 0 || walk != Walk::Done,
                "{cut:?} {whole:?}"
            );
            if hello.at_hand(cut, u32::MAX) {
                assert!(cut.at + cut.len <= end);
            }
        }
    }
}

fn spans(hello: &Hello) -> [Span; 3 + PSK_IDENTITIES] {
    let [a, b, c, d] = hello.psk;
    [hello.session_id, hello.ticket, hello.server_name, a, b, c, d]
}

#[track_caller]
fn assert_same(
    a: &Stream,
    a_base: u32,
    left: &(Walk, Hello),
    b: &Stream,
    b_base: u32,
    right: &(Walk, Hello),
) {
    assert_eq!(left.0, right.0);
    let (left, right) = (&left.1, &right.1);
    assert_eq!(left.version_offered(), right.version_offered());
    assert_eq!((left.psk_count, left.ech), (right.psk_count, right.ech));
    for (l, r) in spans(left).into_iter().zip(spans(right)) {
        assert_eq!(l.len, r.len);
        if l.len != 0 {
            assert_eq!(l.at - a_base, r.at - b_base);
            for i in 0..8 {
                assert_eq!(word(a, l.at, l.len.min(32), i), word(b, r.at, r.len.min(32), i));
            }
        }
    }
}
