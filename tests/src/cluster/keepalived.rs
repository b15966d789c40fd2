//! Who of two gateways is active: keepalived, one instance of VRRP on each segment, which go
//! together.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context, Result};
use nix::sys::signal::Signal;

use crate::{
    process::{self, Server, eventually, mortal},
    topology::{Family, Lab, Segment, port},
};

/// How often the active one says so, seconds. Whoever hears nothing for a little more than three
/// times that takes over.
const ADVERTISED: &str = "0.3";

/// A running keepalived; ended in order when dropped.
pub(super) struct Keepalived {
    server: Server,
    log: PathBuf,
}

impl Keepalived {
    /// Starts that of a gateway, which may be active as long as `script` succeeds.
    pub(super) fn start(
        lab: &Lab,
        gateway: usize,
        directory: &Path,
        script: &Command,
    ) -> Result<Self> {
        let file = |ending: &str| directory.join(format!("{}.{ending}", port(gateway)));
        let log = file("keepalived.log");
        fs::write(file("conf"), config(gateway, script)).context("write keepalived.conf")?;
        let out = fs::File::create(&log).context("open keepalived's log")?;
        let mut command = mortal("keepalived");
        command
            .args(["--dont-fork", "--log-console", "--log-detail", "--vrrp"])
            .arg("--use-file")
            .arg(file("conf"))
            .arg("--pid")
            .arg(file("pid"))
            .arg("--vrrp_pid")
            .arg(file("vrrp.pid"))
            .stdout(out.try_clone()?)
            .stderr(out);
        Ok(Self { server: lab.gateway().spawn(command)?, log })
    }

    /// Ends it as a machine that fails does, with nothing put in order.
    pub(super) fn kill(mut self) -> Result<()> {
        let worker = process::worker_of(self.server.id());
        // The one that started the other would start it again, and the other one would say farewell
        // without it.
        self.server.signal(Signal::SIGSTOP)?;
        if worker != self.server.id() {
            nix::sys::signal::kill(
                nix::unistd::Pid::from_raw(worker.cast_signed()),
                Signal::SIGKILL,
            )
            .context("kill keepalived's worker")?;
        }
        self.server.end(Signal::SIGKILL).map(drop)
    }

    /// What it wrote.
    pub(super) fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }
}

impl Drop for Keepalived {
    fn drop(&mut self) {
        // An error means that it ended already.
        drop(self.server.signal(Signal::SIGTERM));
        let _ended = eventually(Duration::from_secs(3), || self.server.ended());
    }
}

/// Its configuration. The script has no weight: with one, a failed gateway would lose priority and
/// keep the addresses all the same, for the other one does not preempt.
fn config(gateway: usize, script: &Command) -> String {
    let words: Vec<_> = std::iter::once(script.get_program())
        .chain(script.get_args())
        .map(|word| word.to_string_lossy())
        .collect();
    let instances: String = Segment::ALL
        .iter()
        .zip(51..)
        .map(|(segment, id)| instance(*segment, id, gateway))
        .collect();
    format!(
        r#"global_defs {{
  router_id {}
  vrrp_version 3
  script_user root
  vrrp_priority -10
}}
vrrp_script ready {{
  script "{}"
  interval 1
  timeout 5
  fall 2
  rise 1
}}
vrrp_sync_group gateway {{
  group {{
    front
    back
  }}
  track_script {{
    ready
  }}
}}
{instances}"#,
        port(gateway),
        words.join(" ")
    )
}

fn instance(segment: Segment, id: u8, gateway: usize) -> String {
    let (name, priority) = (segment.name(), 100 - gateway);
    let address = |family| {
        let (address, prefix) = (segment.virtual_address(family), segment.prefix(family));
        format!("{address}/{prefix} dev {name}")
    };
    format!(
        r#"vrrp_instance {name} {{
  state BACKUP
  nopreempt
  interface {name}
  virtual_router_id {id}
  priority {priority}
  advert_int {ADVERTISED}
  garp_master_delay 1
  virtual_ipaddress {{
    {}
  }}
  virtual_ipaddress_excluded {{
    {}
  }}
}}
"#,
        address(Family::V4),
        address(Family::V6)
    )
}
