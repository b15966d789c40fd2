//! The page: tables, goals and plots of what was measured.

use anyhow::Result;
use serde_json::{Value, json};

use super::{
    super::record::{Axis, Goal, Lines, Report, Table, short},
    Measured,
    gateway::{Point, VERBS},
    memory,
};

/// Bytes that a session may take.
const BYTES_PER_SESSION: f64 = 128.0;
const METHOD: &str = "\
**Memory**: tables are made as the agent makes them and filled; `accounted` is `memlock` of the map, `taken` is by how much \
`VmallocUsed` of /proc/meminfo grew when it was made (median of three). Bytes an entry: the larger of both by the entries that are there (a table is filled \
but for one slot in 64, lest it evict).

**Agent and command line**: a gateway with a session table of the largest size, filled step by step. At each step the agent \
is restarted over the pinned maps (`start`: until it answers at its socket), its resident memory is read once its first \
sweep is over, a sweep and some verbs are timed. Meanwhile a byte goes to and fro through the VIP: its slowest trip tells \
how long packets ever had to wait. At last every session expires at once.

**Look-ups**: `BPF_PROG_TEST_RUN` of a program that looks one session up, above the same program without its look-up; of one \
session again and again (`hot`), and of any of them (`random`).

**Learning**: backends' handshakes as live frames on one core, up the stack to `steer_tc`: each packet of a flow of its own \
has ServerHello and ChangeCipherSpec and teaches one session, twice as many as the table has slots. Then the same packets \
again, from which nothing is to be learned any more.";

/// Fills the page.
pub(super) fn write(report: &mut Report, measured: &Measured) -> Result<()> {
    report.method(METHOD);
    tables(report, measured);
    agent(report, measured)?;
    look_ups(report, measured)?;
    learning(report, measured)?;
    for missing in &measured.missing {
        report.text(&format!("Not measured: {missing}."));
    }
    Ok(())
}

fn tables(report: &mut Report, measured: &Measured) {
    report.section("Memory of the tables");
    let mut table =
        Table::new(&["table", "slots", "entries", "accounted MB", "taken MB", "bytes an entry"]);
    for filled in &measured.filled {
        table = table.row([
            filled.table.to_owned(),
            filled.slots.to_string(),
            filled.entries.to_string(),
            megabytes(filled.accounted),
            megabytes(filled.taken),
            format!("{:.1}", filled.bytes_per_entry()),
        ]);
    }
    report.table(table);
    let (flow, splice) = (most(measured, memory::FLOWS), most(measured, memory::SPLICES));
    report.text(&format!(
        "A re-homed flow stands in `flows` and in `splices`: {:.1} bytes. A name of a ticket key takes {:.1} bytes \
         (accounted; its table has a fixed size).",
        flow + splice,
        measured.key_name
    ));
    report.goal(Goal::at_most(
        "bytes a session",
        most(measured, memory::SESSIONS),
        BYTES_PER_SESSION,
    ));
}

/// Bytes of an entry where it takes most.
fn most(measured: &Measured, table: &str) -> f64 {
    let of_table = measured.filled.iter().filter(|filled| filled.table == table);
    of_table.map(super::Filled::bytes_per_entry).fold(f64::NAN, f64::max)
}

fn agent(report: &mut Report, measured: &Measured) -> Result<()> {
    let grown = &measured.grown;
    report.section("Agent and command line");
    let mut table = Table::new(&[
        "sessions",
        "start ms",
        "resident MB",
        "most MB",
        "sweep ms",
        "trips",
        "slowest trip ms",
    ]);
    for point in &grown.points {
        table = table.row([
            point.sessions.to_string(),
            milliseconds(point.start),
            kib(point.resident),
            kib(point.peak),
            milliseconds(point.sweep),
            point.trips.count.to_string(),
            milliseconds(point.trips.slowest),
        ]);
    }
    report.table(table);
    let columns = [&["sessions"][..], &VERBS].concat();
    let mut table = Table::new(&columns);
    for point in &grown.points {
        let cells = point.verbs.iter().map(|(time, peak)| match peak {
            // It ended before it was looked at.
            0 => format!("{} ms", milliseconds(*time)),
            peak => format!("{} ms, {} MB", milliseconds(*time), kib(*peak)),
        });
        table = table.row([point.sessions.to_string()].into_iter().chain(cells));
    }
    report.text("Verbs of the command line, the time of each and the most memory it had:");
    report.table(table);
    report.text(&format!(
        "The first start, which makes the tables, took {} ms. When all sessions expired at once, the agent removed them \
         within {} ms of its start and had at most {} MB.",
        milliseconds(grown.first_start),
        milliseconds(grown.expiry),
        kib(grown.expiry_peak)
    ));
    let of = |figure: fn(&Point) -> f64| {
        let filled = grown.points.iter().filter(|point| point.sessions > 0);
        filled.map(move |point| (point.sessions as f64, figure(point))).collect::<Vec<_>>()
    };
    let times =
        Lines::new("Times by the number of sessions", Axis::log("sessions"), Axis::log("ms"))
            .series("agent's start", of(|point| ms(point.start)))
            .series("sweep", of(|point| ms(point.sweep)))
            .series(
                "steer status",
                of(|point| point.verbs.first().map_or(f64::NAN, |verb| ms(verb.0))),
            )
            .series(
                "steer sessions list",
                of(|point| point.verbs.get(1).map_or(f64::NAN, |verb| ms(verb.0))),
            );
    report.lines("times", &times)?;
    let chart =
        Lines::new("Memory by the number of sessions", Axis::log("sessions"), Axis::log("MB"))
            .series("agent, resident", of(|point| point.resident as f64 / 1e3))
            .series("agent, most", of(|point| point.peak as f64 / 1e3))
            .series(
                "table",
                of(|point| point.sessions as f64)
                    .into_iter()
                    .map(|(n, _)| (n, n * most(measured, memory::SESSIONS) / 1e6)),
            );
    report.lines("memory", &chart)
}

fn look_ups(report: &mut Report, measured: &Measured) -> Result<()> {
    report.section("Look-ups");
    let mut table = Table::new(&["sessions", "hot ns", "random ns"]);
    for look_up in &measured.look_ups {
        let figures = [look_up.hot, look_up.random].map(|figure| format!("{figure:.0}"));
        table = table.row([look_up.sessions.to_string()].into_iter().chain(figures));
    }
    report.table(table);
    let of = |figure: fn(&super::LookUp) -> f64| {
        let points = measured
            .look_ups
            .iter()
            .map(move |look_up| (f64::from(look_up.sessions), figure(look_up)));
        points.collect::<Vec<_>>()
    };
    let lines =
        Lines::new("A look-up by the size of the table", Axis::log("sessions"), Axis::log("ns"))
            .series("hot", of(|look_up| look_up.hot.max(1.0)))
            .series("random", of(|look_up| look_up.random.max(1.0)));
    report.lines("lookups", &lines)
}

fn learning(report: &mut Report, measured: &Measured) -> Result<()> {
    let learned = &measured.learned;
    let figures = Learning::of(measured);
    report.section("Learning");
    let row = |what: &str, ns: f64| [what.to_owned(), format!("{ns:.0}"), short(1e9 / ns)];
    report.table(
        Table::new(&["a packet", "ns", "a second"])
            .row(row("learned, room in the table", figures.room))
            .row(row("learned, table full: each evicts one", figures.full))
            .row(row("forwarded, nothing to learn", figures.forwarded)),
    );
    report.text(&format!(
        "Learning itself takes {:.0} ns with room and {:.0} ns in a full table of {} slots. Every packet taught its session \
         and {} events were lost: neither table nor ring refuses any, the processor sets the rate, and a full table forgets \
         an old session for each new one.",
        figures.room - figures.forwarded,
        figures.full - figures.forwarded,
        learned.slots,
        learned.events_lost
    ));
    let points = learned.parts.iter().map(|(n, ns)| (f64::from(*n), 1e9 / ns));
    let forwarded =
        learned.parts.iter().zip(&learned.forwarded).map(|((n, _), ns)| (f64::from(*n), 1e9 / ns));
    let title = "Learning by the number of sessions learned, one core";
    let lines = Lines::new(title, Axis::log("sessions learned"), Axis::log("packets/s"))
        .series("each teaches a session", points)
        .series("nothing to learn", forwarded);
    report.lines("learning", &lines)
}

/// Medians, nanoseconds a packet.
struct Learning {
    room: f64,
    full: f64,
    forwarded: f64,
}

impl Learning {
    fn of(measured: &Measured) -> Self {
        let learned = &measured.learned;
        let median = |times: Vec<f64>| super::super::record::median(&times).unwrap_or(f64::NAN);
        let (room, full): (Vec<_>, Vec<_>) =
            learned.parts.iter().partition(|(n, _)| *n <= learned.slots);
        let times = |parts: Vec<(u32, f64)>| median(parts.into_iter().map(|(_, ns)| ns).collect());
        Self { room: times(room), full: times(full), forwarded: median(learned.forwarded.clone()) }
    }
}

/// Prints everything as one line.
#[expect(clippy::print_stdout, reason = "a benchmark prints its figures")]
pub(super) fn print_json(measured: &Measured) {
    let learning = Learning::of(measured);
    let filled = measured.filled.iter().map(|filled| {
        json!({ "table": filled.table, "slots": filled.slots, "entries": filled.entries,
            "accounted_bytes": filled.accounted, "taken_bytes": filled.taken })
    });
    let look_ups = measured
        .look_ups
        .iter()
        .map(|look_up| json!({ "sessions": look_up.sessions, "hot_ns": look_up.hot, "random_ns": look_up.random }));
    println!(
        "{}",
        json!({
            "tables": filled.collect::<Vec<_>>(),
            "bytes_per_session": most(measured, memory::SESSIONS),
            "bytes_per_key_name": measured.key_name,
            "first_start_ms": ms(measured.grown.first_start),
            "agent": measured.grown.points.iter().map(point_json).collect::<Vec<_>>(),
            "expiry_ms": ms(measured.grown.expiry),
            "expiry_peak_kib": measured.grown.expiry_peak,
            "look_ups": look_ups.collect::<Vec<_>>(),
            "learning": { "room_ns": learning.room, "full_ns": learning.full, "forwarded_ns": learning.forwarded,
                "events_lost": measured.learned.events_lost },
            "missing": measured.missing,
        })
    );
}

fn point_json(point: &Point) -> Value {
    let verbs = VERBS.iter().zip(&point.verbs);
    json!({
        "sessions": point.sessions, "start_ms": ms(point.start), "resident_kib": point.resident,
        "peak_kib": point.peak, "sweep_ms": ms(point.sweep), "trips": point.trips.count,
        "slowest_trip_ms": ms(point.trips.slowest),
        "verbs": verbs.map(|(verb, (time, peak))| json!({ "verb": verb, "ms": ms(*time), "peak_kib": peak }))
            .collect::<Vec<_>>(),
    })
}

fn ms(time: std::time::Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

fn milliseconds(time: std::time::Duration) -> String {
    format!("{:.0}", ms(time))
}

fn megabytes(bytes: u64) -> String {
    format!("{:.1}", bytes as f64 / 1e6)
}

fn kib(kib: u64) -> String {
    format!("{:.1}", kib as f64 * 1024.0 / 1e6)
}
