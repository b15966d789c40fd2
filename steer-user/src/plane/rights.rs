//! Whether this process may touch BPF maps and programs at all.

use anyhow::{Result, bail};

const CAP_NET_ADMIN: u32 = 12;
const CAP_SYS_ADMIN: u32 = 21;
const CAP_BPF: u32 = 39;

/// Refuses in one sentence where root or its capabilities are missing.
pub fn require() -> Result<()> {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    if suffices(effective(&status)) {
        return Ok(());
    }
    bail!("steer needs root, or the capabilities CAP_BPF and CAP_NET_ADMIN: try again with sudo")
}

/// The effective capabilities in `/proc/self/status`.
fn effective(status: &str) -> u64 {
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    line.and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok()).unwrap_or_default()
}

fn suffices(capabilities: u64) -> bool {
    let has = |bit: u32| capabilities & (1 << bit) != 0;
    has(CAP_NET_ADMIN) && (has(CAP_BPF) || has(CAP_SYS_ADMIN))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_suffices_and_a_plain_user_does_not() {
        assert!(suffices(effective("Name:\tx\nCapEff:\t000001ffffffffff\n")));
        assert!(!suffices(effective("CapEff:\t0000000000000000\n")));
        assert!(!suffices(effective("")));
    }
}
