//! The programs of `steer-ebpf/src/bench_live.rs`: loaded, attached to the far ends, run on live
//! frames.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use aya::{
    Ebpf, EbpfLoader, Pod,
    maps::{Array, MapData, PerCpuArray, ProgramArray},
    programs::{
        ProgramFd, SchedClassifier, TcAttachType, TestRun as _, TestRunAttrs, TestRunOptions, Xdp,
        XdpMode,
    },
};
use nix::{
    sched::{CpuSet, sched_setaffinity},
    unistd::Pid,
};

use crate::{netns::NetNs, process::eventually};

/// Frames that the kernel hands out at a time, as a driver's poll does (NAPI_POLL_WEIGHT).
const BATCH: u32 = 64;
/// Words of a frame that are restored, the last of them by half (`V6_WORDS` of the programs).
const WORDS: usize = 22;
/// Longest wait for frames that are still on their way when a run is over.
const ARRIVAL: Duration = Duration::from_secs(2);

/// The loaded programs and what they are told.
pub(in crate::bench) struct Programs {
    ebpf: Ebpf,
    frames: Array<MapData, Words>,
    numbers: Array<MapData, u32>,
    sunk: PerCpuArray<MapData, u64>,
    next: ProgramArray<MapData>,
}

#[repr(C)]
#[derive(Clone, Copy)]
struct Words([u32; WORDS]);

// SAFETY: an array of plain numbers.
unsafe impl Pod for Words {}

/// One run.
pub(in crate::bench) struct Run<'a> {
    /// Name of the program.
    pub(in crate::bench) program: &'static str,
    /// Index of the interface that the frames come in by.
    pub(in crate::bench) ingress: u32,
    /// A frame.
    pub(in crate::bench) frame: &'a [u8],
    /// How many of it.
    pub(in crate::bench) n_frames: u32,
    /// Whether they come to a sink.
    pub(in crate::bench) arrive: bool,
}

impl Programs {
    /// Loads the object with the feature `bench`; its own tables stay empty.
    pub(in crate::bench) fn load(object: &Path) -> Result<Self> {
        let bytes = std::fs::read(object).with_context(|| format!("read {}", object.display()))?;
        let tables = ["sessions", "key_names", "flows", "splices", "handshakes"];
        let mut loader = EbpfLoader::new();
        for table in tables {
            loader.map_max_entries(table, 1024);
        }
        let mut ebpf = loader
            .map_max_entries("pending", 16)
            .load(&bytes)
            .context("load the measured programs")?;
        let map = |ebpf: &mut Ebpf, name: &str| {
            ebpf.take_map(name).with_context(|| format!("no map {name}"))
        };
        Ok(Self {
            frames: map(&mut ebpf, "live_frames")?.try_into()?,
            numbers: map(&mut ebpf, "live_numbers")?.try_into()?,
            sunk: map(&mut ebpf, "live_sunk")?.try_into()?,
            next: map(&mut ebpf, "live_next_program")?.try_into()?,
            ebpf,
        })
    }

    /// Loads a program that runs on live frames.
    pub(in crate::bench) fn ready(&mut self, program: &'static str) -> Result<()> {
        self.xdp(program)?.load().with_context(|| format!("load {program}"))
    }

    /// Attaches an XDP program to an interface in its driver.
    pub(in crate::bench) fn attach(
        &mut self,
        program: &'static str,
        ns: &NetNs,
        interface: &str,
    ) -> Result<()> {
        let program = self.xdp(program)?;
        ns.run(|| {
            program
                .attach(interface, XdpMode::Driver)
                .with_context(|| format!("attach XDP to {interface}"))
        })?;
        Ok(())
    }

    /// Loads the TC sink.
    pub(in crate::bench) fn ready_tc_sink(&mut self) -> Result<()> {
        self.tc_sink()?.load().context("load live_sink_tc")
    }

    /// Attaches the TC sink to an interface.
    pub(in crate::bench) fn attach_tc_sink(&mut self, ns: &NetNs, interface: &str) -> Result<()> {
        let program = self.tc_sink()?;
        ns.run(|| {
            program
                .attach(interface, TcAttachType::Ingress)
                .with_context(|| format!("attach to {interface}"))
        })?;
        Ok(())
    }

    /// What [`Run`]s of `live_next` go on with.
    pub(in crate::bench) fn go_on_with(&mut self, program: &ProgramFd) -> Result<()> {
        self.next.set(0, program, 0).context("set the next program")
    }

    /// The descriptor of one of these programs.
    pub(in crate::bench) fn fd(&mut self, program: &'static str) -> Result<ProgramFd> {
        Ok(self.xdp(program)?.fd()?.try_clone()?)
    }

    /// Frames of `scale_handshake` begin again with those of the first flow.
    pub(in crate::bench) fn begin_anew(&mut self) -> Result<()> {
        const NEXT_FLOW: u32 = 2;
        let map = self.ebpf.map_mut("scale_numbers").context("no map scale_numbers")?;
        Array::<_, u32>::try_from(map)?.set(NEXT_FLOW, 0, 0).context("set the next flow")
    }

    /// Where the bare redirect sends frames: an interface and the addresses, as this frame has
    /// them.
    pub(in crate::bench) fn redirect_to(&mut self, ifindex: u32, head: &[u8]) -> Result<()> {
        self.frames.set(1, Words::of(head), 0)?;
        self.numbers.set(0, ifindex, 0).context("set the interface")
    }

    /// The sinks count and drop frames of this length, bytes.
    pub(in crate::bench) fn sink_frames_of(&mut self, len: usize) -> Result<()> {
        self.numbers.set(1, len as u32, 0).context("set the length of frames")
    }

    /// Runs a program on live frames on one CPU, inside a gateway; nanoseconds a frame, from the
    /// first to the return of the last, receivers included: they run on the same CPU.
    ///
    /// # Errors
    /// When not every frame came where it should: its figure would be of something else.
    pub(in crate::bench) fn run(&mut self, ns: &NetNs, run: &Run<'_>) -> Result<f64> {
        self.frames.set(0, Words::of(run.frame), 0)?;
        self.sink_frames_of(run.frame.len())?;
        let before = self.sunk()?;
        let program: &Xdp = self.xdp(run.program)?;
        let time = ns.run(|| {
            pin_to_last_cpu()?;
            let context = context(run.frame.len() as u32, run.ingress);
            let options = TestRunOptions {
                data_in: Some(run.frame),
                ctx_in: Some(&context),
                repeat: run.n_frames,
                attrs: TestRunAttrs::new().xdp_live_frames(BATCH),
                ..TestRunOptions::default()
            };
            let start = Instant::now();
            program
                .test_run(options)
                .with_context(|| format!("run {} on live frames", run.program))?;
            Ok(start.elapsed())
        })?;
        let wanted = if run.arrive { u64::from(run.n_frames) } else { 0 };
        let arrived = || self.sunk().ok().map(|sunk| sunk - before).filter(|n| *n >= wanted);
        let arrived = eventually(ARRIVAL, arrived)
            .map_or_else(|| self.sunk().map(|sunk| sunk - before), Ok)?;
        ensure!(arrived == wanted, "{}: {arrived} of {wanted} frames arrived", run.program);
        Ok(time.as_secs_f64() * 1e9 / f64::from(run.n_frames))
    }

    fn sunk(&self) -> Result<u64> {
        Ok(self.sunk.get(&0, 0).context("read the sink's count")?.iter().sum())
    }

    fn xdp(&mut self, name: &str) -> Result<&mut Xdp> {
        let program = self
            .ebpf
            .program_mut(name)
            .with_context(|| format!("the object has no program {name}"))?;
        program.try_into().with_context(|| format!("take the program {name}"))
    }

    fn tc_sink(&mut self) -> Result<&mut SchedClassifier> {
        let program = self
            .ebpf
            .program_mut("live_sink_tc")
            .context("the object has no program live_sink_tc")?;
        program.try_into().context("take the program live_sink_tc")
    }
}

impl Words {
    fn of(frame: &[u8]) -> Self {
        let mut words = [0; WORDS];
        for (word, bytes) in words.iter_mut().zip(frame.chunks(4)) {
            let mut padded = [0; 4];
            padded[..bytes.len()].copy_from_slice(bytes);
            *word = u32::from_ne_bytes(padded);
        }
        Self(words)
    }
}

/// `struct xdp_md`: the frame's end, and where it comes in.
fn context(len: u32, ingress: u32) -> [u8; 24] {
    let mut context = [0; 24];
    context[4..8].copy_from_slice(&len.to_ne_bytes());
    context[12..16].copy_from_slice(&ingress.to_ne_bytes());
    context
}

fn pin_to_last_cpu() -> Result<()> {
    let mut cpus = CpuSet::new();
    cpus.set(std::thread::available_parallelism()?.get() - 1)?;
    sched_setaffinity(Pid::from_raw(0), &cpus).context("stay on one CPU")
}
