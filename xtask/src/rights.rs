//! Whether this process may do what demo, tests and the verifier gate need.

use std::fs;

use anyhow::{Context, Result, ensure};

/// Capabilities needed, by their numbers in `linux/capability.h`.
const NEEDED: [(&str, u32); 4] =
    [("CAP_NET_ADMIN", 12), ("CAP_NET_RAW", 13), ("CAP_SYS_ADMIN", 21), ("CAP_BPF", 39)];

/// Fails with one sentence unless this process is root with the rights to make namespaces and load
/// BPF programs.
pub(crate) fn require(verb: &str) -> Result<()> {
    let status = Status::read()?;
    ensure!(
        status.root,
        "`cargo xtask {verb}` makes network namespaces and loads BPF programs, and that needs root: run it as root"
    );
    let lacking: Vec<&str> = NEEDED
        .iter()
        .filter(|(_, bit)| status.capabilities >> bit & 1 == 0)
        .map(|(name, _)| *name)
        .collect();
    ensure!(
        lacking.is_empty(),
        "`cargo xtask {verb}` makes network namespaces and loads BPF programs, and this root lacks {}: run it outside the \
         container, or give the container these rights",
        lacking.join(", ")
    );
    Ok(())
}

/// Tells whether this process is root, so that it may install packages.
pub(crate) fn is_root() -> Result<bool> {
    Ok(Status::read()?.root)
}

struct Status {
    root: bool,
    capabilities: u64,
}

impl Status {
    fn read() -> Result<Self> {
        let text = fs::read_to_string("/proc/self/status").context("read this process's rights")?;
        let field =
            |name: &str| text.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
        // Uid: real, effective, saved, file system.
        let effective = field("Uid:")
            .and_then(|ids| ids.split_whitespace().nth(1))
            .context("read the user id")?;
        let capabilities = field("CapEff:").context("read the capabilities")?;
        let capabilities =
            u64::from_str_radix(capabilities, 16).context("read the capabilities")?;
        Ok(Self { root: effective == "0", capabilities })
    }
}
