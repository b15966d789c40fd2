//! `steer sessions`, printed row by row: there may be millions.

use std::io::{self, BufWriter, Write};

use anyhow::{Context as _, Result};

use super::{Format, seconds, table, text};
use crate::report::{FoundSessions, SessionReport};

/// Rows of one table; columns are as wide as its widest row.
const TABLE_ROWS: usize = 1000;

/// Prints `steer sessions list`.
pub(super) fn list(format: Format, found: &FoundSessions) -> Result<()> {
    print(format, found, |out| {
        let mut reports = found.reports().peekable();
        while {
            write_table(out, reports.by_ref().take(TABLE_ROWS))?;
            reports.peek().is_some()
        } {}
        let hidden = found.total - found.reports().len() as u64;
        if hidden > 0 { writeln!(out, "{hidden} more; see them with --limit") } else { Ok(()) }
    })
}

/// Prints `steer sessions show`.
pub(super) fn show(format: Format, found: &FoundSessions) -> Result<()> {
    print(format, found, |out| {
        for (number, report) in found.reports().enumerate() {
            let gap = if number == 0 { "" } else { "\n" };
            writeln!(out, "{gap}{}", session_text(&report))?;
        }
        let hidden = found.total - found.reports().len() as u64;
        if hidden > 0 { writeln!(out, "\n{hidden} more; see them with --limit") } else { Ok(()) }
    })
}

fn print(
    format: Format,
    found: &FoundSessions,
    text: impl FnOnce(&mut dyn Write) -> io::Result<()>,
) -> Result<()> {
    let mut out = BufWriter::new(io::stdout().lock());
    let written = match format {
        Format::People => text(&mut out),
        Format::Json => write_json(&mut out, found),
    };
    match written.and_then(|()| out.flush()) {
        // The reader has seen enough.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {
            // What is left in the buffer has no reader either.
            let _ = out.into_parts();
            Ok(())
        }
        other => other.context("print"),
    }
}

/// One object on one line, each session written when it is its turn.
fn write_json(out: &mut dyn Write, found: &FoundSessions) -> io::Result<()> {
    write!(out, "{{\"total\":{},\"sessions\":[", found.total)?;
    for (number, report) in found.reports().enumerate() {
        if number > 0 {
            out.write_all(b",")?;
        }
        serde_json::to_writer(&mut *out, &report)?;
    }
    writeln!(out, "]}}")
}

fn write_table(
    out: &mut dyn Write,
    reports: impl Iterator<Item = SessionReport>,
) -> io::Result<()> {
    let mut table =
        table(&["SESSION", "BYTES", "KIND", "VIP", "OWNER", "AGE", "IDLE", "EXPIRES", "USES"]);
    for session in reports {
        table.add_row([
            format!("{}..", session.id),
            session.length.to_string(),
            session.kind.clone(),
            session.vip.map_or("gone".to_owned(), |vip| vip.to_string()),
            owner(&session),
            seconds(session.age_seconds),
            seconds(session.idle_seconds),
            seconds(session.expires_seconds),
            session.uses.to_string(),
        ]);
    }
    writeln!(out, "{}", text(&table))
}

fn session_text(session: &SessionReport) -> String {
    let lines = [
        ("session", format!("{}.. ({} bytes, {})", session.id, session.length, session.kind)),
        ("VIP", session.vip.map_or("gone".to_owned(), |vip| vip.to_string())),
        ("owner", owner(session)),
        ("learned", format!("{} ago", seconds(session.age_seconds))),
        ("last used", format!("{} ago", seconds(session.idle_seconds))),
        ("expires", format!("in {}", seconds(session.expires_seconds))),
        ("uses", session.uses.to_string()),
    ];
    lines.map(|(name, value)| format!("{name:<10}{value}")).join("\n")
}

fn owner(session: &SessionReport) -> String {
    let address =
        session.owner_address.map_or("forgotten".to_owned(), |address| address.to_string());
    format!("{} ({address})", session.owner)
}
