//! `steer inspect`: reads a capture, no gateway needed. Prints as it reads, since captures may be larger than memory.

use std::{
    fs::File,
    io::{self, BufWriter, Write},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};
use clap::Args;
use comfy_table::{CellAlignment, Table, presets};

use super::Place;
use crate::{
    inspect::{Ending, Row, Stopped, Summary, inspect},
    show::{Format, note},
};

/// Rows of one table; columns are as wide as its widest row.
const TABLE_ROWS: usize = 1000;

#[derive(Args, Debug)]
pub(super) struct Inspect {
    /// The capture, pcap or pcapng
    file: PathBuf,
}

impl Inspect {
    pub(super) fn run(self, place: &Place) -> Result<()> {
        let name = self.file.display();
        let file = File::open(&self.file).with_context(|| format!("open {name}"))?;
        let mut printer = Printer::new(place.format(), BufWriter::new(io::stdout().lock()));
        let summary = match inspect(file, |row| printer.row(row)) {
            Ok(summary) => summary,
            Err(Stopped::Refused(why)) => bail!("{name}: {why}"),
            Err(Stopped::Emit(error)) => return quiet(error),
        };
        if let Err(error) = printer.finish() {
            return quiet(error);
        }
        warn(&self.file, &summary);
        if summary.ending == Ending::Unreadable {
            bail!("{name}: cannot be read to its end");
        }
        Ok(())
    }
}

/// The reader has seen enough: that is no error.
fn quiet(error: io::Error) -> Result<()> {
    if error.kind() == io::ErrorKind::BrokenPipe { Ok(()) } else { Err(error).context("print") }
}

fn warn(file: &Path, summary: &Summary) {
    let name = file.display();
    match summary.ending {
        Ending::Whole | Ending::Unreadable => {}
        Ending::Truncated => note(format_args!("{name} ends inside a packet: it was truncated")),
        Ending::Damaged => note(format_args!("{name} is damaged: what follows the last good packet was not read")),
    }
    if summary.n_unknown_link != 0 {
        note(format_args!("{} packets have a link type that is not read", summary.n_unknown_link));
    }
    if summary.n_cut_short != 0 {
        note(format_args!("{} rows were made before their connection's end, to bound memory", summary.n_cut_short));
    }
}

/// Prints rows as they come.
struct Printer<W> {
    format: Format,
    to: W,
    rows: Vec<Row>,
}

impl<W: Write> Printer<W> {
    fn new(format: Format, to: W) -> Self {
        Self { format, to, rows: Vec::new() }
    }

    fn row(&mut self, row: Row) -> io::Result<()> {
        if self.format == Format::Json {
            serde_json::to_writer(&mut self.to, &row)?;
            return self.to.write_all(b"\n");
        }
        self.rows.push(row);
        if self.rows.len() >= TABLE_ROWS { self.table() } else { Ok(()) }
    }

    fn finish(&mut self) -> io::Result<()> {
        self.table()?;
        self.to.flush()
    }

    fn table(&mut self) -> io::Result<()> {
        if self.rows.is_empty() {
            return Ok(());
        }
        let mut table = Table::new();
        table.load_style(presets::NOTHING).set_header([
            "CLIENT",
            "SERVER",
            "OFFERS",
            "GETS",
            "OUTCOME",
            "KEY",
            "SESSION ID",
            "TICKET",
            "PSK",
            "NEW TICKET",
            "BYTES",
            "SEGMENTS",
            "NAME",
        ]);
        for row in self.rows.drain(..) {
            table.add_row(cells(&row));
        }
        for number in [10, 11] {
            if let Some(column) = table.column_mut(number) {
                column.set_cell_alignment(CellAlignment::Right);
            }
        }
        for line in table.lines() {
            writeln!(self.to, "{}", line.strip_prefix(' ').unwrap_or(&line).trim_end())?;
        }
        Ok(())
    }
}

fn cells(row: &Row) -> [String; 13] {
    let (client, server) = (row.client_hello.as_ref(), row.server_hello.as_ref());
    let offered = client.map_or("-", |hello| hello.version.unwrap_or("?"));
    let negotiated = server.map_or("-", |hello| hello.version.unwrap_or("?"));
    [
        row.client.to_string(),
        row.server.to_string(),
        offered.to_owned(),
        negotiated.to_owned(),
        row.outcome.to_string(),
        row.key.to_string(),
        short(client.and_then(|hello| hello.session_id.as_deref())),
        short(client.and_then(|hello| hello.ticket_prefix.as_deref())),
        short(client.and_then(|hello| hello.psk_prefix.as_deref())),
        short(row.new_session_ticket_prefix.as_deref()),
        client.map_or("-".to_owned(), |hello| hello.bytes.to_string()),
        client.map_or("-".to_owned(), |hello| hello.segments.to_string()),
        client.and_then(|hello| hello.sni.as_deref()).map_or("-".to_owned(), printable),
    ]
}

/// The first four bytes of an identifier.
fn short(hex: Option<&str>) -> String {
    hex.map_or("-".to_owned(), |hex| hex.get(..8).map_or(hex.to_owned(), |start| format!("{start}..")))
}

/// A name as a terminal may show it.
fn printable(name: &str) -> String {
    name.chars().flat_map(|c| if c.is_ascii_graphic() { vec![c] } else { c.escape_default().collect() }).collect()
}
