//! `flows list` and `why` say what became of real flows.

use std::{
    net::SocketAddr,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use steer_tests::{
    agent::{Agent, Hook},
    client::{Client, Connection, Dial, Offer},
    l4::Snat,
    nginx::{self, TicketKey},
    scenario::{Run, Scenario},
    topology::Family,
};

use crate::said;

/// The client's port of each test's first flow.
const PORT: u16 = 45_000;

/// Two servers that keep connections open.
fn servers() -> nginx::Settings {
    nginx::Settings { keepalive: "60s".to_owned(), ..nginx::Settings::default() }
}

fn scenario() -> Scenario {
    Scenario::new(Hook::Tc, Family::V4).backends(2).nginx(servers())
}

/// A dial of the VIP from an address and a port.
fn dial(run: &Run, source: usize, port: u16) -> Dial {
    Dial { source_port: Some(port), ..run.dial(source) }
}

/// Who that is.
fn address(dial: &Dial) -> String {
    SocketAddr::new(dial.source, dial.source_port.unwrap_or_default()).to_string()
}

/// A connection that stays open.
fn open(run: &Run, client: &Client, dial: &Dial) -> Result<Connection> {
    let mut connection = run.lab.client().run(|| client.connect(dial))?;
    connection.keep_open(true);
    connection.get("/")?;
    Ok(connection)
}

fn list(steer: &Agent<'_>, words: &str) -> Result<Vec<Value>> {
    let listed = steer.json(&format!("flows list {words}"))?;
    let flows = listed["flows"].as_array().cloned().context("no flows")?;
    ensure!(listed["total"] == flows.len(), "{listed}");
    Ok(flows)
}

/// The one flow of a client.
fn flow_of(steer: &Agent<'_>, dial: &Dial) -> Result<Value> {
    let flows = list(steer, &format!("--client {}", address(dial)))?;
    ensure!(flows.len() == 1, "{flows:?}");
    Ok(flows[0].clone())
}

/// Some of what is told of a flow.
fn told(flow: &Value, keys: &[&str]) -> Value {
    keys.iter().map(|key| ((*key).to_owned(), flow[key].clone())).collect()
}

/// The clients of flows, in order.
fn clients(flows: &[Value]) -> Vec<&str> {
    let mut clients = flows.iter().filter_map(|flow| flow["client"].as_str()).collect::<Vec<_>>();
    clients.sort_unstable();
    clients
}

#[test]
fn flows_say_who_holds_them_and_why() -> Result<()> {
    let run = scenario().start()?;
    let mut steer = run.agent()?;
    let (home, elsewhere) = (run.source_of(0)?, run.source_of(1)?);
    let (client, stranger) = (run.new_client()?, run.new_client()?);
    run.session_at(&client, 0)?;
    let dials = [
        dial(&run, elsewhere, PORT),
        dial(&run, home, PORT + 1),
        dial(&run, elsewhere, PORT + 2),
        dial(&run, elsewhere, PORT + 3),
    ];
    let [to_owner, at_owner, first_visit, silent] = &dials;
    let mut moved = open(&run, &client, to_owner)?;
    let _settled = open(&run, &client, at_owner)?;
    let _plain = open(&run, &stranger, first_visit)?;
    let _silent = run.lab.client().run(|| silent.say(b""))?;
    let (owner, other) = (run.backend_address(0).to_string(), run.backend_address(1).to_string());

    let flow = flow_of(&steer, to_owner)?;
    let keys = [
        "vip",
        "dialled",
        "state",
        "ended",
        "first_address",
        "holder_address",
        "owner_address",
        "port_at_holder",
        "reason",
        "outcome",
        "version",
    ];
    let vip = run.vip().to_string();
    assert_eq!(
        told(&flow, &keys),
        json!({
            "vip": vip, "dialled": vip, "state": "spliced", "ended": false, "first_address": other,
            "holder_address": owner, "owner_address": owner, "port_at_holder": null,
            "reason": "session", "outcome": "resumed", "version": "1.2"
        })
    );
    let id = flow["offered"]["id"].as_str().context("nothing offered")?;
    assert_eq!((id.len(), &flow["offered"]["length"]), (8, &json!(32)));
    assert!(flow["options"].to_string().contains("timestamps"), "{flow}");
    let keys = ["state", "first_address", "holder_address", "owner_address", "reason", "outcome"];
    assert_eq!(
        told(&flow_of(&steer, at_owner)?, &keys),
        json!({
            "state": "first", "first_address": owner, "holder_address": owner, "owner_address": owner,
            "reason": "at-owner", "outcome": "resumed"
        })
    );
    for (dial, state, reason, outcome) in [
        (first_visit, "first", "nothing-offered", "full"),
        (silent, "established", "undecided", "unknown"),
    ] {
        assert_eq!(
            told(&flow_of(&steer, dial)?, &keys),
            json!({
                "state": state, "first_address": other, "holder_address": other, "owner_address": null,
                "reason": reason, "outcome": outcome
            })
        );
    }

    let [a, b, c, d] = dials.each_ref().map(address);
    for (words, expected) in [
        ("--state spliced".to_owned(), vec![&a]),
        ("--state established".to_owned(), vec![&d]),
        (format!("--backend {owner} --vip {vip}"), vec![&a, &b]),
        (format!("--backend {other}"), vec![&c, &d]),
        (format!("--client {} --state first", to_owner.source), vec![&c]),
        (format!("--client {}/32 --backend {owner}", to_owner.source), vec![&a]),
        ("--limit 0".to_owned(), vec![&a, &b, &c, &d]),
    ] {
        let flows = list(&steer, &words)?;
        let mut expected = expected.into_iter().map(String::as_str).collect::<Vec<_>>();
        expected.sort_unstable();
        assert_eq!(clients(&flows), expected, "{words}");
    }
    let ended = list(&steer, "--ended --limit 0")?;
    assert!(ended.len() > 4 && ended.iter().any(|flow| flow["ended"] == true), "{ended:?}");
    let cut = steer.json("flows list --limit 1")?;
    assert_eq!((cut["flows"].as_array().map(Vec::len), &cut["total"]), (Some(1), &json!(4)));
    let table = steer.steer("flows list --limit 3")?;
    assert!(table.ends_with("\n1 more; see them with --limit (0: all)\n"), "{table}");
    assert!(table.starts_with("CLIENT ") && table.lines().count() == 5, "{table}");

    // Numbers that the cache of settled flows has are as good as those of the record.
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(5) {
        moved.get("/")?;
        thread::sleep(Duration::from_millis(100));
    }
    let idle = flow_of(&steer, to_owner)?["idle_seconds"].as_u64();
    assert!(idle <= Some(1), "{idle:?}");

    steer.end(Signal::SIGKILL)?;
    let output = run.lab.gateway().run(|| Ok(steer.command("flows list").output()?))?;
    assert!(output.status.success() && said(&output).contains("no agent runs"), "{output:?}");
    assert_eq!(String::from_utf8_lossy(&output.stdout).lines().count(), 5);
    Ok(())
}

#[test]
fn why_tells_what_became_of_a_client_and_what_its_next_hello_gets() -> Result<()> {
    let run = scenario().start()?;
    let steer = run.agent()?;
    let client = run.new_client()?;
    run.session_at(&client, 0)?;
    let elsewhere = dial(&run, run.source_of(1)?, PORT);
    let _moved = open(&run, &client, &elsewhere)?;
    let (owner, other) = (run.backend_address(0), run.backend_address(1));
    let (who, vip) = (address(&elsewhere), run.vip());
    let id = flow_of(&steer, &elsewhere)?["offered"]["id"].as_str().context("no id")?.to_owned();

    let text = steer.steer(&format!("why {who}"))?;
    for sentence in [
        format!("{who} dialled VIP {vip}; its state is spliced, its last packet passed "),
        format!("Its hello offered session ID {id}.. (32 bytes)."),
        format!(
            "The session was known: the flow was moved from its first backend {other} to the owner {owner}."
        ),
        format!("{owner} accepted it and resumed (TLS 1.2)."),
        format!(
            "Now: session ID {id}.. is known; its owner {owner} is up. The next hello with it is moved to {owner}."
        ),
    ] {
        assert!(text.lines().any(|line| line.starts_with(&sentence)), "{sentence}: {text}");
    }
    let all = steer.json(&format!("why {}", elsewhere.source))?;
    assert_eq!(all["flows"][0]["client"], who.as_str(), "an open one comes first: {all}");
    assert!(all["total_flows"].as_u64() > Some(1), "those that ended are there, too: {all}");
    let first_visit = &all["flows"][1];
    assert_eq!(
        told(first_visit, &["ended", "reason", "next"]),
        json!({"ended": true, "reason": "nothing-offered", "next": "session-hit"})
    );
    assert!(first_visit["sentences"].to_string().contains("issued here, is known"), "{all}");

    let found = |words: &str| {
        let why = steer.json(&format!("why {words}"))?;
        ensure!(why["total_identifiers"] == 1, "{why}");
        Ok(why["identifiers"][0].clone())
    };
    let next = |expected: &str| {
        let story = found(&id)?;
        assert_eq!((&story["next"], &story["id"]), (&json!(expected), &json!(id)), "{story}");
        let next = &steer.json(&format!("why {who}"))?["flows"][0]["next"];
        assert_eq!(next, expected);
        anyhow::Ok(story)
    };
    let story = next("moved")?;
    assert_eq!((&story["kind"], &story["uses"]), (&json!("session-id"), &json!(1)));
    assert_eq!(story["owner_address"], owner.to_string());
    steer.steer("bypass on")?;
    next("bypassed")?;
    steer.steer("bypass off")?;
    steer.steer(&format!("backends drain --for 1h {owner}"))?;
    let draining = next("moved")?;
    assert!(draining["sentences"].to_string().contains("is draining for "), "{draining}");
    steer.steer(&format!("backends remove {owner}"))?;
    let removed = next("owner-down")?;
    assert!(removed["sentences"].to_string().contains("its owner is down or gone"), "{removed}");
    // The program says the same.
    let last = run.visit(&client, &run.dial(run.source_of(1)?))?;
    assert!(last.offered && !last.resumed, "{last:?}");

    for (words, code, sentence) in [
        ("why 203.0.113.9", 1, "nothing is known of client 203.0.113.9"),
        ("why 00000000", 1, "nothing is known of identifier 00000000.."),
        ("why abc", 2, "too short for an identifier"),
        ("why client", 2, "neither a client nor an identifier"),
        ("why 10.0.0.0/8", 2, "stands for many clients"),
        ("flows list --client 10.0.0.1/8", 2, "has bits behind its length"),
        ("flows list --state moved", 2, "is no state of a flow; expected one of syn, "),
        ("flows list --vip 10.9.9.9:443", 1, "there is no VIP 10.9.9.9:443"),
        ("flows list --pool web", 1, "there is no pool web"),
        ("flows list --backend 10.9.9.9:443", 1, "there is no backend 10.9.9.9:443"),
    ] {
        let output = run.lab.gateway().run(|| Ok(steer.command(words).output()?))?;
        let told = said(&output);
        assert_eq!(output.status.code(), Some(code), "{words}: {told}");
        assert!(told.contains(sentence), "{words}: {told}");
    }
    Ok(())
}

#[test]
fn a_flow_that_a_balancer_sent_names_the_member_that_was_dialled() -> Result<()> {
    let run = scenario().inline(Snat::No).start()?;
    let steer = run.agent()?;
    let client = run.new_client()?;
    run.session_at(&client, 0)?;
    let elsewhere = dial(&run, run.source_of(1)?, PORT);
    let _moved = open(&run, &client, &elsewhere)?;
    let (owner, other) = (run.backend_address(0).to_string(), run.backend_address(1).to_string());
    let flows = list(&steer, "--pool web4 --state spliced")?;
    let keys = ["client", "vip", "dialled", "first_address", "holder_address", "reason"];
    assert_eq!(
        flows.iter().map(|flow| told(flow, &keys)).collect::<Vec<_>>(),
        [json!({
            "client": address(&elsewhere), "vip": "web4", "dialled": other, "first_address": other,
            "holder_address": owner, "reason": "session"
        })]
    );
    assert_eq!(list(&steer, "--pool web6")?, [] as [Value; 0]);
    let text = steer.steer(&format!("why {}", address(&elsewhere)))?;
    assert!(text.contains(&format!("dialled {other} itself, a backend of pool web4;")), "{text}");
    assert!(text.contains(&format!("The next hello with it is moved to {owner}.")), "{text}");
    Ok(())
}

#[test]
fn a_ticket_is_told_by_the_name_of_its_key() -> Result<()> {
    let tickets = nginx::Settings {
        protocols: "TLSv1.2 TLSv1.3".to_owned(),
        tickets: true,
        ticket_key: TicketKey::Private,
        ..servers()
    };
    let run = scenario().nginx(tickets).start()?;
    let steer = run.agent()?;
    let client = run.new_client_offering(Offer::Ticket13)?;
    run.session_at(&client, 0)?;
    // The owner accepts one: so the name of its key is known.
    run.visit(&client, &run.dial(run.source_of(0)?))?;
    let names = steer.json("keys list")?;
    let name = names["names"][0]["name"].as_str().context("no key name")?.to_owned();
    let elsewhere = dial(&run, run.source_of(1)?, PORT);
    let _moved = open(&run, &client, &elsewhere)?;
    let flow = flow_of(&steer, &elsewhere)?;
    let keys = ["state", "reason", "outcome", "version"];
    assert_eq!(
        told(&flow, &keys),
        json!({"state": "spliced", "reason": "key-name", "outcome": "resumed", "version": "1.3"})
    );
    assert_eq!(flow["offered"]["identity"], 0);
    let short = name.get(..8).context("a short name")?;
    let why = steer.json(&format!("why {short}"))?;
    let story = &why["identifiers"][0];
    assert_eq!(
        told(story, &["kind", "id", "owner_address", "next"]),
        json!({
            "kind": "key-name", "id": name, "owner_address": run.backend_address(0).to_string(),
            "next": "moved"
        })
    );
    let text = steer.steer(&format!("why {}", address(&elsewhere)))?;
    assert!(text.contains(" is known by the name of its key; its owner "), "{text}");
    assert!(text.contains("The next hello with a ticket of that key is moved to "), "{text}");
    Ok(())
}
