//! What was measured, as a table and as JSON.

use super::{Case, Hook, tables::State};

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

/// What the case is to cost at the most above an empty program, hot, nanoseconds.
const GOALS: [(&str, f64); 5] =
    [("not_ours", 15.0), ("established", 100.0), ("reverse", 100.0), ("hello_miss", 250.0), ("hello_hit", 250.0)];
/// How many times what an unmoved flow's packet costs a re-homed one's may.
const SPLICED: f64 = 1.3;

impl Measured {
    pub(super) fn new(case: &Case, hook: Hook, state: State, raw: Vec<f64>, floor: Vec<f64>) -> Self {
        let v6 = case.ends.client.is_ipv6();
        Self { case: case.name, hook, v6, state, raw: median(raw), floor: median(floor) }
    }

    fn net(&self) -> f64 {
        self.raw - self.floor
    }

    fn is(&self, case: &str, other: &Self) -> bool {
        self.case == case && (self.hook, self.v6, self.state) == (other.hook, other.v6, other.state)
    }
}

fn median(mut times: Vec<f64>) -> f64 {
    times.sort_by(f64::total_cmp);
    times.get(times.len() / 2).copied().unwrap_or_default()
}

/// What the goal says of it: its limit, and whether it was met.
fn goal(all: &[Measured], one: &Measured) -> Option<(f64, bool)> {
    let limit = match one.case {
        "spliced" => all.iter().find(|other| other.is("established", one))?.net() * SPLICED,
        "spliced_reverse" => all.iter().find(|other| other.is("reverse", one))?.net() * SPLICED,
        // XDP passes hellos on.
        case if one.hook == Hook::Tc || !case.starts_with("hello") => GOALS.iter().find(|goal| goal.0 == case)?.1,
        _ => return None,
    };
    (one.state == State::Hot).then(|| (limit, one.net() <= limit))
}

#[expect(clippy::print_stdout, reason = "a benchmark prints its figures")]
pub(super) fn print(all: &[Measured], json: bool) {
    println!("nanoseconds a packet above an empty program, BPF_PROG_TEST_RUN, medians");
    println!("{:<18} {:<4} {:<6} {:<10} {:>8} {:>8}", "", "hook", "family", "state", "ns", "goal");
    for one in all {
        let goal = goal(all, one)
            .map_or(String::new(), |(limit, met)| format!("{limit:>8.0} {}", if met { "met" } else { "missed" }));
        let (hook, family, state) = names(one);
        println!("{:<18} {hook:<4} IPv{family:<3} {state:<10} {:>8.1} {goal}", one.case, one.net());
    }
    if json {
        let cases: Vec<_> = all.iter().map(as_json).collect();
        println!("{}", serde_json::json!({ "cases": cases }));
    }
}

fn names(one: &Measured) -> (&'static str, u8, &'static str) {
    let hook = if one.hook == Hook::Tc { "tc" } else { "xdp" };
    let state = if one.state == State::Hot { "hot" } else { "random_1m" };
    (hook, if one.v6 { 6 } else { 4 }, state)
}

fn as_json(one: &Measured) -> serde_json::Value {
    let (hook, family, state) = names(one);
    let rounded = |ns: f64| (ns * 10.0).round() / 10.0;
    serde_json::json!({
        "case": one.case, "hook": hook, "family": family, "state": state,
        "net_ns": rounded(one.net()), "raw_ns": rounded(one.raw), "floor_ns": rounded(one.floor),
    })
}
