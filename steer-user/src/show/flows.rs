//! `steer flows list`, printed row by row: there may be millions. `steer why`.

use std::io::{self, BufWriter, Write};

use anyhow::{Context as _, Result};

use super::{Format, seconds, table, text};
use crate::report::{FlowReport, Flows, Why};

/// Rows of one table; columns are as wide as its widest row.
const TABLE_ROWS: usize = 1000;

/// Prints `steer flows list`, at most `limit` of them (0: all).
pub(super) fn list(format: Format, flows: &Flows<'_>, limit: u64) -> Result<()> {
    let mut printer = Printer::new(format, BufWriter::new(io::stdout().lock()));
    let total = flows.each(limit, |flow| printer.flow(flow))?;
    match printer.finish(total) {
        // The reader has seen enough.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        other => other.context("print"),
    }
}

/// Prints flows as they come; holds the rows of one table.
struct Printer<W: Write> {
    format: Format,
    out: BufWriter<W>,
    rows: Vec<FlowReport>,
    n_shown: u64,
    failed: io::Result<()>,
}

impl<W: Write> Printer<W> {
    fn new(format: Format, out: BufWriter<W>) -> Self {
        Self { format, out, rows: Vec::new(), n_shown: 0, failed: Ok(()) }
    }

    /// Once anything could not be written, nothing more is.
    fn flow(&mut self, flow: FlowReport) {
        if self.failed.is_err() {
            return;
        }
        self.n_shown += 1;
        self.failed = match self.format {
            Format::Json => {
                let before: &[u8] = if self.n_shown == 1 { b"{\"flows\":[" } else { b"," };
                self.out
                    .write_all(before)
                    .and_then(|()| serde_json::to_writer(&mut self.out, &flow).map_err(Into::into))
            }
            Format::People => {
                self.rows.push(flow);
                if self.rows.len() < TABLE_ROWS { Ok(()) } else { self.table() }
            }
        };
    }

    fn finish(mut self, total: u64) -> io::Result<()> {
        if self.failed.is_ok() {
            self.failed = self.end(total).and_then(|()| self.out.flush());
        }
        // What is left in the buffer has no reader.
        let _ = self.out.into_parts();
        self.failed
    }

    fn end(&mut self, total: u64) -> io::Result<()> {
        if self.format == Format::Json {
            let before = if self.n_shown == 0 { "{\"flows\":[" } else { "" };
            return writeln!(self.out, "{before}],\"total\":{total}}}");
        }
        if !self.rows.is_empty() || self.n_shown == 0 {
            self.table()?;
        }
        match total.saturating_sub(self.n_shown) {
            0 => Ok(()),
            hidden => writeln!(self.out, "{hidden} more; see them with --limit (0: all)"),
        }
    }

    fn table(&mut self) -> io::Result<()> {
        let mut table = table(&[
            "CLIENT", "DIALLED", "STATE", "FIRST", "HOLDER", "PORT", "OFFERED", "WHY", "OWNER",
            "OUTCOME", "OPTIONS", "IDLE",
        ]);
        for flow in self.rows.drain(..) {
            table.add_row(cells(&flow));
        }
        writeln!(self.out, "{}", text(&table))
    }
}

fn cells(flow: &FlowReport) -> [String; 12] {
    let none = || "-".to_owned();
    let backend = |at: Option<std::net::SocketAddr>| {
        at.map_or("forgotten".to_owned(), |address| address.to_string())
    };
    let state = flow.state.word();
    [
        flow.client.to_string(),
        flow.dialled.map_or("gone".to_owned(), |at| at.to_string()),
        if flow.ended { format!("{state} (ended)") } else { state.to_owned() },
        backend(flow.first_address),
        backend(flow.holder_address),
        flow.port_at_holder.map_or_else(none, |port| port.to_string()),
        flow.offered
            .as_ref()
            .map_or_else(none, |offered| format!("{} {}..", offered.kind, offered.id)),
        flow.reason.word().to_owned(),
        flow.owner.map_or_else(none, |_| backend(flow.owner_address)),
        flow.outcome.word().to_owned(),
        if flow.options.is_empty() { none() } else { flow.options.join(",") },
        seconds(flow.idle_seconds),
    ]
}

/// `steer why` for people: a paragraph for each flow, connection and identifier.
pub(super) fn why(why: &Why) -> String {
    let flows = why.flows.iter().map(|flow| flow.sentences.join("\n"));
    let identifiers = why.identifiers.iter().map(|found| found.sentences.join("\n"));
    let more = |total: u64, n: usize, what: &str| {
        let hidden = total.saturating_sub(n as u64);
        (hidden > 0).then(|| format!("{hidden} more {what}"))
    };
    flows
        .chain(more(why.total_flows, why.flows.len(), "flows; see them with --limit"))
        .chain((!why.foreign.is_empty()).then(|| why.foreign.join("\n")))
        .chain(identifiers)
        .chain(more(
            why.total_identifiers,
            why.identifiers.len(),
            "identifiers start so; give more digits",
        ))
        .collect::<Vec<_>>()
        .join("\n\n")
}

#[cfg(test)]
mod tests {
    use steer_common::flow::State;

    use super::*;
    use crate::report::{Offered, Outcome, Reason};

    fn flow(port: u16) -> FlowReport {
        let first = "10.0.0.2:443".parse().ok();
        let owner = "10.0.0.1:443".parse().ok();
        FlowReport {
            client: std::net::SocketAddr::from(([192, 0, 2, 1], port)),
            vip: "198.51.100.10:443".parse().ok(),
            dialled: "198.51.100.10:443".parse().ok(),
            state: State::Spliced,
            ended: false,
            first: 2,
            first_address: first,
            holder: 1,
            holder_address: owner,
            owner: Some(1),
            owner_address: owner,
            port_at_holder: Some(1024),
            offered: Some(Offered {
                kind: "session-id".into(),
                id: "a1b2c3d4".into(),
                length: 32,
                identity: None,
            }),
            reason: Reason::Session,
            outcome: Outcome::Resumed,
            version: Some("1.2".into()),
            options: vec!["sack".into(), "timestamps".into()],
            idle_seconds: 61,
        }
    }

    /// What is printed of so many flows, of which `shown` are told.
    fn printed(format: Format, shown: u16, total: u64) -> String {
        let mut out = Vec::new();
        let mut printer = Printer::new(format, BufWriter::new(&mut out));
        (1..=shown).for_each(|port| printer.flow(flow(port)));
        printer.finish(total).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn a_row_tells_all_that_stands_in_a_flow() {
        let told = printed(Format::People, 1, 1);
        let row = told.lines().nth(1).unwrap().split_whitespace().collect::<Vec<_>>().join(" ");
        assert_eq!(
            row,
            "192.0.2.1:1 198.51.100.10:443 spliced 10.0.0.2:443 10.0.0.1:443 1024 session-id a1b2c3d4.. session \
             10.0.0.1:443 resumed sack,timestamps 1m 1s"
        );
    }

    #[test]
    fn what_was_cut_is_told_and_rows_are_held_for_one_table_only() {
        let told = printed(Format::People, 2500, 2507);
        assert!(told.ends_with("\n7 more; see them with --limit (0: all)\n"));
        assert_eq!(told.lines().filter(|line| line.starts_with("CLIENT")).count(), 3);
        assert_eq!(told.lines().filter(|line| line.starts_with("192.0.2.1:")).count(), 2500);
        assert_eq!(printed(Format::People, 0, 0).lines().count(), 1);
    }

    #[test]
    fn json_is_one_object_however_many_there_are() {
        for shown in [0, 1, 3] {
            let told = printed(Format::Json, shown, 9);
            assert_eq!(told.lines().count(), 1);
            let value: serde_json::Value = serde_json::from_str(&told).unwrap();
            assert_eq!(value["total"], 9);
            let flows: Vec<FlowReport> = serde_json::from_value(value["flows"].clone()).unwrap();
            assert_eq!(flows, (1..=shown).map(flow).collect::<Vec<_>>());
        }
    }
}
