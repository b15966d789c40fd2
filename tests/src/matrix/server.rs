//! The servers: three of one stack, a process, a certificate and private ticket keys each.

use std::{
    fs::{self, File},
    net::TcpStream,
    path::PathBuf,
    process::Stdio,
    time::Duration,
};

use anyhow::{Context, Result, bail};
use tempfile::TempDir;

use super::{
    cell::{Mode, Protocol, ServerStack},
    peers::Peers,
};
use crate::{
    nginx::{self, Nginx, TicketKey},
    pki::Pki,
    process::{Server, eventually},
    topology::{Family, Lab, backend},
};

/// Longest start of a server: a JVM on a busy machine.
const START: Duration = Duration::from_secs(20);

/// The servers behind the VIP; stopped when dropped.
pub(super) struct Servers {
    nginx: Vec<Nginx>,
    processes: Vec<Server>,
    key_names: Vec<String>,
    /// Logs.
    directory: TempDir,
}

impl Servers {
    /// Starts one in every backend's namespace and waits until all listen.
    pub(super) fn start(stack: ServerStack, mode: Mode, lab: &Lab, pki: &Pki, peers: &Peers) -> Result<Self> {
        let directory = tempfile::Builder::new().prefix("steer-servers-").tempdir()?;
        let mut servers = Self { nginx: Vec::new(), processes: Vec::new(), key_names: Vec::new(), directory };
        if stack == ServerStack::Nginx {
            servers.start_nginx(mode, lab, pki)?;
        } else {
            servers.start_processes(stack, mode, lab, peers)?;
        }
        Ok(servers)
    }

    /// Names of the operator's ticket keys in hexadecimal, by backend; empty where there are none.
    pub(super) fn key_names(&self) -> &[String] {
        &self.key_names
    }

    fn start_nginx(&mut self, mode: Mode, lab: &Lab, pki: &Pki) -> Result<()> {
        for index in 0..lab.n_backends() {
            let mut settings = nginx::Settings { tickets: mode.tickets(), ..nginx::Settings::default() };
            settings.protocols = match mode.protocol() {
                Protocol::Tls12 => "TLSv1.2",
                Protocol::Tls13 => "TLSv1.3",
            }
            .to_owned();
            if mode == Mode::Named13 {
                settings.ticket_key = TicketKey::Named;
                self.key_names.push(nginx::key_name(index).iter().map(|byte| format!("{byte:02x}")).collect());
            }
            let address = backend(Family::V4, index);
            self.nginx.push(Nginx::start(lab.backend(index), pki, index, address, &settings)?);
        }
        Ok(())
    }

    fn start_processes(&mut self, stack: ServerStack, mode: Mode, lab: &Lab, peers: &Peers) -> Result<()> {
        for index in 0..lab.n_backends() {
            let mut command = peers.server(stack, index, mode.protocol(), mode.tickets())?;
            let log = File::create(self.log(index)).context("open a server's log")?;
            command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
            self.processes.push(lab.backend(index).spawn(command)?);
        }
        (0..lab.n_backends()).try_for_each(|index| self.await_up(stack, lab, index))
    }

    fn await_up(&self, stack: ServerStack, lab: &Lab, index: usize) -> Result<()> {
        let address = backend(Family::V4, index);
        let answers = || TcpStream::connect_timeout(&address, Duration::from_millis(200)).ok();
        if lab.backend(index).run(|| Ok(eventually(START, answers).is_some()))? {
            return Ok(());
        }
        bail!("{stack} does not listen at {address}: {}", fs::read_to_string(self.log(index)).unwrap_or_default())
    }

    fn log(&self, index: usize) -> PathBuf {
        self.directory.path().join(format!("{index}.log"))
    }
}
