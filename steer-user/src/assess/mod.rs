//! What steer would have kept: its decision replayed over captures of a network that it is not in.
//!
//! [`files`] and [`Mirror`] are what `steer assess` calls. Packets come from captures in the order of
//! their times ([`merge`]) or from a mirror port ([`ring`]), are unwrapped by [`inspect`], and go to
//! their connection ([`flows`], [`exchange`]) unless they were there a moment ago ([`duplicates`]).
//! A hello that is read is decided on, a server's answer learned from ([`replay`]); what comes of it
//! is counted for each member ([`members`], [`tally`]) and becomes a [`Report`],
//! which [`html`] shows as a page.
//!
//! [`inspect`]: crate::inspect

mod agreement;
mod chart;
mod duplicates;
mod exchange;
mod flows;
pub mod html;
mod intake;
mod judge;
mod members;
mod merge;
mod monitors;
mod replay;
pub mod report;
mod ring;
mod series;
mod spread;
mod tally;

use std::{
    fs::File,
    net::SocketAddr,
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

use anyhow::Result;

pub use intake::Intake;
pub use merge::Source;
pub use monitors::Monitor;
pub use report::Report;
pub use series::Slot;
pub use tally::{Legs, Taken, Unreadable};

use crate::{
    config::TicketKeyName,
    inspect::{
        Ending, Kind, Refused,
        capture::{Item, Packet},
        frame::{self, Frame},
    },
};
use duplicates::Duplicates;
use judge::Judge;

/// What is to be assumed.
#[derive(Clone, Debug)]
pub struct Options {
    /// The members of the pool; none: all servers that answer TLS clients.
    pub members: Vec<SocketAddr>,
    /// How long steer would remember a session that is not used.
    pub session_timeout: Duration,
    /// Where the names of ticket keys stand in tickets.
    pub ticket_key_name: TicketKeyName,
}

/// A capture that is being assessed.
pub(crate) struct Assessment {
    intake: Intake,
    duplicates: Duplicates,
    judge: Judge,
    options: Options,
}

/// Reads captures, merged by time, until they end or `stop` says so.
///
/// # Errors
/// The name of the file that is no capture, and why.
pub fn files(
    files: Vec<(String, File)>,
    options: Options,
    stop: &AtomicBool,
) -> std::result::Result<Report, (String, Refused)> {
    let mut assessment = Assessment::new(options);
    let sources = merge::read(files, |item| {
        assessment.item(item);
        if stop.load(Ordering::Relaxed) { Err(()) } else { Ok(()) }
    })?;
    Ok(assessment.finish(sources))
}

/// A frame that is at hand.
#[derive(Clone, Copy, Debug)]
pub struct AtHand<'a> {
    /// The link type that captures have for it.
    pub link: u16,
    /// When it passed, nanoseconds since 1970.
    pub time: Option<u64>,
    /// Its length on the wire, bytes.
    pub wire_len: u32,
    /// What was captured of it.
    pub bytes: &'a [u8],
}

/// Reads frames that are at hand, in their order.
pub fn frames<'a>(frames: impl IntoIterator<Item = AtHand<'a>>, options: Options) -> Report {
    let mut assessment = Assessment::new(options);
    for AtHand { link, time, wire_len, bytes } in frames {
        assessment.packet(&Packet { link, time, wire_len, bytes });
    }
    assessment.finish(vec![Source { name: "frames".to_owned(), ending: Ending::Whole }])
}

/// An interface being listened to.
pub struct Mirror {
    name: String,
    ring: ring::Ring,
}

impl Mirror {
    /// Begins to listen: what passes from now on is read.
    ///
    /// # Errors
    /// When there is no such interface, its frames are of a kind that is not read, or without
    /// CAP_NET_RAW.
    pub fn open(interface: &str) -> Result<Self> {
        let ring = ring::Ring::open(interface)?;
        Ok(Self { name: format!("interface {interface}"), ring })
    }

    /// Listens for so long, or until `stop` says so.
    ///
    /// # Errors
    /// When the socket breaks.
    pub fn assess(
        mut self,
        time: Option<Duration>,
        options: Options,
        stop: &AtomicBool,
    ) -> Result<Report> {
        /// How often it is looked whether the time is up.
        const LOOK: Duration = Duration::from_millis(100);
        let mut assessment = Assessment::new(options);
        let begin = Instant::now();
        while !stop.load(Ordering::Relaxed) && time.is_none_or(|time| begin.elapsed() < time) {
            self.ring.read(LOOK, |packet| assessment.packet(packet))?;
        }
        self.ring.drain(|packet| assessment.packet(packet))?;
        assessment.intake.dropped = self.ring.n_dropped();
        Ok(assessment.finish(vec![Source { name: self.name, ending: Ending::Whole }]))
    }
}

impl Assessment {
    pub(crate) fn new(options: Options) -> Self {
        Self {
            intake: Intake::default(),
            duplicates: Duplicates::new(),
            judge: Judge::new(&options),
            options,
        }
    }

    fn item(&mut self, item: Item<'_>) {
        match item {
            Item::Packet(packet) => self.packet(&packet),
            Item::NoInterface => self.intake.unread(Kind::NoInterface),
            Item::Block(number) => self.intake.blocks_not_read.count(Kind::Block(number)),
            Item::Waiting => {}
        }
    }

    /// Takes in a packet.
    pub(crate) fn packet(&mut self, packet: &Packet<'_>) {
        let now = self.intake.clock(packet.time);
        match frame::parse(packet.link, packet.bytes) {
            Frame::NoTcp(kind) => self.intake.no_tcp(kind),
            Frame::Unread(kind) => self.intake.unread(kind),
            Frame::Tcp(segment) => {
                let cut = packet.wire_len as usize > packet.bytes.len();
                self.intake.segment(cut);
                if self.duplicates.has(&segment, now) {
                    self.intake.duplicates += 1;
                    return;
                }
                self.judge.segment(&segment, now, cut);
            }
        }
    }

    /// Judges what is left, and sums up.
    pub(crate) fn finish(mut self, sources: Vec<Source>) -> Report {
        self.judge.finish();
        Report::new(self.judge, self.intake, &self.options, sources)
    }
}
