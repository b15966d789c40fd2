//! Drivers and offloads of the managed interfaces, and whose programs are there already.

use std::{ffi::CString, fs, os::fd::AsRawFd as _};

use super::Findings;
use crate::{
    config::Config,
    plane::{self, PinDir},
};

/// `SIOCETHTOOL` and the command that reads an interface's flags (linux/sockios.h, linux/ethtool.h).
const SIOCETHTOOL: u64 = 0x8946;
const ETHTOOL_GFLAGS: u32 = 0x25;
/// The interface merges what it receives into packets that it cannot send again.
const ETH_FLAG_LRO: u32 = 1 << 15;

pub(super) fn look(findings: &mut Findings, config: &Config, dir: &PinDir) {
    let names = config.interfaces.iter().map(|interface| interface.name.clone());
    let names = names.collect::<Vec<_>>();
    for name in names.iter().filter(|name| plane::ifindex(name).is_some()) {
        let driver = driver(name).unwrap_or_else(|| "made by the kernel".to_owned());
        match large_receive(name) {
            Some(true) => findings.warn(
                "offloads",
                format!("{name} ({driver}): large-receive-offload is on: packets that it merged cannot be forwarded; ethtool -K {name} lro off"),
            ),
            _ => findings.good("offloads", format!("{name} ({driver}): nothing in the way")),
        }
    }
    let found = plane::foreign_programs_at(dir, &names);
    let found = found.iter().map(ToString::to_string);
    findings.warnings("hook", found, "no program of somebody else runs in front of steer's");
}

fn driver(name: &str) -> Option<String> {
    let link = fs::read_link(format!("/sys/class/net/{name}/device/driver")).ok()?;
    Some(format!("driver {}", link.file_name()?.to_string_lossy()))
}

/// Whether it merges what it receives; `None` where nobody can tell.
fn large_receive(name: &str) -> Option<bool> {
    #[repr(C)]
    struct Value {
        command: u32,
        data: u32,
    }
    let socket = std::net::UdpSocket::bind("0.0.0.0:0").ok()?;
    let name = CString::new(name).ok()?;
    let mut value = Value { command: ETHTOOL_GFLAGS, data: 0 };
    // SAFETY: a request is plain numbers and bytes, for which zeroes are valid.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    let bytes = name.as_bytes_with_nul();
    let room = request.ifr_name.get_mut(..bytes.len())?;
    for (to, from) in room.iter_mut().zip(bytes) {
        *to = from.cast_signed();
    }
    request.ifr_ifru.ifru_data = (&raw mut value).cast();
    // SAFETY: the request names a terminated interface and a value that outlives the call, which
    // writes that value alone.
    let done = unsafe { libc::ioctl(socket.as_raw_fd(), SIOCETHTOOL, &raw mut request) };
    (done == 0).then_some(value.data & ETH_FLAG_LRO != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_merges_nothing_and_what_is_not_there_tells_nothing() {
        assert_eq!(large_receive("lo"), Some(false));
        assert_eq!(large_receive("none-such0"), None);
        assert_eq!(large_receive("a-name-that-is-longer-than-a-name-can-be"), None);
    }
}
