//! Rules of nft, IPVS and connection tracking that name a VIP: steered packets pass them by.

use std::{
    collections::BTreeSet,
    fs,
    net::IpAddr,
    process::{Command, Stdio},
};

use serde_json::Value;

use super::Findings;
use crate::config::Config;

const BYPASSED: &str = "steered packets pass them by, neither filtered nor translated nor counted: have those rules on the backends, or in front of the gateway (docs/operating.md)";

pub(super) fn look(findings: &mut Findings, config: &Config) {
    let vips = config.addresses().map(|vip| vip.ip()).collect::<BTreeSet<_>>();
    let ask = Command::new("nft").args(["-j", "list", "ruleset"]).stdin(Stdio::null()).output();
    match ask {
        Ok(said) if said.status.success() => {
            let found = serde_json::from_slice(&said.stdout).unwrap_or(Value::Null);
            let met = met(&found, &vips);
            let text = format!("rules name a VIP ({}): {BYPASSED}", named(&met));
            let all = (!met.is_empty()).then_some(text);
            findings.warnings("nft", all, "no rule names a VIP");
        }
        Ok(said) => {
            let why = String::from_utf8_lossy(&said.stderr);
            findings.good("nft", format!("its rules could not be read: {}", why.trim()));
        }
        Err(_) => findings.good("nft", "it is not installed, and its rules were not looked at"),
    }
    let services = fs::read_to_string("/proc/net/ip_vs").unwrap_or_default();
    let virtual_ones = vips.iter().filter(|vip| is_served(&services, **vip));
    let texts = virtual_ones.map(|vip| format!("IPVS has {vip}, too: from the agent's start on its new connections are steer's; ipvsadm -D removes it"));
    findings.warnings("ipvs", texts, "it has no VIP of steer's");
}

/// The chains and sets that name one of the addresses, as `family table chain`.
fn met(ruleset: &Value, vips: &BTreeSet<IpAddr>) -> BTreeSet<String> {
    let entries = ruleset["nftables"].as_array().into_iter().flatten();
    let named = entries.filter_map(|entry| {
        let (what, body) =
            ["rule", "set", "map"].iter().find_map(|what| Some((*what, entry.get(what)?)))?;
        let place = body["chain"].as_str().or(body["name"].as_str()).unwrap_or(what);
        let at = format!("{} {} {place}", text(body, "family"), text(body, "table"));
        names(body, vips).then_some(at)
    });
    named.collect()
}

fn text<'a>(body: &'a Value, key: &str) -> &'a str {
    body[key].as_str().unwrap_or_default()
}

/// Whether one of the addresses stands anywhere in a rule, by itself or in a prefix.
fn names(value: &Value, vips: &BTreeSet<IpAddr>) -> bool {
    match value {
        Value::String(word) => word.parse::<IpAddr>().is_ok_and(|ip| vips.contains(&ip)),
        Value::Array(values) => values.iter().any(|value| names(value, vips)),
        Value::Object(fields) => match (fields.get("addr"), fields.get("len")) {
            (Some(Value::String(network)), Some(len)) => {
                covers(network, len.as_u64().unwrap_or(128), vips)
            }
            _ => fields.values().any(|value| names(value, vips)),
        },
        _ => false,
    }
}

fn covers(network: &str, len: u64, vips: &BTreeSet<IpAddr>) -> bool {
    let len = u32::try_from(len).unwrap_or(128);
    let shifted = |bits: u128, width: u32| bits.checked_shr(width.saturating_sub(len)).unwrap_or(0);
    vips.iter().any(|vip| match (network.parse(), vip) {
        (Ok(IpAddr::V4(network)), IpAddr::V4(vip)) => {
            shifted((network.to_bits() ^ vip.to_bits()).into(), 32) == 0
        }
        (Ok(IpAddr::V6(network)), IpAddr::V6(vip)) => {
            shifted(network.to_bits() ^ vip.to_bits(), 128) == 0
        }
        _ => false,
    })
}

fn named(places: &BTreeSet<String>) -> String {
    const NAMED: usize = 4;
    let mut text = places.iter().take(NAMED).cloned().collect::<Vec<_>>().join(", ");
    if places.len() > NAMED {
        text += &format!(" and {} more", places.len() - NAMED);
    }
    text
}

/// Whether a line of /proc/net/ip_vs is a service at the address.
fn is_served(services: &str, vip: IpAddr) -> bool {
    let shown = match vip {
        IpAddr::V4(vip) => format!("{:08X}:", vip.to_bits()),
        IpAddr::V6(vip) => {
            let words = vip.segments().map(|word| format!("{word:04x}"));
            format!("[{}]:", words.join(":"))
        }
    };
    services.lines().any(|line| {
        let mut words = line.split_whitespace();
        words.next() == Some("TCP") && words.next().is_some_and(|at| at.starts_with(&shown))
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn vips() -> BTreeSet<IpAddr> {
        ["198.51.100.10", "2001:db8::10"].map(|vip| vip.parse().unwrap()).into()
    }

    fn rule(expression: Value) -> Value {
        json!({"nftables": [
            {"metainfo": {"version": "1.0.6"}},
            {"rule": {"family": "inet", "table": "filter", "chain": "forward", "handle": 4, "expr": [expression]}}
        ]})
    }

    #[test]
    fn a_rule_is_met_that_names_a_vip_by_itself_in_a_set_or_in_a_prefix() {
        let right = |right: Value| rule(json!({"match": {"op": "==", "left": {}, "right": right}}));
        for met_by in [
            json!("198.51.100.10"),
            json!({"set": ["192.0.2.1", "2001:db8::10"]}),
            json!({"prefix": {"addr": "198.51.100.0", "len": 24}}),
            json!({"prefix": {"addr": "2001:db8::", "len": 32}}),
        ] {
            let met = met(&right(met_by.clone()), &vips());
            assert_eq!(met, ["inet filter forward".to_owned()].into(), "{met_by}");
        }
        for other in [
            json!("198.51.100.11"),
            json!(443),
            json!({"prefix": {"addr": "198.51.101.0", "len": 24}}),
            json!("lo"),
        ] {
            assert!(met(&right(other.clone()), &vips()).is_empty(), "{other}");
        }
        assert!(met(&Value::Null, &vips()).is_empty());
    }

    #[test]
    fn a_service_of_ipvs_is_found_by_its_address() {
        let services = "IP Virtual Server version 1.2.1 (size=4096)\nProt LocalAddress:Port Scheduler Flags\n  \
                        -> RemoteAddress:Port Forward Weight ActiveConn InActConn\nTCP  C633640A:01BB rr  \n  \
                        -> 0A00000B:01BB      Masq    1      0          0\n";
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        assert!(is_served(services, ip("198.51.100.10")));
        assert!(!is_served(services, ip("198.51.100.11")) && !is_served(services, ip("10.0.0.11")));
        let v6 = "TCP  [2001:0db8:0000:0000:0000:0000:0000:0010]:01BB rr\n";
        assert!(is_served(v6, ip("2001:db8::10")) && !is_served(v6, ip("2001:db8::11")));
    }
}
