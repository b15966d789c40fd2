//! What the machine around the gateway must allow: said loudly when it does not.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    fs,
    net::{IpAddr, SocketAddr},
};

use crate::report::{Backends, KeyNameReport, Keys};

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

/// Says of each key name once that several backends use it.
#[derive(Default)]
pub(super) struct SharedNameWatch {
    told: HashSet<(Option<SocketAddr>, String)>,
}

impl SharedNameWatch {
    /// Looks at the names; those that are shared no more may be told again.
    pub(super) fn look(&mut self, keys: &Keys) {
        let shared = keys.names.iter().filter(|name| name.shared);
        let shared = shared.map(|name| ((name.vip, name.name.clone()), name)).collect::<HashMap<_, _>>();
        self.told.retain(|told| shared.contains_key(told));
        for (key, name) in shared {
            if self.told.insert(key) {
                log::warn!("{}", shared_name(name));
            }
        }
    }
}

/// Key names that do not steer because several backends use them, as one sentence for each VIP.
pub fn shared_names(keys: &Keys) -> Vec<String> {
    let mut vips = BTreeMap::<_, Vec<&str>>::new();
    for name in keys.names.iter().filter(|name| name.shared) {
        vips.entry(name.vip).or_default().push(&name.name);
    }
    let sentence = |(vip, names): (Option<SocketAddr>, Vec<&str>)| {
        let (vip, n) = (vip.map_or("gone".to_owned(), |vip| vip.to_string()), names.len());
        let first = names.first().copied().unwrap_or_default();
        format!(
            "VIP {vip}: several backends use the same ticket keys, whose names do not steer ({n} names, {first} among \
             them): give each backend keys of its own (steer keys generate)"
        )
    };
    vips.into_iter().map(sentence).collect()
}

fn shared_name(name: &KeyNameReport) -> String {
    let owner = name.owner_address.map_or(name.owner.to_string(), |address| address.to_string());
    format!(
        "the {} ticket key name {} of {owner} is used by another backend, too: it does not steer",
        name.origin.word(),
        name.name
    )
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
