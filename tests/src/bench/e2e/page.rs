//! The page's results: goals, tables, plots.

use anyhow::Result;

use super::{
    bulk::{FILE, Transfers},
    cpu::Cpu,
    crowd::Kind,
    lane::Way,
    latency::Times,
    rates::Series,
};
use crate::{
    bench::record::{Bars, Report, Table, figure, median},
    client::Offer,
};

/// All that was measured.
pub(super) struct Figures {
    pub(super) rates: Vec<Series>,
    pub(super) latency: Vec<Times>,
    pub(super) bulk: Vec<Transfers>,
}

impl Figures {
    /// Puts all of it on the page.
    pub(super) fn fill(&self, report: &mut Report) -> Result<()> {
        report.section("Goals");
        self.goals().into_iter().for_each(|goal| report.goal(goal));
        let id = Kind::Resumed(Offer::SessionId);
        report.text(&format!(
            "To judge the goals beside HAProxy by: direct itself has {} of HAProxy's resumed/s of session IDs.",
            figure(self.ratio(id, Way::Direct, Way::Haproxy))
        ));
        self.samples().iter().for_each(|sample| report.text(&format!("Error: {sample}")));
        report.section("Handshakes per second");
        for kind in Kind::ALL {
            report.text(&format!("**{}**", kind.name()));
            report.table(self.rates_of(kind));
        }
        let title = "Handshakes per second; of sessions and tickets, resumed ones";
        report.bars("rates", &self.bars(title, "a second", Series::rate))?;
        report.section("CPU per connection");
        for kind in Kind::ALL {
            report.text(&format!("**{}**", kind.name()));
            report.table(self.cpu_of(kind));
        }
        let title = "CPU per connection: clients, servers and gateway";
        report.bars("cpu", &self.bars(title, "us", |series| series.cpu(Cpu::sum)))?;
        report.section("Latency of a resumption");
        report.table(self.latency_table());
        report.bars("latency", &self.latency_bars())?;
        report.section("Bulk");
        report.table(self.bulk_table());
        report.bars("bulk", &self.bulk_bars())
    }

    fn series(&self, kind: Kind, way: Way) -> Option<&Series> {
        self.rates.iter().find(|series| (series.kind, series.way) == (kind, way))
    }

    /// The rate of a way by that of another.
    pub(super) fn ratio(&self, kind: Kind, way: Way, to: Way) -> f64 {
        self.series(kind, way)
            .zip(self.series(kind, to))
            .map_or(f64::NAN, |(own, other)| own.ratio_to(other))
    }

    pub(super) fn errors(&self) -> usize {
        let rates = self.rates.iter().map(Series::errors);
        let latency = self.latency.iter().map(|times| times.errors);
        rates.chain(latency).chain(self.bulk.iter().map(|transfers| transfers.errors)).sum()
    }

    fn samples(&self) -> Vec<String> {
        let rates = self.rates.iter().filter_map(|series| {
            series
                .sample()
                .map(|sample| format!("{}, {}: {sample}", series.way.name(), series.kind.name()))
        });
        let latency = self.latency.iter().map(|times| (&times.name, &times.sample));
        let bulk = self.bulk.iter().map(|transfers| (&transfers.name, &transfers.sample));
        let others = latency
            .chain(bulk)
            .filter_map(|(name, sample)| Some(format!("{name}: {}", sample.as_ref()?)));
        rates.chain(others).collect()
    }

    fn rates_of(&self, kind: Kind) -> Table {
        let (rate, rival) =
            if kind.is_resumed() { ("resumed/s", Way::Haproxy) } else { ("full/s", Way::Nft) };
        let by_rival = format!("by {}", rival.name());
        let columns = [
            "way",
            rate,
            "least-most",
            "by direct",
            &by_rival,
            "resumed",
            "p50 ms",
            "p99 ms",
            "errors",
        ];
        self.rates.iter().filter(|series| series.kind == kind).fold(
            Table::new(&columns),
            |table, series| {
                let (least, most) = series.range();
                table.row([
                    series.way.name().to_owned(),
                    figure(series.rate()),
                    format!("{}-{}", figure(least), figure(most)),
                    figure(self.ratio(kind, series.way, Way::Direct)),
                    figure(self.ratio(kind, series.way, rival)),
                    format!("{:.1} %", series.share() * 100.0),
                    figure(series.time(50) / 1e3),
                    figure(series.time(99) / 1e3),
                    series.errors().to_string(),
                ])
            },
        )
    }

    fn cpu_of(&self, kind: Kind) -> Table {
        let columns = [
            "way",
            "sum us",
            "by direct",
            "clients us",
            "servers us",
            "gateway us",
            "programs us",
            "runs",
        ];
        let direct = self.series(kind, Way::Direct).map_or(f64::NAN, |direct| direct.cpu(Cpu::sum));
        self.rates.iter().filter(|series| series.kind == kind).fold(
            Table::new(&columns),
            |table, series| {
                let sum = series.cpu(Cpu::sum);
                let parts: [fn(&Cpu) -> _; 3] =
                    [|cpu| cpu.clients, |cpu| cpu.servers, |cpu| cpu.gateway];
                let [clients, servers, gateway] = parts.map(|part| figure(series.cpu(part)));
                let programs = series.programs.as_ref();
                let [time, runs] =
                    [programs.map(|each| each.nanoseconds / 1e3), programs.map(|each| each.runs)]
                        .map(|each| each.map(figure).unwrap_or_default());
                let way = series.way.name().to_owned();
                table.row([
                    way,
                    figure(sum),
                    figure(sum / direct),
                    clients,
                    servers,
                    gateway,
                    time,
                    runs,
                ])
            },
        )
    }

    /// A group for each kind, a bar for each way.
    fn bars(&self, title: &str, unit: &str, of: fn(&Series) -> f64) -> Bars {
        let kinds = Kind::ALL.map(Kind::name);
        Way::ALL.into_iter().fold(Bars::new(title, unit, &kinds), |bars, way| {
            let values = Kind::ALL.map(|kind| self.series(kind, way).map_or(f64::NAN, of));
            bars.series(way.name(), values)
        })
    }

    fn latency_table(&self) -> Table {
        let columns =
            ["way", "p50 us", "p99 us", "p50 by direct", "SYN and SYN-ACK us", "resumed", "errors"];
        let direct = self.latency.first().map_or(f64::NAN, |direct| direct.time(50));
        self.latency.iter().fold(Table::new(&columns), |table, times| {
            table.row([
                times.name.clone(),
                figure(times.time(50)),
                figure(times.time(99)),
                figure(times.time(50) / direct),
                if times.syns.is_empty() { String::new() } else { figure(times.syn()) },
                format!("{} of {}", times.resumed, times.handshakes.len()),
                times.errors.to_string(),
            ])
        })
    }

    fn latency_bars(&self) -> Bars {
        let title = "A resumption of a session ID alone, TCP connect to Finished";
        self.latency.iter().fold(Bars::new(title, "us", &["p50", "p99"]), |bars, times| {
            bars.series(&times.name, [times.time(50), times.time(99)])
        })
    }

    fn bulk_table(&self) -> Table {
        let columns = [
            "way",
            "links",
            "down MB/s",
            "up MB/s",
            "down by direct",
            "up by direct",
            "CPU ms",
            "errors",
        ];
        self.bulk.iter().fold(Table::new(&columns), |table, transfers| {
            let direct = self.bulk.iter().find(|other| other.offloads == transfers.offloads);
            let [down, up] = transfers.rates().map(figure);
            let [by_down, by_up] =
                direct.map_or([f64::NAN; 2], |direct| transfers.ratios_to(direct)).map(figure);
            let links = if transfers.offloads { "offloads" } else { "finished checksums" };
            let (cpu, errors) =
                (figure(median(&transfers.cpu).unwrap_or(f64::NAN)), transfers.errors.to_string());
            table.row([
                transfers.name.clone(),
                links.to_owned(),
                down,
                up,
                by_down,
                by_up,
                cpu,
                errors,
            ])
        })
    }

    fn bulk_bars(&self) -> Bars {
        let title = format!("{} MB over one connection", FILE / 1_000_000);
        self.bulk.iter().fold(
            Bars::new(&title, "MB/s", &["download", "upload"]),
            |bars, transfers| {
                let links = if transfers.offloads { "" } else { " (checksums)" };
                bars.series(&format!("{}{links}", transfers.name), transfers.rates())
            },
        )
    }
}
