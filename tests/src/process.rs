//! Children of the lab: run a tool to its end, or guard a server until it is dropped.
//!
//! Every child is ours and is signalled by its own process id only.

use std::{
    fs,
    io::Write,
    process::{Child, ChildStdin, ChildStdout, Command, ExitStatus, Output, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

/// Fails with one clear sentence unless the process is root.
pub fn require_root() -> Result<()> {
    if !nix::unistd::geteuid().is_root() {
        bail!(
            "needs root: it creates network namespaces and loads eBPF programs; run it as root or with sudo"
        );
    }
    Ok(())
}

/// Runs a tool to its end and returns what it printed.
///
/// # Errors
/// When it cannot be started or its exit code is not 0; the error carries its stderr.
pub fn run(command: &mut Command) -> Result<String> {
    let output = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("start {}", words(command)))?;
    printed(command, &output)
}

/// As [`run`], where what is printed is the answer whatever the exit code says.
///
/// # Errors
/// When it cannot be started, or printed nothing and did not end well.
pub fn run_telling(command: &mut Command) -> Result<String> {
    let output = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("start {}", words(command)))?;
    if output.stdout.is_empty() {
        return printed(command, &output);
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Runs a tool with `input` on its stdin.
///
/// # Errors
/// As [`run`].
pub fn feed(command: &mut Command, input: &str) -> Result<String> {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().with_context(|| format!("start {}", words(command)))?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(input.as_bytes()).with_context(|| format!("feed {}", words(command)))?;
    }
    let output =
        child.wait_with_output().with_context(|| format!("wait for {}", words(command)))?;
    printed(command, &output).with_context(|| format!("input was:\n{input}"))
}

fn printed(command: &Command, output: &Output) -> Result<String> {
    if !output.status.success() {
        bail!(
            "{}: {}: {}",
            words(command),
            output.status,
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn words(command: &Command) -> String {
    let args: Vec<_> = command.get_args().map(|arg| arg.to_string_lossy()).collect();
    format!("{} {}", command.get_program().to_string_lossy(), args.join(" "))
}

/// A command that the kernel kills when the thread that spawned it ends: nothing outlives a lab
/// that was itself killed.
pub fn mortal(program: impl AsRef<std::ffi::OsStr>) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL"]).arg(program);
    command
}

/// A running server; killed and reaped when dropped.
#[derive(Debug)]
pub struct Server {
    child: Child,
}

impl Server {
    /// Guards a child.
    pub fn new(child: Child) -> Self {
        Self { child }
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Its stdin and stdout, once, if they are pipes.
    pub fn pipes(&mut self) -> Option<(ChildStdin, ChildStdout)> {
        Some((self.child.stdin.take()?, self.child.stdout.take()?))
    }

    /// Whether it has ended, and how.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().ok().flatten()
    }

    /// Sends it a signal.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        kill(Pid::from_raw(self.child.id().cast_signed()), signal)
            .with_context(|| format!("send {signal}"))
    }

    /// Sends it a signal and waits for its end.
    ///
    /// # Errors
    /// When it still runs after five seconds.
    pub fn end(&mut self, signal: Signal) -> Result<ExitStatus> {
        self.signal(signal)?;
        let pid = self.child.id();
        eventually(Duration::from_secs(5), || self.ended())
            .with_context(|| format!("process {pid} ignores {signal}"))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // An error means that it is gone already.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// The process that works for this one: an agent's supervisor has one child at a time. Itself, where
/// it has none.
pub fn worker_of(process: u32) -> u32 {
    let parent = format!("PPid:\t{process}");
    let is_its = |of: &u32| {
        let status = fs::read_to_string(format!("/proc/{of}/status")).unwrap_or_default();
        status.lines().any(|line| line == parent)
    };
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let all = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    all.filter(is_its).max().unwrap_or(process)
}

/// Whether a process is there and more than what is left for its parent to read.
pub fn works(process: u32) -> bool {
    let status = fs::read_to_string(format!("/proc/{process}/status")).unwrap_or_default();
    let said = |key| status.lines().find_map(|line| line.strip_prefix(key)).map(str::trim);
    // Its files are open as long as one of its threads is there.
    let alone = || said("Threads:").is_none_or(|n| matches!(n, "0" | "1"));
    said("State:").is_some_and(|state| !state.starts_with('Z') || !alone())
}

/// Asks again and again until there is an answer or the time is up.
pub fn eventually<T>(limit: Duration, mut ask: impl FnMut() -> Option<T>) -> Option<T> {
    let start = Instant::now();
    loop {
        if let Some(answer) = ask() {
            return Some(answer);
        }
        if start.elapsed() > limit {
            return None;
        }
        thread::sleep(Duration::from_millis(5));
    }
}
