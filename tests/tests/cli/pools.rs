//! Inline pools: what the agent writes for them, how they are named and changed, and what becomes of
//! them with another file.

use std::{fs, net::SocketAddr};

use anyhow::{Context as _, Result};
use aya::maps::{Array, Map, MapData};
use nix::sys::signal::Signal;
use serde_json::json;
use steer_common::{
    directory,
    shared::{
        BACKEND_DIALLED, Endpoint, EndpointEntry, ROLE_BACKEND, ROLE_MEMBER, VIP_INLINE,
        VIP_OBSERVE, Vip,
    },
};
use steer_tests::{
    agent::{Agent, Hook},
    l4::Snat,
    process::eventually,
    scenario::{Run, Scenario},
    topology::{Family, backend as address_of},
};
use steer_user::{
    address::endpoint,
    crash::{Step, VARIABLE},
    plane::{PinDir, Plane},
};

use crate::{TEN_SECONDS, backend, error, said};

/// Two pools, web4 and web6, of two backends each.
fn two_pools() -> Result<Run> {
    Scenario::new(Hook::Tc, Family::V4).inline(Snat::No).backends(2).start()
}

fn plane(steer: &Agent<'_>) -> Result<Plane> {
    Plane::open(&PinDir::new(steer.pin_dir()))
}

/// Who the programs take an endpoint for: role, number, and the record with it.
fn listed(steer: &Agent<'_>, at: &Endpoint) -> Result<Option<(u16, u16, Vip)>> {
    let map = MapData::from_pin(steer.map_pin("directory")).and_then(Map::from_map_data);
    let map: Array<MapData, EndpointEntry> =
        map.and_then(Array::try_from).context("open the directory")?;
    let entries = map.iter().collect::<Result<Vec<_>, _>>()?;
    let head = entries.first().context("no head")?.head;
    let found = directory::find(head, &at.address, at.port, |index| entries.get(index as usize));
    Ok(found.map(|entry| (entry.role, entry.id, entry.vip)))
}

fn record(steer: &Agent<'_>, pool: &str) -> Result<Vip> {
    let at = Endpoint::of_pool(pool).context("a name")?;
    plane(steer)?.vip(&at)?.with_context(|| format!("no pool {pool}"))
}

#[test]
fn a_pool_stands_in_the_maps_under_its_name_and_its_members_with_its_record() -> Result<()> {
    let run = Scenario::new(Hook::Tc, Family::V4)
        .inline(Snat::No)
        .backends(2)
        .vip_setting("exempt = [\"10.9.0.2\", \"10.9.1.0/24\", \"2001:db8::/33\"]")
        .vip_setting("flow_timeout = 77")
        .start()?;
    let steer = run.agent()?;
    let mut numbers = Vec::new();
    for (pool, family) in [("web4", Family::V4), ("web6", Family::V6)] {
        let vip = record(&steer, pool)?;
        assert_eq!(vip.flags & (VIP_INLINE | VIP_OBSERVE), VIP_INLINE);
        assert_eq!(vip.flow_timeout, 77);
        let pool = Endpoint::of_pool(pool).context("a name")?;
        assert_eq!(listed(&steer, &pool)?, None);
        for index in 0..2 {
            let at = endpoint(address_of(family, index));
            let (role, id, with) = listed(&steer, &at)?.context("a member that is not listed")?;
            assert_eq!((role, with), (ROLE_MEMBER, vip));
            let member = plane(&steer)?.backend(id.into())?.context("no record")?;
            assert_eq!((member.endpoint, member.vip, member.vip_id), (at, pool, vip.id));
            assert_eq!(member.flags & BACKEND_DIALLED, BACKEND_DIALLED);
        }
        numbers.push(vip.id);
    }
    let mut exempt = plane(&steer)?.exempt()?;
    exempt.sort_by_key(|key| (key.vip, key.prefix_len, key.client));
    let told = exempt.iter().map(|key| (u16::from_be_bytes(key.vip), key.prefix_len));
    let wanted = numbers.iter().flat_map(|id| [16 + 33, 16 + 96 + 24, 16 + 128].map(|n| (*id, n)));
    assert_eq!(told.collect::<Vec<_>>(), wanted.collect::<Vec<_>>());
    Ok(())
}

#[test]
fn a_pool_is_named_and_changed_where_a_vip_is() -> Result<()> {
    let run = two_pools()?;
    let steer = run.agent()?;
    let status = steer.json("status")?;
    let pool = &status["vips"][0];
    assert_eq!(
        (&pool["address"], &pool["mode"], &pool["backends_up"]),
        (&json!("web4"), &json!("steer"), &json!(2))
    );
    let new: SocketAddr = "10.2.9.9:443".parse()?;
    let refused = |words: &str| error(steer.steer(words));
    assert!(
        refused(&format!("backends add --vip nobody {new}")).contains("there is no pool nobody")
    );
    let told = refused(&format!("backends add --vip web4 --weight 3 {new}"));
    assert!(told.contains("pool web4 has no weights: the balancer in front chooses"), "{told}");
    let told = refused("backends add --vip web4 [2001:db8::9]:443");
    assert!(told.contains("families do not mix"), "{told}");
    let told = refused(&format!("backends add --vip web4 {}", address_of(Family::V6, 0)));
    assert!(told.contains("families do not mix"), "{told}");

    steer.steer(&format!("backends add --vip web4 {new}"))?;
    assert_eq!(backend(&steer, &new.to_string())?["vip"], "web4");
    let vip = record(&steer, "web4")?;
    let (role, id, with) = listed(&steer, &endpoint(new))?.context("not listed")?;
    assert_eq!((role, with), (ROLE_MEMBER, vip));
    assert!(steer.json("status")?["drift"].to_string().contains(&format!("{new} is added")));
    steer.steer(&format!("backends drain {new}"))?;
    assert_eq!(backend(&steer, &new.to_string())?["state"], "draining");
    steer.steer(&format!("backends remove {new}"))?;
    assert_eq!(
        listed(&steer, &endpoint(new))?.map(|(role, id, _)| (role, id)),
        Some((ROLE_MEMBER, id)),
        "its flows go on"
    );
    Ok(())
}

#[test]
fn sessions_keys_and_metrics_of_a_pool_go_by_its_name() -> Result<()> {
    let mut scenario = Scenario::new(Hook::Tc, Family::V4).inline(Snat::No).backends(2);
    scenario.steer.top.push("metrics = \"127.0.0.1:9464\"".to_owned());
    let run = scenario.start()?;
    let steer = run.agent()?;
    run.visit(&run.new_client()?, &run.dial(0))?;
    let of = |pool: &str| steer.json(&format!("sessions list --vip {pool}"));
    let learned = || of("web4").ok().filter(|list| list["total"] != 0);
    let list = eventually(TEN_SECONDS, learned).context("no session of web4")?;
    assert_eq!(list["sessions"][0]["vip"], "web4");
    assert_eq!(of("web6")?["total"], 0);
    assert!(error(of("nobody")).contains("there is no pool nobody"));
    assert_eq!(steer.json("keys list --vip web4")?["layouts"][0]["vip"], "web4");
    let text = run.lab.gateway().tool("curl -s http://127.0.0.1:9464/metrics")?;
    let label = format!("backend=\"{}\",vip=\"web4\"", run.backend_address(0));
    assert!(text.contains(&label), "{text}");
    Ok(())
}

#[test]
fn another_file_takes_what_it_does_not_name_and_keeps_the_rest() -> Result<()> {
    let run = Scenario::new(Hook::Tc, Family::V4)
        .inline(Snat::No)
        .backends(2)
        .vip_setting("exempt = [\"10.9.0.2\"]")
        .start()?;
    let mut steer = run.agent()?;
    let client = run.new_client()?;
    run.visit(&client, &run.dial(0))?;
    let (kept, gone) = (record(&steer, "web4")?, address_of(Family::V6, 0));
    let drained = run.backend_address(1);
    steer.steer(&format!("backends drain {drained}"))?;
    let sessions = steer.json("sessions list --vip web4")?["total"].clone();
    steer.end(Signal::SIGTERM)?;

    let text = fs::read_to_string(steer.config_path())?;
    let (web4, _) = text.split_once("\n[[pool]]\nname = \"web6\"").context("no pool web6")?;
    fs::write(steer.config_path(), web4.replace("10.9.0.2", "10.9.0.3"))?;
    let check = steer.command(&format!("config check {}", steer.config_path().display()));
    let output = { check }.output()?;
    let told = said(&output);
    assert!(output.status.success(), "{told}");
    for words in [
        "a start would change: the pool web6 is not configured any more".to_owned(),
        format!("the backend {gone} of web6 is not configured any more"),
        format!(
            "pool web4: the network needs one route: the balancer's way to {}",
            run.backend_address(0).ip()
        ),
    ] {
        assert!(told.contains(&words), "{words}: {told}");
    }
    steer.launch_timed()?;
    assert_eq!(
        record(&steer, "web4")?,
        Vip { lookup_base: record(&steer, "web4")?.lookup_base, ..kept }
    );
    assert!(record(&steer, "web6").is_err());
    assert!(listed(&steer, &endpoint(gone))?.is_none_or(|(role, ..)| role == ROLE_BACKEND));
    let exempt = plane(&steer)?.exempt()?;
    assert_eq!((exempt.len(), exempt[0].client[12..].to_vec()), (1, vec![10, 9, 0, 3]));
    assert_eq!(backend(&steer, &drained.to_string())?["state"], "draining", "the drain stays");
    assert_eq!(steer.json("sessions list --vip web4")?["total"], sessions);

    // The same servers behind a VIP.
    steer.end(Signal::SIGTERM)?;
    let vip = web4
        .replace(
            "[[pool]]\nname = \"web4\"\nshape = \"inline\"",
            "[[vip]]\naddress = \"198.51.100.77:443\"",
        )
        .replace("exempt = [\"10.9.0.2\"]", "")
        .replace("[[pool.backend]]", "[[vip.backend]]");
    fs::write(steer.config_path(), vip)?;
    steer.launch_timed()?;
    assert!(record(&steer, "web4").is_err() && plane(&steer)?.exempt()?.is_empty());
    let at = endpoint(run.backend_address(0));
    let (role, id, with) = listed(&steer, &at)?.context("not listed")?;
    assert_eq!((role, with), (ROLE_BACKEND, Vip::default()));
    let record = plane(&steer)?.backend(id.into())?.context("no record")?;
    assert_eq!(record.flags & BACKEND_DIALLED, 0);
    Ok(())
}

#[test]
fn a_start_that_does_not_get_through_leaves_those_exempt_who_were() -> Result<()> {
    let run = Scenario::new(Hook::Tc, Family::V4)
        .inline(Snat::No)
        .backends(2)
        .vip_setting("exempt = [\"10.9.0.2\"]")
        .start()?;
    let mut steer = run.agent()?;
    let before = plane(&steer)?.exempt()?;
    steer.end(Signal::SIGTERM)?;
    let mut other = run.steer.clone();
    other.vip = vec!["exempt = [\"10.9.0.3\"]".to_owned()];
    steer.configure(&other)?;
    steer.launch_to_end(&[], &[(VARIABLE, Step::PoolsWritten.word())])?;
    assert_eq!(plane(&steer)?.exempt()?.len(), 2 * before.len(), "it died too early");
    // More than any machine has: refused, once what the other one changed is put back.
    other.sizes = vec!["pending = 134217728".to_owned()];
    steer.configure(&other)?;
    assert!(!steer.launch_to_end(&[], &[])?.success());
    assert_eq!(plane(&steer)?.exempt()?, before);
    Ok(())
}

/// Nobody asks it: what clients send and get tells.
#[test]
fn a_backend_that_answers_no_syn_is_down_until_it_answers_one() -> Result<()> {
    let run = two_pools()?;
    let steer = run.agent()?;
    let (client, address) = (run.new_client()?, run.backend_address(1).to_string());
    let source = run.source_of(1)?;
    run.visit(&client, &run.dial(source))?;
    let deaf = "table inet deaf {\n chain input {\n type filter hook input priority 0;\n tcp flags syn drop\n }\n}\n";
    run.lab.backend(1).nft(deaf)?;
    let is =
        |state: &str| backend(&steer, &address).ok().filter(|backend| backend["state"] == state);
    let down = || {
        drop(run.visit(&run.new_client().ok()?, &run.dial(source)));
        is("down")
    };
    eventually(3 * TEN_SECONDS, down).context("SYNs that nobody answers are not seen")?;
    assert!(steer.log().contains(&format!("backend {address} is down")), "{}", steer.log());
    assert!(
        is("up").is_none()
            && backend(&steer, &run.backend_address(0).to_string())?["state"] == "up"
    );
    run.lab.backend(1).nft("delete table inet deaf\n")?;
    run.visit(&run.new_client()?, &run.dial(source)).context("it is dialled all the same")?;
    eventually(TEN_SECONDS, || is("up")).context("its answer is not seen")?;
    assert!(steer.log().contains(&format!("backend {address} is up again")), "{}", steer.log());
    Ok(())
}
