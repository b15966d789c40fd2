//! The object for programs, last line of the output.

use serde_json::{Value, json};

use super::{cpu::Cpu, page::Figures};
use crate::bench::record::Goal;

/// Prints it.
#[expect(clippy::print_stdout, reason = "a benchmark prints its figures")]
pub(super) fn print(figures: &Figures) {
    println!("{}", figures.object());
}

impl Figures {
    fn object(&self) -> Value {
        let rates = self.rates.iter().map(|series| {
            json!({
                "way": series.way.name(), "kind": series.kind.name(),                 "per_s": series.rate(), "resumed_share": series.share(), "p50_us": series.time(50),
                "p99_us": series.time(99), "cpu_us": series.cpu(Cpu::sum), "gateway_process_us": series.cpu(|cpu| cpu.gateway),
                "programs_ns": series.programs.map(|programs| programs.nanoseconds), "errors": series.errors(),
            })
        });
        let latency = self.latency.iter().map(|times| {
            json!({
                "way": times.name, "p50_us": times.time(50), "p99_us": times.time(99), "resumed": times.resumed,
                "handshakes": times.handshakes.len(), "rehomed": times.rehomed, "syn_us": times.syn(), "errors": times.errors,
            })
        });
        let bulk = self.bulk.iter().map(|transfers| {
            let [down, up] = transfers.rates();
            json!({
                "way": transfers.name, "offloads": transfers.offloads, "download_mb_per_s": down, "upload_mb_per_s": up,
                "errors": transfers.errors,
            })
        });
        let goals: Vec<_> = self.goals().iter().map(Goal::json).collect();
        json!({
            "rates": rates.collect::<Vec<_>>(), "latency": latency.collect::<Vec<_>>(),
            "bulk": bulk.collect::<Vec<_>>(), "goals": goals,
        })
    }
}
