//! The shapes of docs/cli.md.

use serde_json::{Value, json};

use super::*;
use crate::{config::Side, doctor::Diagnosis, ticket_keys::Generated, top::Frame};

#[track_caller]
fn keys(value: &Value) -> Vec<&str> {
    value.as_object().unwrap().keys().map(String::as_str).collect()
}

fn backend() -> BackendReport {
    BackendReport {
        id: 3,
        address: "10.0.0.1:443".parse().unwrap(),
        vip: "198.51.100.10:443".parse().unwrap(),
        state: BackendState::Draining,
        weight: 1,
        backup: false,
        drain_seconds: Some(60),
        open_flows: Some(12),
        sessions: Some(13),
        key_names: Some(0),
        return_path_seen: true,
        syns: 9,
        syn_acks: 8,
        flows: 1,
        rehomed: 2,
        learned: 3,
        hits: 4,
        resumed: 5,
        tls12: Resumptions { accepted: 2, rejected: 8, not_offered: 9 },
        tls13: Resumptions { accepted: 3, rejected: 0, not_offered: 1 },
        packets: 6,
        bytes: 7,
    }
}

#[test]
fn backends_list_has_the_documented_shape() {
    let value =
        serde_json::to_value(Backends { counted_seconds: Some(2), backends: vec![backend()] })
            .unwrap();
    assert_eq!(
        value,
        json!({"counted_seconds": 2, "backends": [{
            "id": 3, "address": "10.0.0.1:443", "vip": "198.51.100.10:443", "state": "draining", "weight": 1, "backup": false,
            "drain_seconds": 60, "open_flows": 12, "sessions": 13, "key_names": 0, "return_path_seen": true, "syns": 9, "syn_acks": 8, "flows": 1, "rehomed": 2, "learned": 3, "hits": 4,
            "resumed": 5, "tls12": {"accepted": 2, "rejected": 8, "not_offered": 9},
            "tls13": {"accepted": 3, "rejected": 0, "not_offered": 1}, "packets": 6, "bytes": 7
        }]})
    );
}

#[test]
fn the_rate_is_of_the_sessions_offered() {
    assert_eq!((backend().tls12.rate(), backend().tls13.rate()), (Some(20.0), Some(100.0)));
    assert_eq!(Resumptions { accepted: 0, rejected: 0, not_offered: 9 }.rate(), None);
}

fn key_name() -> KeyNameReport {
    KeyNameReport {
        name: "a1b2c3d4".into(),
        vip: Some("198.51.100.10:443".parse().unwrap()),
        owner: 3,
        owner_address: None,
        origin: NameOrigin::Configured,
        shared: true,
        age_seconds: 9,
        idle_seconds: 4,
        hits: 2,
        accepted: 1,
    }
}

#[test]
fn keys_list_has_the_documented_shape() {
    let vip = "198.51.100.10:443".parse().unwrap();
    let layouts = vec![
        LayoutReport { vip, layout: Some("4@0".into()), origin: LayoutOrigin::Found },
        LayoutReport { vip, layout: None, origin: LayoutOrigin::Searched },
    ];
    let value = serde_json::to_value(Keys { layouts, names: vec![key_name()] }).unwrap();
    assert_eq!(
        value,
        json!({
            "layouts": [{"vip": "198.51.100.10:443", "layout": "4@0", "origin": "found"},
                        {"vip": "198.51.100.10:443", "layout": null, "origin": "searched"}],
            "names": [{
                "name": "a1b2c3d4", "vip": "198.51.100.10:443", "owner": 3, "owner_address": null,
                "origin": "configured", "shared": true, "age_seconds": 9, "idle_seconds": 4, "hits": 2, "accepted": 1
            }]
        })
    );
}

#[test]
fn shared_names_are_warned_of_by_vip() {
    let other = KeyNameReport { name: "00000001".into(), ..key_name() };
    let alone = KeyNameReport { shared: false, vip: None, ..key_name() };
    let warnings = crate::agent::checks::shared_names(&Keys {
        layouts: vec![],
        names: vec![key_name(), other, alone],
    });
    assert_eq!(warnings.len(), 1);
    let start = "VIP 198.51.100.10:443: several backends use the same ticket keys, whose names do not steer (2 names, ";
    assert!(warnings[0].starts_with(start), "{warnings:?}");
}

#[test]
fn sessions_list_has_the_documented_shape() {
    let session = SessionReport {
        id: "abcdef01".into(),
        length: 32,
        kind: "session-id".into(),
        vip: Some("198.51.100.10:443".parse().unwrap()),
        owner: 3,
        owner_address: None,
        age_seconds: 9,
        idle_seconds: 4,
        expires_seconds: 596,
        uses: 2,
    };
    let value = serde_json::to_value(Sessions { total: 1, sessions: vec![session] }).unwrap();
    assert_eq!(
        value,
        json!({"total": 1, "sessions": [{
            "id": "abcdef01", "length": 32, "kind": "session-id", "vip": "198.51.100.10:443", "owner": 3,
            "owner_address": null, "age_seconds": 9, "idle_seconds": 4, "expires_seconds": 596, "uses": 2
        }]})
    );
}

#[test]
fn stats_have_the_documented_shape() {
    let stats = Stats { counters: [("from-client".to_owned(), 5.into())].into_iter().collect() };
    assert_eq!(serde_json::to_value(stats).unwrap(), json!({"counters": {"from-client": 5}}));
}

#[test]
fn status_has_the_documented_shape() {
    let status = Status {
        pin_dir: "/sys/fs/bpf/steer".into(),
        layout: 1,
        agent: AgentReport { running: false, starting: false, pid: None, version: None },
        health: Health { state: HealthState::Down, because: vec!["no agent runs".into()] },
        bypass: false,
        leave: false,
        interfaces: vec![InterfaceReport {
            name: "eth0".into(),
            tc: true,
            xdp: false,
            takes_xdp: false,
        }],
        vips: vec![VipReport {
            id: 0,
            address: "[2001:db8::10]:443".parse().unwrap(),
            also: vec!["[2001:db8::11]:443".parse().unwrap()],
            mode: "steer".into(),
            backends: 3,
            backends_up: 2,
            open_flows: Some(7),
            session_timeout_seconds: 600,
        }],
        tables: vec![TableReport { name: "sessions".into(), entries: 1, max_entries: 2 }],
        bridges: vec![BridgeReport {
            name: "br0".into(),
            ports: vec![PortReport {
                name: "eth1".into(),
                side: Side::Outside,
                state: "forwarding".into(),
                looked_at: true,
            }],
        }],
        drift: Vec::new(),
        unseen: Vec::new(),
        warnings: Vec::new(),
    };
    let value = serde_json::to_value(status).unwrap();
    let all = [
        "agent",
        "bridges",
        "bypass",
        "drift",
        "health",
        "interfaces",
        "layout",
        "leave",
        "pin_dir",
        "tables",
        "unseen",
        "vips",
        "warnings",
    ];
    assert_eq!(keys(&value), all);
    assert_eq!(keys(&value["agent"]), ["pid", "running", "starting", "version"]);
    assert_eq!(value["health"], json!({"state": "down", "because": ["no agent runs"]}));
    let port = json!({"name": "eth1", "side": "outside", "state": "forwarding", "looked_at": true});
    assert_eq!(value["bridges"][0], json!({"name": "br0", "ports": [port]}));
    assert_eq!(
        value["interfaces"][0],
        json!({"name": "eth0", "tc": true, "xdp": false, "takes_xdp": false})
    );
    assert_eq!(
        value["vips"][0],
        json!({"id": 0, "address": "[2001:db8::10]:443", "also": ["[2001:db8::11]:443"], "mode": "steer",
               "backends": 3, "backends_up": 2, "open_flows": 7, "session_timeout_seconds": 600})
    );
    assert_eq!(value["tables"][0], json!({"name": "sessions", "entries": 1, "max_entries": 2}));
}

/// The example under a heading of docs/cli.md, read as `T` and written again.
#[track_caller]
fn example<T: serde::Serialize + serde::de::DeserializeOwned>(heading: &str) -> (Value, Value) {
    let docs = include_str!("../../../docs/cli.md");
    let section = docs.split("\n### ").find(|section| section.starts_with(heading)).unwrap();
    let text = section.split("```json\n").nth(1).and_then(|rest| rest.split("```").next()).unwrap();
    let read: T = serde_json::from_str(text).unwrap();
    (serde_json::from_str(text).unwrap(), serde_json::to_value(read).unwrap())
}

/// `steer flows list`, which is printed flow by flow.
#[derive(serde::Serialize, serde::Deserialize)]
struct Listed {
    flows: Vec<FlowReport>,
    total: u64,
}

#[test]
fn the_examples_in_the_documentation_are_what_the_program_prints() {
    let (documented, printed) = example::<Status>("`status`");
    assert_eq!(documented, printed);
    let (documented, printed) = example::<Backends>("`backends list`");
    assert_eq!(documented, printed);
    let (documented, printed) = example::<Sessions>("`sessions list`");
    assert_eq!(documented, printed);
    let (documented, printed) = example::<Listed>("`flows list`");
    assert_eq!(documented, printed);
    let (documented, printed) = example::<Why>("`why`");
    assert_eq!(documented, printed);
    let (documented, printed) = example::<Keys>("`keys list`");
    assert_eq!(documented, printed);
    let (documented, printed) = example::<Generated>("`keys generate`");
    assert_eq!(documented, printed);
    let (documented, printed) = example::<Stats>("`stats`");
    assert_eq!(documented, printed);
    let (documented, printed) = example::<Diagnosis>("`doctor`");
    assert_eq!(documented, printed);
    let (documented, printed) = example::<Frame>("`top`");
    assert_eq!(documented, printed);
}
