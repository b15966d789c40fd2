//! The hello parsers against tls-parser, on real and on generated handshakes: whole, cut short,
//! split over records, and with lengths that lie.

mod fixtures;
mod generated;
mod oracle;
mod real;
mod refused;
mod server;

use steer_common::wire::tls::{
    RECORD_HEADER,
    client_hello::{
        Framing, Hello, Joined, PSK_IDENTITIES, STREAM, Span, Start, Stream, Walk, start,
    },
};

/// What a hello offers; what is empty is not there.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
struct Offer {
    message_len: usize,
    version: u16,
    session_id: Vec<u8>,
    ticket: Vec<u8>,
    server_name: Vec<u8>,
    psk: Vec<Vec<u8>>,
    n_psk: usize,
    ech: bool,
}

/// What a client's stream is read as.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Read {
    NeedMore,
    NotTls,
    Malformed,
    Hello(Offer),
}

/// Reads a client's stream as the programs do.
fn read(bytes: &[u8]) -> Read {
    let (stream, have) = (padded(bytes), bytes.len() as u32);
    match start(|at| stream[at], have) {
        Start::NeedMore => Read::NeedMore,
        Start::NotTls => Read::NotTls,
        Start::Malformed => Read::Malformed,
        Start::OneRecord { len } => walk(&stream, RECORD_HEADER as u32, len, have).0,
        Start::Split => joined(&stream, have),
    }
}

/// What lies behind the bytes at hand is another flow's.
fn padded(bytes: &[u8]) -> Box<Stream> {
    let mut stream = Box::new([0x16; STREAM]);
    stream[..bytes.len()].copy_from_slice(bytes);
    stream
}

fn joined(stream: &Stream, have: u32) -> Read {
    let (mut framing, mut message) = (Framing { have, ..Framing::default() }, padded(&[]));
    loop {
        match framing.step(stream, &mut message) {
            Joined::More => {}
            Joined::Whole => return walk(&message, 0, framing.len, framing.joined).0,
            Joined::NeedMore => {
                assert!(framing.needed > have);
                return Read::NeedMore;
            }
            Joined::Malformed => return Read::Malformed,
        }
    }
}

/// Walks over a message, of which the bytes before `end` are there.
fn walk(stream: &Stream, base: u32, len: u32, end: u32) -> (Read, Hello) {
    let mut hello = Hello::default();
    hello.begin(base, len, end);
    let mut walk = Walk::More;
    while walk == Walk::More {
        walk = hello.step(stream);
    }
    let read = match walk {
        Walk::Cut | Walk::More => Read::NeedMore,
        Walk::Malformed => Read::Malformed,
        Walk::Done => Read::Hello(offer(stream, &hello, len)),
    };
    (read, hello)
}

fn offer(stream: &Stream, hello: &Hello, len: u32) -> Offer {
    let n_psk = hello.psk_count as usize;
    Offer {
        message_len: len as usize,
        version: hello.version_offered(),
        session_id: bytes_of(stream, hello.session_id),
        ticket: bytes_of(stream, hello.ticket),
        server_name: bytes_of(stream, hello.server_name),
        psk: hello
            .psk
            .iter()
            .take(n_psk.min(PSK_IDENTITIES))
            .map(|span| bytes_of(stream, *span))
            .collect(),
        n_psk,
        ech: hello.ech != 0,
    }
}

fn bytes_of(stream: &Stream, span: Span) -> Vec<u8> {
    stream[span.at as usize..(span.at + span.len) as usize].to_vec()
}

/// A handshake record.
fn record(bytes: &[u8]) -> Vec<u8> {
    [&[22, 3, 1][..], &(bytes.len() as u16).to_be_bytes(), bytes].concat()
}
