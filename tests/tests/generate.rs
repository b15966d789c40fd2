//! `steer keys generate`, where there is neither an agent nor a right.

use std::{
    env, fs,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown},
    path::{Path, PathBuf},
    process::{Command, Output},
};

use anyhow::{Context as _, Result};
use serde_json::Value;

const NOBODY: u32 = 65534;
const BACKENDS: &str = "10.0.0.11:443,[2001:db8::11]:443";

#[test]
fn keys_are_made_and_rotated_without_rights_and_without_an_agent() -> Result<()> {
    let (nobody, out) = Nobody::new()?;
    let read =
        |output: Output| serde_json::from_slice::<Value>(&output.stdout).context(said(&output));
    let (first, second) =
        (read(nobody.generate(BACKENDS, &out)?)?, read(nobody.generate(BACKENDS, &out)?)?);
    for at in 0..2 {
        let (before, now) = (&first["backends"][at], &second["backends"][at]);
        assert_eq!(
            now["key_names"][1], before["key_names"][0],
            "the current key becomes the previous one"
        );
        for (path, name) in
            [(&now["current"], &now["key_names"][0]), (&now["previous"], &now["key_names"][1])]
        {
            let path = path.as_str().context("no file")?;
            let (bytes, meta) = (fs::read(path)?, fs::metadata(path)?);
            let start = bytes.iter().take(16).map(|byte| format!("{byte:02x}")).collect::<String>();
            assert_eq!(
                (bytes.len(), meta.mode() & 0o777, name.as_str()),
                (80, 0o600, Some(start.as_str()))
            );
        }
    }
    Ok(())
}

#[test]
fn what_cannot_be_done_is_said_in_one_sentence() -> Result<()> {
    let (nobody, out) = Nobody::new()?;
    let (elsewhere, nonsense) =
        (nobody.generate(BACKENDS, nobody.place())?, nobody.generate("10.0.0.11", &out)?);
    assert_eq!(
        (elsewhere.status.code(), said(&elsewhere).lines().count()),
        (Some(1), 1),
        "{elsewhere:?}"
    );
    assert!(said(&elsewhere).contains("Permission denied"), "{elsewhere:?}");
    assert!(
        nonsense.status.code() == Some(2) && said(&nonsense).contains("expected ADDRESS:PORT"),
        "{nonsense:?}"
    );
    Ok(())
}

/// Runs `steer` as nobody.
struct Nobody {
    directory: tempfile::TempDir,
}

impl Nobody {
    /// With a directory that is nobody's own. The checkout may lie where only root can look.
    fn new() -> Result<(Self, PathBuf)> {
        let directory = tempfile::tempdir()?;
        let out = directory.path().join("out");
        fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755))?;
        fs::copy(binary()?, directory.path().join("steer"))?;
        fs::create_dir(&out)?;
        chown(&out, Some(NOBODY), Some(NOBODY))?;
        Ok((Self { directory }, out))
    }

    fn place(&self) -> &Path {
        self.directory.path()
    }

    fn generate(&self, backends: &str, out: &Path) -> Result<Output> {
        let mut command = Command::new("setpriv");
        command
            .args(["--reuid=65534", "--regid=65534", "--clear-groups"])
            .arg(self.place().join("steer"));
        command.args(["keys", "generate", "--json", "--backends", backends, "--out"]).arg(out);
        Ok(command.output()?)
    }
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// The program that the lab's agents run.
fn binary() -> Result<PathBuf> {
    let beside = env::current_exe()?.ancestors().nth(2).map(|directory| directory.join("steer"));
    env::var_os("STEER_BIN")
        .map(PathBuf::from)
        .or(beside)
        .filter(|path| path.exists())
        .context("no binary steer")
}
