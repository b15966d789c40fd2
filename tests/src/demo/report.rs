//! All that the demo prints on stdout: the table, the excerpts, and the object for programs.

use serde_json::{Value, json};

use super::load::Tally;
use crate::{agent::Shape, l4::Snat};

/// Lines shown of a long print.
const EXCERPT: usize = 24;

/// What both ways came to.
pub(super) struct Report {
    pub(super) l4: Tally,
    pub(super) steer: Tally,
    /// Flows that steer's programs moved, by their own count.
    pub(super) rehomed: u64,
    /// Connections that got another port at their backend than their client's own.
    pub(super) leg_translated: u64,
    /// Connections for which no other port was free.
    pub(super) leg_collided: u64,
    pub(super) shape: Shape,
    pub(super) snat: Snat,
    pub(super) hook: String,
    pub(super) pin: String,
    pub(super) sessions_dump: String,
    pub(super) stats: String,
}

impl Report {
    /// Whether steer did what it is for.
    pub(super) fn steer_resumed_all(&self) -> bool {
        let Tally { connections, reconnects, resumed, on_owner, errors, .. } = self.steer;
        errors == 0
            && reconnects > 0
            && resumed == reconnects
            && on_owner == reconnects
            && connections > reconnects
    }

    /// Prints it.
    pub(super) fn print(&self, json: bool) {
        println!("\n{}", self.table());
        for (name, tally) in [(self.rival(), &self.l4), ("steer", &self.steer)] {
            tally.samples.iter().for_each(|sample| println!("{name}: error: {sample}"));
        }
        println!("\n$ bpftool map dump pinned {}\n{}", self.pin, excerpt(&self.sessions_dump));
        println!("\n$ steer stats\n{}", self.stats.trim_end());
        if json {
            println!("\n{}", self.object());
        }
    }

    fn table(&self) -> String {
        let (l4, steer) = (&self.l4, &self.steer);
        let rows = [
            ("", self.rival().to_owned(), format!("steer ({})", self.hook)),
            ("connections", l4.connections.to_string(), steer.connections.to_string()),
            ("  offering a session", l4.reconnects.to_string(), steer.reconnects.to_string()),
            ("resumed", share(l4.resumed, l4), share(steer.resumed, steer)),
            ("on the owner", share(l4.on_owner, l4), share(steer.on_owner, steer)),
            ("re-homed", "-".to_owned(), self.rehomed.to_string()),
            ("on another port", "-".to_owned(), self.leg_translated.to_string()),
            ("errors", l4.errors.to_string(), steer.errors.to_string()),
            ("handshake p50", milliseconds(l4, 50), milliseconds(steer, 50)),
            ("handshake p99", milliseconds(l4, 99), milliseconds(steer, 99)),
        ];
        let lines: Vec<_> =
            rows.iter().map(|(name, l4, steer)| format!("{name:<22}{l4:>18}{steer:>18}")).collect();
        lines.join("\n")
    }

    fn object(&self) -> Value {
        let mut steer = seen(&self.steer);
        steer["rehomed"] = json!(self.rehomed);
        steer["leg_translated"] = json!(self.leg_translated);
        steer["leg_collided"] = json!(self.leg_collided);
        json!({
            "l4": seen(&self.l4),
            "steer": steer,
            "hook": self.hook,
            "shape": self.shape.word(),
            "snat": self.snat == Snat::Yes,
        })
    }

    /// What steer is compared with.
    fn rival(&self) -> &'static str {
        match self.shape {
            Shape::Gateway => "plain layer 4",
            Shape::Inline | Shape::Bridge => "balancer alone",
        }
    }
}

fn seen(tally: &Tally) -> Value {
    json!({
        "connections": tally.connections,
        "reconnects": tally.reconnects,
        "resumed": tally.resumed,
        "on_owner": tally.on_owner,
        "errors": tally.errors,
        "p50_us": microseconds(tally, 50),
        "p99_us": microseconds(tally, 99),
    })
}

fn share(part: usize, tally: &Tally) -> String {
    format!("{part} ({:>3} %)", part * 100 / tally.reconnects.max(1))
}

fn microseconds(tally: &Tally, percent: usize) -> u64 {
    u64::try_from(tally.percentile(percent).as_micros()).unwrap_or(u64::MAX)
}

fn milliseconds(tally: &Tally, percent: usize) -> String {
    format!("{:.2} ms", tally.percentile(percent).as_secs_f64() * 1e3)
}

fn excerpt(text: &str) -> String {
    let n_lines = text.lines().count();
    let mut shown: Vec<_> = text.lines().take(EXCERPT).map(str::to_owned).collect();
    if n_lines > EXCERPT {
        shown.push(format!("... ({} more lines)", n_lines - EXCERPT));
    }
    shown.join("\n")
}
