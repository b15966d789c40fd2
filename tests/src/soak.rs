//! The soak: mixed traffic for minutes, chaos every few seconds, and then the account: wrong bytes,
//! lost sessions, errors that nothing explains, what is left in the tables, and the agent's memory.
//!
//! [`run`] does it; `crowd` is the clients, `chaos` what befalls the gateway and its backends,
//! `ledger` what was seen, `judge` the account, `page` all that is printed and recorded.

mod chaos;
mod crowd;
mod dice;
mod judge;
mod ledger;
mod page;

use std::{
    path::PathBuf,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};

use self::{chaos::Chaos, crowd::Crowd, judge::Account, ledger::Ledger};
use crate::{
    agent::{Agent, Hook},
    nginx::{self, TicketKey},
    process,
    scenario::{Run, Scenario},
    topology::Family,
};

/// What a soak shall be.
#[derive(Clone, Debug)]
pub struct Options {
    /// How long traffic and chaos go on.
    pub time: Duration,
    /// Hook of the gateway's interfaces.
    pub hook: Hook,
    /// What clients dial.
    pub family: Family,
    /// Where the page is written.
    pub record: Option<PathBuf>,
    /// What the page says repeats it.
    pub command: String,
}

/// How long the gateway remembers a session or a key name that nobody uses.
const SESSION_TIMEOUT: Duration = Duration::from_secs(60);

/// Runs the soak and prints it; `true` if nothing was lost.
///
/// # Errors
/// When the lab, nginx or steer do not come up, or the page cannot be written.
pub fn run(options: &Options) -> Result<bool> {
    process::require_root()?;
    ensure!(
        options.time >= Duration::from_secs(30),
        "at least half a minute, or hardly anything happens"
    );
    let mut page = page::begin(options)?;
    progress(
        "lab: 64 client addresses, the gateway, three nginx (mutual TLS 1.2 and 1.3, IDs and tickets)",
    );
    let run = scenario(options).start()?;
    let mut steer = run.agent()?;
    let ledger = Ledger::new(run.lab.n_backends());
    let mut chaos = Chaos::new(&run, &ledger, options.time);
    let members = under_fire(&run, &mut steer, &ledger, &mut chaos, options.time)?;
    let account = Account::settle(&run, &steer, &chaos, members)?;
    page::fill(&mut page, &ledger, &chaos, &account)?;
    page.print();
    if let Some(directory) = &options.record {
        page.write(directory)?;
    }
    Ok(page.missed().is_empty())
}

/// Short timeouts, so that tables can be seen to empty; neighbours as the kernel finds them, so
/// that they can be lost.
fn scenario(options: &Options) -> Scenario {
    let protocols = "TLSv1.2 TLSv1.3".to_owned();
    let nginx = nginx::Settings {
        protocols,
        tickets: true,
        ticket_key: TicketKey::Private,
        ..nginx::Settings::default()
    };
    let timeout = SESSION_TIMEOUT.as_secs();
    let scenario = Scenario::new(options.hook, options.family).nginx(nginx).unknown_neighbours();
    // IPv6 addresses of an interface that goes down would be gone for good.
    let scenario = scenario.gateway_sysctl("ipv6/conf/all/keep_addr_on_down", "1");
    scenario
        .vip_setting(&format!("session_timeout = {timeout}"))
        .vip_setting(&format!("key_name_timeout = {timeout}"))
        .vip_setting("flow_timeout = 30")
}

/// Lets clients and chaos go on together; the clients as they are at the end.
fn under_fire(
    run: &Run,
    steer: &mut Agent<'_>,
    ledger: &Ledger,
    chaos: &mut Chaos<'_>,
    time: Duration,
) -> Result<Vec<crowd::Member>> {
    let crowd = Crowd::gather(run, ledger)?;
    let (stop, end) = (AtomicBool::new(false), Instant::now() + time);
    thread::scope(|scope| {
        let (crowd, stop) = (&crowd, &stop);
        let workers: Vec<_> = (0..crowd::WORKERS)
            .map(|number| scope.spawn(move || crowd.work(number, stop)))
            .collect();
        let befell = chaos.reign(steer, end);
        stop.store(true, Ordering::Relaxed);
        let mut members = Vec::new();
        for worker in workers {
            members.extend(worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?);
        }
        befell.map(|()| members)
    })
}

fn progress(line: &str) {
    eprintln!("soak: {line}");
}
