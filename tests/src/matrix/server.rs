//! The servers behind the VIP: one stack at a time, one server in each backend's namespace, with a
//! key of its own each.

mod rustls;

use std::{
    fs::{self, File},
    net::TcpStream,
    path::Path,
    process::Stdio,
    time::Duration,
};

use anyhow::{Context, Result, bail};
use tempfile::TempDir;

use self::rustls::Rustls;
use super::{
    cell::{Mode, Protocol},
    peers::Peers,
    program::Found,
    stack::{Run, ServerStack, Site},
};
use crate::{
    nginx::{self, Nginx, TicketKey},
    payload,
    pki::Pki,
    process::{Server, eventually},
    topology::{Family, Lab, backend},
};

/// Longest start of a server: a JVM on a busy machine.
const START: Duration = Duration::from_secs(20);

/// The servers behind the VIP; stopped when dropped.
pub(super) struct Servers {
    /// Guarded only.
    _running: Vec<Running>,
    key_names: Vec<String>,
    /// A directory each.
    _directory: TempDir,
}

/// One of them; it ends when it is dropped.
enum Running {
    Nginx { _nginx: Nginx },
    Rustls { _rustls: Rustls },
    Process { process: Server },
}

/// What all servers of a stack are started by.
pub(super) struct Start<'a> {
    pub(super) stack: ServerStack,
    pub(super) program: &'a Found,
    pub(super) mode: Mode,
    pub(super) lab: &'a Lab,
    pub(super) pki: &'a Pki,
    pub(super) peers: &'a Peers,
}

impl Servers {
    /// Names of the operator's ticket keys in hexadecimal, by backend; empty where there are none.
    pub(super) fn key_names(&self) -> &[String] {
        &self.key_names
    }
}

impl Start<'_> {
    /// Starts one in every backend's namespace and waits until all listen.
    pub(super) fn start(&self) -> Result<Servers> {
        let directory = tempfile::Builder::new().prefix("steer-servers-").tempdir()?;
        let start = |index| self.one(index, &directory.path().join(format!("{index}")));
        let mut running = (0..self.lab.n_backends()).map(start).collect::<Result<Vec<_>>>()?;
        for (index, server) in running.iter_mut().enumerate() {
            self.await_up(index, server, directory.path())?;
        }
        let hexadecimal =
            |index| nginx::key_name(index).iter().map(|byte| format!("{byte:02x}")).collect();
        let named = if self.mode == Mode::Named13 { self.lab.n_backends() } else { 0 };
        Ok(Servers {
            _running: running,
            key_names: (0..named).map(hexadecimal).collect(),
            _directory: directory,
        })
    }

    fn one(&self, index: usize, directory: &Path) -> Result<Running> {
        Ok(match self.stack.run {
            Run::Nginx => Running::Nginx { _nginx: self.nginx(index)? },
            Run::Rustls => Running::Rustls {
                _rustls: Rustls::start(self.lab.backend(index), self.pki, index, self.mode)?,
            },
            Run::Process(command) => {
                fs::create_dir(directory).context("make a server's directory")?;
                let [ca, cert, key] = self.peers.server_files(index);
                let mut site = Site {
                    word: self.stack.word,
                    program: &self.program.path,
                    ca,
                    cert,
                    key,
                    peers: self.peers.directory(),
                    directory,
                    mode: self.mode,
                    ticket_key: None,
                };
                if self.mode == Mode::Named13 {
                    let file = directory.join("ticket.key");
                    let key =
                        [&nginx::key_name(index)[..], &payload::bytes(32, 100 + index as u64)]
                            .concat();
                    fs::write(&file, key).context("write ticket.key")?;
                    site.ticket_key = Some(file);
                }
                let mut command = command(&site)?;
                let log = File::create(directory.join("log")).context("open a server's log")?;
                command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
                Running::Process { process: self.lab.backend(index).spawn(command)? }
            }
        })
    }

    fn nginx(&self, index: usize) -> Result<Nginx> {
        let mut settings = nginx::Settings {
            program: self.program.path.clone(),
            tickets: self.mode.tickets(),
            uploads: false,
            ..nginx::Settings::default()
        };
        settings.protocols = match self.mode.protocol() {
            Protocol::Tls12 => "TLSv1.2",
            Protocol::Tls13 => "TLSv1.3",
        }
        .to_owned();
        if self.mode == Mode::Named13 {
            settings.ticket_key = TicketKey::Named;
        }
        Nginx::start(
            self.lab.backend(index),
            self.pki,
            index,
            backend(Family::V4, index),
            &settings,
        )
    }

    fn await_up(&self, index: usize, server: &mut Running, directory: &Path) -> Result<()> {
        let address = backend(Family::V4, index);
        let answers = || TcpStream::connect_timeout(&address, Duration::from_millis(200)).ok();
        let up = self.lab.backend(index).run(|| Ok(eventually(START, answers).is_some()))?;
        // Or another one answered.
        let ended = if let Running::Process { process } = server { process.ended() } else { None };
        if up && ended.is_none() {
            return Ok(());
        }
        let log = fs::read_to_string(directory.join(format!("{index}/log"))).unwrap_or_default();
        bail!("{} does not listen at {address}: {log}", self.stack)
    }
}
