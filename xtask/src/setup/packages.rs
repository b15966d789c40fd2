//! Debian packages: which tool is in which, and how to install them without side effects.

use std::{
    io,
    process::{Command, Stdio},
};

use anyhow::{Context, Result, ensure};

use super::Job;
use crate::command;

/// A package, by the program, or another file, that shows whether it is there.
pub(crate) struct Package {
    pub(crate) name: &'static str,
    program: &'static str,
    pub(crate) why: &'static str,
    jobs: &'static [Job],
    /// Whether a job does without it where the distribution does not have it.
    pub(crate) optional: bool,
}

impl Package {
    const fn new(
        name: &'static str,
        program: &'static str,
        why: &'static str,
        jobs: &'static [Job],
    ) -> Self {
        Self { name, program, why, jobs, optional: false }
    }

    const fn optional(self) -> Self {
        Self { optional: true, ..self }
    }

    /// Whether apt has heard of it.
    fn is_known(&self) -> bool {
        let mut show = Command::new("apt-cache");
        show.args(["show", self.name])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        show.status().is_ok_and(|status| status.success())
    }
}

/// Debian's Rust compiler with library source. Not pinned: security updates replace it.
pub(crate) static COMPILER: [Package; 2] = [
    Package::new("rustc-web", "rustc", "compiles the eBPF programs", &[]),
    Package::new(
        "rust-web-src",
        "rustc",
        "library source, for the eBPF target has no ready core",
        &[],
    ),
];

/// Lints for Debian's compiler; of the compiler's own version.
pub(crate) static LINTER: Package =
    Package::new("rust-web-clippy", "clippy-driver", "lints the eBPF programs", &[]);

const RUN: &[Job] =
    &[Job::Test, Job::Demo, Job::Bench, Job::Verify, Job::All, Job::Matrix, Job::Monitoring];
/// Two gateways of which one fails.
const CLUSTER: &[Job] = &[Job::Test, Job::Demo, Job::All];
const VERIFY: &[Job] = &[Job::Verify, Job::All];
const BENCH: &[Job] = &[Job::Bench, Job::All, Job::Matrix];
const MATRIX: &[Job] = &[Job::Matrix];
const DIST: &[Job] = &[Job::Dist];
const MONITORING: &[Job] = &[Job::Monitoring];

static TOOLS: [Package; 28] = [
    Package::new("iproute2", "ip", "makes network namespaces and links", RUN),
    Package::new("ethtool", "ethtool", "sets offloads of virtual links", RUN),
    Package::new(
        "nftables",
        "nft",
        "the plain gateway to compare with; drops packets in tests",
        RUN,
    ),
    Package::new("nginx", "nginx", "the backends", RUN),
    Package::new("openssl", "openssl", "makes certificates; a TLS client", RUN),
    Package::new("bpftool", "bpftool", "shows pinned maps", RUN),
    Package::new("keepalived", "keepalived", "says which of two gateways is active", CLUSTER),
    Package::new("redis-server", "redis-server", "the store that gateways replicate by", CLUSTER),
    Package::new(
        "busybox-static",
        "busybox",
        "the shell in other kernels; unpacks their modules",
        VERIFY,
    ),
    Package::new("cpio", "cpio", "packs what other kernels boot with", VERIFY),
    Package::new("haproxy", "haproxy", "the proxy to compare with", BENCH),
    Package::new("lintian", "lintian", "judges the package for Debian", DIST),
    Package::new("debootstrap", "debootstrap", "makes a Debian to install the package in", DIST),
    Package::new("rpm", "rpm", "reads the package for RPM systems", DIST),
    Package::new("prometheus", "prometheus", "scrapes an agent; judges alert rules", MONITORING),
    Package::new("curl", "curl", "asks Prometheus", MONITORING),
    Package::new("gnutls-bin", "gnutls-serv", "GnuTLS at both ends", MATRIX),
    Package::new("golang-go", "go", "compiles Go's ends", MATRIX),
    Package::new("default-jdk-headless", "javac", "compiles and runs Java's ends", MATRIX),
    Package::new("python3", "python3", "the Python, GnuTLS and Chromium clients", MATRIX),
    Package::new("python3-pip", "pip3", "installs the stacks that apt does not have", MATRIX)
        .optional(),
    Package::new("apache2-bin", "apache2", "a server", MATRIX).optional(),
    Package::new("mosquitto", "mosquitto", "a server", MATRIX).optional(),
    Package::new("erlang-ssl", "erl", "a server", MATRIX).optional(),
    Package::new("libwolfssl-dev", "/usr/include/wolfssl/ssl.h", "a server", MATRIX).optional(),
    Package::new("libmbedtls-dev", "/usr/include/mbedtls/ssl.h", "a server", MATRIX).optional(),
    Package::new("chromium", "chromium", "a client", MATRIX).optional(),
    Package::new("libnss3-tools", "certutil", "fills Chromium's certificate store", MATRIX)
        .optional(),
];

/// Lists the packages of a job whose program is not there.
///
/// An optional one that apt does not know is asked for beside others only, for then apt's lists are
/// made anew.
pub(crate) fn missing_for(job: Job) -> Vec<&'static Package> {
    let is_missing =
        |tool: &&Package| tool.jobs.contains(&job) && command::find(tool.program).is_none();
    let missing: Vec<_> = TOOLS.iter().filter(is_missing).collect();
    if missing.iter().all(|package| package.optional && !package.is_known()) {
        Vec::new()
    } else {
        missing
    }
}

/// Installs by apt-get with the packages' services kept from starting, now by policy-rc.d and at
/// boot by disabling them.
///
/// A shell does it, so that its trap removes the policy also when somebody interrupts. A policy
/// that is there already is the administrator's and stays. Of names that begin with `?` only those
/// are installed that apt knows.
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
for package in "$@"; do
    shift
    case "$package" in
        \?*) package=${package#\?}; apt-cache show "$package" >/dev/null 2>&1 || continue ;;
    esac
    set -- "$@" "$package"
done
apt-get -q -y -o DPkg::Lock::Timeout=120 -o Dpkg::Use-Pty=0 install --no-install-recommends --no-remove "$@"
if command -v systemctl >/dev/null; then
    for package in "$@"; do
        case "$package" in nginx|haproxy|keepalived|redis-server|mosquitto|prometheus) systemctl disable "$package.service" || true ;; esac
    done
fi
"#;

/// Installs packages that are missing.
pub(crate) fn install(packages: &[&Package]) -> Result<()> {
    super::require_installer()?;
    let marked =
        |package: &&Package| format!("{}{}", if package.optional { "?" } else { "" }, package.name);
    let names: Vec<String> = packages.iter().map(marked).collect();
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
