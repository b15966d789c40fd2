//! CPU time, as the kernel counts it: of processes, and of steer's programs.

use std::{fs, time::Duration};

use anyhow::{Context, Result};
use aya::maps::MapInfo;

use super::lane::{Lane, Way};
use crate::{
    agent::Hook,
    nginx::Nginx,
    programs::{TC, XDP, with_map},
};

/// CPU time of all that takes part in a lane's work. What else the machine does is not in it.
///
/// Softirqs, in which packets cross the virtual links and steer's programs run, count for the
/// process in whose context they run: nearly always the one that sent the packet.
#[derive(Clone, Copy, Default, Debug)]
pub(super) struct Cpu {
    /// This process: the clients.
    pub(super) clients: Duration,
    /// The lane's nginx.
    pub(super) servers: Duration,
    /// HAProxy or steer's agent.
    pub(super) gateway: Duration,
    /// The kernel's own threads for softirqs; other lanes are idle meanwhile.
    pub(super) softirqs: Duration,
}

impl Cpu {
    /// What was used so far.
    pub(super) fn of(lane: &Lane<'_>) -> Result<Self> {
        let sum =
            |ids: &mut dyn Iterator<Item = u32>| -> Result<Duration> { ids.map(of_process).sum() };
        Ok(Self {
            clients: of_process(std::process::id())?,
            servers: sum(&mut lane.run.servers.iter().filter_map(Nginx::process_id))?,
            gateway: sum(&mut lane.gateway_process().into_iter())?,
            softirqs: sum(&mut softirq_threads()?.into_iter())?,
        })
    }

    pub(super) fn since(self, before: Self) -> Self {
        Self {
            clients: self.clients.saturating_sub(before.clients),
            servers: self.servers.saturating_sub(before.servers),
            gateway: self.gateway.saturating_sub(before.gateway),
            softirqs: self.softirqs.saturating_sub(before.softirqs),
        }
    }

    pub(super) fn sum(&self) -> Duration {
        self.clients + self.servers + self.gateway + self.softirqs
    }
}

/// Ids of ksoftirqd/0, ksoftirqd/1, ...
fn softirq_threads() -> Result<Vec<u32>> {
    let ids =
        fs::read_dir("/proc")?.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    let is_one = |id: &u32| {
        fs::read_to_string(format!("/proc/{id}/comm"))
            .is_ok_and(|name| name.starts_with("ksoftirqd/"))
    };
    Ok(ids.filter(is_one).collect())
}

/// User and system time of a process so far, its threads included.
fn of_process(id: u32) -> Result<Duration> {
    let stat = fs::read_to_string(format!("/proc/{id}/stat")).context("read a process's stat")?;
    // The name stands in parentheses and may have spaces; utime and stime are fields 14 and 15
    // (proc_pid_stat(5)).
    let (_, fields) = stat.rsplit_once(") ").context("a process's stat has no name")?;
    let used = fields.split(' ').skip(11).take(2).map(str::parse::<u64>).sum::<Result<u64, _>>()?;
    ticks(used)
}

fn ticks(n: u64) -> Result<Duration> {
    let per_second = nix::unistd::sysconf(nix::unistd::SysconfVar::CLK_TCK)?
        .context("the kernel has no clock tick")?;
    Ok(Duration::from_secs_f64(n as f64 / per_second as f64))
}

/// What steer's programs used so far, while the kernel was told to count.
#[derive(Clone, Copy, Default, Debug)]
pub(super) struct ProgramTime {
    pub(super) time: Duration,
    pub(super) runs: u64,
}

impl ProgramTime {
    /// Of the programs of this lane; nothing where there are none.
    pub(super) fn of(lane: &Lane<'_>) -> Result<Self> {
        let Some(agent) = lane.agent() else { return Ok(Self::default()) };
        let flows =
            MapInfo::from_pin(agent.map_pin("flows")).context("look at the map flows")?.id();
        let names: &[_] = if lane.way == Way::Steer(Hook::Xdp) { &[TC, XDP] } else { &[TC] };
        names.iter().try_fold(Self::default(), |sum, name| {
            let info = with_map(name, flows)?;
            Ok(Self { time: sum.time + info.run_time(), runs: sum.runs + info.run_count() })
        })
    }

    pub(super) fn since(self, before: Self) -> Self {
        Self { time: self.time.saturating_sub(before.time), runs: self.runs - before.runs }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    #[test]
    fn a_busy_process_is_seen() -> Result<()> {
        let own = std::process::id();
        let process = of_process(own)?;
        let start = Instant::now();
        while start.elapsed() < Duration::from_millis(200) || of_process(own)? == process {
            std::hint::spin_loop();
        }
        assert!(!softirq_threads()?.is_empty(), "the kernel has threads for softirqs");
        Ok(())
    }
}
