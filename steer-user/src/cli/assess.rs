//! `steer assess`: what steer would have kept, told from a capture; no gateway needed.

use std::{
    fs::{self, File, Metadata, OpenOptions},
    io::{self, IsTerminal as _, Write as _},
    net::SocketAddr,
    os::{fd::AsFd as _, unix::fs::MetadataExt as _},
    path::{Path, PathBuf},
    process::ExitCode,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, anyhow, bail};
use clap::Args;
use tokio::signal::unix::{SignalKind, signal};

use super::Place;
use crate::{
    assess::{Mirror, Options, Report, files, html},
    clock::{parse_duration, parse_seconds},
    config::TicketKeyName,
    show,
};

/// Exit code where a capture cannot say.
const CANNOT_SAY: u8 = 3;

#[derive(Args, Debug)]
pub(super) struct Assess {
    /// Captures, pcap or pcapng, perhaps packed by gzip, merged by time; -: standard input
    #[arg(value_name = "FILE", required_unless_present = "interface")]
    files: Vec<PathBuf>,
    /// Listen to this interface instead, a mirror port for example
    #[arg(long, value_name = "IF", conflicts_with = "files")]
    interface: Option<String>,
    /// Listen for so long [default: until Ctrl-C]
    #[arg(long = "for", value_name = "DURATION", requires = "interface", conflicts_with = "files", value_parser = parse_duration)]
    time: Option<Duration>,
    /// A member of the pool; repeat it for each one [default: every server that answers]
    #[arg(long = "member", value_name = "ADDRESS:PORT")]
    members: Vec<SocketAddr>,
    /// How long steer would remember a session that is not used
    #[arg(long, value_name = "DURATION", default_value = "10m", value_parser = parse_seconds)]
    session_timeout: Duration,
    /// Where the name of its key stands in a ticket: 16@0, 4@0, 16@1, none, or auto: find out
    #[arg(long, value_name = "PLACE", default_value = "auto")]
    ticket_key_name: TicketKeyName,
    /// Write a page with charts as well, one file of HTML
    #[arg(long, value_name = "OUT")]
    html: Option<PathBuf>,
}

impl Assess {
    pub(super) fn run(self, place: &Place) -> Result<ExitCode> {
        let options = Options {
            members: self.members.clone(),
            session_timeout: self.session_timeout,
            ticket_key_name: self.ticket_key_name,
        };
        let page = self.html.as_ref().map(|path| self.create(path)).transpose()?;
        let report = self.read(options)?;
        if let (Some(mut page), Some(path)) = (page, &self.html) {
            let written =
                page.set_len(0).and_then(|()| page.write_all(html::page(&report).as_bytes()));
            written.with_context(|| format!("write {}", path.display()))?;
        }
        show::assessment(place.format(), &report)?;
        Ok(if report.cannot_say.is_empty() { ExitCode::SUCCESS } else { CANNOT_SAY.into() })
    }

    /// The page, opened before anything is read, so that an hour is not for nothing.
    fn create(&self, path: &Path) -> Result<File> {
        let mut open = OpenOptions::new();
        let file = open.write(true).create(true).truncate(false).open(path);
        let file = file.with_context(|| format!("create {}", path.display()))?;
        let number = |meta: Metadata| (meta.dev(), meta.ino());
        let page =
            file.metadata().map(number).with_context(|| format!("look at {}", path.display()))?;
        let is_read =
            |file: &PathBuf| fs::metadata(file).map(number).is_ok_and(|other| other == page);
        if self.files.iter().any(is_read) {
            bail!("{}: is a capture to be read, and would be overwritten", path.display());
        }
        Ok(file)
    }

    fn read(&self, options: Options) -> Result<Report> {
        if let Some(interface) = &self.interface {
            let stop = on_signal()?;
            let mirror = Mirror::open(interface)?;
            let time = self.time.map_or("until Ctrl-C".to_owned(), |time| {
                format!("for {}, or until Ctrl-C", humantime::format_duration(time))
            });
            show::note(format_args!("listening to {interface} {time}"));
            return mirror.assess(self.time, options, &stop);
        }
        let open = self.files.iter().map(|file| open(file)).collect::<Result<Vec<_>>>()?;
        let stop = on_signal()?;
        files(open, options, &stop).map_err(|(name, why)| anyhow!("{name}: {why}"))
    }
}

/// Becomes true at SIGINT or SIGTERM, that what was read so far is told; a second one ends the
/// process.
fn on_signal() -> Result<Arc<AtomicBool>> {
    /// As a shell tells of a process that Ctrl-C ended.
    const INTERRUPTED: i32 = 130;
    let stop = Arc::new(AtomicBool::new(false));
    let told = stop.clone();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("prepare for signals")?;
    let mut signals = {
        let _inside = runtime.enter();
        let of = |kind| signal(kind).context("prepare for signals");
        [of(SignalKind::interrupt())?, of(SignalKind::terminate())?]
    };
    thread::spawn(move || {
        let [interrupt, terminate] = &mut signals;
        for is_second in [false, true] {
            runtime.block_on(async {
                tokio::select! { _ = interrupt.recv() => {}, _ = terminate.recv() => {} }
            });
            told.store(true, Ordering::Relaxed);
            if is_second {
                std::process::exit(INTERRUPTED);
            }
        }
    });
    Ok(stop)
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
