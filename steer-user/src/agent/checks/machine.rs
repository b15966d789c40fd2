//! What the machine around the gateway must allow, as it is now.

use std::{
    collections::BTreeSet,
    fs,
    net::{IpAddr, SocketAddr},
    path::Path,
};

use super::{Kind, Warning};
use crate::plane::{self, LinkReport, LinkState, PinDir};

/// What of the machine matters to a gateway.
#[derive(Clone, Debug, Default)]
pub struct Machine {
    /// Its managed interfaces.
    pub interfaces: Vec<String>,
    /// Those of them that carry packets of clients and of backends.
    pub both_sides: Vec<String>,
    /// Addresses of its VIPs and backends.
    pub addresses: Vec<IpAddr>,
}

/// What keeps traffic from flowing.
pub fn machine(machine: &Machine) -> Vec<Warning> {
    settings(Path::new("/proc/sys/net"), machine).into_iter().collect()
}

/// What is wrong with the programs at the managed interfaces: gone, detached, behind others' or
/// beside another gateway's.
pub fn programs(dir: &PinDir, vips: &[SocketAddr]) -> Vec<Warning> {
    let links = plane::links(dir).into_iter().filter_map(|link| attachment(&link));
    let foreign = plane::foreign_programs(dir).into_iter();
    let foreign = foreign.map(|program| Warning::new(Kind::OtherProgram, program.to_string()));
    let shared =
        plane::shared(dir, vips).into_iter().map(|text| Warning::new(Kind::OtherGateway, text));
    let found = links.chain(foreign).chain(shared).collect::<BTreeSet<_>>();
    found.into_iter().collect()
}

fn attachment(link: &LinkReport) -> Option<Warning> {
    let LinkReport { interface, kind, state } = link;
    match state {
        LinkState::Attached => None,
        LinkState::Gone => {
            let text = format!("interface {interface} is gone: nothing is attached to it");
            Some(Warning::new(Kind::InterfaceGone, text))
        }
        LinkState::Renamed(now) => {
            let text = format!(
                "interface {interface} is named {now} now; the configuration still says {interface}"
            );
            Some(Warning::new(Kind::InterfaceGone, text))
        }
        LinkState::Detached => {
            let kind = kind.word().to_uppercase();
            let text = format!(
                "{interface}: the {kind} program is not attached; a running agent attaches it again"
            );
            Some(Warning::new(Kind::Detached, text))
        }
    }
}

/// The settings of the network under `root` (/proc/sys/net). The families of the addresses say which
/// ones matter.
fn settings(root: &Path, machine: &Machine) -> BTreeSet<Warning> {
    let sysctls = Sysctls { root };
    let mut warnings = BTreeSet::new();
    if machine.addresses.iter().any(IpAddr::is_ipv4) {
        warnings.extend(sysctls.forwarding("ipv4", "ipv4/ip_forward", &machine.interfaces));
        warnings.extend(
            machine.interfaces.iter().filter_map(|interface| sysctls.reverse_path(interface)),
        );
        warnings
            .extend(machine.both_sides.iter().filter_map(|interface| sysctls.redirects(interface)));
    }
    if machine.addresses.iter().any(IpAddr::is_ipv6) {
        warnings.extend(sysctls.forwarding(
            "ipv6",
            "ipv6/conf/all/forwarding",
            &machine.interfaces,
        ));
    }
    warnings
}

struct Sysctls<'a> {
    root: &'a Path,
}

impl Sysctls<'_> {
    /// The lookup of a route goes by the interface that a packet came in by. Where all are off one
    /// sentence says it.
    fn forwarding(&self, family: &str, all: &str, interfaces: &[String]) -> Vec<Warning> {
        let off = |sysctl: &str| self.read(sysctl) == Some(0);
        let warning = |sysctl: &str| {
            let name = name(sysctl);
            let text =
                format!("{name} is 0: the kernel does not look up routes for us; set {name}=1");
            Warning::new(Kind::Forwarding, text)
        };
        if off(all) {
            return vec![warning(all)];
        }
        let each =
            interfaces.iter().map(|interface| format!("{family}/conf/{interface}/forwarding"));
        each.filter(|sysctl| off(sysctl)).map(|sysctl| warning(&sysctl)).collect()
    }

    /// The kernel takes the stricter of the interface's value and the one for all.
    fn reverse_path(&self, interface: &str) -> Option<Warning> {
        let of = |name: &str| self.read(&format!("ipv4/conf/{name}/rp_filter")).unwrap_or_default();
        let strict = of("all").max(of(interface)) == 1;
        let setting = name(&format!("ipv4/conf/{interface}/rp_filter"));
        let text = format!(
            "rp_filter is strict on {interface}: packets whose way back leads elsewhere are lost; set {setting}=2"
        );
        strict.then(|| Warning::new(Kind::ReversePath, text))
    }

    /// The kernel sends redirects where the interface's value or the one for all says so; of one
    /// that is not there nobody can.
    fn redirects(&self, interface: &str) -> Option<Warning> {
        let of = |name: &str| self.read(&format!("ipv4/conf/{name}/send_redirects"));
        let own = of(interface)?;
        let setting = name(&format!("ipv4/conf/{interface}/send_redirects"));
        let text = format!(
            "{interface} carries packets of clients and of backends, and send_redirects is on: the kernel tells backends a \
             way to the clients that leads past this gateway; set net.ipv4.conf.all.send_redirects=0 and {setting}=0"
        );
        (own != 0 || of("all") != Some(0)).then(|| Warning::new(Kind::Redirects, text))
    }

    fn read(&self, name: &str) -> Option<u32> {
        fs::read_to_string(self.root.join(name)).ok()?.trim().parse().ok()
    }
}

/// The name that sysctl(8) takes: with dots, or with slashes where an interface's name has a dot.
fn name(path: &str) -> String {
    if path.contains('.') {
        format!("net/{path}")
    } else {
        format!("net.{}", path.replace('/', "."))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is said of a machine with these settings, by kind and text.
    fn said(values: &[(&str, u32)], machine: &Machine) -> Vec<(Kind, String)> {
        let root = tempfile::tempdir().unwrap();
        for (name, value) in values {
            let file = root.path().join(name);
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            fs::write(file, format!("{value}\n")).unwrap();
        }
        settings(root.path(), machine)
            .into_iter()
            .map(|warning| (warning.kind, warning.text))
            .collect()
    }

    fn gateway(vip: &str) -> Machine {
        let interfaces = vec!["eth0".to_owned(), "eth1.7".to_owned()];
        let vip: SocketAddr = vip.parse().unwrap();
        Machine { both_sides: Vec::new(), interfaces, addresses: vec![vip.ip()] }
    }

    const GOOD: [(&str, u32); 9] = [
        ("ipv4/ip_forward", 1),
        ("ipv4/conf/all/rp_filter", 2),
        ("ipv4/conf/eth0/rp_filter", 1),
        ("ipv4/conf/eth1.7/rp_filter", 0),
        ("ipv4/conf/all/send_redirects", 0),
        ("ipv4/conf/eth0/send_redirects", 1),
        ("ipv4/conf/eth0/forwarding", 1),
        ("ipv4/conf/eth1.7/forwarding", 1),
        ("ipv6/conf/all/forwarding", 0),
    ];

    fn but(changed: &[(&'static str, u32)]) -> Vec<(&'static str, u32)> {
        GOOD.into_iter().chain(changed.iter().copied()).collect()
    }

    #[test]
    fn a_machine_that_is_set_up_well_gets_no_word() {
        assert_eq!(said(&GOOD, &gateway("198.51.100.10:443")), []);
    }

    #[test]
    fn forwarding_that_is_off_is_named_once_for_all_or_for_each_interface() {
        let v4 = gateway("198.51.100.10:443");
        let all = said(&but(&[("ipv4/ip_forward", 0), ("ipv4/conf/eth0/forwarding", 0)]), &v4);
        assert_eq!((all.len(), all[0].0), (1, Kind::Forwarding));
        assert!(all[0].1.ends_with("set net.ipv4.ip_forward=1"), "{all:?}");
        let one = said(&but(&[("ipv4/conf/eth1.7/forwarding", 0)]), &v4);
        assert!(
            one.len() == 1 && one[0].1.ends_with("set net/ipv4/conf/eth1.7/forwarding=1"),
            "{one:?}"
        );
        let v6 = said(&GOOD, &gateway("[2001:db8::10]:443"));
        assert!(
            v6.len() == 1 && v6[0].1.starts_with("net.ipv6.conf.all.forwarding is 0"),
            "{v6:?}"
        );
    }

    #[test]
    fn the_stricter_of_two_reverse_path_filters_counts() {
        let strict = said(&but(&[("ipv4/conf/all/rp_filter", 0)]), &gateway("198.51.100.10:443"));
        assert!(strict.len() == 1 && strict[0].1.contains("strict on eth0"), "{strict:?}");
    }

    #[test]
    fn redirects_matter_where_clients_and_backends_are_at_one_interface() {
        let one_arm =
            Machine { both_sides: vec!["eth0".to_owned()], ..gateway("198.51.100.10:443") };
        let told = said(&GOOD, &one_arm);
        assert!(
            told.len() == 1
                && told[0].0 == Kind::Redirects
                && told[0].1.starts_with("eth0 carries"),
            "{told:?}"
        );
        assert_eq!(said(&but(&[("ipv4/conf/eth0/send_redirects", 0)]), &one_arm), []);
        let gone = Machine { both_sides: vec!["gone0".to_owned()], ..gateway("198.51.100.10:443") };
        assert_eq!(said(&but(&[("ipv4/conf/all/send_redirects", 1)]), &gone), []);
    }

    #[test]
    fn every_program_that_is_not_where_it_should_be_is_named() {
        let said = |kind, state| {
            let warning = attachment(&LinkReport { interface: "eth0".into(), kind, state });
            warning.map(|warning| (warning.kind, warning.text))
        };
        assert_eq!(said(plane::Kind::Tc, LinkState::Attached), None);
        assert_eq!(
            said(plane::Kind::Tc, LinkState::Gone).map(|said| said.0),
            Some(Kind::InterfaceGone)
        );
        let (kind, text) = said(plane::Kind::Xdp, LinkState::Detached).unwrap();
        assert!(
            kind == Kind::Detached && text.starts_with("eth0: the XDP program is not attached"),
            "{text}"
        );
        let (_, text) = said(plane::Kind::Tc, LinkState::Renamed("lan0".into())).unwrap();
        assert!(text.contains("is named lan0 now"), "{text}");
    }
}
