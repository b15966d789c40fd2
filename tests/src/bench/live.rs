//! Packets a second on one core: `steer_xdp` on live frames, beside bare XDP and the kernel's own
//! forwarding.

mod frames;
mod programs;
mod stage;

use std::path::Path;

use anyhow::{Context, Result, ensure};
use aya::{maps::MapInfo, programs::ProgramFd};
use steer_common::counters::Counter;

use self::stage::Steered;
pub(in crate::bench) use self::{
    frames::address,
    programs::{Programs, Run},
    stage::index as interface_index,
};
use super::record::{Bars, Goal, Peer, Report, Table, median};
use crate::{
    l4::PlainL4,
    netns::NetNs,
    programs::{XDP, with_map},
    topology::{CLIENT_SIDE, Family, Lab, backend, backend_side},
};

/// Repetitions of the whole measurement, interleaved.
const ROUNDS: usize = 9;
/// Frames of one run.
const FRAMES: u32 = 300_000;
/// Frames of the run that shows that a case goes its way, before anything is measured.
const TRIAL: u32 = 1000;

/// steer's share of what a bare redirect does.
const OF_REDIRECT: f64 = 0.6;
/// steer against a DNAT of nftables, established.
const OF_DNAT: f64 = 4.0;

const METHOD: &str = "\
`BPF_PROG_TEST_RUN` with `BPF_F_TEST_XDP_LIVE_FRAMES`: the kernel feeds frames to an XDP program as a driver's poll does, \
64 at a time, on one CPU, and what the program sends, redirects or passes really leaves: here through veth pairs, whose far \
ends count and drop on the same CPU. Frames are TCP acknowledgements of 66 bytes (IPv6: 86) with timestamps. Cases are \
interleaved, medians are taken over the rounds, and a run counts only if every frame arrived and, for steer, its counters \
say that each was forwarded by XDP, spliced or not.

Pages are used again as they are, so a small program restores the headers before each run; steer's own program, loaded and \
configured by its agent, is entered from there by a tail call. What restoring and the tail call cost is measured in the same \
run and subtracted: `net`. Kernel forwarding and the DNAT of nftables get the same frames by XDP_PASS, in gateways where \
nothing of steer is loaded.";

/// How a case begins.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Shim {
    /// With nothing.
    None,
    /// The headers are restored.
    Restored,
    /// And a tail call follows.
    TailCalled,
}

/// Something that is measured.
struct Case<'a> {
    name: &'static str,
    gateway: &'a NetNs,
    program: &'static str,
    next: Option<&'a ProgramFd>,
    shim: Shim,
    ingress: String,
    frame: Vec<u8>,
    arrive: bool,
    /// Counters of steer that grow by one a frame.
    counts: &'static [Counter],
    times: Vec<f64>,
}

/// Measures every case and prints what came out; `record` names a directory for the page.
///
/// # Errors
/// When a lab cannot be built, or frames go another way than their case says.
pub fn live(object: &Path, family: Family, json: bool, record: Option<&Path>) -> Result<()> {
    let mut report =
        Report::new("live", "Packets a second, live frames", &command(family), &[Peer::Nft])?;
    report.method(METHOD);
    let labs = Labs::build()?;
    let dnat = PlainL4::start(&labs.dnat)?;
    let steered = Steered::start(&labs.steered, family)?;
    let mut programs = labs.equip(object)?;
    programs.sink_frames_of(frames::stays(family).up()?.len())?;
    stage::open_through_dnat(&labs.dnat, family)?;
    let steer = with_map(XDP, MapInfo::from_pin(steered.agent.map_pin("flows"))?.id())?.fd()?;
    let nothing = programs.fd("live_nothing")?;
    let mut cases = labs.cases(family, &steer, &nothing)?;
    labs.point_redirect(&mut programs, family)?;
    for case in &mut cases {
        case.measure(&mut programs, &steered, TRIAL)?;
    }
    for _ in 0..ROUNDS {
        for case in &mut cases {
            let time = case.measure(&mut programs, &steered, FRAMES)?;
            case.times.push(time);
        }
    }
    drop(dnat);
    let figures = Figures::of(&cases)?;
    figures.report(&mut report)?;
    report.print();
    if json {
        figures.print_json();
    }
    record.map_or(Ok(()), |directory| report.write(directory))
}

fn command(family: Family) -> String {
    let flag = if family == Family::V6 { " --ipv6" } else { "" };
    format!("cargo xtask bench live{flag} --record docs/bench")
}

/// The gateways.
struct Labs {
    steered: Lab,
    plain: Lab,
    dnat: Lab,
}

impl Labs {
    fn build() -> Result<Self> {
        Ok(Self { steered: stage::lab(2)?, plain: stage::lab(1)?, dnat: stage::lab(1)? })
    }

    /// Loads the programs and puts the sinks at the far ends.
    fn equip(&self, object: &Path) -> Result<Programs> {
        let mut programs = Programs::load(object)?;
        let run =
            ["live_nothing", "live_drop", "live_tx", "live_redirect", "live_pass", "live_next"];
        run.iter()
            .chain(&["live_sink", "live_open"])
            .try_for_each(|program| programs.ready(program))?;
        programs.ready_tc_sink()?;
        for far in [self.steered.client(), self.steered.backend(0), self.steered.backend(1)] {
            programs.attach("live_sink", far, "eth0")?;
        }
        for lab in [&self.plain, &self.dnat] {
            programs.attach("live_open", lab.gateway(), CLIENT_SIDE)?;
            programs.attach("live_open", lab.gateway(), &backend_side(0))?;
            programs.attach_tc_sink(lab.backend(0), "eth0")?;
            programs.attach_tc_sink(lab.client(), "eth0")?;
        }
        Ok(programs)
    }

    /// The bare redirect goes where the established flow's packets go.
    fn point_redirect(&self, programs: &mut Programs, family: Family) -> Result<()> {
        let [_, first, _] = stage::sides();
        let leaves = frames::stays(family).leaves()?;
        programs.redirect_to(stage::index(self.steered.gateway(), &first)?, &leaves)
    }

    fn cases<'a>(
        &'a self,
        family: Family,
        steer: &'a ProgramFd,
        nothing: &'a ProgramFd,
    ) -> Result<Vec<Case<'a>>> {
        let (stays, moved) = (frames::stays(family), frames::moved(family));
        let [clients, first, owner] = stage::sides();
        let gateway = self.steered.gateway();
        let up = stays.up()?;
        let bare = |name, program, shim, arrive| Case {
            arrive,
            ..Case::new(name, gateway, program, shim, &clients, up.clone())
        };
        let steered = |name, side: &str, frame, counts| {
            let next = Some(steer);
            Case {
                next,
                counts,
                ..Case::new(name, gateway, "live_next", Shim::TailCalled, side, frame)
            }
        };
        let kernel = |name, lab: &'a Lab, side: &str, frame| {
            Case::new(name, lab.gateway(), "live_pass", Shim::Restored, side, frame)
        };
        const PLAIN: &[Counter] = &[Counter::XdpForwarded, Counter::Forwarded];
        const SPLICED: &[Counter] = &[Counter::XdpForwarded, Counter::Spliced];
        Ok(vec![
            bare(NOTHING, "live_nothing", Shim::None, false),
            bare(RESTORED, "live_drop", Shim::Restored, false),
            Case { next: Some(nothing), ..bare(TAIL_CALLED, "live_next", Shim::TailCalled, false) },
            bare("XDP_TX alone", "live_tx", Shim::Restored, true),
            bare(REDIRECT, "live_redirect", Shim::Restored, true),
            steered("steer, established, to the backend", &clients, stays.up()?, PLAIN),
            steered("steer, established, to the client", &first, stays.down()?, PLAIN),
            steered("steer, spliced, to the owner", &clients, moved.up()?, SPLICED),
            steered("steer, spliced, to the client", &owner, moved.down()?, SPLICED),
            kernel("kernel forwarding", &self.plain, &clients, stays.up_to(backend(family, 0))?),
            kernel("nft DNAT, established, to the backend", &self.dnat, &clients, up.clone()),
            kernel("nft DNAT, established, to the client", &self.dnat, &first, stays.down()?),
        ])
    }
}

const NOTHING: &str = "an empty program, dropped";
const RESTORED: &str = "headers restored, dropped";
const TAIL_CALLED: &str = "headers restored, tail call, dropped";
const REDIRECT: &str = "XDP redirect alone";
/// What the names of cases that go both ways begin with.
const DNAT: &str = "nft DNAT, established";
const STEER: [&str; 2] = ["steer, established", "steer, spliced"];

impl<'a> Case<'a> {
    fn new(
        name: &'static str,
        gateway: &'a NetNs,
        program: &'static str,
        shim: Shim,
        ingress: &str,
        frame: Vec<u8>,
    ) -> Self {
        let ingress = ingress.to_owned();
        Self {
            name,
            gateway,
            program,
            next: None,
            shim,
            ingress,
            frame,
            arrive: true,
            counts: &[],
            times: Vec::new(),
        }
    }

    /// Nanoseconds a frame of one run.
    fn measure(
        &self,
        programs: &mut Programs,
        steered: &Steered<'_>,
        n_frames: u32,
    ) -> Result<f64> {
        let counts = || {
            self.counts
                .iter()
                .map(|counter| steered.plane.counter(*counter))
                .collect::<Result<Vec<_>>>()
        };
        self.next.map_or(Ok(()), |next| programs.go_on_with(next))?;
        let ingress = stage::index(self.gateway, &self.ingress)?;
        let run = Run {
            program: self.program,
            ingress,
            frame: &self.frame,
            n_frames,
            arrive: self.arrive,
        };
        let before = counts()?;
        let time =
            programs.run(self.gateway, &run).with_context(|| format!("measure: {}", self.name))?;
        for ((counter, before), after) in self.counts.iter().zip(before).zip(counts()?) {
            let (grown, word) = (after - before, counter.word());
            // Acknowledgements say nothing new: every other second a poll's worth of them goes by
            // TC and asks for the way, and is then counted by both.
            let all = u64::from(n_frames);
            ensure!(
                grown.abs_diff(all) <= all / 1000,
                "{}: {word} grew by {grown}, not {all}",
                self.name
            );
        }
        Ok(time)
    }
}

/// Medians, nanoseconds a frame.
struct Figures(Vec<Figure>);

struct Figure {
    name: &'static str,
    raw: f64,
    /// Without restoring and tail call.
    net: f64,
}

impl Figures {
    fn of(cases: &[Case<'_>]) -> Result<Self> {
        let raw = |case: &Case<'_>| median(&case.times).context("nothing was measured");
        let of = |name| {
            cases.iter().find(|case| case.name == name).context("a case is missing").and_then(raw)
        };
        let nothing = of(NOTHING)?;
        // On a machine with other work it may seem to cost less than nothing.
        let cost = |name| Ok::<_, anyhow::Error>((of(name)? - nothing).max(0.0));
        let (restored, tail_called) = (cost(RESTORED)?, cost(TAIL_CALLED)?);
        let figure = |case: &Case<'_>| {
            let raw = raw(case)?;
            let shim = match case.shim {
                Shim::None => 0.0,
                Shim::Restored => restored,
                Shim::TailCalled => tail_called,
            };
            Ok(Figure { name: case.name, raw, net: raw - shim })
        };
        Ok(Self(cases.iter().map(figure).collect::<Result<_>>()?))
    }

    /// Nanoseconds of the cases whose name begins so: the mean, as traffic goes both ways.
    fn net(&self, beginning: &str) -> f64 {
        let begins = self.0.iter().filter(|figure| figure.name.starts_with(beginning));
        let times: Vec<_> = begins.map(|figure| figure.net).collect();
        times.iter().sum::<f64>() / times.len() as f64
    }

    fn report(&self, report: &mut Report) -> Result<()> {
        report.section("One core");
        report.text(&format!(
            "Medians of {ROUNDS} rounds of {FRAMES} frames a case; every frame arrived."
        ));
        let mut table = Table::new(&["", "ns", "net ns", "packets/s (net)"]);
        for Figure { name, raw, net } in &self.0 {
            let rate =
                if self.is_path(name) { format!("{:.0}", 1e9 / net) } else { "-".to_owned() };
            table = table.row([(*name).to_owned(), format!("{raw:.0}"), format!("{net:.0}"), rate]);
        }
        report.table(table);
        self.goals().into_iter().for_each(|goal| report.goal(goal));
        let paths: Vec<_> = self.0.iter().filter(|figure| self.is_path(figure.name)).collect();
        let names: Vec<_> = paths.iter().map(|figure| figure.name).collect();
        let rates = paths.iter().map(|figure| 1e9 / figure.net);
        report.bars(
            "rate",
            &Bars::new("Live frames, one core", "packets/s", &names)
                .series("net of the shim", rates),
        )
    }

    /// Whether it is a way that packets take, not a part of the method.
    fn is_path(&self, name: &str) -> bool {
        ![NOTHING, RESTORED, TAIL_CALLED].contains(&name)
    }

    fn goals(&self) -> Vec<Goal> {
        let goal = |steer: &str, rival: &str, limit| {
            let what = format!("{steer}, both ways: packets/s by those of {rival}");
            Goal::at_least(&what, self.net(rival) / self.net(steer), limit)
        };
        STEER
            .iter()
            .flat_map(|steer| [goal(steer, DNAT, OF_DNAT), goal(steer, REDIRECT, OF_REDIRECT)])
            .collect()
    }

    #[expect(clippy::print_stdout, reason = "a benchmark prints its figures")]
    fn print_json(&self) {
        let case = |Figure { name, raw, net }: &Figure| serde_json::json!({ "case": name, "raw_ns": raw, "net_ns": net });
        let cases: Vec<_> = self.0.iter().map(case).collect();
        let goals: Vec<_> = self.goals().iter().map(Goal::json).collect();
        println!("{}", serde_json::json!({ "cases": cases, "goals": goals }));
    }
}
