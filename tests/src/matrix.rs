//! The matrix: TLS stacks at both ends, every way to the servers, and how many offered sessions
//! each resumes.
//!
//! [`run`] does it. `cell` is what it is made of, `stack` the table of the server stacks, `program`
//! finds or installs what they are run by, `command` starts those that are processes, `peers` lays
//! out their sources, `client` and `server` run them, `way` is what lies between them and what
//! clients do on it, `report` is all that is printed on stdout. [`visits`] is another use of the
//! same stacks: clients that keep their address for a number of visits.

mod cell;
mod client;
mod command;
mod peers;
mod program;
mod report;
mod server;
mod stack;
pub mod visits;
mod way;

use std::{fmt::Display, path::PathBuf, time::Instant};

use anyhow::{Context, Result, anyhow};

pub use self::{
    cell::{Cell, ClientStack, Column, Mode, Protocol, Tally},
    program::{Packages, Program},
    stack::{STACKS, ServerStack},
};
use self::{
    client::Client,
    peers::Peers,
    program::Found,
    server::{Servers, Start},
    way::Way,
};
use crate::{
    agent::Shape,
    l4::{self, Snat},
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
    /// Compare `ticket_key_name = "auto"` with the right layout, from the first ticket on, instead
    /// of the ways.
    pub layouts: bool,
    /// Where steer stands.
    pub shape: Shape,
    /// One JSON object per cell instead of tables.
    pub json: bool,
    /// Where the packages of the stacks are.
    pub packages: Packages,
}

impl Options {
    fn columns(&self) -> &'static [Column] {
        match self.shape {
            _ if self.layouts => &Column::LAYOUTS,
            Shape::Gateway => &Column::WAYS,
            Shape::Inline | Shape::Bridge => &Column::INLINE,
        }
    }
}

/// Runs the matrix and prints it; `true` if steer did all that can be done in every cell.
///
/// # Errors
/// When the lab or the peers do not come up; a way or a client that fails is part of the result.
pub fn run(options: &Options) -> Result<bool> {
    process::require_root()?;
    let started = Instant::now();
    // Every packet is one of the wire's size: a long hello comes in segments.
    let balancer = options.shape != Shape::Gateway;
    let bridge = options.shape == Shape::Bridge;
    let plan = Plan { offloads: Offloads::Off, balancer, bridge, ..Plan::default() };
    let lab = Lab::build(&plan)?;
    if balancer {
        l4::set_up(&lab, Snat::No)?;
    }
    let pki = Pki::make(plan.n_backends)?;
    let peers = Peers::prepare(&pki, plan.n_backends).context("lay out the peers")?;
    let table = Table {
        options,
        lab: &lab,
        pki: &pki,
        peers: &peers,
        started,
        clients: found(&options.clients, |stack| stack.program(), &options.packages),
        servers: found(&options.servers, |stack| stack.program, &options.packages),
    };
    let mut clients = table.clients()?;
    let mut cells = Vec::new();
    for &mode in &options.modes {
        for server in &table.servers {
            let group = table.group(&mut clients, server, mode)?;
            if options.json {
                report::print_json(&group);
            }
            cells.extend(group);
        }
    }
    if !options.json {
        report::print(&cells, options, &table.versions());
    }
    table.progress("done");
    Ok(cells.iter().all(Cell::holds))
}

/// The nginx that makes new ticket keys by itself (from 1.23.2 on), and its version in its own
/// words.
///
/// # Errors
/// When it cannot be had.
pub fn current_nginx(packages: &Packages) -> Result<(PathBuf, String)> {
    let stack = STACKS.iter().find(|stack| stack.word == "nginx-1.31").context("no such stack")?;
    let Found { path, version } = stack.program.find(packages)?;
    Ok((path, version))
}

/// Clients that run, in the order asked for.
type Clients<'a> = Vec<(ClientStack, Box<dyn Client + 'a>)>;

/// Stacks in the order asked for, each with its program, or why it is not run.
type Stacks<S> = Vec<(S, Result<Found, String>)>;

fn found<S: Copy + Display>(
    stacks: &[S],
    program: impl Fn(S) -> Program,
    packages: &Packages,
) -> Stacks<S> {
    let find = |&stack: &S| {
        let found = program(stack).find(packages).map_err(|error| format!("not run: {error:#}"));
        if let Err(why) = &found {
            eprintln!("matrix: {stack}: {why}");
        }
        (stack, found)
    };
    stacks.iter().map(find).collect()
}

struct Table<'a> {
    options: &'a Options,
    lab: &'a Lab,
    pki: &'a Pki,
    peers: &'a Peers,
    started: Instant,
    clients: Stacks<ClientStack>,
    servers: Stacks<ServerStack>,
}

impl<'a> Table<'a> {
    fn clients(&self) -> Result<Clients<'a>> {
        let start = |(stack, found): &(ClientStack, Result<Found, String>)| {
            let program = found.as_ref().ok()?;
            let client = client::start(*stack, program, self.lab, self.pki, self.peers);
            Some(
                client
                    .with_context(|| format!("start the client {stack}"))
                    .map(|client| (*stack, client)),
            )
        };
        self.clients.iter().filter_map(start).collect()
    }

    /// What each stack that runs says its version is.
    fn versions(&self) -> Vec<(String, &str)> {
        let clients = self.clients.iter().map(|(stack, found)| (format!("{stack} client"), found));
        let servers = self.servers.iter().map(|(stack, found)| (format!("{stack} server"), found));
        clients
            .chain(servers)
            .filter_map(|(word, found)| Some((word, found.as_ref().ok()?.version.as_str())))
            .collect()
    }

    /// All clients against one server stack in one mode: its servers run as long as this.
    fn group(
        &self,
        clients: &mut Clients<'_>,
        (server, program): &(ServerStack, Result<Found, String>),
        mode: Mode,
    ) -> Result<Vec<Cell>> {
        let mut cells: Vec<_> = self
            .clients
            .iter()
            .map(|client| self.cell(client, (*server, program.as_ref()), mode))
            .collect();
        let Ok(program) = program else { return Ok(cells) };
        if cells.iter().all(|cell| cell.reason.is_some()) {
            return Ok(cells);
        }
        let start = Start {
            stack: *server,
            program,
            mode,
            lab: self.lab,
            pki: self.pki,
            peers: self.peers,
        };
        match start.start() {
            Ok(servers) => {
                for column in self.options.columns() {
                    self.progress(&format!("{mode}: {server} servers, {column}"));
                    self.column(*column, clients, &mut cells, &servers);
                }
            }
            // A stack whose servers do not start is a failure of its cells, not of the others.
            Err(error) => {
                self.progress(&format!("{mode}: {server} servers: {error:#}"));
                let failed = Tally::failed(self.options.reconnects, way::first_line(&error));
                let open = cells.iter_mut().filter(|cell| cell.reason.is_none());
                open.for_each(|cell| cell.take(Column::Direct, failed.clone()));
            }
        }
        Ok(cells)
    }

    /// A cell, and why it is not measured, where that is known.
    fn cell(
        &self,
        (client, by): &(ClientStack, Result<Found, String>),
        (server, to): (ServerStack, Result<&Found, &String>),
        mode: Mode,
    ) -> Cell {
        let mut cell = Cell::new(*client, server, mode);
        match (by, to) {
            (Ok(by), Ok(to)) => {
                cell.versions = [by.version.clone(), to.version.clone()];
                let no_browser =
                    if client.is_browser() { server.why_no_browser(mode) } else { None };
                cell.reason = server.why_not(mode, &to.version).or(no_browser).map(str::to_owned);
            }
            (Err(why), _) | (Ok(_), Err(why)) => {
                cell.not_run = true;
                cell.reason = Some(why.clone());
            }
        }
        cell
    }

    fn column(
        &self,
        column: Column,
        clients: &mut Clients<'_>,
        cells: &mut [Cell],
        servers: &Servers,
    ) {
        let Some(Cell { server, mode, .. }) = cells.first().cloned() else { return };
        let n = self.options.reconnects;
        let way = Way::open(column, self.lab, mode, server, servers.key_names());
        for cell in cells.iter_mut().filter(|cell| cell.reason.is_none()) {
            let Some((_, client)) = clients.iter_mut().find(|(stack, _)| *stack == cell.client)
            else {
                continue;
            };
            let measured = match &way {
                Ok(way) => way.measure(
                    client.as_mut(),
                    mode,
                    self.lab.n_backends(),
                    (n, self.options.layouts),
                ),
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
