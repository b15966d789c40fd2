//! Prints: tables for people, JSON for programs; notes on standard error. Nothing else writes to
//! either.

mod assess;
mod backends;
mod doctor;
mod flows;
mod ha;
mod keys;
mod sessions;
mod watch;

use std::{
    fmt,
    io::{self, IsTerminal as _, Write as _},
    path::Path,
};

use anyhow::{Context as _, Result};
use comfy_table::{CellAlignment, Table, presets};
use serde::Serialize;
use steer_common::counters::Counter;
pub use watch::Decisions;

use crate::{
    assess::Report,
    config::Effective,
    doctor::Diagnosis,
    report::{Backends, Flows, FoundSessions, Keys, Stats, Status, Why},
    session_file::{Exported, Imported},
    ticket_keys::Generated,
    top::{self, Frame},
};

/// How results are printed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Format {
    /// Tables.
    People,
    /// One JSON object.
    Json,
}

/// The outcome of a verb that changes something.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Outcome {
    /// What was done, as a sentence.
    pub done: String,
}

/// Tells people something beside the result; where nobody listens, that is no error.
pub fn note(text: impl fmt::Display) {
    let _ = writeln!(io::stderr(), "steer: {text}");
}

/// How something goes that takes long, on standard error: a terminal has one line that changes, others
/// a line for each change.
#[derive(Debug, Default)]
pub struct Progress {
    told: String,
    is_open: bool,
}

impl Progress {
    /// Tells how it goes; where there is no terminal only what is `new`.
    pub fn tell(&mut self, text: impl fmt::Display, new: &str) {
        let mut out = io::stderr().lock();
        if out.is_terminal() {
            // Back to the start of the line; what stood there is erased.
            let _ = write!(out, "\r\x1b[Ksteer: {text}");
            let _ = out.flush();
            self.is_open = true;
        } else if self.told != new {
            let _ = writeln!(out, "steer: {new}");
        }
        new.clone_into(&mut self.told);
    }

    /// Leaves the line.
    pub fn end(&mut self) {
        if std::mem::take(&mut self.is_open) {
            let _ = writeln!(io::stderr());
        }
    }
}

/// Tells people what went wrong: a line each where a file is wrong in several places.
pub fn error(error: &anyhow::Error) {
    format!("{error:#}").lines().for_each(note);
}

/// Prints what an export wrote.
pub fn exported(format: Format, wrote: &Exported) -> Result<()> {
    print(format, wrote, || {
        format!("wrote {} sessions and {} key names", wrote.sessions, wrote.key_names)
    })
}

/// Prints what became of an import.
pub fn imported(format: Format, took: &Imported) -> Result<()> {
    print(format, took, || {
        let Imported { sessions, key_names, elsewhere, expired, known, other } = took;
        let left = [
            (elsewhere, "of pools or backends that are not here"),
            (expired, "too old"),
            (known, "of what is known better here"),
            (other, "of kinds that this version does not know"),
        ];
        let left = left.iter().filter(|(n, _)| **n > 0).map(|(n, why)| format!("\nleft {n} {why}"));
        format!("took {sessions} sessions and {key_names} key names{}", left.collect::<String>())
    })
}

/// Prints what was done.
pub fn outcome(format: Format, done: impl Into<String>) -> Result<()> {
    let outcome = Outcome { done: done.into() };
    print(format, &outcome, || outcome.done.clone())
}

/// What a reload did.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
struct Reloaded<'a> {
    /// The file that is in force.
    file: &'a Path,
    /// What it changed, as sentences.
    changes: &'a [String],
}

/// Prints `steer reload`.
pub fn reloaded(format: Format, file: &Path, changes: &[String]) -> Result<()> {
    print(format, &Reloaded { file, changes }, || {
        let place = file.display();
        match changes.len() {
            0 => format!("{place} changes nothing"),
            n => format!(
                "{}\n{place} is in force ({n} {})",
                changes.join("\n"),
                if n == 1 { "change" } else { "changes" }
            ),
        }
    })
}

/// What a reload would do.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
struct Differences<'a> {
    /// The file.
    file: &'a Path,
    /// What it would change, as sentences.
    differences: &'a [String],
}

/// Prints `steer config diff`.
pub fn differences(format: Format, file: &Path, differences: &[String]) -> Result<()> {
    print(format, &Differences { file, differences }, || match differences {
        [] => format!("a reload of {} would change nothing", file.display()),
        _ => differences.join("\n"),
    })
}

/// Prints `steer config show`: people get a file.
pub fn configuration(format: Format, effective: &Effective) -> Result<()> {
    let text = toml::to_string(effective).context("write TOML")?;
    print(format, effective, || text.trim_end().to_owned())
}

/// Prints `steer assess`.
pub fn assessment(format: Format, report: &Report) -> Result<()> {
    print(format, report, || assess::report(report))
}

/// The first lines of `steer assess`.
pub fn assessment_lines(report: &Report) -> Vec<String> {
    assess::summary(report)
}

/// Prints `steer ha status`.
pub fn replication(format: Format, report: &crate::ha::Report) -> Result<()> {
    print(format, report, || ha::report(report))
}

/// Whether a gateway is ready.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
struct Ready<'a> {
    ready: bool,
    /// Why, as a sentence.
    why: &'a str,
}

/// Prints `steer ha ready`.
pub fn ready(format: Format, ready: bool, why: &str) -> Result<()> {
    print(format, &Ready { ready, why }, || {
        format!("{}: {why}", if ready { "ready" } else { "not ready" })
    })
}

/// Prints `steer ha acl`.
pub fn acl(format: Format, rule: &str) -> Result<()> {
    print(format, &rule, || rule.to_owned())
}

/// Prints `steer status`.
pub fn status(format: Format, status: &Status) -> Result<()> {
    print(format, status, || status_text(status))
}

/// Prints `steer doctor`.
pub fn diagnosis(format: Format, diagnosis: &Diagnosis) -> Result<()> {
    print(format, diagnosis, || doctor::text(diagnosis))
}

/// Prints `steer backends list`.
pub fn backends(format: Format, backends: &Backends) -> Result<()> {
    print(format, backends, || backends::text(backends))
}

/// Prints `steer sessions list`.
pub fn sessions(format: Format, found: &FoundSessions) -> Result<()> {
    sessions::list(format, found)
}

/// Prints `steer sessions show`.
pub fn session(format: Format, found: &FoundSessions) -> Result<()> {
    sessions::show(format, found)
}

/// Prints `steer flows list`, at most `limit` of them (0: all), as they are read.
pub fn flows(format: Format, flows: &Flows<'_>, limit: u64) -> Result<()> {
    flows::list(format, flows, limit)
}

/// Prints `steer why`.
pub fn why(format: Format, why: &Why) -> Result<()> {
    print(format, why, || flows::why(why))
}

/// Prints `steer keys list`.
pub fn keys(format: Format, keys: &Keys) -> Result<()> {
    print(format, keys, || keys::text(keys))
}

/// Prints `steer keys generate`.
pub fn generated(format: Format, generated: &Generated) -> Result<()> {
    print(format, generated, || keys::generated(generated))
}

/// Prints one frame of `steer top`.
pub fn top(format: Format, frame: &Frame) -> Result<()> {
    print(format, frame, || top::text(frame))
}

/// Prints `steer stats`; `all` shows counters that are zero too.
pub fn stats(format: Format, stats: &Stats, all: bool) -> Result<()> {
    print(format, stats, || stats_table(stats, all))
}

fn print<T: Serialize>(format: Format, value: &T, text: impl FnOnce() -> String) -> Result<()> {
    let text = match format {
        Format::People => text(),
        Format::Json => serde_json::to_string(value).context("write JSON")?,
    };
    match writeln!(io::stdout(), "{text}") {
        // The reader has seen enough.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        other => other.context("print"),
    }
}

fn table(header: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header(header.iter().copied());
    table
}

/// Aligns the columns from `first` on to the right.
fn numbers_from(table: &mut Table, first: usize) {
    for column in table.column_iter_mut().skip(first) {
        column.set_cell_alignment(CellAlignment::Right);
    }
}

/// The table without the room around it.
fn text(table: &Table) -> String {
    let trimmed = |line: String| line.strip_prefix(' ').unwrap_or(&line).trim_end().to_owned();
    table.lines().map(trimmed).collect::<Vec<_>>().join("\n")
}

fn seconds(seconds: u32) -> String {
    humantime::format_duration(std::time::Duration::from_secs(seconds.into())).to_string()
}

fn stats_table(stats: &Stats, all: bool) -> String {
    let mut table = table(&["COUNTER", "COUNT", "WHAT IT COUNTS"]);
    for counter in Counter::ALL {
        let value = stats.value(*counter);
        if all || value != 0 {
            table.add_row([
                counter.word().to_owned(),
                value.to_string(),
                counter.help().trim().to_owned(),
            ]);
        }
    }
    if let Some(column) = table.column_mut(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    text(&table)
}

fn status_text(status: &Status) -> String {
    let agent = match (status.agent.running, status.agent.pid) {
        _ if status.agent.starting => "is starting: what is below may not be there yet".to_owned(),
        (true, Some(pid)) => format!("runs (process {pid})"),
        (true, None) => "runs, but does not answer at this --socket".to_owned(),
        (false, _) => "does not run: traffic goes on, health checks and ageing do not".to_owned(),
    };
    let observed = status.vips.iter().filter(|vip| vip.mode == "observe").count();
    let steering = match (status.leave, status.bypass) {
        (true, _) => "off (leave): new connections pass to the kernel's own rules",
        (false, true) => "off (bypass)",
        (false, false) if observed > 0 && observed == status.vips.len() => {
            "off: all is in observe mode"
        }
        (false, false) if observed > 0 => "on, but for what is in observe mode",
        (false, false) => "on",
    };
    let because = status.health.because.join("; ");
    let health = match because.as_str() {
        "" => status.health.state.word().to_owned(),
        _ => format!("{}: {because}", status.health.state.word()),
    };
    let head = format!(
        "agent     {agent}\nhealth    {health}\nsteering  {steering}\npins      {}",
        status.pin_dir.display()
    );
    if status.agent.starting && status.tables.is_empty() {
        return head;
    }
    let parts = [
        Some(head),
        Some(interfaces_table(status)),
        bridges_table(status),
        Some(vips_table(status)),
        Some(tables_table(status)),
        section("drift", &status.drift),
        section("not seen at a bridge", &status.unseen),
        section("warnings", &status.warnings),
    ];
    parts.into_iter().flatten().collect::<Vec<_>>().join("\n\n")
}

fn interfaces_table(status: &Status) -> String {
    let mut table = table(&["INTERFACE", "TC", "XDP", "XDP SENDS TO IT"]);
    let mark = |on| if on { "yes" } else { "no" }.to_owned();
    for interface in &status.interfaces {
        table.add_row([
            interface.name.clone(),
            mark(interface.tc),
            mark(interface.xdp),
            mark(interface.takes_xdp),
        ]);
    }
    text(&table)
}

fn bridges_table(status: &Status) -> Option<String> {
    if status.bridges.is_empty() {
        return None;
    }
    let mut table = table(&["BRIDGE", "PORT", "SIDE", "STATE", "LOOKED AT"]);
    for bridge in &status.bridges {
        for port in &bridge.ports {
            table.add_row([
                bridge.name.clone(),
                port.name.clone(),
                port.side.word().to_owned(),
                port.state.clone(),
                if port.looked_at { "yes" } else { "no" }.to_owned(),
            ]);
        }
    }
    Some(text(&table))
}

fn vips_table(status: &Status) -> String {
    let mut table = table(&["VIP", "MODE", "BACKENDS", "UP", "OPEN FLOWS", "SESSION TIMEOUT"]);
    for vip in &status.vips {
        table.add_row([
            vip.address.to_string(),
            vip.mode.clone(),
            vip.backends.to_string(),
            vip.backends_up.to_string(),
            vip.open_flows.map_or("-".to_owned(), |n| n.to_string()),
            seconds(vip.session_timeout_seconds),
        ]);
        for also in &vip.also {
            let row = [also.to_string(), "same pool".to_owned()];
            table.add_row(row.into_iter().chain(std::iter::repeat_n(String::new(), 4)));
        }
    }
    text(&table)
}

fn tables_table(status: &Status) -> String {
    let mut table = table(&["TABLE", "ENTRIES", "ROOM FOR"]);
    for entry in &status.tables {
        table.add_row([
            entry.name.clone(),
            entry.entries.to_string(),
            entry.max_entries.to_string(),
        ]);
    }
    numbers_from(&mut table, 1);
    text(&table)
}

fn section(name: &str, sentences: &[String]) -> Option<String> {
    let lines = sentences.iter().map(|sentence| format!("  {sentence}"));
    (!sentences.is_empty())
        .then(|| std::iter::once(format!("{name}:")).chain(lines).collect::<Vec<_>>().join("\n"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// The line that tells whether the gateway steers, with VIPs in these modes.
    fn steering(modes: &[&str]) -> Result<String> {
        let vip = |mode: &&str| {
            json!({
                "id": 0, "address": "198.51.100.10:443", "mode": mode, "backends": 1, "backends_up": 1,
                "session_timeout_seconds": 600
            })
        };
        let status = serde_json::from_value(json!({
            "pin_dir": "/sys/fs/bpf/steer", "layout": 4, "bypass": false, "leave": false,
            "agent": { "running": true, "starting": false, "pid": 7, "version": "0.1.0" },
            "health": { "state": "healthy", "because": [] },
            "vips": modes.iter().map(vip).collect::<Vec<_>>(),
            "interfaces": [], "bridges": [], "tables": [], "drift": [], "unseen": [], "warnings": []
        }))?;
        let text = status_text(&status);
        Ok(text
            .lines()
            .find_map(|line| line.strip_prefix("steering  "))
            .unwrap_or_default()
            .to_owned())
    }

    #[test]
    fn steering_is_not_called_on_where_every_vip_is_only_observed() -> Result<()> {
        assert_eq!(steering(&["steer", "steer"])?, "on");
        assert_eq!(steering(&["steer", "observe"])?, "on, but for what is in observe mode");
        assert_eq!(steering(&["observe", "observe"])?, "off: all is in observe mode");
        Ok(())
    }
}
