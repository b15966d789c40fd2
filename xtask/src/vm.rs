//! A command line run inside another kernel: QEMU without hardware help, and an initramfs made for
//! the occasion.
//!
//! Emulated (TCG) on purpose: the host may itself be a virtual machine, where nested KVM often
//! fails.

mod image;
mod modules;

use std::{
    fs,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, Stdio},
    sync::mpsc::{self, RecvTimeoutError},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};

use crate::{
    command,
    setup::{kernels::Kernel, unpacked},
    tree::Tree,
};

/// What is put into the virtual machine, and what it shall do.
pub(crate) struct Guest {
    /// Names what is run, in errors and as the directory it is built in.
    pub(crate) name: String,
    /// Programs with the place they get; their shared libraries come along.
    pub(crate) programs: Vec<(PathBuf, PathBuf)>,
    /// Other files and directories, with the place they get.
    pub(crate) files: Vec<(PathBuf, PathBuf)>,
    /// Kernel modules, loaded before the command runs; what they depend on comes along.
    pub(crate) modules: Vec<&'static str>,
    /// How many pairs of virtio NICs, each pair joined by a wire. Pair `n` has the addresses
    /// `02:57:ee:00:NN:01` and `02:57:ee:00:NN:02`.
    pub(crate) wires: u8,
    /// Command line for the guest's shell.
    pub(crate) command: String,
    /// How long the whole may take.
    pub(crate) timeout: Duration,
}

/// What the command did.
pub(crate) struct Outcome {
    /// Its exit code.
    pub(crate) code: i32,
    /// Lines that it printed, on stdout and stderr alike.
    pub(crate) lines: Vec<String>,
}

/// The guest's first and last word about the command, on a line of their own; the second is
/// followed by the exit code.
const BEGIN: &str = "@@ steer-vm begin";
const EXIT: &str = "@@ steer-vm exit ";

/// Boots of a kernel that does not come up. Emulated with two CPUs, one dies now and then while it
/// patches its own code, before anything of ours runs.
const BOOTS: u32 = 3;

const MEMORY: &str = "1536M";

/// Emulated a fourth faster than one with all that the emulator knows. QEMU 7.2 emulates
/// `cmpxchg16b` (cx16) wrongly at times, and kernels die of it.
const CPU: &str = "qemu64,-cx16";

impl Guest {
    /// Adds a program found in PATH, at the same place.
    pub(crate) fn add_program(&mut self, name: &str) -> Result<()> {
        let path =
            command::find(name).with_context(|| format!("find {name} for the virtual machine"))?;
        self.programs.push((path.clone(), path));
        Ok(())
    }

    /// Boots the kernel, runs the command and returns what it did; its output is shown on stderr
    /// meanwhile.
    pub(crate) fn run(mut self, tree: &Tree, kernel: &Kernel) -> Result<Outcome> {
        let busybox = command::find("busybox").context("find busybox for the virtual machine")?;
        self.programs.push((busybox, PathBuf::from("/busybox/busybox")));
        // Busybox's shell runs its own `ip` and `tc` whatever PATH says: the host's shell runs the
        // command.
        self.add_program("sh")?;
        let directory = tree.target().join("vm").join(&self.name);
        if directory.exists() {
            fs::remove_dir_all(&directory)
                .with_context(|| format!("remove {}", directory.display()))?;
        }
        let archive = image::pack(&self, kernel, &directory)?;
        let deadline = Instant::now() + self.timeout;
        let boots = (0..BOOTS).map(|_| {
            let mut qemu = boot(tree, kernel, &archive, self.wires)?;
            let outcome = listen(&mut qemu, deadline);
            // It may be gone already: that is what is wanted.
            let _ = qemu.kill();
            qemu.wait().context("wait for the virtual machine to end")?;
            outcome
        });
        let up = boots.map(Result::transpose).find_map(|outcome| outcome);
        let outcome = up.unwrap_or_else(|| bail!("its kernel did not come up in {BOOTS} boots"));
        fs::remove_dir_all(&directory)
            .with_context(|| format!("remove {}", directory.display()))?;
        outcome.with_context(|| format!("run `{}` in the virtual machine", self.name))
    }
}

fn boot(tree: &Tree, kernel: &Kernel, archive: &Path, wires: u8) -> Result<Child> {
    let mut qemu = unpacked::emulator(tree);
    for (wire, end) in (0..wires).flat_map(|wire| [(wire, 1), (wire, 2)]) {
        let port = format!("wire{wire}end{end}");
        qemu.args(["-netdev", &format!("hubport,id={port},hubid={wire}")]);
        // Without a ROM to boot from, which is in a package of its own.
        qemu.args([
            "-device",
            &format!("virtio-net-pci,netdev={port},mac=02:57:ee:00:{wire:02x}:{end:02x},romfile="),
        ]);
    }
    qemu.args(["-accel", "tcg,thread=multi", "-cpu", CPU, "-smp", "2", "-m", MEMORY])
        .args([
            "-nodefaults",
            "-no-user-config",
            "-no-reboot",
            "-display",
            "none",
            "-monitor",
            "none",
            "-serial",
            "stdio",
        ])
        .arg("-kernel")
        .arg(&kernel.image)
        .arg("-initrd")
        .arg(archive)
        // panic=-1 with -no-reboot: a panic ends the machine at once.
        .args([
            "-append",
            "console=ttyS0 quiet loglevel=3 panic=-1 random.trust_cpu=on mitigations=off",
        ])
        .stdin(Stdio::null())
        .stdout(Stdio::piped());
    qemu.spawn().context("start the emulator")
}

/// Follows the serial line until the command has ended; `None` where the kernel ended before it
/// began.
fn listen(qemu: &mut Child, deadline: Instant) -> Result<Option<Outcome>> {
    let serial = qemu.stdout.take().context("open the virtual machine's serial line")?;
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        let mut lines = BufReader::new(serial).split(b'\n');
        while let Some(Ok(line)) = lines.next() {
            if sender.send(String::from_utf8_lossy(&line).trim_end().to_owned()).is_err() {
                return;
            }
        }
    });

    let mut lines = Vec::new();
    let mut begun = false;
    loop {
        let line = match receiver.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            Ok(line) => line,
            Err(RecvTimeoutError::Timeout) => bail!("it did not end in time"),
            Err(RecvTimeoutError::Disconnected) if !begun => return Ok(None),
            Err(RecvTimeoutError::Disconnected) => bail!("it ended without an exit code"),
        };
        if let Some(code) = line.strip_prefix(EXIT) {
            return Ok(Some(Outcome { code: code.parse().context("read the exit code")?, lines }));
        }
        // Before the first word, only a kernel in trouble speaks.
        eprintln!("vm| {line}");
        if begun {
            lines.push(line);
        } else {
            begun = line == BEGIN;
        }
    }
}
