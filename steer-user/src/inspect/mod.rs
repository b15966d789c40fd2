//! Reads captures: what each TCP connection in them shows of its TLS session, told by the parser that the programs run.
//!
//! [`inspect`] is what `steer inspect` calls. A packet goes from [`capture`] over [`frame`] to [`connections`], which
//! finds its [`connection`]; that puts each side's stream together ([`half`]), reads the client's ([`hello`]) and the
//! server's ([`flight`]), and becomes a [`row`].

mod capture;
mod connection;
mod connections;
mod flight;
mod frame;
mod half;
mod hello;
mod known;
mod row;

use std::io::Read;

pub use capture::{Ending, Refused};
pub use connections::{ROWS_MAX, STREAMS_MAX};
pub use row::{ClientHello, Key, Outcome, Row, ServerHello};

use capture::Capture;
use connections::Connections;

/// What was found beside the rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Summary {
    /// How the file ended.
    pub ending: Ending,
    /// Packets of a link type that is not read.
    pub n_unknown_link: u64,
    /// Connections whose row was made before their end, to bound memory.
    pub n_cut_short: u64,
}

/// Why `inspect` stopped.
#[derive(Debug)]
pub enum Stopped<E> {
    /// The file is no capture.
    Refused(Refused),
    /// `emit` failed.
    Emit(E),
}

/// Reads a capture and hands each connection's row to `emit`, in order of the first SYN, or without one of the first
/// packet.
pub fn inspect<E>(
    file: impl Read + Send + 'static,
    mut emit: impl FnMut(Row) -> Result<(), E>,
) -> Result<Summary, Stopped<E>> {
    let mut capture = Capture::open(file).map_err(Stopped::Refused)?;
    let mut connections = Connections::new();
    let mut n_unknown_link = 0;
    let ending = capture
        .for_each(|link, bytes| {
            match frame::parse(link, bytes) {
                frame::Frame::Tcp(segment) => connections.segment(&segment),
                frame::Frame::Other => {}
                frame::Frame::UnknownLink => n_unknown_link += 1,
            }
            connections.ready().try_for_each(&mut emit)
        })
        .map_err(Stopped::Emit)?;
    let n_cut_short = connections.n_cut_short();
    connections.finish();
    connections.ready().try_for_each(&mut emit).map_err(Stopped::Emit)?;
    Ok(Summary { ending, n_unknown_link, n_cut_short })
}
