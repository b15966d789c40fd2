//! The other rival: HAProxy in TCP mode with its SSL-ID stick table, in the gateway. The matrix and
//! a benchmark use it.

use std::{fs, net::TcpStream, time::Duration};

use anyhow::{Context, Result, bail};
use tempfile::TempDir;

use crate::{
    process::{Server, eventually, mortal},
    topology::{Family, Lab, backend, vip},
};

/// HAProxy as published for SSL session IDs, with the two lines without which it never sees a
/// ServerHello.
///
/// `tcp-response inspect-delay` and `tcp-response content accept` are those two: without them the
/// stick table learns from ClientHellos alone.
const RECIPE: &str = "\
  balance source
  stick-table type binary len 32 size 30k expire 30m
  acl clienthello req.ssl_hello_type 1
  acl serverhello res.ssl_hello_type 2
  tcp-request inspect-delay 5s
  tcp-request content accept if clienthello
  tcp-response inspect-delay 5s
  tcp-response content accept if serverhello
  stick on payload_lv(43,1) if clienthello
  stick store-response payload_lv(43,1) if serverhello
";

/// HAProxy at the VIP; it and its address are gone when dropped.
pub struct HaProxy<'a> {
    lab: &'a Lab,
    server: Option<Server>,
    directory: TempDir,
}

impl<'a> HaProxy<'a> {
    /// Puts the VIP on the gateway's loopback and waits until HAProxy accepts there.
    ///
    /// # Errors
    /// With HAProxy's own words when it does not come up.
    pub fn start(lab: &'a Lab) -> Result<Self> {
        let directory = tempfile::Builder::new().prefix("steer-haproxy-").tempdir()?;
        let path = |name: &str| directory.path().join(name);
        fs::write(path("haproxy.cfg"), config(lab.n_backends())).context("write haproxy.cfg")?;
        let log = fs::File::create(path("log")).context("open HAProxy's log")?;
        lab.gateway().ip(&format!("addr add {}/32 dev lo\n", vip(Family::V4).ip()))?;
        let mut haproxy = Self { lab, server: None, directory };
        let mut command = mortal("haproxy");
        command.args(["-db", "-f"]).arg(haproxy.directory.path().join("haproxy.cfg"));
        command.stdout(log.try_clone()?).stderr(log);
        haproxy.server = Some(lab.gateway().spawn(command)?);
        haproxy.await_up()?;
        Ok(haproxy)
    }

    /// Its process id, while it runs.
    pub fn process_id(&self) -> Option<u32> {
        self.server.as_ref().map(Server::id)
    }

    fn await_up(&self) -> Result<()> {
        let answers =
            || TcpStream::connect_timeout(&vip(Family::V4), Duration::from_millis(200)).ok();
        if self.lab.client().run(|| Ok(eventually(Duration::from_secs(5), answers).is_some()))? {
            return Ok(());
        }
        let log = fs::read_to_string(self.directory.path().join("log")).unwrap_or_default();
        bail!("HAProxy does not listen at the VIP: {log}")
    }
}

impl Drop for HaProxy<'_> {
    fn drop(&mut self) {
        drop(self.server.take());
        if let Err(error) =
            self.lab.gateway().ip(&format!("addr del {}/32 dev lo\n", vip(Family::V4).ip()))
        {
            eprintln!("the VIP stays on the gateway: {error:#}");
        }
    }
}

fn config(n_backends: usize) -> String {
    let servers: String = (0..n_backends)
        .map(|index| format!("  server s{index} {}\n", backend(Family::V4, index)))
        .collect();
    format!(
        "global\n  maxconn 1000\ndefaults\n  mode tcp\n  timeout connect 5s\n  timeout client 30s\n  timeout server 30s\n\
         frontend vip\n  bind {}\n  default_backend pool\nbackend pool\n{RECIPE}{servers}",
        vip(Family::V4)
    )
}
