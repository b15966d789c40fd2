//! What was found, in numbers: what `--json` prints.

mod findings;

use std::net::SocketAddr;

use serde::Serialize;
use steer_common::{counters::Counter, shared::PENDING_MAX};

use super::{
    Options,
    intake::Intake,
    judge::Judge,
    merge::Source,
    monitors::Monitor,
    replay::Identifier,
    series::Slot,
    spread::Spread,
    tally::{AGES, Came, Cell, Legs, Taken, Tally, Unreadable},
};
use crate::{config::LayoutWord, inspect::row::version_word};

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

impl Offers {
    fn of(tally: &Tally, which: impl Fn(&Cell) -> bool) -> Self {
        let sum = |of: &dyn Fn(&Cell) -> bool| tally.sum(|cell| which(cell) && of(cell));
        let offers = |came| sum(&|cell| cell.is_offer() && cell.came == came);
        let refused = |of: &dyn Fn(Counter) -> bool| {
            sum(&|cell| cell.is_offer() && cell.came == Came::Full && of(cell.reason))
        };
        let kept = sum(&Cell::is_kept);
        let owner_unknown = refused(&is_unknown);
        let (failed, unknown) = (offers(Came::Failed), offers(Came::Unknown));
        let n_refused = offers(Came::Full);
        let offered = offers(Came::Resumed) + n_refused + failed + unknown;
        Self {
            handshakes: sum(&|_| true),
            offered,
            accepted: offers(Came::Resumed),
            refused: n_refused,
            failed,
            unknown,
            kept,
            refused_by_owner: refused(&|reason| reason == Counter::SessionHit),
            expired: refused(&|reason| reason == Counter::SessionExpired),
            owner_unknown,
            kept_at_most: kept + owner_unknown + unknown,
            refused_at_most: n_refused + unknown,
            offered_at_most: offered,
        }
    }

    fn plus_unread(mut self, n: u64) -> Self {
        self.kept_at_most += n;
        self.refused_at_most += n;
        self.offered_at_most += n;
        self
    }
}

/// Whether it is not known who issued what was offered.
fn is_unknown(reason: Counter) -> bool {
    matches!(
        reason,
        Counter::SessionMiss
            | Counter::TicketMiss
            | Counter::KeyNameSearch
            | Counter::KeyNameDue
            | Counter::KeyNameGivenUp
            | Counter::OwnerDown
            | Counter::HelloNoSession
    )
}

impl Time {
    fn of(spread: &Spread) -> Self {
        Self {
            n: spread.len(),
            median_microseconds: spread.median(),
            p90_microseconds: spread.percentile(90),
            octaves: spread.octaves(),
        }
    }
}

impl Times {
    fn of(tally: &Tally, kept: u64) -> Self {
        let saved = tally
            .full_own
            .median()
            .zip(tally.resumed_own.median())
            .map(|(full, resumed)| full.saturating_sub(resumed));
        Self {
            full: Time::of(&tally.full),
            resumed: Time::of(&tally.resumed),
            full_own: Time::of(&tally.full_own),
            resumed_own: Time::of(&tally.resumed_own),
            saved_microseconds: saved,
            saved_seconds: saved.map(|saved| saved as f64 * kept as f64 / 1e6),
        }
    }
}

impl Report {
    pub(super) fn new(
        judge: Judge,
        intake: Intake,
        options: &Options,
        sources: Vec<Source>,
    ) -> Self {
        let mut all = Tally::default();
        let mut members = Vec::new();
        let mut numbers = Vec::new();
        for (number, member) in judge.members.counted() {
            all.join(&member.tally);
            numbers.push(number);
            let offers = Offers::of(&member.tally, |_| true);
            members.push(MemberLine {
                address: member.address,
                connections: member.tally.tls,
                offers: offers.plus_unread(member.tally.unread_hellos),
                kept_for: member.tally.kept_for,
            });
        }
        members.sort_by_key(|member| member.address);
        let total = Offers::of(&all, |_| true).plus_unread(all.unread_hellos);
        let read = all.sum(|cell| cell.came != Came::Unknown);
        let unreadable = all.unreadable;
        let share = unreadable.total() as f64 / ((read + unreadable.total()).max(1)) as f64;
        let (shared, known) = judge.replay.n_names();
        let monitors = judge.monitors.found(&numbers);
        let layout = judge.replay.layout().map(|layout| LayoutWord(layout).to_string());
        let mut report = Self {
            side: if members.len() == 1 { Side::Outside } else { Side::Inside },
            members_named: judge.members.were_given(),
            fronts: judge.members.fronts().collect(),
            session_timeout_seconds: options.session_timeout.as_secs(),
            total,
            versions: lines(
                &all,
                |cell| cell.version,
                |version| {
                    version_word(version).map_or_else(|| format!("{version:#06x}"), str::to_owned)
                },
            ),
            identifiers: lines(
                &all,
                |cell| cell.identifier,
                |kind: Identifier| kind.word().to_owned(),
            ),
            reasons: lines(&all, |cell| cell.reason, |reason| reason.word().to_owned()),
            connections: Connections {
                tls: all.tls,
                one_way: all.one_way,
                read,
                unreadable,
                unreadable_percent: (share * 1000.0).round() / 10.0,
                copies: judge.n_copies,
                silent: all.silent,
                midway: judge.n_midway,
                no_tls: judge.n_no_tls,
                others: judge.members.n_others,
                unanswered: judge.members.n_unanswered(),
            },
            ages: (0..=AGES.len())
                .map(|index| Age {
                    up_to_seconds: AGES.get(index).copied(),
                    taken: all.ages[index],
                })
                .collect(),
            same_address: all.same_address,
            other_address: all.other_address,
            legs: all.legs,
            hellos: Hellos {
                read: all.hellos,
                in_pieces: all.in_pieces,
                beyond: all.beyond,
                window: PENDING_MAX,
                beyond_server_window: all.beyond_window,
                retried: all.retried,
            },
            times: Times::of(&all, total.kept),
            key_names: KeyNames {
                layout,
                known,
                shared,
                found_later: judge.replay.n_found_later(),
            },
            monitors,
            series: {
                let (slot_seconds, slots) = judge.series.clone().into_parts();
                Timeline { slot_seconds, slots }
            },
            members,
            sources,
            intake,
            cannot_say: Vec::new(),
            notes: Vec::new(),
        };
        report.find(&judge);
        report
    }
}

/// A line for each value of a property, where it has offers or handshakes.
fn lines<T: Ord + Copy>(
    tally: &Tally,
    of: impl Fn(&Cell) -> T,
    word: impl Fn(T) -> String,
) -> Vec<Line> {
    let mut values: Vec<T> = tally.cells.keys().map(&of).collect();
    values.sort_unstable();
    values.dedup();
    let line =
        |value: T| Line { word: word(value), offers: Offers::of(tally, |cell| of(cell) == value) };
    values.into_iter().map(line).collect()
}
