//! `steer backends drain --wait`: waits until backends may be stopped.

use std::{
    net::SocketAddr,
    process::ExitCode,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};

use super::names;
use crate::{
    agent::{Held, Holding},
    cli::Place,
    clock, control, report,
    show::{self, Progress},
};

/// How often the agent is asked; it counts every 5 s.
const ASK: Duration = Duration::from_millis(500);
/// Exit code: connections are still open when the time is over.
const STILL_OPEN: u8 = 3;

/// Waits until a sweep that began after `since`, nanoseconds of CLOCK_MONOTONIC, met no open
/// connection at these backends, at most so long. Tells how it goes, and what came of it by the exit
/// code.
///
/// # Errors
/// When the agent ends meanwhile.
pub(super) fn wait(
    place: &Place,
    addresses: &[SocketAddr],
    timeout: Option<Duration>,
    since: u64,
) -> Result<ExitCode> {
    let (dir, socket) = (place.gateway()?, place.socket());
    let ids = ids(place, addresses)?;
    let deadline = timeout.map(|timeout| Instant::now() + timeout);
    let mut progress = Progress::default();
    let mut last = None;
    loop {
        let held = control::ask_held(&dir, &socket).context("the drain goes on, unwatched")?;
        if let Some(held) = held.filter(|held| held.began > since) {
            let sum = sum(&held, &ids);
            if sum.flows == 0 {
                progress.end();
                let done = format!("{}: safe to stop ({})", names(addresses), left(sum));
                show::outcome(place.format(), done)?;
                return Ok(ExitCode::SUCCESS);
            }
            let age = held.age_seconds(clock::nanoseconds());
            progress.tell(format_args!("{} ({age}s ago)", left(sum)), &left(sum));
            last = Some(sum);
        }
        let time_left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        if time_left == Some(Duration::ZERO) {
            progress.end();
            let time = humantime::format_duration(timeout.unwrap_or_default());
            let open = last.map_or("not counted yet".to_owned(), left);
            let who = names(addresses);
            let told = format!("{who}: not safe to stop after {time} ({open}); the drain goes on");
            show::outcome(place.format(), told)?;
            return Ok(ExitCode::from(STILL_OPEN));
        }
        thread::sleep(time_left.map_or(ASK, |left| left.min(ASK)));
    }
}

fn ids(place: &Place, addresses: &[SocketAddr]) -> Result<Vec<u32>> {
    let all = report::Backends::read(&place.plane_unwatched()?)?;
    let id = |address: &SocketAddr| {
        let found = all.backends.iter().find(|backend| backend.address == *address);
        found.map(|backend| backend.id).with_context(|| format!("there is no backend {address}"))
    };
    addresses.iter().map(id).collect()
}

/// What all of them hold.
fn sum(held: &Held, ids: &[u32]) -> Holding {
    ids.iter().map(|id| held.of(*id)).fold(Holding::default(), |sum, held| Holding {
        flows: sum.flows + held.flows,
        sessions: sum.sessions + held.sessions,
        key_names: sum.key_names + held.key_names,
        ..sum
    })
}

/// What is left, as people say it.
fn left(held: Holding) -> String {
    let Holding { flows, sessions, key_names, .. } = held;
    let of = |n: u64, one: &str, many: &str| format!("{n} {}", if n == 1 { one } else { many });
    let keys = match key_names {
        0 => String::new(),
        n => format!(", {} of ticket keys", of(n, "name", "names")),
    };
    format!(
        "{}, {} left{keys}",
        of(flows, "open flow", "open flows"),
        of(sessions, "session", "sessions")
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_several_backends_hold_is_added_up_and_told_in_numbers() {
        let held =
            |backend, flows, sessions, key_names| Holding { backend, flows, sessions, key_names };
        let backends = vec![held(1, 1, 0, 0), held(2, 0, 1, 0), held(3, 4, 4, 4)];
        let all = Held { began: 1, ended: 2, backends };
        assert_eq!(left(sum(&all, &[1, 2, 9])), "1 open flow, 1 session left");
        let three = left(sum(&all, &[3, 2]));
        assert_eq!(three, "4 open flows, 5 sessions left, 4 names of ticket keys");
    }
}
