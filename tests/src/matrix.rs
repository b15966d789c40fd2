//! The matrix: TLS stacks at both ends, every way to the servers, and how many offered sessions each resumes.
//!
//! [`run`] does it. `cell` is what it is made of, `peers` lays out the other stacks' programs, `client` and `server` run
//! them, `way` is what lies between them and what clients do on it, `report` is all that is printed on stdout.

mod cell;
mod client;
mod peers;
mod report;
mod server;
mod way;

use std::{process::Command, time::Instant};

use anyhow::{Context, Result, anyhow};

pub use self::cell::{Cell, ClientStack, Column, Mode, Protocol, ServerStack, Tally};
use self::{client::Client, peers::Peers, server::Servers, way::Way};
use crate::{
    pki::Pki,
    process,
    topology::{Lab, Offloads, Plan},
};

/// What shall be run.
#[derive(Clone, Debug)]
pub struct Options {
    /// Client stacks.
    pub clients: Vec<ClientStack>,
    /// Server stacks.
    pub servers: Vec<ServerStack>,
    /// Modes.
    pub modes: Vec<Mode>,
    /// Sessions offered per cell and way.
    pub reconnects: usize,
    /// One JSON object per cell instead of tables.
    pub json: bool,
}

/// Runs the matrix and prints it; `true` if steer did all that can be done in every cell.
///
/// # Errors
/// When the lab or the peers do not come up; a way or a client that fails is part of the result.
pub fn run(options: &Options) -> Result<bool> {
    process::require_root()?;
    let started = Instant::now();
    // Every packet is one of the wire's size: a long hello comes in segments.
    let plan = Plan { offloads: Offloads::Off, ..Plan::default() };
    let lab = Lab::build(&plan)?;
    let pki = Pki::make(plan.n_backends)?;
    let peers = Peers::prepare(&pki, plan.n_backends, &options.clients, &options.servers).context("build the peers")?;
    let table = Table { options, lab: &lab, pki: &pki, peers: &peers, started };
    let mut clients = table.clients()?;
    let mut cells = Vec::new();
    for &mode in &options.modes {
        for &server in &options.servers {
            let group = table.group(&mut clients, server, mode)?;
            if options.json {
                report::print_json(&group);
            }
            cells.extend(group);
        }
    }
    if !options.json {
        report::print(&cells, &options.modes);
    }
    table.progress("done");
    Ok(cells.iter().all(Cell::holds))
}

/// Clients that run, in the order asked for.
type Clients<'a> = Vec<(ClientStack, Box<dyn Client + 'a>)>;

struct Table<'a> {
    options: &'a Options,
    lab: &'a Lab,
    pki: &'a Pki,
    peers: &'a Peers,
    started: Instant,
}

impl<'a> Table<'a> {
    fn clients(&self) -> Result<Clients<'a>> {
        let runs = |stack: &&ClientStack| stack.why_not_run().is_none();
        let start = |&stack| Ok((stack, client::start(stack, self.lab, self.pki, self.peers)?));
        self.options.clients.iter().filter(runs).map(start).collect()
    }

    /// All clients against one server stack in one mode: its servers run as long as this.
    fn group(&self, clients: &mut Clients<'_>, server: ServerStack, mode: Mode) -> Result<Vec<Cell>> {
        let mut cells: Vec<_> = self.options.clients.iter().map(|client| Cell::new(*client, server, mode)).collect();
        for cell in &mut cells {
            cell.reason = cell.client.why_not_run().or_else(|| not_served(server, mode)).map(str::to_owned);
        }
        if cells.iter().all(|cell| cell.reason.is_some()) {
            return Ok(cells);
        }
        let servers = Servers::start(server, mode, self.lab, self.pki, self.peers)?;
        for column in Column::ALL {
            self.progress(&format!("{mode}: {server} servers, {column}"));
            self.column(column, clients, &mut cells, &servers);
        }
        Ok(cells)
    }

    fn column(&self, column: Column, clients: &mut Clients<'_>, cells: &mut [Cell], servers: &Servers) {
        let Some(Cell { server, mode, .. }) = cells.first().cloned() else { return };
        let n = self.options.reconnects;
        let way = Way::open(column, self.lab, mode, server, servers.key_names());
        for cell in cells.iter_mut().filter(|cell| cell.reason.is_none()) {
            let Some((_, client)) = clients.iter_mut().find(|(stack, _)| *stack == cell.client) else { continue };
            let measured = match &way {
                Ok(way) => way.measure(client.as_mut(), mode, self.lab.n_backends(), n),
                Err(error) => Err(anyhow!(way::first_line(error))),
            };
            let tally = measured.unwrap_or_else(|error| Tally::failed(n, way::first_line(&error)));
            if let Some(sample) = &tally.sample {
                self.progress(&format!("{mode}: {} to {server}, {column}: {sample}", cell.client));
            }
            cell.take(column, tally);
        }
    }

    fn progress(&self, what: &str) {
        eprintln!("matrix: {:>4} s: {what}", self.started.elapsed().as_secs());
    }
}

/// Why the gateway can know nothing of a server stack's sessions in a mode.
fn not_served(server: ServerStack, mode: Mode) -> Option<&'static str> {
    match (server, mode) {
        (ServerStack::Gnutls | ServerStack::Go | ServerStack::Java, Mode::Named13) => {
            Some("the server takes no ticket key whose name the operator chooses")
        }
        (ServerStack::Go, Mode::Ticket13) if go_minor().is_some_and(|minor| minor > LAST_GO_WITH_KEY_NAMES) => {
            Some("tickets of Go 1.21 and later have no key name in clear")
        }
        (_, Mode::Id12 | Mode::Ticket12 | Mode::Ticket13 | Mode::Named13) => None,
    }
}

/// Minor version of the last Go whose tickets begin with a key name.
const LAST_GO_WITH_KEY_NAMES: u32 = 20;

/// Minor version of the Go that is installed.
fn go_minor() -> Option<u32> {
    let said = process::run(Command::new("go").arg("version")).ok()?;
    let (_, version) = said.split_once("go1.")?;
    version.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}
