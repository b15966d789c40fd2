//! `steer doctor` and `steer sysdump`, before a gateway is there and on a live one.

use std::{fs, process::Command};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use steer_tests::{process, scenario::Run};

use crate::{binary, two_backends};

/// What the doctor says in the gateway, whatever its exit code, and that code.
fn diagnosed(run: &Run, config: &str, options: &[&str]) -> Result<(Value, i32)> {
    let mut doctor = Command::new(binary()?);
    doctor.args(["doctor", "--json", "--config", config]).args(options);
    let output = run.lab.gateway().run(|| Ok(doctor.output()?))?;
    let said = serde_json::from_slice(&output.stdout)
        .with_context(|| String::from_utf8_lossy(&output.stderr).into_owned())?;
    Ok((said, output.status.code().context("killed")?))
}

/// The sentences of findings of this kind that are not good.
fn wrong(diagnosis: &Value, check: &str) -> String {
    let findings = diagnosis["findings"].as_array().into_iter().flatten();
    let wrong = findings.filter(|found| found["check"] == check && found["state"] != "good");
    wrong.map(|found| found["text"].to_string()).collect::<Vec<_>>().join("\n")
}

#[test]
fn doctor_names_what_is_in_the_way_and_what_helps() -> Result<()> {
    let run = two_backends()?;
    let steer = run.agent()?;
    let config = steer.config_path().display().to_string();
    let (well, _) = diagnosed(&run, &config, &[])?;
    for check in ["kernel", "memory", "sysctl", "nft", "ipsec", "hook", "gateway", "return path"] {
        ensure!(wrong(&well, check).is_empty(), "{check}: {}", wrong(&well, check));
    }
    ensure!(well["state"] == "healthy", "{well}");

    let gateway = run.lab.gateway();
    gateway.sysctl("ipv4/ip_forward", "0")?;
    let vip = run.vip().ip();
    gateway.nft(&format!("table ip t {{ chain c {{ ip daddr {vip} counter; }}; }}\n"))?;
    gateway.ip(&format!("xfrm policy add dir fwd src 0.0.0.0/0 dst {vip}/32\n"))?;
    let backend = run.backend_address(1).ip();
    gateway.ip(&format!("route add unreachable {backend}\n"))?;
    let (ill, code) = diagnosed(&run, &config, &[])?;
    ensure!(ill["state"] == "degraded" && code == 1, "{code}: {ill}");
    for (check, words) in [
        ("sysctl", "set net.ipv4.ip_forward=1"),
        ("nft", "ip t c"),
        ("ipsec", "steered packets pass them by"),
        ("return path", "ip route get"),
    ] {
        ensure!(wrong(&ill, check).contains(words), "{check}: {ill}");
    }
    Ok(())
}

#[test]
fn doctor_before_the_first_start_tells_whether_it_would_be_taken() -> Result<()> {
    let run = two_backends()?;
    let steer = run.agent()?;
    let good = fs::read_to_string(steer.config_path())?;
    drop(steer);
    let place = tempfile::tempdir()?;
    let file = place.path().join("steer.toml");
    let pins = "/sys/fs/bpf/steer-none";
    let ask = |text: &str| -> Result<(Value, i32)> {
        fs::write(&file, text)?;
        diagnosed(&run, &file.display().to_string(), &["--pin-dir", pins])
    };
    let (fresh, _) = ask(&good)?;
    ensure!(wrong(&fresh, "start").is_empty(), "{fresh}");
    let crowded = format!("{good}\n[sizes]\nflows = 134217728\nsessions = 134217728\n");
    let (refused, code) = ask(&crowded)?;
    ensure!(refused["state"] == "down" && code == 2, "{code}: {refused}");
    ensure!(wrong(&refused, "start").contains("memory"), "{refused}");
    let (broken, code) = ask("interface = 1\n")?;
    ensure!(code == 2 && wrong(&broken, "configuration").contains("steer.toml:1"), "{broken}");
    Ok(())
}

#[test]
fn sysdump_packs_the_gateway_and_no_identifier() -> Result<()> {
    let run = two_backends()?;
    let steer = run.agent()?;
    run.resume_elsewhere(&run.new_client()?)?;
    let place = tempfile::tempdir()?;
    let file = place.path().join("dump.tar.gz");
    let config = steer.config_path();
    steer.steer(&format!("sysdump -o {} --config {}", file.display(), config.display()))?;
    let list = process::run(Command::new("tar").arg("-tzf").arg(&file))?;
    for name in
        ["status.json", "stats.json", "backends.json", "keys.json", "maps.json", "steer.toml"]
    {
        ensure!(list.contains(&format!("steer-sysdump/{name}\n")), "{name}: {list}");
    }
    let text = process::run(Command::new("tar").arg("-xzOf").arg(&file))?;
    ensure!(text.contains("\"rehome\": 1") && text.contains("memory_bytes"), "{text}");
    let long = |word: &str| word.len() >= 32 && word.bytes().all(|digit| digit.is_ascii_hexdigit());
    let mut words = text.split(|c: char| !c.is_ascii_alphanumeric());
    ensure!(!words.any(long), "an identifier is whole");
    let again = steer.steer(&format!("sysdump -o {}", file.display()));
    ensure!(again.is_err_and(|error| format!("{error:#}").contains("exists")), "it wrote over it");
    Ok(())
}
