//! Debian packages: which tool is in which, and how to install them without side effects.

use std::{
    io,
    process::{Command, Stdio},
};

use anyhow::{Context, Result, ensure};

use super::Job;
use crate::command;

/// A package, by the program that shows whether it is there.
pub(crate) struct Package {
    pub(crate) name: &'static str,
    program: &'static str,
    pub(crate) why: &'static str,
    jobs: &'static [Job],
}

/// Debian's Rust compiler with library source. Not pinned: security updates replace it.
pub(crate) static COMPILER: [Package; 2] = [
    Package { name: "rustc-web", program: "rustc", why: "compiles the eBPF programs", jobs: &[] },
    Package {
        name: "rust-web-src",
        program: "rustc",
        why: "library source, for the eBPF target has no ready core",
        jobs: &[],
    },
];

/// Lints for Debian's compiler; of the compiler's own version.
pub(crate) static LINTER: Package =
    Package { name: "rust-web-clippy", program: "clippy-driver", why: "lints the eBPF programs", jobs: &[] };

const RUN: &[Job] = &[Job::Test, Job::Demo, Job::Verify, Job::All, Job::Matrix];
const VERIFY: &[Job] = &[Job::Verify, Job::All];
const MATRIX: &[Job] = &[Job::Matrix];

static TOOLS: [Package; 13] = [
    Package { name: "iproute2", program: "ip", why: "makes network namespaces and links", jobs: RUN },
    Package { name: "ethtool", program: "ethtool", why: "sets offloads of virtual links", jobs: RUN },
    Package {
        name: "nftables",
        program: "nft",
        why: "the plain gateway to compare with; drops packets in tests",
        jobs: RUN,
    },
    Package { name: "nginx", program: "nginx", why: "the backends", jobs: RUN },
    Package { name: "openssl", program: "openssl", why: "makes certificates; a TLS client", jobs: RUN },
    Package { name: "bpftool", program: "bpftool", why: "shows pinned maps", jobs: RUN },
    Package { name: "busybox-static", program: "busybox", why: "the shell beside the 6.1 kernel", jobs: VERIFY },
    Package { name: "cpio", program: "cpio", why: "packs what the 6.1 kernel boots with", jobs: VERIFY },
    Package { name: "haproxy", program: "haproxy", why: "the proxy to compare with", jobs: MATRIX },
    Package { name: "gnutls-bin", program: "gnutls-serv", why: "GnuTLS at both ends", jobs: MATRIX },
    Package { name: "golang-go", program: "go", why: "compiles Go's ends", jobs: MATRIX },
    Package { name: "default-jdk-headless", program: "javac", why: "compiles and runs Java's ends", jobs: MATRIX },
    Package { name: "python3", program: "python3", why: "the Python and GnuTLS clients", jobs: MATRIX },
];

/// Lists the packages of a job whose program is not there.
pub(crate) fn missing_for(job: Job) -> Vec<&'static Package> {
    TOOLS.iter().filter(|tool| tool.jobs.contains(&job) && command::find(tool.program).is_none()).collect()
}

/// Installs by apt-get with nginx and haproxy kept from starting, now by policy-rc.d and at boot by disabling them.
///
/// A shell does it, so that its trap removes the policy also when somebody interrupts. A policy that is there already is
/// the administrator's and stays.
const INSTALL: &str = r#"
set -eu
policy=/usr/sbin/policy-rc.d
if [ ! -e "$policy" ] && [ ! -L "$policy" ]; then
    trap 'rm -f "$policy"' EXIT
    trap 'exit 130' INT TERM HUP
    printf '#!/bin/sh\n# Made by cargo xtask setup while it installs; removed afterwards.\nexit 101\n' > "$policy"
    chmod 755 "$policy"
fi
export DEBIAN_FRONTEND=noninteractive
apt-get -q -o DPkg::Lock::Timeout=120 update
apt-get -q -y -o DPkg::Lock::Timeout=120 -o Dpkg::Use-Pty=0 install --no-install-recommends --no-remove "$@"
if command -v systemctl >/dev/null; then
    for package in "$@"; do
        case "$package" in nginx|haproxy) systemctl disable "$package.service" || true ;; esac
    done
fi
"#;

/// Installs packages that are missing.
pub(crate) fn install(packages: &[&Package]) -> Result<()> {
    super::require_installer()?;
    let names: Vec<&str> = packages.iter().map(|package| package.name).collect();
    let status = Command::new("sh")
        .args(["-c", INSTALL, "setup"])
        .args(&names)
        .stdin(Stdio::null())
        .stdout(io::stderr())
        .status()
        .context("run apt-get")?;
    ensure!(status.success(), "apt-get could not install {}, see above", names.join(", "));
    Ok(())
}
