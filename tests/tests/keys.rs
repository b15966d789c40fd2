//! Names of ticket keys on a live gateway: given by the configuration, found out by the agent,
//! shown by `steer keys`.

use std::{fs, io::Write as _, net::SocketAddr, process::Stdio, time::Duration};

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use serde_json::Value;
use steer_common::{
    session::Kind,
    shared::{KEY_NAME_SHARED, KeyName, SessionKey},
};
use steer_tests::{
    agent::{Agent, Hook},
    nginx,
    process::{Server, eventually, mortal},
    scenario::{N_SOURCES, Run, Scenario},
    topology::Family,
};
use steer_user::{
    clock,
    plane::{PinDir, Plane},
};
use tempfile::TempDir;

/// Longer than the agent sweeps.
const SWEPT: Duration = Duration::from_secs(15);
/// Where servers with named keys listen.
const NAMED_PORT: u16 = 8443;
const FIRST: &str = "000102030405060708090a0b0c0d0e0f";
const SECOND: &str = "f0f1f2f3f4f5f6f7f8f9fafbfcfdfeff";

#[test]
fn configured_names_stand_for_as_long_as_the_configuration_has_them() -> Result<()> {
    let run = Scenario::new(Hook::Tc, Family::V4).backends(2).start()?;
    let mut steer = run.agent()?;
    let (owner, file) = (run.backend_address(1), fs::read_to_string(steer.config_path())?);
    let mut plane = Plane::open(&PinDir::new(steer.pin_dir()))?;
    let learned = learned(&steer, owner)?;
    plane.key_names.insert(&key(&run, &plane, FIRST)?, &learned)?;
    let with_names = |names: &str| {
        file.replace(
            &format!("address = \"{owner}\"\n"),
            &format!("address = \"{owner}\"\nkey_names = [{names}]\n"),
        )
    };

    restart(&mut steer, &with_names(&format!("\"{FIRST}\", \"{SECOND}\"")))?;
    for (digits, hits) in [(FIRST, 7), (SECOND, 0)] {
        let name = name(&steer, digits)?.context("not configured")?;
        ensure!(
            name["origin"] == "configured" && name["owner_address"] == owner.to_string(),
            "{name}"
        );
        ensure!(
            name["hits"] == hits && name["shared"] == false,
            "what was learned is kept: {name}"
        );
    }
    let second = key(&run, &plane, SECOND)?;
    plane.key_names.remove(&second)?;
    let back = eventually(SWEPT, || plane.key_names.find(&second).ok().flatten());
    let back = back.context("what was evicted is not put back")?;

    plane.key_names.insert(&second, &KeyName { flags: back.flags | KEY_NAME_SHARED, ..back })?;
    let warned = || steer.log().contains(&format!("{SECOND} among them")).then_some(());
    eventually(SWEPT, warned).context("the agent does not warn of a shared name")?;
    let status = steer.json("status")?["warnings"].to_string();
    ensure!(status.contains("several backends use the same ticket keys"), "{status}");

    restart(&mut steer, &with_names(&format!("\"{SECOND}\"")))?;
    ensure!(name(&steer, FIRST)?.is_none(), "a name that the configuration had and has no more");
    ensure!(
        name(&steer, SECOND)?.is_some_and(|name| name["shared"] == true),
        "a restart makes no name unshared"
    );
    ensure!(steer.steer("keys list --vip 192.0.2.1:443").is_err(), "there is no such VIP");
    Ok(())
}

#[test]
fn the_place_of_names_is_found_out_and_kept() -> Result<()> {
    let servers = nginx::Settings { tickets: true, ..nginx::Settings::default() };
    let mut scenario = Scenario::new(Hook::Tc, Family::V4).backends(2).nginx(servers);
    scenario = scenario.vip_setting("ticket_key_name = \"auto\"");
    scenario.steer.top.push("metrics = \"127.0.0.1:9464\"".to_owned());
    let run = scenario.start()?;
    let mut steer = run.agent()?;
    let layout = |steer: &Agent<'_>| {
        let keys = steer.json(&format!("keys list --vip {}", run.vip()))?;
        anyhow::Ok((keys["layouts"][0]["layout"].clone(), keys["layouts"][0]["origin"].clone()))
    };
    ensure!(layout(&steer)? == (Value::Null, "searched".into()));
    let client = OpenSsl::new(&run)?;
    for source in 0..8 {
        let said = client.connect(source, "-tls1_2")?;
        ensure!(said.contains("New, TLSv1.2") && said.contains("TLS session ticket:"), "{said}");
    }
    let found = || layout(&steer).ok().filter(|(layout, _)| layout == "16@0");
    let (_, origin) =
        eventually(SWEPT, found).with_context(|| format!("nothing is found: {}", steer.log()))?;
    ensure!(origin == "found");
    ensure!(steer.log().contains("ticket key names found: 16@0"), "the agent says what it found");
    let names = steer.json("keys list")?["names"].clone();
    ensure!(
        names
            .as_array()
            .is_some_and(|names| !names.is_empty() && names.iter().all(|n| n["shared"] == false))
    );

    let tickets = steer.json("sessions list --kind ticket")?;
    ensure!(tickets["total"] == 8 && tickets["sessions"][0]["kind"] == "ticket", "{tickets}");
    ensure!(steer.json("sessions list --kind session-id")?["total"] == 0);
    ensure!(steer.steer("sessions remove --kind ticket")?.contains("removed 8 sessions"));

    let list = steer.json("backends list")?["backends"].clone();
    let not_offered = |backend: &Value| backend["tls12"]["not_offered"].as_u64();
    let all = list.as_array().into_iter().flatten().filter_map(not_offered).sum::<u64>();
    ensure!(all == 8, "every full handshake is counted: {list}");
    let metrics = run.lab.gateway().tool("curl -s http://127.0.0.1:9464/metrics")?;
    for line in [
        "version=\"1.2\",outcome=\"not-offered\"} ",
        "steer_key_names{vip=",
        "table=\"key_names\"} ",
    ] {
        ensure!(metrics.contains(line), "{line}: {metrics}");
    }

    let file = fs::read_to_string(steer.config_path())?;
    restart(&mut steer, &file)?;
    ensure!(layout(&steer)? == ("16@0".into(), "found".into()), "the next agent knows it still");
    restart(&mut steer, &file.replace("\"auto\"", "\"none\""))?;
    ensure!(layout(&steer)? == ("none".into(), "configured".into()));
    ensure!(
        steer.json("keys list")?["names"].as_array().is_some_and(Vec::is_empty),
        "they name nothing any more"
    );
    restart(&mut steer, &file)?;
    ensure!(
        layout(&steer)? == (Value::Null, "searched".into()),
        "what was found counts only while it is asked for"
    );
    Ok(())
}

/// The small change at the servers: no key name has to be learned, the first reconnect resumes.
#[test]
fn keys_that_were_generated_steer_tls13_from_the_first_reconnect() -> Result<()> {
    let run = Scenario::new(Hook::Tc, Family::V4).backends(2).start()?;
    let mut steer = run.agent()?;
    let named = [0, 1].map(|index| SocketAddr::new(run.backend_address(index).ip(), NAMED_PORT));
    let out = TempDir::new()?;
    let made = steer.json(&format!(
        "keys generate --out {} --backends {},{}",
        out.path().display(),
        named[0],
        named[1]
    ))?;
    let mut file = fs::read_to_string(steer.config_path())?;
    let mut servers = Vec::new();
    for (index, address) in named.iter().enumerate() {
        let keys = &made["backends"][index];
        let lines = keys["nginx"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(Value::as_str)
            .collect::<Vec<_>>();
        servers.push(named_nginx(&run, index, &lines.join("\n"))?);
        let toml = keys["toml"].as_str().context("no line for the gateway")?;
        let own = format!("address = \"{}\"\n", run.backend_address(index));
        file = file.replace(&own, &format!("address = \"{address}\"\n{toml}\n"));
    }
    restart(&mut steer, &file)?;

    let client = OpenSsl::new(&run)?;
    let mut at = [None, None];
    for source in 0..N_SOURCES {
        let said = client.connect(source, &format!("-tls1_3 -sess_out session{source}"))?;
        ensure!(said.contains("New, TLSv1.3"), "{said}");
        let server = usize::from(said.contains("server 1"));
        ensure!(said.contains(&format!("server {server}")), "{said}");
        at[server] = Some(source);
        if at.iter().all(Option::is_some) {
            break;
        }
    }
    let [Some(first), Some(second)] = at else {
        anyhow::bail!("all sources lead to one server: {at:?}")
    };
    for (owner, had, from) in [(0, first, second), (1, second, first)] {
        let said = client.connect(from, &format!("-tls1_3 -sess_in session{had}"))?;
        ensure!(
            said.contains("Reused, TLSv1.3") && said.contains(&format!("server {owner}")),
            "{said}"
        );
        let digits = made["backends"][owner]["key_names"][0].as_str().context("no name")?;
        let name = name(&steer, digits)?.context("the name is gone")?;
        ensure!(name["hits"] == 1 && name["accepted"] == 1 && name["shared"] == false, "{name}");
        let backend = steer.json("backends list")?["backends"].clone();
        let mut backends = backend.as_array().into_iter().flatten();
        let backend =
            backends.find(|backend| backend["address"] == named[owner].to_string()).cloned();
        ensure!(
            backend
                .as_ref()
                .is_some_and(|b| b["tls13"]["accepted"] == 1 && b["tls13"]["rejected"] == 0),
            "{backend:?}"
        );
    }
    Ok(())
}

/// A new agent over the same maps.
fn restart(steer: &mut Agent<'_>, configuration: &str) -> Result<()> {
    steer.end(Signal::SIGTERM)?;
    fs::write(steer.config_path(), configuration)?;
    steer.launch()
}

fn name(steer: &Agent<'_>, digits: &str) -> Result<Option<Value>> {
    let keys = steer.json("keys list")?;
    Ok(keys["names"].as_array().into_iter().flatten().find(|name| name["name"] == digits).cloned())
}

/// As the programs write it.
fn learned(steer: &Agent<'_>, owner: SocketAddr) -> Result<KeyName> {
    let list = steer.json("backends list")?;
    let backends = list["backends"].as_array().context("no list")?;
    let id = backends
        .iter()
        .find(|backend| backend["address"] == owner.to_string())
        .and_then(|b| b["id"].as_u64());
    let owner = u16::try_from(id.context("no such backend")?)?;
    let now = clock::seconds();
    Ok(KeyName {
        owner,
        flags: 0,
        first_seen: now,
        last_seen: now,
        hits: 7,
        accepted: 1,
        tail: 0,
        zero: 0,
        tried: 0,
    })
}

fn key(run: &Run, plane: &Plane, digits: &str) -> Result<SessionKey> {
    let vip = plane.vip(&steer_user::address::endpoint(run.vip()))?.context("no VIP")?;
    let byte = |at: usize| u8::from_str_radix(&digits[at..at + 2], 16);
    let bytes = (0..digits.len()).step_by(2).map(byte).collect::<Result<Vec<_>, _>>()?;
    SessionKey::new(vip.id, Kind::KeyName, &bytes).context("no key")
}

/// `openssl s_client` with the lab's client certificate.
struct OpenSsl<'a> {
    run: &'a Run,
    files: TempDir,
}

impl<'a> OpenSsl<'a> {
    fn new(run: &'a Run) -> Result<Self> {
        let files = TempDir::new()?;
        fs::write(files.path().join("ca.pem"), run.pki.authority_pem())?;
        let identity = run.pki.client();
        fs::write(
            files.path().join("client.pem"),
            identity.certificate_pem().to_owned() + &identity.key_pem(),
        )?;
        Ok(Self { run, files })
    }

    /// Shakes hands from a source address, asks for `/`, and returns what OpenSSL and the server
    /// say.
    fn connect(&self, source: usize, words: &str) -> Result<String> {
        let mut command = mortal("openssl");
        command.current_dir(self.files.path()).args([
            "s_client",
            "-CAfile",
            "ca.pem",
            "-cert",
            "client.pem",
        ]);
        command.args(["-connect", &self.run.vip().to_string()]).args(words.split(' '));
        command.args(["-bind", &SocketAddr::new(self.run.source(source), 0).to_string()]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        self.run.lab.client().run(|| {
            let mut child = command.spawn().context("run openssl")?;
            let mut stdin = child.stdin.take().context("open its input")?;
            stdin.write_all(b"GET / HTTP/1.0\r\n\r\n")?;
            std::thread::sleep(Duration::from_millis(300));
            drop(stdin);
            let output = child.wait_with_output()?;
            Ok(String::from_utf8_lossy(&output.stdout).into_owned()
                + &String::from_utf8_lossy(&output.stderr))
        })
    }
}

/// An nginx beside the lab's own one, TLS 1.3, with these lines about ticket keys; it answers `/`
/// with its number.
fn named_nginx(run: &Run, index: usize, lines: &str) -> Result<(Server, TempDir)> {
    let place = TempDir::new()?;
    let identity = run.pki.server(index);
    for (name, text) in [
        ("ca.pem", run.pki.authority_pem()),
        ("server.pem", identity.certificate_pem().to_owned()),
        ("server.key", identity.key_pem()),
        ("nginx.conf", nginx_config(index, lines)),
    ] {
        fs::write(place.path().join(name), text)?;
    }
    let mut command = mortal("nginx");
    command.arg("-p").arg(place.path()).args(["-c", "nginx.conf", "-e", "error.log"]);
    Ok((run.lab.backend(index).spawn(command)?, place))
}

fn nginx_config(index: usize, lines: &str) -> String {
    format!(
        "daemon off;\nmaster_process off;\nuser root;\npid nginx.pid;\nevents {{}}\nhttp {{\n\
         access_log off;\nclient_body_temp_path body;\nproxy_temp_path proxy;\nfastcgi_temp_path fastcgi;\n\
         uwsgi_temp_path uwsgi;\nscgi_temp_path scgi;\nserver {{\nlisten {NAMED_PORT} ssl;\n\
         ssl_certificate server.pem;\nssl_certificate_key server.key;\nssl_client_certificate ca.pem;\n\
         ssl_verify_client on;\nssl_protocols TLSv1.3;\n{lines}\n\
         location = / {{ return 200 \"server {index}\\n\"; }}\n}}\n}}\n"
    )
}
