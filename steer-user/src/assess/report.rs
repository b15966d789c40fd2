//! What was found, in numbers: what `--json` prints.

mod findings;
mod sums;

use std::net::SocketAddr;

use serde::Serialize;

use super::{
    intake::Intake,
    merge::Source,
    monitors::Monitor,
    series::Slot,
    tally::{Legs, Taken, Unreadable},
};

/// What was found.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// What was read.
    pub sources: Vec<Source>,
    /// Packets.
    pub intake: Intake,
    /// Which side of the balancer this is of.
    pub side: Side,
    /// Whether the members were named, not inferred from who answers.
    pub members_named: bool,
    /// Servers that hand connections on to the members and are none.
    pub fronts: Vec<SocketAddr>,
    /// How long steer would remember a session that is not used, seconds.
    pub session_timeout_seconds: u64,
    /// All members together.
    pub total: Offers,
    /// Of each member, version, identifier and reason.
    pub members: Vec<MemberLine>,
    /// Of each version.
    pub versions: Vec<Line>,
    /// Of each kind of identifier.
    pub identifiers: Vec<Line>,
    /// Of each reason: the word of the counter that steer would count.
    pub reasons: Vec<Line>,
    /// Connections and handshakes by whether they could be read.
    pub connections: Connections,
    /// Offers of known sessions by the time since they were issued or used last.
    pub ages: Vec<Age>,
    /// Offers of known sessions from the address that they were issued to, or used from last.
    pub same_address: Taken,
    /// The same from another address.
    pub other_address: Taken,
    /// What the moves would have met at the owners.
    pub legs: Legs,
    /// Pairs of members between which nothing moves, for they agree to different TCP options.
    pub incompatible: Vec<Incompatible>,
    /// ClientHellos.
    pub hellos: Hellos,
    /// How long handshakes took.
    pub times: Times,
    /// Names of ticket keys.
    pub key_names: KeyNames,
    /// Sources that look like monitors.
    pub monitors: Vec<Monitor>,
    /// What happened when.
    pub series: Timeline,
    /// Why the capture cannot say; empty: it can.
    pub cannot_say: Vec<String>,
    /// What else deserves a look.
    pub notes: Vec<String>,
}

/// Which side of the balancer a capture is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Side {
    /// Between the balancer and the members.
    Inside,
    /// Between the clients and the balancer: which member had a connection is not to be seen.
    Outside,
}

/// Offers of sessions by what became of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Offers {
    /// Handshakes.
    pub handshakes: u64,
    /// Of those, offering a session.
    pub offered: u64,
    /// Of those, resumed.
    pub accepted: u64,
    /// Of those, refused: a full handshake followed.
    pub refused: u64,
    /// Of those, broken off in clear.
    pub failed: u64,
    /// Of those, with an outcome that the capture does not show.
    pub unknown: u64,
    /// Of the refused, with their session at another member: steer would have kept them.
    pub kept: u64,
    /// Of the refused, with their session at another member, which agrees to other TCP options: the
    /// flow would not have moved there.
    pub incompatible: u64,
    /// Of the refused, with their session at the very server that refused it.
    pub refused_by_owner: u64,
    /// Of the refused, with a session that steer would have forgotten.
    pub expired: u64,
    /// Of the refused, with a session of which nobody knows who issued it.
    pub owner_unknown: u64,
    /// The most that `kept` can be, given what is not known and could not be read.
    pub kept_at_most: u64,
    /// The most that `refused` can be, given what could not be read.
    pub refused_at_most: u64,
    /// The most that `offered` can be, given what could not be read.
    pub offered_at_most: u64,
}

/// Offers of one kind.
#[derive(Clone, Debug, Serialize)]
pub struct Line {
    /// Its word.
    pub word: String,
    /// Its offers.
    #[serde(flatten)]
    pub offers: Offers,
}

/// A member.
#[derive(Clone, Debug, Serialize)]
pub struct MemberLine {
    /// Where it stands.
    pub address: SocketAddr,
    /// TLS connections to it.
    pub connections: u64,
    /// What it was offered.
    #[serde(flatten)]
    pub offers: Offers,
    /// Its sessions that other members refused: steer would have kept them here.
    pub kept_for: u64,
}

/// Two members that agree to different TCP options for SYNs that offer the same.
#[derive(Clone, Debug, Serialize)]
pub struct Incompatible {
    /// The one that was dialled.
    pub first: SocketAddr,
    /// The one that flows of the other one would not move to.
    pub owner: SocketAddr,
    /// What it declines, and the other one agrees to.
    pub options: Vec<&'static str>,
    /// Refused resumptions that steer would not have kept for it.
    pub refused: u64,
}

/// Connections and handshakes.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Connections {
    /// TLS connections to members.
    pub tls: u64,
    /// Of those, of which one direction is there.
    pub one_way: u64,
    /// Handshakes whose outcome is known.
    pub read: u64,
    /// Handshakes that could not be read, by cause.
    pub unreadable: Unreadable,
    /// Their share of all handshakes, percent.
    pub unreadable_percent: f64,
    /// Connections that are there twice.
    pub copies: u64,
    /// Connections to members on which nothing was said.
    pub silent: u64,
    /// Connections that began before the capture and show no handshake.
    pub midway: u64,
    /// Connections that are no TLS.
    pub no_tls: u64,
    /// TLS connections to servers that are no members.
    pub others: u64,
    /// TLS connections to servers of which nothing is in the capture.
    pub unanswered: u64,
}

/// Offers of known sessions of one age.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Age {
    /// The longest, seconds; `None`: longer than all others.
    pub up_to_seconds: Option<u32>,
    /// What became of them.
    #[serde(flatten)]
    pub taken: Taken,
}

/// ClientHellos.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Hellos {
    /// That were read.
    pub read: u64,
    /// In more than one segment.
    pub in_pieces: u64,
    /// Longer than the programs read.
    pub beyond: u64,
    /// How much they read, bytes.
    pub window: usize,
    /// Longer than what the SYN-ACK lets a client send: steer decides on what is there.
    pub beyond_server_window: u64,
    /// Behind which the server asked for another one.
    pub retried: u64,
}

/// How long handshakes took.
#[derive(Clone, Debug, Serialize)]
pub struct Times {
    /// From the hello to the end of the server's handshake in clear, of full handshakes.
    pub full: Time,
    /// The same of resumed ones.
    pub resumed: Time,
    /// Of that, while the server had been asked and had not answered.
    pub full_own: Time,
    /// The same of resumed ones.
    pub resumed_own: Time,
    /// Difference of the medians of the server's own time, microseconds: what a resumption saves a
    /// server.
    pub saved_microseconds: Option<u64>,
    /// That times `total.kept`, seconds of CPU: an estimate.
    pub saved_seconds: Option<f64>,
}

/// How long something took.
#[derive(Clone, Debug, Serialize)]
pub struct Time {
    /// How many were measured.
    pub n: u64,
    /// The median, microseconds.
    pub median_microseconds: Option<u64>,
    /// What nine of ten do not exceed, microseconds.
    pub p90_microseconds: Option<u64>,
    /// By powers of two: from so many microseconds on, how many.
    pub octaves: Vec<(u64, u64)>,
}

/// Names of ticket keys.
#[derive(Clone, Debug, Serialize)]
pub struct KeyNames {
    /// Where they stand in tickets; `None`: not found out.
    pub layout: Option<String>,
    /// Names that were learned.
    pub known: u64,
    /// Of those, used by more than one member: they have the key in common.
    pub shared: u64,
    /// Refused offers of a name whose owner was known only afterwards.
    pub found_later: u64,
}

/// What happened when.
#[derive(Clone, Debug, Serialize)]
pub struct Timeline {
    /// Width of a slot, seconds.
    pub slot_seconds: u64,
    /// From the first packet on.
    pub slots: Vec<Slot>,
}
