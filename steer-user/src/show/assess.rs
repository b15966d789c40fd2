//! `steer assess`: ten lines for whoever decides, then tables.

use std::fmt::Write as _;

use crate::{
    assess::report::{Line, Offers, Report, Side, Time},
    show::{numbers_from, seconds, table, text},
};

/// All of it.
pub(super) fn report(report: &Report) -> String {
    let mut parts = vec![summary(report).join("\n")];
    if !report.cannot_say.is_empty() {
        return parts.remove(0);
    }
    let lines = |header, lines: &[Line]| by_word(header, lines);
    parts.push(members(report));
    parts.push(lines("VERSION", &report.versions));
    parts.push(lines("IDENTIFIER", &report.identifiers));
    parts.push(lines("WHAT STEER WOULD SAY", &report.reasons));
    parts.push(ages(report));
    parts.push(times(report));
    parts.push(reading(report));
    parts.retain(|part| !part.is_empty());
    parts.join("\n\n")
}

/// The first lines.
pub(super) fn summary(report: &Report) -> Vec<String> {
    let mut lines = vec![what_was_read(report)];
    if !report.cannot_say.is_empty() {
        lines.extend(report.cannot_say.iter().map(|why| format!("cannot say: {why}")));
        return lines;
    }
    let total = &report.total;
    lines.push(members_line(report));
    if total.offered == 0 {
        lines.push(format!(
            "no client offered a session in {} handshakes: there is nothing to keep",
            count(total.handshakes)
        ));
    } else {
        lines.push(headline(report));
        lines.push(range(report));
        lines.push(why_refused(total));
        lines.extend(options(report));
        lines.extend(addresses(report));
        lines.extend(later(report));
    }
    lines.extend(legs(report));
    lines.extend(saved(report));
    lines.push(unreadable(report));
    for monitor in &report.monitors {
        lines.push(format!(
            "{} looks like a monitor: every member every {} s, {} connections, {} with a hello; exempt it from steering",
            monitor.source, monitor.interval_seconds, count(monitor.connections), count(monitor.hellos)
        ));
    }
    lines.extend(report.notes.iter().map(|note| format!("note: {note}")));
    lines
}

fn what_was_read(report: &Report) -> String {
    let intake = &report.intake;
    let files = match report.sources.as_slice() {
        [one] => one.name.clone(),
        many => format!("{} files, merged by the times of their packets", many.len()),
    };
    let twice = if intake.duplicates == 0 {
        String::new()
    } else {
        format!(", {} of them there twice and dropped", count(intake.duplicates))
    };
    format!(
        "{files}: {} packets in {}, {} TCP segments{twice}",
        count(intake.packets),
        span(intake.seconds),
        count(intake.segments)
    )
}

fn members_line(report: &Report) -> String {
    let named = if report.members_named { "as named" } else { "inferred from who answers" };
    let n = report.members.len();
    let fronts: Vec<_> = report.fronts.iter().map(ToString::to_string).collect();
    let fronts = if fronts.is_empty() {
        String::new()
    } else {
        format!("; {} hands connections on to them and is none", fronts.join(", "))
    };
    match report.side {
        Side::Inside => {
            format!("inside capture, between balancer and members: {n} members, {named}{fronts}")
        }
        Side::Outside => format!(
            "outside capture, between clients and balancer: {n} address{} ({named}), the members behind are not to be seen",
            if n == 1 { "" } else { "es" }
        ),
    }
}

fn headline(report: &Report) -> String {
    let total = &report.total;
    let timeout = minutes(report.session_timeout_seconds);
    let offered = format!(
        "of {} resumptions offered {} were refused",
        count(total.offered),
        count(total.refused)
    );
    match report.side {
        Side::Inside => format!(
            "{offered}; {} of those had their session at another server, not older than {timeout}: steer would have kept them",
            count(total.kept)
        ),
        Side::Outside => format!(
            "{offered}; {} of those were of a session that the same address had issued or used, not older than {timeout}: steer would have kept that many at most",
            count(total.refused_by_owner)
        ),
    }
}

fn range(report: &Report) -> String {
    let total = &report.total;
    match report.side {
        Side::Inside if total.kept == total.kept_at_most => {
            "that number is whole: every hello was read, and the issuer of every session seen"
                .to_owned()
        }
        Side::Inside => format!(
            "what steer would have kept lies between {} and {}: the rest of the refused are of sessions whose issuer the capture does not show, or could not be read",
            count(total.kept),
            count(total.kept_at_most)
        ),
        Side::Outside => format!(
            "offered at most {}, refused at most {}, with what could not be read",
            count(total.offered_at_most),
            count(total.refused_at_most)
        ),
    }
}

fn why_refused(total: &Offers) -> String {
    let mut parts = Vec::new();
    for (n, what) in [
        (total.kept, "held by another server"),
        (total.incompatible, "held by another server that agrees to other TCP options"),
        (total.owner_unknown, "issued by nobody known"),
        (total.refused_by_owner, "refused by the server that held it"),
        (total.expired, "older than steer remembers"),
    ] {
        if n != 0 {
            parts.push(format!("{} {what}", count(n)));
        }
    }
    if parts.is_empty() {
        return format!("{} were accepted", count(total.accepted));
    }
    format!("{} were accepted; refused: {}", count(total.accepted), parts.join(", "))
}

/// The pair that costs the most, and how many others there are.
fn options(report: &Report) -> Option<String> {
    let pair = report.incompatible.first()?;
    let others = match report.incompatible.len() - 1 {
        0 => String::new(),
        1 => "; so for another pair".to_owned(),
        n => format!("; so for {n} other pairs"),
    };
    Some(format!(
        "steer would not have moved {} of the refused, for their owners agree to other TCP options (owner-incompatible): {} does \
         not agree to {} where {} does{others}: set the same on all members",
        count(report.total.incompatible),
        pair.owner,
        pair.options.join(", "),
        pair.first,
    ))
}

fn addresses(report: &Report) -> Option<String> {
    let (same, other) = (report.same_address, report.other_address);
    let (n_same, n_other) = (same.accepted + same.refused, other.accepted + other.refused);
    (n_same + n_other != 0).then(|| {
        format!(
            "of {} offers of sessions whose issue is in the capture {} came from another address than the last use ({} of them refused, {} of the others)",
            count(n_same + n_other), count(n_other), count(other.refused), count(same.refused)
        )
    })
}

fn later(report: &Report) -> Option<String> {
    let later = report.key_names.found_later;
    (later != 0).then(|| {
        format!(
            "{} refused tickets had a key whose owner turned up only later: steer searches for it by trying, which a capture cannot show",
            count(later)
        )
    })
}

fn legs(report: &Report) -> Option<String> {
    let legs = report.legs;
    (legs.moves != 0).then(|| {
        format!(
            "of {} moves {} would have met another connection with the client's address and port at the owner, {} one that was closed within a minute: those get another port there",
            count(legs.moves), count(legs.taken), count(legs.lingering)
        )
    })
}

fn saved(report: &Report) -> Option<String> {
    let times = &report.times;
    let (full, resumed) = (times.full.median_microseconds?, times.resumed.median_microseconds?);
    let (saved, all) = (times.saved_microseconds?, times.saved_seconds?);
    Some(format!(
        "handshake, median: full {}, resumed {}; of that the servers' own {} and {}: an estimated {:.1} s of server time for what would have been kept ({} each)",
        milliseconds(full),
        milliseconds(resumed),
        milliseconds(times.full_own.median_microseconds?),
        milliseconds(times.resumed_own.median_microseconds?),
        all,
        milliseconds(saved)
    ))
}

fn unreadable(report: &Report) -> String {
    let connections = &report.connections;
    let causes = connections.unreadable;
    let parts: Vec<_> = [
        (causes.lost, "packets missing"),
        (causes.cut, "captured in part"),
        (causes.one_way, "one direction only"),
        (causes.outside, "begun before or ended after the capture"),
        (causes.malformed, "no hello that is known"),
    ]
    .iter()
    .filter(|(n, _)| *n != 0)
    .map(|(n, what)| format!("{} {what}", count(*n)))
    .collect();
    if parts.is_empty() {
        return format!("all {} handshakes could be read", count(connections.read));
    }
    format!(
        "{} % of handshakes unreadable ({} of {}): {}",
        connections.unreadable_percent,
        count(causes.total()),
        count(causes.total() + connections.read),
        parts.join(", ")
    )
}

const OFFERS: [&str; 6] =
    ["HANDSHAKES", "OFFERED", "ACCEPTED", "REFUSED", "KEPT BY STEER", "OWNER UNKNOWN"];

fn offers(offers: &Offers) -> [String; 6] {
    [
        offers.handshakes,
        offers.offered,
        offers.accepted,
        offers.refused,
        offers.kept,
        offers.owner_unknown,
    ]
    .map(|n| n.to_string())
}

fn members(report: &Report) -> String {
    let mut header = vec!["MEMBER"];
    header.extend(OFFERS);
    header.push("KEPT FOR IT");
    let mut table = table(&header);
    for member in &report.members {
        let mut row = vec![member.address.to_string()];
        row.extend(offers(&member.offers));
        row.push(member.kept_for.to_string());
        table.add_row(row);
    }
    numbers_from(&mut table, 1);
    text(&table)
}

fn by_word(first: &str, lines: &[Line]) -> String {
    if lines.is_empty() {
        return String::new();
    }
    let mut header = vec![first];
    header.extend(OFFERS);
    let mut table = table(&header);
    for line in lines {
        let mut row = vec![line.word.clone()];
        row.extend(offers(&line.offers));
        table.add_row(row);
    }
    numbers_from(&mut table, 1);
    text(&table)
}

fn ages(report: &Report) -> String {
    let mut table = table(&["AGE OF A KNOWN SESSION", "ACCEPTED", "REFUSED"]);
    let mut any = false;
    let last = report.ages.iter().rposition(|age| age.taken.accepted + age.taken.refused != 0);
    for age in report.ages.iter().take(last.map_or(0, |last| last + 1)) {
        let up_to =
            age.up_to_seconds.map_or("older".to_owned(), |age| format!("to {}", seconds(age)));
        any |= age.taken.accepted + age.taken.refused != 0;
        table.add_row([up_to, age.taken.accepted.to_string(), age.taken.refused.to_string()]);
    }
    numbers_from(&mut table, 1);
    if any { text(&table) } else { String::new() }
}

fn times(report: &Report) -> String {
    let mut table = table(&["HANDSHAKE", "MEASURED", "MEDIAN", "90 % BELOW"]);
    let times = &report.times;
    for (word, time) in [
        ("full", &times.full),
        ("resumed", &times.resumed),
        ("full, server alone", &times.full_own),
        ("resumed, server alone", &times.resumed_own),
    ] {
        table.add_row(time_row(word, time));
    }
    numbers_from(&mut table, 1);
    if times.full.n + times.resumed.n == 0 { String::new() } else { text(&table) }
}

fn time_row(word: &str, time: &Time) -> [String; 4] {
    let told = |time: Option<u64>| time.map_or("-".to_owned(), milliseconds);
    [
        word.to_owned(),
        time.n.to_string(),
        told(time.median_microseconds),
        told(time.p90_microseconds),
    ]
}

fn reading(report: &Report) -> String {
    let mut line = String::new();
    let (connections, hellos) = (&report.connections, &report.hellos);
    let _ = write!(
        line,
        "{} TLS connections, {} one-way, {} twice in the capture; {} silent, {} begun before, {} no TLS, {} to others; \
         hellos: {} read, {} in pieces, {} over {} bytes, {} asked for again",
        connections.tls,
        connections.one_way,
        connections.copies,
        connections.silent,
        connections.midway,
        connections.no_tls,
        connections.others,
        hellos.read,
        hellos.in_pieces,
        hellos.beyond,
        hellos.window,
        hellos.retried
    );
    line
}

/// A number with its thousands apart.
pub(crate) fn count(n: u64) -> String {
    let digits = n.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index != 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(' ');
        }
        text.push(digit);
    }
    text
}

/// Milliseconds of microseconds.
pub(crate) fn milliseconds(microseconds: u64) -> String {
    format!("{:.2} ms", microseconds as f64 / 1000.0)
}

/// A session timeout as people say it.
fn minutes(seconds: u64) -> String {
    if seconds != 0 && seconds.is_multiple_of(60) {
        format!("{} min", seconds / 60)
    } else {
        format!("{seconds} s")
    }
}

fn span(seconds: u64) -> String {
    humantime::format_duration(std::time::Duration::from_secs(seconds)).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thousands_stand_apart() {
        assert_eq!(
            [0, 999, 1000, 18_204, 1_234_567].map(count),
            ["0", "999", "1 000", "18 204", "1 234 567"]
        );
    }
}
