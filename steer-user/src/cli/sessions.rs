//! `steer sessions`: works on the maps, no agent needed.

use std::{
    fs,
    io::{self, BufWriter},
    net::SocketAddr,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};
use clap::{ArgGroup, Args, Subcommand, ValueEnum};
use steer_common::session::Kind;

use super::Place;
use crate::{
    new_file::NewFile,
    plane::Plane,
    report::{self, Matcher},
    service::Service,
    session_file::{self, Exported},
    show,
};

#[derive(Subcommand, Debug)]
pub(super) enum Sessions {
    /// Show sessions, those used last first
    List {
        #[command(flatten)]
        which: Which,
        /// Show at most so many
        #[arg(long, default_value_t = 100)]
        limit: usize,
    },
    /// Show the sessions whose identifier starts with these digits
    Show {
        /// Hexadecimal digits
        #[arg(value_parser = digits)]
        prefix: String,
        /// Show at most so many
        #[arg(long, default_value_t = 100)]
        limit: usize,
    },
    /// Write all sessions and learned key names to a file: for this gateway after a reboot, or another
    ///
    /// One JSON object a line, pools and backends by name and address, times as ages. The file has
    /// whole identifiers in it, is made with mode 0600, and must not be there yet.
    Export {
        /// The file; `-`: standard output
        file: PathBuf,
    },
    /// Take over what `export` wrote, but for what is known better here
    ///
    /// Lines of pools and backends that are not here, and of what would be forgotten by now, are
    /// counted and left. A file that cannot be understood is refused whole. The time since it was
    /// written counts as age, by the time of day of both machines.
    Import {
        /// The file
        file: PathBuf,
    },
    /// Forget sessions: their clients make a full handshake next time
    #[command(group = ArgGroup::new("what").required(true).multiple(true).args(["prefix", "owner", "vip", "kind", "all"]))]
    Remove {
        /// Those whose identifier starts with these hexadecimal digits
        #[arg(value_parser = digits)]
        prefix: Option<String>,
        #[command(flatten)]
        which: Which,
        /// All of them
        #[arg(long, conflicts_with_all = ["prefix", "owner", "vip", "kind"])]
        all: bool,
    },
}

#[derive(Args, Debug)]
pub(super) struct Which {
    /// Those of this backend
    #[arg(long, value_name = "ADDRESS:PORT")]
    owner: Option<SocketAddr>,
    /// Those of this VIP or inline pool
    #[arg(long, value_name = "ADDRESS:PORT|NAME")]
    vip: Option<Service>,
    /// Those of this kind
    #[arg(long, value_enum)]
    kind: Option<KindWord>,
}

/// What an identifier is.
#[derive(Clone, Copy, ValueEnum, Debug)]
enum KindWord {
    /// Session ID of TLS 1.2 and below
    SessionId,
    /// First bytes of a ticket
    Ticket,
}

impl Which {
    fn matcher(&self, plane: &Plane, prefix: Option<&str>) -> Result<Matcher> {
        let kind = self.kind.map(|word| match word {
            KindWord::SessionId => Kind::SessionId,
            KindWord::Ticket => Kind::Ticket,
        });
        Ok(Matcher::new(plane, prefix, self.owner, self.vip)?.of_kind(kind))
    }
}

/// Digits of an identifier: at least one, for none would stand for every session.
fn digits(text: &str) -> Result<String, String> {
    match text {
        "" => {
            Err("expected hexadecimal digits of an identifier; for all of them say --all (remove) or use list"
                .to_owned())
        }
        _ if text.chars().all(|digit| digit.is_ascii_hexdigit()) => Ok(text.to_owned()),
        _ => Err(format!("`{text}` is no identifier; expected hexadecimal digits")),
    }
}

impl Sessions {
    pub(super) fn run(self, place: &Place) -> Result<()> {
        match self {
            Self::List { which, limit } => {
                let plane = place.plane()?;
                let matcher = which.matcher(&plane, None)?;
                show::sessions(place.format(), &report::Sessions::find(&plane, &matcher, limit)?)
            }
            Self::Show { prefix, limit } => {
                let plane = place.plane()?;
                let matcher = Matcher::new(&plane, Some(&prefix), None, None)?;
                let found = report::Sessions::find(&plane, &matcher, limit)?;
                if found.total == 0 {
                    bail!("no session starts with {prefix}");
                }
                show::session(place.format(), &found)
            }
            Self::Export { file } => export(place, &file),
            Self::Import { file } => {
                let took = session_file::import(&mut place.plane()?, &file)?;
                show::imported(place.format(), &took)
            }
            Self::Remove { prefix, which, all: _ } => {
                let mut plane = place.plane()?;
                let matcher = which.matcher(&plane, prefix.as_deref())?;
                let removed = report::Sessions::remove(&mut plane, &matcher)?;
                show::outcome(place.format(), format!("removed {removed} sessions"))
            }
        }
    }
}

fn export(place: &Place, file: &Path) -> Result<()> {
    let plane = place.plane()?;
    if file.as_os_str() == "-" {
        let mut out = BufWriter::new(io::stdout().lock());
        return session_file::export(&plane, &mut out).map(drop);
    }
    let wrote = new(&plane, file).with_context(|| format!("make {}", file.display()))?;
    show::exported(place.format(), &wrote)
}

/// Where it breaks off there is no file.
fn new(plane: &Plane, file: &Path) -> Result<Exported> {
    if fs::symlink_metadata(file).is_ok() {
        return Err(io::Error::from(rustix::io::Errno::EXIST).into());
    }
    let mut new = NewFile::beside(file)?;
    let wrote = new.write(|out| session_file::export(plane, out))?;
    new.appear().map(|()| wrote)
}
