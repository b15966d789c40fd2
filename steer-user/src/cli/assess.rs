//! `steer assess`: what steer would have kept, told from a capture; no gateway needed.

use std::{
    fs::File,
    io::{self, IsTerminal as _},
    net::SocketAddr,
    os::fd::AsFd as _,
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use anyhow::{Context as _, Result, anyhow, bail};
use clap::Args;

use super::Place;
use crate::{
    assess::{Options, Report, files},
    clock::parse_seconds,
    show,
};

/// Exit code where a capture cannot say.
const CANNOT_SAY: u8 = 3;

#[derive(Args, Debug)]
pub(super) struct Assess {
    /// Captures, pcap or pcapng, perhaps packed by gzip; -: standard input
    #[arg(value_name = "FILE", required = true)]
    files: Vec<PathBuf>,
    /// A member of the pool; repeat it for each one [default: every server that answers]
    #[arg(long = "member", value_name = "ADDRESS:PORT")]
    members: Vec<SocketAddr>,
    /// How long steer would remember a session that is not used
    #[arg(long, value_name = "DURATION", default_value = "10m", value_parser = parse_seconds)]
    session_timeout: Duration,
}

impl Assess {
    pub(super) fn run(self, place: &Place) -> Result<ExitCode> {
        let options =
            Options { members: self.members.clone(), session_timeout: self.session_timeout };
        let report = self.read(options)?;
        show::assessment(place.format(), &report)?;
        Ok(if report.cannot_say.is_empty() { ExitCode::SUCCESS } else { CANNOT_SAY.into() })
    }

    fn read(&self, options: Options) -> Result<Report> {
        let open = self.files.iter().map(|file| open(file)).collect::<Result<Vec<_>>>()?;
        let stop = std::sync::atomic::AtomicBool::new(false);
        files(open, options, &stop).map_err(|(name, why)| anyhow!("{name}: {why}"))
    }
}

/// A capture, and how messages name it.
fn open(file: &Path) -> Result<(String, File)> {
    if file == Path::new("-") {
        let input = io::stdin();
        if input.is_terminal() {
            bail!("standard input is a terminal: name a file, or let a capture be written to it");
        }
        let file = input.as_fd().try_clone_to_owned().context("open standard input")?;
        return Ok(("standard input".to_owned(), file.into()));
    }
    let name = file.display().to_string();
    let file = File::open(file).with_context(|| format!("open {name}"))?;
    Ok((name, file))
}
