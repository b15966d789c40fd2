//! `steer inspect`: reads a capture, no gateway needed. Prints as it reads, since captures may be
//! larger than memory and pipes without end.

use std::{
    fs::File,
    io::{self, BufWriter, IsTerminal as _, Write},
    os::fd::AsFd as _,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};
use clap::Args;
use serde::Serialize;

use super::Place;
use crate::{
    inspect::{Ending, Row, Stopped, Summary, follow, inspect},
    show::{Format, note},
};

#[derive(Args, Debug)]
pub(super) struct Inspect {
    /// The capture, pcap or pcapng, perhaps packed by gzip; -: standard input
    file: PathBuf,
    /// With --json: print a last line that counts what was read and what was not
    #[arg(long)]
    summary: bool,
}

impl Inspect {
    pub(super) fn run(self, place: &Place) -> Result<()> {
        let format = place.format();
        if self.summary && format != Format::Json {
            bail!("--summary goes with --json: without, standard error says what was not read");
        }
        let (name, file) = self.open()?;
        // What is no file is perhaps being captured now: rows do not wait for each other, nor for a
        // buffer to be full.
        let is_file = file.metadata().with_context(|| format!("look at {name}"))?.is_file();
        let mut printer = Printer::new(format, BufWriter::new(io::stdout().lock()));
        let read = if is_file {
            inspect(file, |row| printer.row(&row))
        } else {
            follow(file, |row| printer.row_or_wait(row))
        };
        let summary = match read {
            Ok(summary) => summary,
            Err(Stopped::Refused(why)) => bail!("{name}: {why}"),
            Err(Stopped::Emit(error)) => return quiet(error),
        };
        if let Err(error) = printer.finish(self.summary.then_some(&summary)) {
            return quiet(error);
        }
        warn(&name, &summary);
        if summary.ending == Ending::Unreadable {
            bail!("{name}: cannot be read to its end");
        }
        Ok(())
    }

    /// The file, and how messages name it.
    fn open(&self) -> Result<(String, File)> {
        if self.file == Path::new("-") {
            let input = io::stdin();
            if input.is_terminal() {
                bail!(
                    "standard input is a terminal: name a file, or let a capture be written to it"
                );
            }
            let file = input.as_fd().try_clone_to_owned().context("open standard input")?;
            return Ok(("standard input".to_owned(), file.into()));
        }
        let name = self.file.display().to_string();
        let file = File::open(&self.file).with_context(|| format!("open {name}"))?;
        Ok((name, file))
    }
}

/// The reader has seen enough: that is no error.
fn quiet(error: io::Error) -> Result<()> {
    if error.kind() == io::ErrorKind::BrokenPipe { Ok(()) } else { Err(error).context("print") }
}

fn warn(name: &str, summary: &Summary) {
    match summary.ending {
        Ending::Whole | Ending::Unreadable => {}
        Ending::Truncated => note(format_args!("{name} ends inside a packet: it was truncated")),
        Ending::Damaged => {
            note(format_args!("{name} is damaged: what follows the last good packet was not read"))
        }
    }
    for (tally, what) in [
        (&summary.not_read, "frames were not read"),
        (&summary.blocks_not_read, "blocks of the file were not read"),
        (&summary.no_tcp, "frames are no TCP"),
    ] {
        if tally.total() != 0 {
            note(format_args!("{} {what}: {tally}", tally.total()));
        }
    }
    if summary.cut_short != 0 {
        note(format_args!(
            "{} rows were made before their connection's end, to bound memory",
            summary.cut_short
        ));
    }
}

/// Prints rows as they come.
struct Printer<W> {
    format: Format,
    to: W,
    table: Table,
}

impl<W: Write> Printer<W> {
    fn new(format: Format, to: W) -> Self {
        Self { format, to, table: Table::default() }
    }

    fn row(&mut self, row: &Row) -> io::Result<()> {
        match self.format {
            Format::Json => self.json(row),
            Format::People => self.table.row(&mut self.to, &cells(row)),
        }
    }

    /// Nobody waits for a row that is there.
    fn row_or_wait(&mut self, row: Option<Row>) -> io::Result<()> {
        match row {
            Some(row) => self.row(&row),
            None => self.to.flush(),
        }
    }

    fn finish(&mut self, summary: Option<&Summary>) -> io::Result<()> {
        #[derive(Serialize)]
        struct Line<'a> {
            summary: &'a Summary,
        }
        if let Some(summary) = summary {
            self.json(&Line { summary })?;
        }
        self.to.flush()
    }

    fn json(&mut self, line: &impl Serialize) -> io::Result<()> {
        serde_json::to_writer(&mut self.to, line)?;
        self.to.write_all(b"\n")
    }
}

/// Number of columns.
const COLUMNS: usize = 15;
/// What they are called, and how wide they are at least, characters: IPv4 addresses and shortened
/// identifiers fit.
const HEADER: [(&str, usize); COLUMNS] = [
    ("CLIENT", 21),
    ("SERVER", 21),
    ("OFFERS", 6),
    ("GETS", 4),
    ("OUTCOME", 7),
    ("KEY", 10),
    ("SESSION ID", 10),
    ("TICKET", 10),
    ("PSK", 10),
    ("NEW TICKET", 10),
    ("BYTES", 5),
    ("SEGMENTS", 8),
    ("PROXIED", 7),
    ("IN", 2),
    ("NAME", 4),
];
/// The columns of numbers.
const RIGHT: [usize; 2] = [10, 11];
/// Rows under one header.
const TABLE_ROWS: usize = 1000;

/// A table of which no row waits for the next: a column becomes wider with its first wide cell.
struct Table {
    widths: [usize; COLUMNS],
    n_rows: usize,
}

impl Default for Table {
    fn default() -> Self {
        Self { widths: HEADER.map(|(_, width)| width), n_rows: 0 }
    }
}

impl Table {
    fn row(&mut self, to: &mut impl Write, cells: &[String; COLUMNS]) -> io::Result<()> {
        for (width, cell) in self.widths.iter_mut().zip(cells) {
            *width = cell.len().max(*width);
        }
        if self.n_rows.is_multiple_of(TABLE_ROWS) {
            self.line(to, &HEADER.map(|(name, _)| name))?;
        }
        self.n_rows += 1;
        self.line(to, cells)
    }

    fn line(&self, to: &mut impl Write, cells: &[impl AsRef<str>; COLUMNS]) -> io::Result<()> {
        let last = COLUMNS - 1;
        for (index, (cell, width)) in cells.iter().zip(self.widths).take(last).enumerate() {
            let cell = cell.as_ref();
            if RIGHT.contains(&index) {
                write!(to, "{cell:>width$}  ")?;
            } else {
                write!(to, "{cell:<width$}  ")?;
            }
        }
        writeln!(to, "{}", cells[last].as_ref())
    }
}

fn cells(row: &Row) -> [String; COLUMNS] {
    let (client, server) = (row.client_hello.as_ref(), row.server_hello.as_ref());
    let offered = client.map_or("-", |hello| hello.version.unwrap_or("?"));
    let negotiated = server.map_or("-", |hello| hello.version.unwrap_or("?"));
    let proxied = row
        .proxied_client
        .map(|client| client.to_string())
        .or(row.proxy_protocol.map(str::to_owned));
    let none = || "-".to_owned();
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
        client.map_or_else(none, |hello| hello.bytes.to_string()),
        client.map_or_else(none, |hello| hello.segments.to_string()),
        proxied.unwrap_or_else(none),
        row.encapsulation.clone().unwrap_or_else(none),
        client.and_then(|hello| hello.sni.as_deref()).map_or_else(none, printable),
    ]
}

/// The first four bytes of an identifier.
fn short(hex: Option<&str>) -> String {
    hex.map_or("-".to_owned(), |hex| {
        hex.get(..8).map_or(hex.to_owned(), |start| format!("{start}.."))
    })
}

/// A name as a terminal may show it.
fn printable(name: &str) -> String {
    name.chars()
        .flat_map(|c| if c.is_ascii_graphic() { vec![c] } else { c.escape_default().collect() })
        .collect()
}
