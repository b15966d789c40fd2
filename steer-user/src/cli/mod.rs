//! The command line: one verb a file.

mod agent;
mod assess;
mod backends;
mod bypass;
mod config;
mod detach;
mod doctor;
mod flows;
mod ha;
mod inspect;
mod keys;
mod leave;
mod reload;
mod sessions;
mod stats;
mod status;
mod sysdump;
mod top;
mod watch;
mod why;

use std::{path::PathBuf, process::ExitCode};

use anyhow::{Result, bail};
use clap::{Args, Parser, Subcommand};

use crate::{
    config::{PIN_DIR, SOCKET},
    control,
    logging::LogFormat,
    plane::{PinDir, Plane, rights},
    show::{Format, note},
};

/// Keeps TLS sessions on the backend that holds them.
#[derive(Parser, Debug)]
#[command(name = "steer", version, arg_required_else_help = true)]
pub struct Cli {
    #[command(flatten)]
    place: Place,
    #[command(subcommand)]
    verb: Verb,
}

/// Which gateway is meant, and how results are printed.
#[derive(Args, Debug)]
struct Place {
    /// Directory of the pins [default: /sys/fs/bpf/steer]
    #[arg(long, global = true, value_name = "DIR")]
    pin_dir: Option<PathBuf>,
    /// The agent's control socket [default: the one of the gateway at --pin-dir, else
    /// /run/steer/steer.sock]
    #[arg(long, global = true, value_name = "PATH")]
    socket: Option<PathBuf>,
    /// Print one JSON object instead of tables
    #[arg(long, global = true)]
    json: bool,
}

#[derive(Subcommand, Debug)]
enum Verb {
    /// Run the agent: load or take over programs and maps, then look after them
    Agent(agent::Agent),
    /// Remove programs, maps and assigned VIPs: every trace
    Detach(detach::Detach),
    /// Leave new connections to the kernel's own rules, or take them again; open ones stay
    Leave(leave::Leave),
    /// Turn steering off or on; re-homed flows go on
    Bypass(bypass::Bypass),
    /// Show the gateway at a glance; the exit code says how it is
    ///
    /// Exit code 0: healthy; 1: degraded (there are warnings, a backend is down, the agent is
    /// starting or does not answer), or it cannot be told (no rights, hidden pins); 2: down (no
    /// agent runs, nothing is pinned, or an interface is there without its program). Drains, drift,
    /// bypass and leave are an operator's own doing, and count for nothing.
    Status,
    /// Look at machine, configuration and gateway, before its start or while it runs, and say what
    /// to do; the exit code is as that of status
    Doctor(doctor::Doctor),
    /// Write one archive for support: status, counters, configuration, checks, the machine's network;
    /// no keys, and identifiers cut to four bytes
    Sysdump(sysdump::Sysdump),
    /// Show and change the pools
    #[command(subcommand)]
    Backends(backends::Backends),
    /// Show and remove sessions
    #[command(subcommand)]
    Sessions(sessions::Sessions),
    /// Show the flows
    #[command(subcommand)]
    Flows(flows::Flows),
    /// Tell in sentences why a client's flows went where they went, or what a session is, and what
    /// the next hello gets
    Why(why::Why),
    /// Show what becomes of flows, as it happens
    ///
    /// A line for each hello that was decided on, each flow that moved or did not, and each offered
    /// session that its backend resumed or refused. The programs tell nothing while nobody watches,
    /// and one can watch at a time.
    Watch(watch::Watch),
    /// Show what gateways tell each other; make what they need for it
    #[command(subcommand)]
    Ha(ha::Ha),
    /// Show the names of ticket keys; make keys with names of their own
    #[command(subcommand)]
    Keys(keys::Keys),
    /// Show the counters
    Stats(stats::Stats),
    /// Show rates, backends, verdicts and tables as they change; q ends, s sorts, p pauses
    Top(top::Top),
    /// Show what the handshakes in a capture (pcap, pcapng) offer to steer by, and whether they
    /// resumed
    Inspect(inspect::Inspect),
    /// Tell from a capture of any network what steer would have kept in it
    Assess(assess::Assess),
    /// Put a configuration in force: all of it, or nothing
    ///
    /// The agent judges the whole file first, as `config check` does, and returns when it is in
    /// force. Where it is refused nothing changes, and everything that is wrong is told. Flows,
    /// sessions and key names stay. SIGHUP does the same with the agent's own file.
    Reload(reload::Reload),
    /// Check, show and compare configurations
    #[command(subcommand)]
    Config(config::Config),
}

impl Cli {
    /// How it logs.
    pub fn log_format(&self) -> LogFormat {
        match &self.verb {
            Verb::Agent(verb) => verb.log_format,
            _ => LogFormat::default(),
        }
    }

    /// Does what was asked.
    pub fn run(self) -> Result<ExitCode> {
        let place = self.place;
        let done = match self.verb {
            Verb::Agent(verb) => return verb.run(&place),
            Verb::Assess(verb) => return verb.run(&place),
            Verb::Detach(verb) => verb.run(&place),
            Verb::Leave(verb) => verb.run(&place),
            Verb::Bypass(verb) => verb.run(&place),
            Verb::Doctor(verb) => return verb.run(&place),
            Verb::Config(verb) => return verb.run(&place),
            Verb::Status => return status::run(&place),
            Verb::Sysdump(verb) => verb.run(&place),
            Verb::Backends(verb) => return verb.run(&place),
            Verb::Sessions(verb) => verb.run(&place),
            Verb::Flows(verb) => verb.run(&place),
            Verb::Why(verb) => verb.run(&place),
            Verb::Watch(verb) => verb.run(&place),
            Verb::Ha(verb) => return verb.run(&place),
            Verb::Keys(verb) => verb.run(&place),
            Verb::Stats(verb) => verb.run(&place),
            Verb::Top(verb) => verb.run(&place),
            Verb::Inspect(verb) => verb.run(&place),
            Verb::Reload(verb) => verb.run(&place),
        };
        done.map(|()| ExitCode::SUCCESS)
    }
}

impl Place {
    fn dir(&self) -> PinDir {
        PinDir::new(self.pin_dir.clone().unwrap_or_else(|| PIN_DIR.into()))
    }

    fn socket(&self) -> PathBuf {
        self.socket.clone().or_else(|| self.dir().socket()).unwrap_or_else(|| SOCKET.into())
    }

    fn format(&self) -> Format {
        if self.json { Format::Json } else { Format::People }
    }

    /// The directory of a gateway that is there, for who may touch it.
    fn gateway(&self) -> Result<PinDir> {
        rights::require()?;
        let dir = self.dir();
        self.refuse_hidden(&dir)?;
        dir.require()?;
        Ok(dir)
    }

    /// Whether this process may look at a gateway, and what it sees of it is all that there is.
    fn may_look(&self) -> bool {
        rights::require().is_ok() && self.refuse_hidden(&self.dir()).is_ok()
    }

    /// Refuses to call a gateway absent whose agent answers.
    fn refuse_hidden(&self, dir: &PinDir) -> Result<()> {
        let agent =
            if dir.layouts().is_empty() { control::ask_about(dir, &self.socket()) } else { None };
        agent.map_or(Ok(()), |(process, _)| {
            bail!(
                "an agent (process {process}) runs for {root}, and nothing is to be seen there: this is another mount \
                 namespace, as `ip netns exec` makes one (`nsenter --net=/run/netns/NAME steer ..` keeps /sys/fs/bpf; \
                 `nsenter --target {process} --mount --net steer ..` is where the agent is)",
                root = dir.root().display()
            )
        })
    }

    /// Opens the maps.
    fn plane_unwatched(&self) -> Result<Plane> {
        Plane::open(&self.gateway()?)
    }

    /// Opens the maps to look at them, and says so when nobody keeps them fresh.
    fn plane(&self) -> Result<Plane> {
        let dir = self.gateway()?;
        let plane = match Plane::open(&dir) {
            Err(_) if dir.agent_runs() => {
                bail!("the agent for {} is starting: try again in a moment", dir.root().display())
            }
            opened => opened?,
        };
        if !dir.agent_runs() {
            note(format_args!(
                "no agent runs for {}: this is the state it left",
                dir.root().display()
            ));
        }
        Ok(plane)
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn global_flags_stand_before_or_behind_the_verb() {
        for line in [["steer", "--json", "status"], ["steer", "status", "--json"]] {
            assert!(Cli::try_parse_from(line).unwrap().place.json);
        }
    }
}
