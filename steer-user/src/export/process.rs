//! The agent's process as a source of metrics, by the names that are usual everywhere.

use std::fmt;

use procfs::{ProcResult, WithCurrentSystemInfo as _, process::Process as Own};
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric as _},
    metrics::{counter::ConstCounter, gauge::ConstGauge},
    registry::Unit,
};

/// This process.
#[derive(Debug)]
pub(super) struct Process;

/// What the kernel says of it.
struct Figures {
    cpu_seconds: f64,
    /// Seconds since 1970.
    started: f64,
    resident_bytes: u64,
    virtual_bytes: u64,
    open_fds: usize,
    threads: i64,
}

impl Figures {
    fn read() -> ProcResult<Self> {
        let own = Own::myself()?;
        let stat = own.stat()?;
        let ticks = procfs::ticks_per_second() as f64;
        Ok(Self {
            cpu_seconds: (stat.utime + stat.stime) as f64 / ticks,
            started: procfs::boot_time_secs()? as f64 + stat.starttime as f64 / ticks,
            resident_bytes: stat.rss_bytes().get(),
            virtual_bytes: stat.vsize,
            open_fds: own.fd_count()?,
            threads: stat.num_threads,
        })
    }
}

impl Collector for Process {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        // The gateway's own numbers are served all the same where /proc is hidden.
        let Ok(figures) = Figures::read() else { return Ok(()) };
        let mut gauge = |name, help, unit: Option<Unit>, value: f64| {
            let value = ConstGauge::new(value);
            value.encode(encoder.encode_descriptor(
                name,
                help,
                unit.as_ref(),
                value.metric_type(),
            )?)
        };
        let (bytes, seconds) = (Some(Unit::Bytes), Some(Unit::Seconds));
        let resident = figures.resident_bytes as f64;
        gauge("process_resident_memory", "Memory of the agent", bytes.clone(), resident)?;
        let help = "Address space of the agent";
        gauge("process_virtual_memory", help, bytes, figures.virtual_bytes as f64)?;
        let help = "When the agent's process began, since 1970";
        gauge("process_start_time", help, seconds, figures.started)?;
        gauge("process_open_fds", "Open descriptors of the agent", None, figures.open_fds as f64)?;
        gauge("process_threads", "Threads of the agent", None, figures.threads as f64)?;
        let cpu = ConstCounter::new(figures.cpu_seconds);
        let help = "Time on a CPU that the agent took; the programs' is not in it";
        let unit = Some(&Unit::Seconds);
        cpu.encode(encoder.encode_descriptor("process_cpu", help, unit, cpu.metric_type())?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_figures_of_this_process_can_be_right() {
        let figures = Figures::read().unwrap();
        assert!(figures.resident_bytes > 1 << 20 && figures.virtual_bytes > figures.resident_bytes);
        assert!(figures.open_fds > 2 && figures.threads > 0 && figures.started > 1e9);
    }
}
