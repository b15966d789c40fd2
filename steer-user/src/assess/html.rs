//! The page of `steer assess --html`: one file without anything from elsewhere.

use std::fmt::Write as _;

use super::{
    chart::{Part, bars, columns, count, escape},
    report::{Line, Offers, Report, Side},
};
use crate::show;

const STYLE: &str = include_str!("page.css");

/// What becomes of offers.
const PARTS: [Part; 7] = [
    ("accepted", "accepted"),
    ("refused; held by another server: steer keeps them", "kept"),
    ("refused; held by another server with other TCP options", "options"),
    ("refused; issued by nobody known", "unknown"),
    ("refused by the server that held it", "own"),
    ("refused; older than steer remembers", "expired"),
    ("outcome not in the capture, or another reason", "unseen"),
];

/// The whole page.
pub fn page(report: &Report) -> String {
    /// Which of the first lines says the most.
    const LEAD: usize = 2;
    let mut lines = show::assessment_lines(report);
    let what = lines.remove(0);
    let mut body = format!("<h1>What steer would keep</h1><p class=\"soft\">{}</p>", escape(&what));
    let can_say = report.cannot_say.is_empty();
    if can_say {
        let lead = lines.remove(LEAD - 1);
        let _ = write!(body, "<p class=\"lead\">{}</p>{}", escape(&lead), tiles(report));
    }
    body.push_str("<ul class=\"lines\">");
    for line in lines {
        let _ = write!(body, "<li>{}</li>", escape(&line));
    }
    body.push_str("</ul>");
    if can_say {
        body.push_str(&charts(report));
        body.push_str(&tables(report));
    }
    format!(
        "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\
         <title>steer assess</title><style>\n{STYLE}</style></head><body><main>{body}</main></body></html>\n"
    )
}

fn tiles(report: &Report) -> String {
    let total = &report.total;
    let kept = match report.side {
        Side::Inside => (total.kept, "steer would have kept", "kept"),
        Side::Outside => (total.refused_by_owner, "steer would have kept, at most", "kept"),
    };
    let mut tiles = String::from("<div class=\"tiles\">");
    for (n, what, class) in [
        (total.offered, "resumptions offered", ""),
        (total.accepted, "accepted", "accepted"),
        (total.refused, "refused", "own"),
        kept,
    ] {
        let _ = write!(
            tiles,
            "<div class=\"tile {class}\"><b>{}</b><span>{what}{}</span></div>",
            count(n),
            percent(n, total.offered)
        );
    }
    tiles + "</div>"
}

fn percent(part: u64, of: u64) -> String {
    if of == 0 || part == of {
        return String::new();
    }
    format!(", {:.1} %", part as f64 * 100.0 / of as f64)
}

fn charts(report: &Report) -> String {
    let mut html = String::new();
    let mut chart = |title: &str, what: &str, svg: String| {
        let _ = write!(html, "<h2>{title}</h2>{svg}<p class=\"soft\">{what}</p>");
    };
    if report.total.offered != 0 {
        let rows = [("offered".to_owned(), parts(&report.total))];
        chart("What became of the offers", "", bars("What became of the offers", &rows, &PARTS));
        let members: Vec<_> = report
            .members
            .iter()
            .map(|member| (member.address.to_string(), parts(&member.offers)))
            .collect();
        chart(
            "By member",
            "What each server was offered, whoever had issued it.",
            bars("Offers by member", &members, &PARTS),
        );
        chart("In time", &slot_words(report), timeline(report));
    }
    if report.times.full.n + report.times.resumed.n != 0 {
        chart(
            "How long handshakes take",
            "From the ClientHello to the end of the server's handshake in clear; every column begins at its label.",
            times(report),
        );
    }
    if report.ages.iter().any(|age| age.taken.accepted + age.taken.refused != 0) {
        let n = report.ages.iter().rposition(|age| age.taken.accepted + age.taken.refused != 0);
        let rows: Vec<_> = report
            .ages
            .iter()
            .take(n.map_or(0, |last| last + 1))
            .map(|age| {
                let label = age.up_to_seconds.map_or("older".to_owned(), |age| {
                    format!(
                        "up to {}",
                        humantime::format_duration(std::time::Duration::from_secs(age.into()))
                    )
                });
                (label, vec![age.taken.accepted, age.taken.refused])
            })
            .collect();
        let parts = [("accepted", "accepted"), ("refused", "own")];
        chart(
            "How old sessions are when they are offered",
            "Since they were issued or used last, where the capture shows that. Longer than the session timeout steer does not remember them.",
            bars("Age of sessions", &rows, &parts),
        );
    }
    html
}

fn parts(offers: &Offers) -> Vec<u64> {
    let known = [
        offers.accepted,
        offers.kept,
        offers.incompatible,
        offers.owner_unknown,
        offers.refused_by_owner,
        offers.expired,
    ];
    let rest = offers.offered.saturating_sub(known.iter().sum());
    known.into_iter().chain([rest]).collect()
}

fn timeline(report: &Report) -> String {
    let width = report.series.slot_seconds;
    let slots: Vec<_> = report
        .series
        .slots
        .iter()
        .map(|slot| {
            let accepted = slot.offered.saturating_sub(slot.refused);
            vec![accepted, slot.kept, slot.refused.saturating_sub(slot.kept)]
        })
        .collect();
    let parts = [("not refused", "accepted"), PARTS[1], ("refused for another reason", "unknown")];
    columns("Offers in time", &slots, &parts, |index| clock(index as u64 * width))
}

fn slot_words(report: &Report) -> String {
    format!("From the first packet on; a column is {} s.", report.series.slot_seconds)
}

fn clock(seconds: u64) -> String {
    format!("{}:{:02}:{:02}", seconds / 3600, seconds / 60 % 60, seconds % 60)
}

fn times(report: &Report) -> String {
    let (full, resumed) = (&report.times.full.octaves, &report.times.resumed.octaves);
    let bounds = full.iter().chain(resumed).map(|(from, _)| *from);
    let (Some(first), Some(last)) = (bounds.clone().min(), bounds.max()) else {
        return String::new();
    };
    let mut from = Vec::new();
    let mut next = first;
    while next <= last {
        from.push(next);
        next = (next * 2).max(1);
    }
    let n = |octaves: &[(u64, u64)], from: u64| {
        octaves.iter().find(|(start, _)| *start == from).map_or(0, |(_, n)| *n)
    };
    let slots: Vec<_> = from.iter().map(|from| vec![n(resumed, *from), n(full, *from)]).collect();
    let parts = [("resumed", "accepted"), ("full", "full")];
    columns("Handshake times", &slots, &parts, |index| microseconds(from[index]))
}

fn microseconds(n: u64) -> String {
    match n {
        0..1000 => format!("{n} µs"),
        1000..1_000_000 => format!("{:.1} ms", n as f64 / 1e3),
        _ => format!("{:.1} s", n as f64 / 1e6),
    }
}

fn tables(report: &Report) -> String {
    let members: Vec<_> =
        report.members.iter().map(|member| (member.address.to_string(), member.offers)).collect();
    let of = |lines: &[Line]| {
        lines.iter().map(|line| (line.word.clone(), line.offers)).collect::<Vec<_>>()
    };
    [
        table("Member", &members),
        table("TLS version", &of(&report.versions)),
        table("Identifier", &of(&report.identifiers)),
        table("What steer would say", &of(&report.reasons)),
    ]
    .concat()
}

fn table(first: &str, rows: &[(String, Offers)]) -> String {
    if rows.is_empty() {
        return String::new();
    }
    let mut html = format!(
        "<h2>{first}</h2><div class=\"wide\"><table><tr><th></th><th>Handshakes</th><th>Offered</th><th>Accepted</th>\
         <th>Refused</th><th>Kept by steer</th><th>Owner unknown</th></tr>"
    );
    for (word, offers) in rows {
        let _ = write!(html, "<tr><td>{}</td>", escape(word));
        for n in [
            offers.handshakes,
            offers.offered,
            offers.accepted,
            offers.refused,
            offers.kept,
            offers.owner_unknown,
        ] {
            let _ = write!(html, "<td>{}</td>", count(n));
        }
        html.push_str("</tr>");
    }
    html + "</table></div>"
}
