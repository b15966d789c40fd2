//! Reads captures: what each TCP connection in them shows of its TLS session, told by the parser
//! that the programs run.
//!
//! [`inspect`] and [`follow`] are what `steer inspect` calls. Bytes come from a [`source`]; a
//! packet goes from [`capture`] over [`frame`], which unwraps it, to [`connections`], which finds
//! its [`connection`] ([`space`]); that puts each side's stream together ([`half`]), reads the
//! client's ([`hello`]) and the server's ([`flight`]), and becomes a [`row`]. What is not read is
//! counted by kind ([`unread`]).

pub(crate) mod capture;
pub(crate) mod connection;
mod connections;
pub(crate) mod flight;
pub(crate) mod frame;
pub(crate) mod half;
pub(crate) mod hello;
pub(crate) mod known;
pub(crate) mod proxied;
pub(crate) mod row;
mod source;
pub(crate) mod space;
mod stamp;
mod unread;

use std::io::Read;

use serde::Serialize;

pub use capture::{Ending, Refused};
pub use connections::{ROWS_MAX, STREAMS_MAX};
pub use row::{ClientHello, Key, Outcome, Row, ServerHello};
pub use unread::{Kind, Tally};

use capture::{Capture, Item};
use connections::{Connections, Order};
use frame::Frame;

/// What was found beside the rows, and what was not read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Summary {
    /// How the file ended.
    pub ending: Ending,
    /// Frames in it.
    pub frames: u64,
    /// TCP segments among them.
    pub segments: u64,
    /// Rows that were made.
    pub rows: u64,
    /// Rows among them that were made before their connection's end, to bound memory.
    pub cut_short: u64,
    /// Frames that are not read and may hold TCP.
    pub not_read: Tally,
    /// Frames that are no TCP.
    pub no_tcp: Tally,
    /// Blocks of a pcapng file that are not read.
    pub blocks_not_read: Tally,
}

/// Why reading stopped.
#[derive(Debug)]
pub enum Stopped<E> {
    /// The file is no capture.
    Refused(Refused),
    /// `emit` failed.
    Emit(E),
}

/// Reads a capture and hands each connection's row to `emit`, in order of the first SYN, or without
/// one of the first packet.
pub fn inspect<E>(
    file: impl Read + Send + 'static,
    mut emit: impl FnMut(Row) -> Result<(), E>,
) -> Result<Summary, Stopped<E>> {
    read(file, Order::Begun, |row| row.map_or(Ok(()), &mut emit))
}

/// Reads a capture that is being made and hands each connection's row to `emit` once it is
/// complete, and `None` before it waits for more.
pub fn follow<E>(
    pipe: impl Read + Send + 'static,
    emit: impl FnMut(Option<Row>) -> Result<(), E>,
) -> Result<Summary, Stopped<E>> {
    read(pipe, Order::Completed, emit)
}

fn read<E>(
    file: impl Read + Send + 'static,
    order: Order,
    mut emit: impl FnMut(Option<Row>) -> Result<(), E>,
) -> Result<Summary, Stopped<E>> {
    let mut capture = Capture::open(file).map_err(Stopped::Refused)?;
    let mut connections = Connections::new(order);
    let mut summary = Summary::new();
    let ending = capture
        .for_each(|item| {
            match item {
                Item::Waiting => return emit(None),
                Item::Block(number) => summary.blocks_not_read.count(Kind::Block(number)),
                Item::NoInterface => summary.count(&Frame::Unread(Kind::NoInterface)),
                Item::Packet(packet) => {
                    let frame = frame::parse(packet.link, packet.bytes);
                    summary.count(&frame);
                    if let Frame::Tcp(segment) = &frame {
                        connections.segment(segment);
                    }
                }
            }
            summary.emit(&mut connections, &mut emit)
        })
        .map_err(Stopped::Emit)?;
    summary.ending = ending;
    summary.cut_short = connections.n_cut_short();
    connections.finish();
    summary.emit(&mut connections, &mut emit).map_err(Stopped::Emit)?;
    Ok(summary)
}

impl Summary {
    fn new() -> Self {
        Self {
            ending: Ending::Whole,
            frames: 0,
            segments: 0,
            rows: 0,
            cut_short: 0,
            not_read: Tally::default(),
            no_tcp: Tally::default(),
            blocks_not_read: Tally::default(),
        }
    }

    fn count(&mut self, frame: &Frame<'_>) {
        self.frames += 1;
        match frame {
            Frame::Tcp(_) => self.segments += 1,
            Frame::NoTcp(kind) => self.no_tcp.count(*kind),
            Frame::Unread(kind) => self.not_read.count(*kind),
        }
    }

    fn emit<E>(
        &mut self,
        connections: &mut Connections,
        emit: &mut impl FnMut(Option<Row>) -> Result<(), E>,
    ) -> Result<(), E> {
        connections.ready().try_for_each(|row| {
            self.rows += 1;
            emit(Some(row))
        })
    }
}
