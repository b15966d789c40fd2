//! Whether the packages are right: their contents, lintian's word, and an installation in a Debian 12
//! of its own, which is used and removed.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, ensure};

use super::{Made, directory, remove};
use crate::{command, rights, setup::archive, tree::Tree};

/// What each package must bring.
const CONTENTS: [&str; 9] = [
    "/usr/bin/steer",
    "/usr/share/bash-completion/completions/steer",
    "/usr/share/doc/steer/README.md",
    "/usr/share/doc/steer/docs/config.md",
    "/usr/share/doc/steer/docs/quickstart.md",
    "/usr/share/doc/steer/examples/steer.toml",
    "/usr/share/fish/vendor_completions.d/steer.fish",
    "/usr/share/man/man1/steer-status.1.gz",
    "/usr/share/man/man1/steer.1.gz",
];

/// What is done with the installed package.
const USE: &str = include_str!("use.sh");
/// The way of docs/quickstart.md, to the first re-home.
const REHOME: &str = include_str!("rehome.sh");

/// The removal of a gateway that is there.
const REMOVE: &str = include_str!("remove.sh");
/// What is in that Debian beside its base.
const INCLUDED: &str = "--include=man-db,bash-completion,iproute2,openssl";
/// Mounts what a system has mounted, in a mount namespace of its own, and goes in. The BPF file system
/// is another one than the machine's.
const ENTER: &str = r#"
set -e
mount --bind "$0" "$0"
mount -t proc proc "$0/proc"
mount -t sysfs sysfs "$0/sys"
mount -t bpf bpf "$0/sys/fs/bpf"
mount -t tmpfs tmpfs "$0/run"
exec chroot "$0" bash -c "$1"
"#;

pub(super) fn run(tree: &Tree, made: &Made) -> Result<()> {
    rights::require("dist --check")?;
    contents(made)?;
    let mut lintian = Command::new("lintian");
    command::run_aside(
        lintian.args(["--fail-on", "error", "--tag-display-limit", "0"]).arg(&made.deb),
    )?;
    let root = Root::make(tree)?;
    let before = root.files()?;
    root.install(&made.deb)?;
    root.shell(USE)?;
    root.shell(REHOME)?;
    root.shell(REMOVE)?;
    let left = root.files()?.difference(&before).cloned().collect::<Vec<_>>();
    // What dpkg knows of it, and the mask that every unit gets until its package is purged.
    let kept = [
        "/var/lib/dpkg/info/steer.",
        "/var/lib/systemd/deb-systemd-helper-",
        "/etc/systemd/system/steer.service",
    ];
    let of_debian = |file: &String| kept.iter().any(|kept| file.starts_with(kept));
    let (_, left): (Vec<_>, Vec<_>) = left.into_iter().partition(of_debian);
    ensure!(
        left == ["/etc/steer", "/etc/steer/steer.toml", "/var/lib/steer", "/var/lib/steer/state"],
        "removal leaves more than configuration and state: {left:?}"
    );
    root.shell("dpkg --purge steer")?;
    let left = root.files()?.difference(&before).cloned().collect::<Vec<_>>();
    ensure!(left.is_empty(), "purging leaves {left:?}");
    eprintln!("dist: the packages are right; one was installed, used and removed in Debian 12");
    Ok(())
}

/// Both packages bring what they must, the Debian one as root's files.
fn contents(made: &Made) -> Result<()> {
    let deb = command::stdout_of(Command::new("dpkg-deb").arg("--contents").arg(&made.deb))?;
    ensure!(
        deb.lines().all(|line| line.contains(" root/root ") || line.contains(" 0/0 ")),
        "{deb}"
    );
    let rpm = command::stdout_of(Command::new("rpm").args(["-qpl"]).arg(&made.rpm))?;
    for file in CONTENTS {
        let is = |line: &str| line.trim_end().ends_with(file);
        ensure!(deb.lines().any(is), "{} does not bring {file}:\n{deb}", made.deb.display());
        ensure!(rpm.lines().any(is), "{} does not bring {file}:\n{rpm}", made.rpm.display());
    }
    let unit = "lib/systemd/system/steer.service";
    ensure!(deb.contains(unit) && rpm.contains(unit), "a package brings no unit file");
    Ok(())
}

/// A Debian 12 in a directory.
struct Root(PathBuf);

impl Root {
    /// Copies the one that debootstrap made once into target/tools.
    fn make(tree: &Tree) -> Result<Self> {
        let pristine = tree.tools().join("debian-12");
        if !pristine.is_dir() {
            let unfinished = tree.tools().join("debian-12.part");
            remove(&unfinished)?;
            let mut debootstrap = Command::new("debootstrap");
            debootstrap.args(["--variant=minbase", INCLUDED, "bookworm"]);
            command::run_aside(debootstrap.arg(&unfinished).arg(archive::mirror()?))?;
            fs::rename(&unfinished, &pristine).context("keep what debootstrap made")?;
        }
        let root = directory(tree).join("root");
        remove(&root)?;
        command::run_aside(Command::new("cp").args(["-a"]).arg(&pristine).arg(&root))?;
        Ok(Self(root))
    }

    fn install(&self, deb: &Path) -> Result<()> {
        fs::copy(deb, self.0.join("steer.deb")).context("copy the package")?;
        self.shell("dpkg --install /steer.deb && rm /steer.deb")
    }

    /// Runs a script inside, in a network of its own; what it starts ends with it.
    fn shell(&self, script: &str) -> Result<()> {
        let mut inside = Command::new("unshare");
        inside.args(["--net", "--mount", "--pid", "--fork", "--kill-child", "sh", "-c", ENTER]);
        inside.arg(&self.0).arg(script).env("LC_ALL", "C.UTF-8");
        inside.env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
        command::run_aside(&mut inside)
    }

    /// Every file inside, but for what tools keep to themselves.
    fn files(&self) -> Result<BTreeSet<String>> {
        let mut find = Command::new("find");
        find.args([".", "-xdev", "-printf", "/%P\n"]).current_dir(&self.0);
        let own = ["/var/cache/", "/var/lib/dpkg/triggers/", "/var/log/", "/tmp/"];
        let found = command::stdout_of(&mut find)?;
        let files = found.lines().filter(|file| !own.iter().any(|own| file.starts_with(own)));
        Ok(files.map(str::to_owned).collect())
    }
}
