//! A file shown, compared, given to a running agent, and written by it.

use std::fs;

use anyhow::{Result, ensure};
use steer_tests::{agent::Hook, scenario::Scenario, topology::Family};

use super::{asked, said};

#[test]
fn diff_tells_what_a_reload_would_change_and_show_what_is_in_force() -> Result<()> {
    let run = Scenario::new(Hook::Tc, Family::V4).backends(2).start()?;
    let steer = run.agent()?;
    let same = asked(&run, &steer, "config diff")?;
    ensure!(same.status.code() == Some(0), "{same:?}");
    let shown = steer.steer("config show")?;
    ensure!(
        shown.contains("session_timeout = \"10m\"") && shown.contains("interval = \"200ms\""),
        "{shown}"
    );
    steer.rewrite(|file| file.replace("interval = \"200ms\"", "interval = \"300ms\""))?;
    let other = asked(&run, &steer, "config diff")?;
    let told = String::from_utf8_lossy(&other.stdout).into_owned();
    ensure!(other.status.code() == Some(1), "{other:?}");
    ensure!(told.contains("health.interval would be 300ms instead of 200ms"), "{told}");
    let json = asked(&run, &steer, "config diff --json")?;
    let json: serde_json::Value = serde_json::from_slice(&json.stdout)?;
    ensure!(json["differences"].as_array().is_some_and(|all| all.len() == 2), "{json}");
    ensure!(steer.steer("config show")? == shown, "nothing was put in force");
    steer.steer("reload")?;
    ensure!(asked(&run, &steer, "config diff")?.status.code() == Some(0));
    ensure!(steer.json("config show")?["vip"][0]["health"]["interval"] == "300ms");
    steer.rewrite(|file| file.replace("interval", "intreval"))?;
    ensure!(asked(&run, &steer, "config diff")?.status.code() == Some(2));
    Ok(())
}

#[test]
fn a_file_of_another_place_is_in_force_until_the_own_one_is_asked_for() -> Result<()> {
    let run = Scenario::new(Hook::Tc, Family::V4).backends(2).start()?;
    let steer = run.agent()?;
    let file = steer.config_path().with_file_name("tried.toml");
    let own = fs::read_to_string(steer.config_path())?;
    fs::write(&file, own.replace("interval = \"200ms\"", "interval = \"300ms\""))?;
    let told = steer.steer(&format!("reload {}", file.display()))?;
    ensure!(told.contains(&format!("{} is in force", file.display())), "{told}");
    ensure!(steer.json("config show")?["vip"][0]["health"]["interval"] == "300ms");
    steer.steer("reload")?;
    ensure!(steer.json("config show")?["vip"][0]["health"]["interval"] == "200ms");
    Ok(())
}

#[test]
fn a_change_of_backends_says_how_long_it_lasts_and_is_saved_where_asked() -> Result<()> {
    let run = Scenario::new(Hook::Tc, Family::V4).backends(2).start()?;
    let steer = run.agent()?;
    steer.rewrite(|file| format!("# What we serve.\n{file}"))?;
    let (own, vip, new) = (steer.config_path(), run.vip(), "10.2.9.9:443");
    let add = format!("backends add --vip {vip} --weight 2 {new}");
    let output = asked(&run, &steer, &add)?;
    let until = format!("until the machine restarts; --save writes it to {}", own.display());
    ensure!(output.status.success() && said(&output).contains(&until), "{output:?}");
    let before = fs::read_to_string(&own)?;
    let told = steer.steer(&format!("{add} --save"))?;
    ensure!(told.contains(&format!("{} says so", own.display())), "{told}");
    let after = fs::read_to_string(&own)?;
    ensure!(after.starts_with("# What we serve.\n"), "{after}");
    let lines = format!("\n[[vip.backend]]\naddress = \"{new}\"\nweight = 2\n");
    ensure!(after.replace(&lines, "") == before, "{after}");
    steer.steer("reload")?;
    steer.steer(&format!("backends remove --save {new}"))?;
    ensure!(fs::read_to_string(&own)? == before);
    ensure!(
        said(&asked(&run, &steer, &format!("backends drain {}", run.backend_address(1)))?)
            .contains("until the machine restarts")
    );
    Ok(())
}

#[test]
fn what_the_file_cannot_take_is_not_done() -> Result<()> {
    let run = Scenario::new(Hook::Tc, Family::V4).backends(2).start()?;
    let steer = run.agent()?;
    let before = fs::read_to_string(steer.config_path())?;
    for backend in [run.backend_address(0), run.backend_address(1)] {
        let output = asked(&run, &steer, &format!("backends remove --save {backend}"))?;
        if backend == run.backend_address(1) {
            // The last one of its VIP.
            ensure!(
                output.status.code() == Some(1) && said(&output).contains("nothing was done"),
                "{output:?}"
            );
        }
    }
    ensure!(steer.backend(run.backend_address(1))?["state"] == "up");
    ensure!(fs::read_to_string(steer.config_path())? != before);
    Ok(())
}
