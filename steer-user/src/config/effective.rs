//! What a configuration says with every default filled in, in the file's own shape: `steer config
//! show`. Read again, it is the same configuration.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use humantime::format_duration;
use serde::Serialize;

use super::{Bridge, Config, Ha, Health, Pool, Probes, Server, Shape, Sizes, Tls, Vip, Vlans};

/// A configuration as a file that leaves nothing to defaults.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Effective {
    pin_dir: PathBuf,
    socket: PathBuf,
    #[serde(skip_serializing_if = "Option::is_none")]
    metrics: Option<SocketAddr>,
    sizes: Sizes,
    #[serde(skip_serializing_if = "Option::is_none")]
    takeover: Option<Takeover>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ha: Option<HaTable>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    interface: Vec<Interface>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    bridge: Vec<BridgeTable>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    vip: Vec<PoolTable>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pool: Vec<PoolTable>,
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
struct Takeover {
    r#for: String,
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
struct HaTable {
    servers: Vec<String>,
    cluster: String,
    name: String,
    key_file: PathBuf,
    #[serde(skip_serializing_if = "Option::is_none")]
    ca: Option<PathBuf>,
    #[serde(skip_serializing_if = "Option::is_none")]
    certificate: Option<PathBuf>,
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<PathBuf>,
    #[serde(skip_serializing_if = "Option::is_none")]
    user: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    password_file: Option<PathBuf>,
}

impl HaTable {
    fn of(ha: &Ha) -> Self {
        let Ha { servers, cluster, name, key_file, ca, certificate, key, user, password_file } =
            ha.clone();
        let servers = servers.iter().map(Server::to_string).collect();
        Self { servers, cluster, name, key_file, ca, certificate, key, user, password_file }
    }
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
struct Interface {
    name: String,
    hook: &'static str,
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
struct BridgeTable {
    name: String,
    outside: Vec<String>,
    inside: Vec<String>,
    vlans: VlansValue,
    stp: &'static str,
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
#[serde(untagged)]
enum VlansValue {
    Word(&'static str),
    These(Vec<u16>),
}

/// `[[vip]]` or `[[pool]]`; of a VIP that names a pool only its address is said.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize)]
struct PoolTable {
    #[serde(skip_serializing_if = "Option::is_none")]
    address: Option<SocketAddr>,
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pool: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    shape: Option<&'static str>,
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    settings: Option<Settings>,
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
struct Settings {
    mode: &'static str,
    session_timeout: String,
    session_limit: String,
    flow_timeout: String,
    ticket_key_name: String,
    key_name_timeout: String,
    learn_without_certificate: bool,
    sessions_per_source: u32,
    owner_tries: u16,
    #[serde(skip_serializing_if = "Option::is_none")]
    swallow: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    fallback: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    assign: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    return_path: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    on_all_down: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    exempt: Option<Vec<String>>,
    health: HealthValue,
    backend: Vec<BackendTable>,
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
#[serde(untagged)]
enum HealthValue {
    Word(&'static str),
    Probes {
        interval: String,
        timeout: String,
        rise: u32,
        fall: u32,
        r#type: &'static str,
        #[serde(flatten, skip_serializing_if = "Option::is_none")]
        tls: Option<TlsValue>,
    },
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
struct TlsValue {
    #[serde(skip_serializing_if = "Option::is_none")]
    sni: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ca: Option<PathBuf>,
    #[serde(skip_serializing_if = "Option::is_none")]
    certificate: Option<PathBuf>,
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<PathBuf>,
    min_version: &'static str,
    max_version: &'static str,
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
struct BackendTable {
    address: SocketAddr,
    #[serde(skip_serializing_if = "Option::is_none")]
    weight: Option<u16>,
    key_names: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    vlan: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    backup: Option<bool>,
}

impl Effective {
    /// Everything that a configuration says, and all that it leaves to defaults.
    pub fn of(config: &Config) -> Self {
        let interface = config.interfaces.iter();
        let interface =
            interface.map(|i| Interface { name: i.name.clone(), hook: i.hook.word() }).collect();
        let (mut vip, mut pool) = (Vec::new(), Vec::new());
        for served in &config.pools {
            tables(served, &mut vip, &mut pool);
        }
        Self {
            pin_dir: config.pin_dir.clone(),
            socket: config.socket.clone(),
            metrics: config.metrics,
            sizes: config.sizes,
            takeover: config.takeover.map(|time| Takeover { r#for: duration(time) }),
            ha: config.ha.as_ref().map(HaTable::of),
            interface,
            bridge: config.bridges.iter().map(bridge).collect(),
            vip,
            pool,
        }
    }
}

/// The tables of one pool: its own, and those of VIPs that name it.
fn tables(served: &Pool, vips: &mut Vec<PoolTable>, pools: &mut Vec<PoolTable>) {
    let settings = Some(settings(served));
    match &served.shape {
        Shape::Vip(Vip { pool: Some(name), .. }) => {
            let name = name.to_string();
            vips.extend(served.vip().into_iter().flat_map(Vip::addresses).map(|address| {
                PoolTable {
                    address: Some(address),
                    pool: Some(name.clone()),
                    ..PoolTable::default()
                }
            }));
            pools.push(PoolTable {
                name: Some(name),
                shape: Some("gateway"),
                settings,
                ..PoolTable::default()
            });
        }
        Shape::Vip(vip) => {
            vips.push(PoolTable { address: Some(vip.address), settings, ..PoolTable::default() })
        }
        Shape::Inline(inline) => pools.push(PoolTable {
            name: Some(inline.name.to_string()),
            shape: Some(if inline.bridged { "bridge" } else { "inline" }),
            settings,
            ..PoolTable::default()
        }),
    }
}

fn settings(pool: &Pool) -> Settings {
    let (vip, inline) = (pool.vip(), pool.inline());
    let exempt = |prefixes: &[super::Prefix]| prefixes.iter().map(ToString::to_string).collect();
    Settings {
        mode: pool.mode.word(),
        session_timeout: duration(pool.session_timeout),
        session_limit: duration(pool.session_limit),
        flow_timeout: duration(pool.flow_timeout),
        ticket_key_name: pool.ticket_key_name.to_string(),
        key_name_timeout: duration(pool.key_name_timeout),
        learn_without_certificate: pool.learn_without_certificate,
        sessions_per_source: pool.sessions_per_source,
        owner_tries: pool.owner_tries,
        swallow: (!pool.is_bridged()).then_some(pool.swallow),
        fallback: vip.map(|vip| vip.fallback.word()),
        assign: vip.map(|vip| vip.assign),
        return_path: vip.map(|vip| vip.return_path.word()),
        on_all_down: vip.map(|vip| vip.on_all_down.word()),
        exempt: inline.map(|inline| exempt(&inline.exempt)),
        health: health(&pool.health),
        backend: pool.backends.iter().map(|backend| self::backend(backend, pool)).collect(),
    }
}

fn health(health: &Health) -> HealthValue {
    match health {
        Health::Off | Health::Seen => HealthValue::Word(health.word()),
        Health::Probes(Probes { interval, timeout, rise, fall, tls }) => HealthValue::Probes {
            interval: duration(*interval),
            timeout: duration(*timeout),
            rise: *rise,
            fall: *fall,
            r#type: if tls.is_some() { "tls" } else { "tcp" },
            tls: tls.as_deref().map(self::tls),
        },
    }
}

fn tls(tls: &Tls) -> TlsValue {
    TlsValue {
        sni: tls.sni.clone(),
        ca: tls.ca.clone(),
        certificate: tls.certificate.clone(),
        key: tls.key.clone(),
        min_version: tls.min_version.word(),
        max_version: tls.max_version.word(),
    }
}

fn backend(backend: &super::Backend, pool: &Pool) -> BackendTable {
    let hex = |name: &Vec<u8>| name.iter().map(|byte| format!("{byte:02x}")).collect();
    BackendTable {
        address: backend.address,
        weight: pool.vip().map(|_| backend.weight),
        key_names: backend.key_names.iter().map(hex).collect(),
        vlan: Some(backend.vlan).filter(|vlan| *vlan != 0),
        backup: pool.vip().map(|_| backend.backup),
    }
}

fn bridge(bridge: &Bridge) -> BridgeTable {
    BridgeTable {
        name: bridge.name.clone(),
        outside: bridge.outside.clone(),
        inside: bridge.inside.clone(),
        vlans: match &bridge.vlans {
            Vlans::Any => VlansValue::Word("any"),
            Vlans::These(vlans) => VlansValue::These(vlans.clone()),
        },
        stp: bridge.stp.word(),
    }
}

fn duration(time: Duration) -> String {
    format_duration(time).to_string()
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    const EVERYTHING: &str = r#"
pin_dir = "/sys/fs/bpf/other"
socket = "/run/other.sock"
metrics = "127.0.0.1:9464"
[sizes]
sessions = 1000
[takeover]
for = "10m"
[ha]
servers = ["rediss://store.example.com", "unix:///run/redis.sock"]
cluster = "edge"
name = "gw1"
key_file = "/etc/steer/ha.key"
ca = "/etc/steer/ca.pem"
certificate = "/etc/steer/client.pem"
key = "/etc/steer/client.key"
user = "steer"
password_file = "/etc/steer/password"
[[interface]]
name = "eth0"
hook = "xdp"
[[bridge]]
name = "br0"
outside = ["eth1"]
inside = ["eth2", "eth3"]
vlans = [100, 200]
stp = "watched"
[[vip]]
address = "198.51.100.10:443"
mode = "observe"
session_limit = "1h"
ticket_key_name = "auto"
fallback = "flow"
assign = true
return_path = "route"
swallow = true
on_all_down = "send"
health = "off"
[[vip.backend]]
address = "10.0.0.1:443"
weight = 3
key_names = ["000102030405060708090a0b0c0d0e0f"]
[[vip]]
address = "198.51.100.11:443"
pool = "shared"
[[vip]]
address = "198.51.100.12:443"
pool = "shared"
[[pool]]
name = "shared"
owner_tries = 9
[[pool.backend]]
address = "10.0.1.1:443"
[[pool.backend]]
address = "10.0.1.2:443"
backup = true
[pool.health]
interval = "500ms"
type = "tls"
sni = "www.example.com"
ca = "/etc/steer/ca.pem"
certificate = "/etc/steer/client.pem"
key = "/etc/steer/client.key"
min_version = "1.3"
[[pool]]
name = "web"
shape = "inline"
exempt = ["10.9.0.0/16"]
mode = "steer"
[[pool.backend]]
address = "10.0.2.1:443"
[[pool]]
name = "wire"
shape = "bridge"
[[pool.backend]]
address = "10.0.3.1:443"
vlan = 100
"#;

    #[test]
    fn what_is_shown_is_a_file_that_says_the_same() {
        let file = Path::new("steer.toml");
        for text in [EVERYTHING, include_str!("../../../deploy/steer.toml")] {
            let config = Config::parse(file, text).unwrap();
            let shown = toml::to_string(&Effective::of(&config)).unwrap();
            assert_eq!(Config::parse(file, &shown).as_ref(), Ok(&config), "{shown}");
        }
    }

    #[test]
    fn every_default_is_filled_in() {
        let text = "[[interface]]\nname = \"eth0\"\n[[vip]]\naddress = \"198.51.100.10:443\"\n\
                    [[vip.backend]]\naddress = \"10.0.0.1:443\"\n";
        let config = Config::parse(Path::new("steer.toml"), text).unwrap();
        let shown = toml::to_string(&Effective::of(&config)).unwrap();
        for line in [
            "pin_dir = \"/sys/fs/bpf/steer\"",
            "sessions = 262144",
            "hook = \"auto\"",
            "mode = \"steer\"",
            "session_timeout = \"10m\"",
            "owner_tries = 3",
            "interval = \"2s\"",
            "weight = 1",
            "on_all_down = \"drop\"",
            "type = \"tcp\"",
            "backup = false",
        ] {
            assert!(shown.lines().any(|shown| shown == line), "no {line} in:\n{shown}");
        }
    }
}
