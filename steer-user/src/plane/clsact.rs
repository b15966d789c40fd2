//! TC without links, for kernels before 6.6: a filter of fixed priority and handle under clsact.
//!
//! A filter stays without help; a directory `clsact_<interface>` beside the pins remembers where
//! ours are.

use std::{fs, path::PathBuf};

use anyhow::{Context as _, Result};
use aya::programs::{
    Link as _, SchedClassifier, TcAttachType,
    tc::{self, NlOptions, SchedClassifierLink, TcAttachOptions, TcHandle},
};

use super::{
    LinkState, PinDir, netlink,
    pin::{file_name, interface_name},
};

const PREFIX: &str = "clsact_";
/// Marks interfaces whose clsact was not there before.
const QDISC_PREFIX: &str = "qdisc_";
const PRIORITY: u16 = 0x5354;
const HANDLE: TcHandle = TcHandle::new(0, 1);

/// Puts the filter in place, replacing the one of an agent before at once.
pub(super) fn attach(program: &mut SchedClassifier, dir: &PinDir, interface: &str) -> Result<()> {
    dir.mark(&format!("{PREFIX}{}", file_name(interface)))?;
    match tc::qdisc_add_clsact(interface) {
        Ok(()) => dir.mark(&format!("{QDISC_PREFIX}{}", file_name(interface)))?,
        Err(error) => log::debug!("{interface}: clsact is there already ({error})"),
    }
    let replaced = filter(interface).map(|old| program.attach_to_link(old));
    let id = match replaced {
        Ok(Ok(id)) => id,
        Ok(Err(_)) | Err(_) => {
            let options = NlOptions { priority: PRIORITY, handle: HANDLE, classid: None };
            let options = TcAttachOptions::Netlink(options);
            let attached = program.attach_with_options(interface, TcAttachType::Ingress, options);
            attached.with_context(|| format!("attach to the TC ingress of {interface}"))?
        }
    };
    // Dropping the link would remove the filter.
    std::mem::forget(program.take_link(id).context("take the tc link")?);
    Ok(())
}

/// Removes the filters of interfaces that are not asked for.
pub(super) fn detach_unasked(dir: &PinDir, asked: &[(&str, bool)]) -> Result<()> {
    for (interface, marker) in markers(dir, PREFIX) {
        if asked.iter().any(|(name, _)| *name == interface) && super::attach::without_tcx() {
            continue;
        }
        match filter(&interface).map(SchedClassifierLink::detach) {
            Ok(Ok(())) => {}
            Ok(Err(error)) => log::debug!("{interface}: {error}"),
            // The interface is gone, and the filter with it.
            Err(error) => log::debug!("{interface}: {error}"),
        }
        fs::remove_dir(&marker).with_context(|| format!("remove {}", marker.display()))?;
    }
    Ok(())
}

/// Whether a filter at an ingress is the one of a gateway.
pub(super) fn is_ours(filter: &netlink::Filter) -> bool {
    *filter == netlink::Filter { priority: PRIORITY, handle: u32::from(HANDLE) }
}

/// How it stands with our filter at an interface.
pub(super) fn state(dir: &PinDir, interface: &str) -> LinkState {
    let Some(index) = super::ifindex(interface) else { return LinkState::Gone };
    let filters = netlink::ingress_filters(index).unwrap_or_default();
    let there = marker(dir, interface).exists() && filters.iter().any(is_ours);
    if there { LinkState::Attached } else { LinkState::Detached }
}

/// The interfaces that carry our filter.
pub(super) fn interfaces(dir: &PinDir) -> Vec<String> {
    markers(dir, PREFIX).into_iter().map(|(interface, _)| interface).collect()
}

/// The interfaces whose clsact was not there before.
pub(super) fn own_qdiscs(dir: &PinDir) -> Vec<String> {
    markers(dir, QDISC_PREFIX).into_iter().map(|(interface, _)| interface).collect()
}

fn markers(dir: &PinDir, prefix: &str) -> Vec<(String, PathBuf)> {
    let entries = fs::read_dir(dir.state()).into_iter().flatten().flatten();
    let parse = |entry: fs::DirEntry| {
        let name = entry.file_name();
        Some((interface_name(name.to_str()?.strip_prefix(prefix)?), entry.path()))
    };
    entries.filter_map(parse).collect()
}

fn marker(dir: &PinDir, interface: &str) -> PathBuf {
    dir.map(&format!("{PREFIX}{}", file_name(interface)))
}

fn filter(interface: &str) -> std::io::Result<SchedClassifierLink> {
    SchedClassifierLink::attached(interface, TcAttachType::Ingress, PRIORITY, HANDLE, None)
}
