//! What was measured, as a page and as JSON.

use std::path::Path;

use anyhow::Result;

use super::{Case, Hook, tables::State};
use crate::bench::record::{Bars, Goal, Report, Table, figure, median};

/// One case on one hook in one state: medians, nanoseconds a packet.
pub(super) struct Measured {
    case: &'static str,
    hook: Hook,
    v6: bool,
    state: State,
    /// With steer's program, without the shim.
    raw: f64,
    /// With the empty program, without the shim.
    floor: f64,
}

/// What a case is to cost at the most above an empty program, hot, nanoseconds.
const GOALS: [(&str, f64); 5] = [
    ("not_ours", 15.0),
    ("established", 100.0),
    ("reverse", 100.0),
    ("hello_miss", 250.0),
    ("hello_hit", 250.0),
];
/// How many times what an unmoved flow's packet costs a re-homed one's may.
const SPLICED: f64 = 1.3;

const METHOD: &str = "\
What each kind of packet costs in `steer_xdp` and `steer_tc`, by `BPF_PROG_TEST_RUN`, nanoseconds above an empty program. A \
test run repeats one packet, which the programs change: so a small program stands in front of them, restores the packet \
for one of N clients, undoes what the run before did to its flow, and enters the measured program by a tail call. What it \
takes for itself it measures, run by run, and that is subtracted; the floor is the same in front of an empty program. All \
cases, hooks and floors are interleaved; a run counts only if steer's counters say that its packets went the way that the \
case is named after. Medians of seven.

`hot` is one client, over and over. `random_1m` are random ones, with a million entries each in `flows`, `sessions` and \
`handshakes`: a SYN then evicts another handshake, a new session another session, and every look-up misses the caches of a \
virtual machine. SYNs, hellos and what is learned from are TC's business: XDP's figure for them is what it costs to pass \
them on. `spliced` segments carry timestamps and a SACK block.";

impl Measured {
    pub(super) fn new(
        case: &Case,
        hook: Hook,
        state: State,
        raw: Vec<f64>,
        floor: Vec<f64>,
    ) -> Self {
        let v6 = case.ends.client.is_ipv6();
        let middle = |times: &[f64]| median(times).unwrap_or_default();
        Self { case: case.name, hook, v6, state, raw: middle(&raw), floor: middle(&floor) }
    }

    fn net(&self) -> f64 {
        self.raw - self.floor
    }

    fn is(&self, case: &str, hook: Hook, v6: bool, state: State) -> bool {
        (self.case, self.hook, self.v6, self.state) == (case, hook, v6, state)
    }
}

/// All that was measured.
struct Figures<'a>(&'a [Measured]);

impl Figures<'_> {
    fn net(&self, case: &str, hook: Hook, v6: bool, state: State) -> Option<f64> {
        self.0.iter().find(|one| one.is(case, hook, v6, state)).map(Measured::net)
    }

    /// The cases, each once, in their order.
    fn cases(&self) -> Vec<&'static str> {
        let first = self.0.iter().filter(|one| one.is(one.case, Hook::Tc, false, State::Hot));
        first.map(|one| one.case).collect()
    }

    fn table(&self, state: State) -> Table {
        let table = Table::new(&["case", "XDP, IPv4", "XDP, IPv6", "TC, IPv4", "TC, IPv6"]);
        self.cases().into_iter().fold(table, |table, case| {
            let cell =
                |(hook, v6)| self.net(case, hook, v6, state).map_or_else(String::new, figure);
            let columns =
                [(Hook::Xdp, false), (Hook::Xdp, true), (Hook::Tc, false), (Hook::Tc, true)]
                    .map(cell);
            table.row([case.to_owned()].into_iter().chain(columns))
        })
    }

    fn bars(&self, state: State) -> Bars {
        let (_, _, name) = words(Hook::Tc, false, state);
        let cases = self.cases();
        let values = |hook| {
            cases.iter().map(move |case| self.net(case, hook, false, state).unwrap_or_default())
        };
        Bars::new(&format!("A packet, IPv4, {name}"), "ns above an empty program", &cases)
            .series("XDP", values(Hook::Xdp))
            .series("TC", values(Hook::Tc))
    }

    fn goals(&self, report: &mut Report) {
        for (hook, v6) in
            [(Hook::Xdp, false), (Hook::Xdp, true), (Hook::Tc, false), (Hook::Tc, true)]
        {
            let (hook_name, family, _) = words(hook, v6, State::Hot);
            let net = |case| self.net(case, hook, v6, State::Hot).unwrap_or_default();
            // XDP passes hellos on.
            let asked = |case: &str| hook == Hook::Tc || !case.starts_with("hello");
            for (case, limit) in GOALS.into_iter().filter(|(case, _)| asked(case)) {
                report.goal(Goal::at_most(
                    &format!("{case}, {hook_name}, IPv{family}, ns"),
                    net(case),
                    limit,
                ));
            }
            for (moved, unmoved) in [("spliced", "established"), ("spliced_reverse", "reverse")] {
                let what = format!("{moved} by {unmoved}, {hook_name}, IPv{family}");
                report.goal(Goal::at_most(&what, net(moved) / net(unmoved), SPLICED));
            }
        }
    }
}

/// A page without results.
pub(super) fn page(quick: bool) -> Result<Report> {
    let command = if quick {
        "cargo xtask bench packet --quick"
    } else {
        "cargo xtask bench packet --record docs/bench"
    };
    let mut report = Report::new("packet", "A packet", command, &[])?;
    METHOD.split("\n\n").for_each(|paragraph| report.method(paragraph));
    Ok(report)
}

/// Puts on the page what was measured, prints it and writes it to a directory.
pub(super) fn tell(
    report: &mut Report,
    all: &[Measured],
    json: bool,
    record: Option<&Path>,
) -> Result<()> {
    let figures = Figures(all);
    for (state, heading) in [(State::Hot, "One client"), (State::Random1m, "A million clients")] {
        if all.iter().any(|one| one.state == state) {
            report.section(heading);
            report.table(figures.table(state));
            report.bars(words(Hook::Tc, false, state).2, &figures.bars(state))?;
        }
    }
    report.section("Goals");
    figures.goals(report);
    report.print();
    record.map_or(Ok(()), |directory| report.write(directory))?;
    if json {
        print_json(all);
    }
    Ok(())
}

#[expect(clippy::print_stdout, reason = "a benchmark prints its figures")]
fn print_json(all: &[Measured]) {
    let cases: Vec<_> = all.iter().map(as_json).collect();
    println!("{}", serde_json::json!({ "cases": cases }));
}

fn words(hook: Hook, v6: bool, state: State) -> (&'static str, u8, &'static str) {
    let hook = if hook == Hook::Tc { "tc" } else { "xdp" };
    let state = if state == State::Hot { "hot" } else { "random_1m" };
    (hook, if v6 { 6 } else { 4 }, state)
}

fn as_json(one: &Measured) -> serde_json::Value {
    let (hook, family, state) = words(one.hook, one.v6, one.state);
    let rounded = |ns: f64| (ns * 10.0).round() / 10.0;
    serde_json::json!({
        "case": one.case, "hook": hook, "family": family, "state": state,
        "net_ns": rounded(one.net()), "raw_ns": rounded(one.raw), "floor_ns": rounded(one.floor),
    })
}
