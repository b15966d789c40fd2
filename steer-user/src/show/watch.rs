//! `steer watch`, line by line.

use std::io::{self, BufWriter, ErrorKind, Stdout, Write};

use anyhow::{Context as _, Result};

use super::Format;
use crate::report::Decision;

/// Prints decisions as they come: a line each, or a JSON object in a line.
pub struct Decisions<W: Write = Stdout> {
    format: Format,
    out: BufWriter<W>,
    n: u64,
    failed: io::Result<()>,
}

impl Decisions {
    /// To standard output.
    pub fn new(format: Format) -> Self {
        Self::to(format, io::stdout())
    }
}

impl<W: Write> Decisions<W> {
    fn to(format: Format, out: W) -> Self {
        Self { format, out: BufWriter::new(out), n: 0, failed: Ok(()) }
    }

    /// Prints what stands above the columns.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn head(&mut self) -> Result<()> {
        if self.format == Format::People {
            let line =
                columns("TIME", "VERDICT", "CLIENT", "DIALLED", "OFFERED", "FIRST", "BACKEND");
            self.write(&line);
            self.flush();
        }
        self.end()
    }

    /// Prints one; whether more can be printed.
    pub fn line(&mut self, decision: &Decision) -> bool {
        let line = match self.format {
            Format::People => people(decision),
            Format::Json => match serde_json::to_string(decision) {
                Ok(line) => line,
                Err(error) => {
                    self.failed = Err(error.into());
                    return false;
                }
            },
        };
        self.n += 1;
        self.write(&line);
        self.failed.is_ok()
    }

    /// How many were printed.
    pub fn n(&self) -> u64 {
        self.n
    }

    /// Shows what was printed; whether more can be.
    pub fn flush(&mut self) -> bool {
        if self.failed.is_ok() {
            self.failed = self.out.flush();
        }
        self.failed.is_ok()
    }

    /// Shows the rest.
    ///
    /// # Errors
    /// When anything could not be written; that the reader has seen enough is none.
    pub fn finish(mut self) -> Result<()> {
        self.flush();
        self.end()
    }

    fn write(&mut self, line: &str) {
        if self.failed.is_ok() {
            self.failed = writeln!(self.out, "{line}");
        }
    }

    fn end(&mut self) -> Result<()> {
        match std::mem::replace(&mut self.failed, Ok(())) {
            Err(error) if error.kind() == ErrorKind::BrokenPipe => {
                self.failed = Err(error);
                Ok(())
            }
            other => other.context("print"),
        }
    }
}

fn columns(
    time: &str,
    verdict: &str,
    client: &str,
    dialled: &str,
    offered: &str,
    first: &str,
    backend: &str,
) -> String {
    let line = format!(
        "{time:<12}  {verdict:<20}  {client:<21}  {dialled:<21}  {offered:<20}  {first:<21}  {backend}"
    );
    line.trim_end().to_owned()
}

fn people(decision: &Decision) -> String {
    let flow = &decision.flow;
    let address = |at: Option<std::net::SocketAddr>, absent: &str| {
        at.map_or(absent.to_owned(), |at| at.to_string())
    };
    let offered = flow.offered.as_ref();
    // The day is today's.
    let time = decision.at.split(['T', 'Z']).nth(1).unwrap_or(&decision.at);
    columns(
        time,
        &decision.verdict,
        &flow.client.to_string(),
        &address(flow.dialled, "gone"),
        &offered.map_or("-".to_owned(), |offered| format!("{} {}..", offered.kind, offered.id)),
        &address(flow.first_address, "forgotten"),
        &address(decision.backend, "forgotten"),
    )
}
