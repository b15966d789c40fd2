//! What another file would change, as sentences.

use std::{
    fmt::Display,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use super::{
    Backend, Bridge, Config, Fallback, Ha, Health, Hook, Inline, Interface, Mode, OnAllDown, Pool,
    Prefix, Probes, ReturnPath, Server, Shape, Sizes, Stp, TicketKeyName, Tls, TlsVersion, Vip,
    Vlans,
};

/// What applying `new` over `now` would change, one sentence a difference; none: nothing.
pub fn differences(now: &Config, new: &Config) -> Vec<String> {
    let mut said = Vec::new();
    value(&mut said, "pin_dir", now.pin_dir.display(), new.pin_dir.display());
    value(&mut said, "socket", now.socket.display(), new.socket.display());
    value(&mut said, "state_file", state_file(now).display(), state_file(new).display());
    value(&mut said, "metrics", metrics(now), metrics(new));
    value(&mut said, "takeover.for", time(now.takeover), time(new.takeover));
    ha(&mut said, now.ha.as_ref(), new.ha.as_ref());
    sizes(&mut said, &now.sizes, &new.sizes);
    interfaces(&mut said, &now.interfaces, &new.interfaces);
    bridges(&mut said, &now.bridges, &new.bridges);
    pools(&mut said, &now.pools, &new.pools);
    said
}

/// A sentence where a value differs.
fn value(said: &mut Vec<String>, name: &str, now: impl Display, new: impl Display) {
    let (now, new) = (now.to_string(), new.to_string());
    if now != new {
        said.push(format!("{name} would be {new} instead of {now}"));
    }
}

fn state_file(config: &Config) -> &Path {
    config.state_file.as_deref().unwrap_or(Path::new("off"))
}

fn metrics(config: &Config) -> String {
    config.metrics.map_or("off".to_owned(), |address| address.to_string())
}

fn time(time: Option<Duration>) -> String {
    time.map_or("off".to_owned(), |time| humantime::format_duration(time).to_string())
}

fn ha(said: &mut Vec<String>, now: Option<&Ha>, new: Option<&Ha>) {
    let (Some(now), Some(new)) = (now, new) else {
        let on = |ha: Option<&Ha>| if ha.is_some() { "on" } else { "off" };
        return value(said, "ha", on(now), on(new));
    };
    let Ha { servers, cluster, name, key_file, ca, certificate, key, user, password_file } = new;
    let list =
        |servers: &[Server]| servers.iter().map(Server::to_string).collect::<Vec<_>>().join(", ");
    value(said, "ha.servers", list(&now.servers), list(servers));
    value(said, "ha.cluster", &now.cluster, cluster);
    value(said, "ha.name", &now.name, name);
    value(said, "ha.key_file", now.key_file.display(), key_file.display());
    let user_of = |user: &Option<String>| user.clone().unwrap_or_else(|| "none".to_owned());
    value(said, "ha.user", user_of(&now.user), user_of(user));
    let file = |file: &Option<PathBuf>| {
        file.as_ref().map_or("none".to_owned(), |file| file.display().to_string())
    };
    for (key, now, new) in [
        ("ca", &now.ca, ca),
        ("certificate", &now.certificate, certificate),
        ("key", &now.key, key),
        ("password_file", &now.password_file, password_file),
    ] {
        value(said, &format!("ha.{key}"), file(now), file(new));
    }
}

fn sizes(said: &mut Vec<String>, now: &Sizes, new: &Sizes) {
    for ((name, now), (_, new)) in now.named().into_iter().zip(new.named()) {
        value(said, &format!("sizes.{name}"), now, new);
    }
}

fn interfaces(said: &mut Vec<String>, now: &[Interface], new: &[Interface]) {
    for interface in new {
        let Interface { name, hook } = interface;
        match now.iter().find(|other| other.name == *name) {
            None => said.push(format!("interface {name} would be added (hook {})", hook.word())),
            Some(other) => {
                value(said, &format!("interface {name}: hook"), other.hook.word(), hook.word())
            }
        }
    }
    let gone = now.iter().filter(|interface| new.iter().all(|other| other.name != interface.name));
    said.extend(gone.map(|interface| format!("interface {} would be removed", interface.name)));
}

fn bridges(said: &mut Vec<String>, now: &[Bridge], new: &[Bridge]) {
    for bridge in new {
        let Bridge { name, outside, inside, vlans, stp } = bridge;
        let Some(other) = now.iter().find(|other| other.name == *name) else {
            said.push(format!(
                "bridge {name} would be added (outside {}, inside {})",
                outside.join(", "),
                inside.join(", ")
            ));
            continue;
        };
        let mut differs = |key: &str, now: &dyn Display, new: &dyn Display| {
            value(said, &format!("bridge {name}: {key}"), now, new)
        };
        differs("outside", &other.outside.join(", "), &outside.join(", "));
        differs("inside", &other.inside.join(", "), &inside.join(", "));
        differs("vlans", &other.vlans, vlans);
        differs("stp", &other.stp.word(), &stp.word());
    }
    let gone = now.iter().filter(|bridge| new.iter().all(|other| other.name != bridge.name));
    said.extend(gone.map(|bridge| format!("bridge {} would be removed", bridge.name)));
}

fn pools(said: &mut Vec<String>, now: &[Pool], new: &[Pool]) {
    for pool in new {
        let service = pool.service();
        match now.iter().find(|other| other.service() == service) {
            None => {
                let n = pool.backends.len();
                let backends = if n == 1 { "backend" } else { "backends" };
                said.push(format!("{} would be added, with {n} {backends}", service.titled()));
            }
            Some(other) => settings(said, other, pool),
        }
    }
    let gone = now.iter().map(Pool::service);
    let gone = gone.filter(|service| new.iter().all(|other| other.service() != *service));
    said.extend(gone.map(|service| {
        format!("{} would be removed, with its backends and sessions", service.titled())
    }));
}

fn settings(said: &mut Vec<String>, now: &Pool, new: &Pool) {
    let at = format!("{}: ", new.service().titled());
    let mut differs = |name: &str, now: &dyn Display, new: &dyn Display| {
        value(said, &format!("{at}{name}"), now, new)
    };
    differs("mode", &now.mode.word(), &new.mode.word());
    let seconds = |time| humantime::format_duration(time).to_string();
    differs("session_timeout", &seconds(now.session_timeout), &seconds(new.session_timeout));
    differs("session_limit", &seconds(now.session_limit), &seconds(new.session_limit));
    differs("flow_timeout", &seconds(now.flow_timeout), &seconds(new.flow_timeout));
    differs("ticket_key_name", &now.ticket_key_name, &new.ticket_key_name);
    differs("key_name_timeout", &seconds(now.key_name_timeout), &seconds(new.key_name_timeout));
    differs(
        "learn_without_certificate",
        &now.learn_without_certificate,
        &new.learn_without_certificate,
    );
    differs("sessions_per_source", &now.sessions_per_source, &new.sessions_per_source);
    differs("owner_tries", &now.owner_tries, &new.owner_tries);
    differs("swallow", &now.swallow, &new.swallow);
    match (&now.shape, &new.shape) {
        (Shape::Vip(now), Shape::Vip(new)) => {
            let Vip { address: _, also, pool: _, fallback, assign, return_path, on_all_down } = new;
            differs("the other VIPs of its pool", &addresses(&now.also), &addresses(also));
            differs("fallback", &now.fallback.word(), &fallback.word());
            differs("assign", &now.assign, assign);
            differs("return_path", &now.return_path.word(), &return_path.word());
            differs("on_all_down", &now.on_all_down.word(), &on_all_down.word());
        }
        (Shape::Inline(now), Shape::Inline(new)) => {
            let Inline { name: _, bridged, exempt } = new;
            let word = |bridged: bool| if bridged { "bridge" } else { "inline" };
            differs("shape", &word(now.bridged), &word(*bridged));
            differs("exempt", &prefixes(&now.exempt), &prefixes(exempt));
        }
        // What has an address is no pool with a name.
        (Shape::Vip(_), Shape::Inline(_)) | (Shape::Inline(_), Shape::Vip(_)) => {}
    }
    differs("health", &now.health.word(), &new.health.word());
    if let (Health::Probes(now), Health::Probes(new)) = (&now.health, &new.health) {
        let Probes { interval, timeout, rise, fall, tls } = new;
        differs("health.interval", &seconds(now.interval), &seconds(*interval));
        differs("health.timeout", &seconds(now.timeout), &seconds(*timeout));
        differs("health.rise", &now.rise, rise);
        differs("health.fall", &now.fall, fall);
        let word = |tls: bool| if tls { "tls" } else { "tcp" };
        differs("health.type", &word(now.tls.is_some()), &word(tls.is_some()));
        if let (Some(now), Some(new)) = (&now.tls, tls) {
            let Tls { sni, ca, certificate, key, min_version, max_version } = &**new;
            let name = |sni: &Option<String>| sni.clone().unwrap_or("nobody".to_owned());
            let file = |path: &Option<PathBuf>| {
                path.as_ref().map_or("none".to_owned(), |path| path.display().to_string())
            };
            differs("health.sni", &name(&now.sni), &name(sni));
            differs("health.ca", &file(&now.ca), &file(ca));
            differs("health.certificate", &file(&now.certificate), &file(certificate));
            differs("health.key", &file(&now.key), &file(key));
            differs("health.min_version", &now.min_version.word(), &min_version.word());
            differs("health.max_version", &now.max_version.word(), &max_version.word());
        }
    }
    backends(said, &at, &now.backends, &new.backends);
}

fn addresses(addresses: &[SocketAddr]) -> String {
    let texts = addresses.iter().map(ToString::to_string).collect::<Vec<_>>();
    if texts.is_empty() { "nothing".to_owned() } else { texts.join(", ") }
}

fn prefixes(prefixes: &[Prefix]) -> String {
    let texts = prefixes.iter().map(ToString::to_string).collect::<Vec<_>>();
    if texts.is_empty() { "nobody".to_owned() } else { texts.join(", ") }
}

fn backends(said: &mut Vec<String>, at: &str, now: &[Backend], new: &[Backend]) {
    for backend in new {
        let Backend { address, weight, key_names, vlan, backup } = backend;
        match now.iter().find(|other| other.address == *address) {
            None => {
                said.push(format!("{at}backend {address} would be added, with weight {weight}"))
            }
            Some(other) => {
                value(said, &format!("{at}backend {address}: weight"), other.weight, weight);
                let word = |vlan: u16| if vlan == 0 { "any".to_owned() } else { vlan.to_string() };
                value(said, &format!("{at}backend {address}: vlan"), word(other.vlan), word(*vlan));
                value(said, &format!("{at}backend {address}: backup"), other.backup, backup);
                if other.key_names != *key_names {
                    said.push(format!("{at}backend {address} would have other key_names"));
                }
            }
        }
    }
    let gone =
        now.iter().filter(|backend| new.iter().all(|other| other.address != backend.address));
    said.extend(gone.map(|backend| format!("{at}backend {} would be removed", backend.address)));
}

impl Hook {
    pub(super) const fn word(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Xdp => "xdp",
            Self::Tc => "tc",
        }
    }
}

impl Stp {
    pub(super) const fn word(self) -> &'static str {
        match self {
            Self::Refused => "refused",
            Self::Watched => "watched",
        }
    }
}

impl Display for Vlans {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Any => f.write_str("any"),
            Self::These(vlans) => {
                f.write_str(&vlans.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "))
            }
        }
    }
}

impl Mode {
    pub(super) const fn word(self) -> &'static str {
        match self {
            Self::Steer => "steer",
            Self::Observe => "observe",
        }
    }
}

impl Fallback {
    pub(super) const fn word(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Source => "source",
            Self::Flow => "flow",
        }
    }
}

impl Health {
    pub(super) const fn word(&self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Seen => "seen",
            Self::Probes(_) => "probes",
        }
    }
}

impl TlsVersion {
    pub(super) const fn word(self) -> &'static str {
        match self {
            Self::V1_2 => "1.2",
            Self::V1_3 => "1.3",
        }
    }
}

impl OnAllDown {
    pub(super) const fn word(self) -> &'static str {
        match self {
            Self::Drop => "drop",
            Self::Send => "send",
        }
    }
}

impl ReturnPath {
    pub(super) const fn word(self) -> &'static str {
        match self {
            Self::Hop => "hop",
            Self::Route => "route",
        }
    }
}

impl Display for TicketKeyName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::At(layout) => super::LayoutWord(*layout).fmt(f),
            Self::Auto => f.write_str("auto"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: &str = r#"
[[interface]]
name = "eth0"
[[interface]]
name = "eth1"
[[vip]]
address = "198.51.100.10:443"
[[vip.backend]]
address = "10.0.0.1:443"
[[vip.backend]]
address = "10.0.0.2:443"
[[vip]]
address = "198.51.100.11:443"
[[vip.backend]]
address = "10.0.1.1:443"
"#;

    const NEW: &str = r#"
metrics = "127.0.0.1:9464"
state_file = "off"
[sizes]
sessions = 1000
[[interface]]
name = "eth0"
hook = "tc"
[[interface]]
name = "eth2"
[[vip]]
address = "198.51.100.10:443"
session_timeout = "5m"
fallback = "flow"
[[vip.backend]]
address = "10.0.0.2:443"
weight = 3
key_names = ["000102030405060708090a0b0c0d0e0f"]
[[vip.backend]]
address = "10.0.0.3:443"
[vip.health]
interval = "1s"
[[vip]]
address = "198.51.100.12:443"
[[vip.backend]]
address = "10.0.2.1:443"
"#;

    fn config(text: &str) -> Config {
        Config::parse(Path::new("steer.toml"), text).unwrap()
    }

    #[test]
    fn every_difference_is_one_sentence() {
        assert_eq!(
            differences(&config(NOW), &config(NEW)),
            [
                "state_file would be off instead of /var/lib/steer/state",
                "metrics would be 127.0.0.1:9464 instead of off",
                "sizes.sessions would be 1000 instead of 262144",
                "interface eth0: hook would be tc instead of auto",
                "interface eth2 would be added (hook auto)",
                "interface eth1 would be removed",
                "VIP 198.51.100.10:443: session_timeout would be 5m instead of 10m",
                "VIP 198.51.100.10:443: fallback would be flow instead of auto",
                "VIP 198.51.100.10:443: health.interval would be 1s instead of 2s",
                "VIP 198.51.100.10:443: backend 10.0.0.2:443: weight would be 3 instead of 1",
                "VIP 198.51.100.10:443: backend 10.0.0.2:443 would have other key_names",
                "VIP 198.51.100.10:443: backend 10.0.0.3:443 would be added, with weight 1",
                "VIP 198.51.100.10:443: backend 10.0.0.1:443 would be removed",
                "VIP 198.51.100.12:443 would be added, with 1 backend",
                "VIP 198.51.100.11:443 would be removed, with its backends and sessions",
            ]
        );
    }

    #[test]
    fn the_same_file_differs_in_nothing_and_no_difference_goes_unsaid() {
        assert_eq!(differences(&config(NEW), &config(NEW)), [""; 0]);
        let lines = [
            "mode = \"observe\"",
            "session_timeout = 9",
            "session_limit = 99999",
            "flow_timeout = 9",
            "key_name_timeout = 9",
            "ticket_key_name = \"auto\"",
            "learn_without_certificate = true",
            "sessions_per_source = 9",
            "fallback = \"source\"",
            "owner_tries = 9",
            "swallow = true",
            "assign = true",
            "return_path = \"route\"",
            "health = \"off\"",
            "health = {enabled = false}",
            "health = {timeout = 2}",
            "health = {rise = 9}",
            "health = {fall = 9}",
            "health = {type = \"tls\"}",
            "on_all_down = \"send\"",
        ];
        for line in lines {
            let changed = NOW.replacen("10:443\"\n", &format!("10:443\"\n{line}\n"), 1);
            assert_eq!(differences(&config(NOW), &config(&changed)).len(), 1, "{line}");
        }
    }

    #[test]
    fn what_differs_in_handshakes_of_probes_is_told() {
        let with = |lines: &str| {
            let line = format!("10:443\"\nhealth = {{type = \"tls\", {lines}}}\n");
            config(&NOW.replacen("10:443\"\n", &line, 1))
        };
        let now = with("sni = \"a.example\"");
        assert_eq!(differences(&now, &now), [""; 0]);
        for (lines, told) in [
            ("sni = \"b.example\"", "health.sni would be b.example instead of a.example"),
            ("sni = \"a.example\", ca = \"/ca\"", "health.ca would be /ca instead of none"),
            (
                "sni = \"a.example\", min_version = \"1.3\"",
                "health.min_version would be 1.3 instead of 1.2",
            ),
            (
                "sni = \"a.example\", max_version = \"1.2\"",
                "health.max_version would be 1.2 instead of 1.3",
            ),
        ] {
            assert_eq!(differences(&now, &with(lines)), [format!("VIP 198.51.100.10:443: {told}")]);
        }
        let both = with("sni = \"a.example\", certificate = \"/c\", key = \"/k\"");
        assert_eq!(differences(&now, &both).len(), 2);
        let backup = config(&NOW.replacen("0.2:443\"\n", "0.2:443\"\nbackup = true\n", 1));
        let told =
            "VIP 198.51.100.10:443: backend 10.0.0.2:443: backup would be true instead of false";
        assert_eq!(differences(&config(NOW), &backup), [told]);
    }

    #[test]
    fn vips_that_come_to_a_pool_or_go_are_told() {
        let file = |vips: &[u8]| {
            let vip = |n| format!("[[vip]]\naddress = \"192.0.2.{n}:443\"\npool = \"web\"\n");
            config(&format!(
                "[[interface]]\nname = \"eth0\"\n[[pool]]\nname = \"web\"\n[[pool.backend]]\n\
                 address = \"10.0.0.1:443\"\n{}",
                vips.iter().map(vip).collect::<String>()
            ))
        };
        assert_eq!(differences(&file(&[1, 2]), &file(&[1, 2])), [""; 0]);
        assert_eq!(
            differences(&file(&[1, 2]), &file(&[1, 3, 4])),
            ["VIP 192.0.2.1:443: the other VIPs of its pool would be 192.0.2.3:443, \
              192.0.2.4:443 instead of 192.0.2.2:443"]
        );
    }

    #[test]
    fn pools_are_told_by_their_names() {
        let pool = |name: &str, lines: &str| {
            config(&format!(
                "[[interface]]\nname = \"eth0\"\n[[pool]]\nname = \"{name}\"\nshape = \"inline\"\n\
                 {lines}\n[[pool.backend]]\naddress = \"10.0.0.1:443\"\n"
            ))
        };
        let now = pool("web", "");
        for (lines, said) in [
            ("mode = \"steer\"", "mode would be steer instead of observe"),
            ("exempt = [\"10.9.0.0/16\"]", "exempt would be 10.9.0.0/16 instead of nobody"),
            ("health = \"off\"", "health would be off instead of seen"),
            ("health = {}", "health would be probes instead of seen"),
        ] {
            assert_eq!(differences(&now, &pool("web", lines)), [format!("pool web: {said}")]);
        }
        assert_eq!(
            differences(&now, &pool("app", "")),
            [
                "pool app would be added, with 1 backend",
                "pool web would be removed, with its backends and sessions"
            ]
        );
    }
    #[test]
    fn bridges_are_told_by_their_names() {
        let file = |bridge: &str, pool: &str, backend: &str| {
            config(&format!(
                "[[interface]]\nname = \"eth0\"\n{bridge}[[pool]]\nname = \"web\"\n{pool}\n[[pool.backend]]\n\
                 address = \"10.0.0.1:443\"\n{backend}\n"
            ))
        };
        let br0 = "[[bridge]]\nname = \"br0\"\noutside = [\"eth1\"]\ninside = [\"eth2\"]\n";
        let bridged = "shape = \"bridge\"";
        let now = file(br0, bridged, "");
        assert_eq!(differences(&now, &now), [""; 0]);
        for (from, to, said) in [
            ("eth1\"", "eth1\", \"eth3\"", "outside would be eth1, eth3 instead of eth1"),
            ("eth2", "eth4", "inside would be eth4 instead of eth2"),
            ("name", "vlans = [200, 100]\nname", "vlans would be 100, 200 instead of any"),
            ("name", "stp = \"watched\"\nname", "stp would be watched instead of refused"),
        ] {
            let new = file(&br0.replace(from, to), bridged, "");
            assert_eq!(differences(&now, &new), [format!("bridge br0: {said}")]);
        }
        let other = file(&br0.replace("br0", "br1"), bridged, "vlan = 7");
        assert_eq!(
            differences(&now, &other),
            [
                "bridge br1 would be added (outside eth1, inside eth2)",
                "bridge br0 would be removed",
                "pool web: backend 10.0.0.1:443: vlan would be 7 instead of any",
            ]
        );
        let inline = file("", "shape = \"inline\"", "");
        assert_eq!(
            differences(&inline, &now),
            [
                "bridge br0 would be added (outside eth1, inside eth2)",
                "pool web: shape would be bridge instead of inline",
            ]
        );
    }
}
