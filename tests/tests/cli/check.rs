//! `steer config check` says what a start would.

use std::fs;
use std::process::{Command, Output};

use anyhow::Result;

use crate::{GOOD, binary, said};

#[test]
fn config_check_names_file_line_and_key() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let file = directory.path().join("steer.toml");
    let check = |text: &str| -> Result<Output> {
        fs::write(&file, text)?;
        Ok(Command::new(binary()?).args(["config", "check"]).arg(&file).output()?)
    };
    let good = check(GOOD)?;
    assert!(
        good.status.success() && String::from_utf8_lossy(&good.stdout).contains("good"),
        "{good:?}"
    );
    // The file is good, and the machine has not the memory.
    let large = check(&format!("{GOOD}[sizes]\npending = 134217728\n"))?;
    let told = String::from_utf8_lossy(&large.stderr).into_owned();
    assert!(
        large.status.code() == Some(1)
            && told.contains("a start would be refused: the tables take"),
        "{told}"
    );
    for (from, to, place) in [
        ("name = \"eth0\"", "name = \"eth0\"\nhook = \"fast\"", "3: interface.hook: "),
        ("198.51.100.10:443", "198.51.100.10", "5: vip.address: "),
        ("session_timeout", "sesion_timeout", "6: vip.sesion_timeout: "),
        ("\"10m\"", "\"soon\"", "6: vip.session_timeout: "),
        ("10.0.0.11:443", "[2001:db8::11]:443", "9: vip.backend.address: "),
        ("10.0.0.11:443", "198.51.100.10:443", "9: vip.backend.address: "),
    ] {
        let output = check(&GOOD.replace(from, to))?;
        let said = said(&output);
        let expected = format!("steer: {}:{place}", file.display());
        assert!(output.status.code() == Some(1) && said.starts_with(&expected), "{said}");
        assert!(said.contains("expected") && said.lines().count() == 1, "{said}");
    }
    Ok(())
}

/// A file may be checked on another machine than its gateway: what this one would refuse is a
/// warning.
#[test]
fn config_check_tells_what_a_start_here_would_be_refused_for() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let file = directory.path().join("s.toml");
    let taken = directory.path().join("file");
    fs::write(&taken, "")?;
    let check = |lines: &str| -> Result<String> {
        fs::write(&file, format!("{lines}\n{GOOD}"))?;
        let output = Command::new(binary()?).args(["config", "check"]).arg(&file).output()?;
        assert!(output.status.success(), "{}", said(&output));
        Ok(said(&output))
    };
    for (lines, told) in [
        (format!("pin_dir = {:?}", directory.path().join("pins")), "is on no BPF file system"),
        (format!("socket = {taken:?}"), "is there and is no socket"),
        ("metrics = \"192.0.2.99:9464\"".to_owned(), "no interface has this address"),
    ] {
        let text = check(&lines)?;
        assert!(
            text.contains("warning: here a start would be refused: ") && text.contains(told),
            "{lines}: {text}"
        );
    }
    assert!(!check("")?.contains("would be refused"), "nothing is wrong with the rest");
    Ok(())
}
