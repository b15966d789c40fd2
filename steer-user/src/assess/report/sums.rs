//! How the numbers come from what was counted.

use std::cmp::Reverse;

use steer_common::{counters::Counter, shared::PENDING_MAX};

use super::{
    super::{
        Options, agreement,
        intake::Intake,
        judge::Judge,
        merge::Source,
        replay::Identifier,
        spread::Spread,
        tally::{AGES, Came, Cell, Tally},
    },
    Age, Connections, Hellos, Incompatible, KeyNames, Line, MemberLine, Offers, Report, Side, Time,
    Timeline, Times,
};
use crate::{config::LayoutWord, inspect::row::version_word};

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
            incompatible: refused(&|reason| reason == Counter::OwnerIncompatible),
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
    pub(in super::super) fn new(
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
            incompatible: incompatible(&judge),
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

/// The pairs between which nothing moves, those first that cost the most.
fn incompatible(judge: &Judge) -> Vec<Incompatible> {
    /// Pairs that are told.
    const TOLD: usize = 256;
    let mut pairs = Vec::new();
    for (first, at) in judge.members.counted() {
        for (owner, to) in judge.members.counted().filter(|(owner, _)| *owner != first) {
            let (bits, refused) = judge.pairs.between((first, &at.habit), (owner, &to.habit));
            if bits != 0 {
                pairs.push((refused, at.address, to.address, bits));
            }
        }
    }
    pairs.sort_by_key(|(refused, first, owner, _)| (Reverse(*refused), *first, *owner));
    pairs.truncate(TOLD);
    let told = |(refused, first, owner, bits)| Incompatible {
        first,
        owner,
        options: agreement::words(bits),
        refused,
    };
    pairs.into_iter().map(told).collect()
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
