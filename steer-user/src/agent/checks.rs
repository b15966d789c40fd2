//! What the machine around the gateway must allow: said loudly when it does not.

use std::{
    collections::HashSet,
    fs,
    net::{IpAddr, SocketAddr},
};

use crate::report::Backends;

/// What keeps traffic from flowing, as sentences. `vips` says which families matter.
pub fn sysctls<'a>(
    interfaces: impl IntoIterator<Item = &'a str>,
    vips: impl IntoIterator<Item = IpAddr>,
) -> Vec<String> {
    let vips = vips.into_iter().collect::<Vec<_>>();
    let mut warnings = Vec::new();
    if vips.iter().any(IpAddr::is_ipv4) {
        warnings.extend(forwarding("net/ipv4/ip_forward"));
        warnings.extend(interfaces.into_iter().filter_map(reverse_path));
    }
    if vips.iter().any(IpAddr::is_ipv6) {
        warnings.extend(forwarding("net/ipv6/conf/all/forwarding"));
    }
    warnings
}

/// Says of each backend once that its answers do not come back through here.
#[derive(Default)]
pub(super) struct ReturnPathWatch {
    suspects: HashSet<SocketAddr>,
    told: HashSet<SocketAddr>,
}

impl ReturnPathWatch {
    /// Looks at the backends; warns of those that looked the same the time before, for an answer may be on its way.
    pub(super) fn look(&mut self, backends: &Backends) {
        let silent = backends.without_return_path().map(|backend| backend.address).collect::<HashSet<_>>();
        for address in silent.intersection(&self.suspects) {
            if self.told.insert(*address) {
                log::warn!("{}", no_return_path(*address));
            }
        }
        self.suspects = silent;
    }
}

/// Backends whose answers do not come back through this gateway, as sentences: their clients see no connection.
pub fn return_paths(backends: &Backends) -> Vec<String> {
    backends.without_return_path().map(|backend| no_return_path(backend.address)).collect()
}

fn no_return_path(backend: SocketAddr) -> String {
    format!("{backend} got flows but no answer came back through here: is this gateway on its way to the clients?")
}

fn forwarding(name: &str) -> Option<String> {
    let sysctl = name.replace('/', ".");
    (read(name)? == 0).then(|| format!("{sysctl} is 0: the kernel does not look up routes for us; set {sysctl}=1"))
}

/// The kernel takes the stricter of the interface's value and the one for all.
fn reverse_path(interface: &str) -> Option<String> {
    let of = |name: &str| read(&format!("net/ipv4/conf/{name}/rp_filter")).unwrap_or_default();
    let strict = of("all").max(of(interface)) == 1;
    strict.then(|| {
        format!(
            "rp_filter is strict on {interface}: packets whose way back leads elsewhere are lost; \
             set net.ipv4.conf.{interface}.rp_filter=2"
        )
    })
}

fn read(name: &str) -> Option<u32> {
    fs::read_to_string(format!("/proc/sys/{name}")).ok()?.trim().parse().ok()
}
