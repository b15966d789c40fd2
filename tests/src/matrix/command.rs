//! How the servers that are processes are started: a command line of each stack, and its
//! configuration where it has one.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result};

use super::stack::Site;
use crate::{
    process::{self, mortal},
    topology::PORT,
};

/// What keeps a JVM small and quick to start.
const JVM: [&str; 3] = ["-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Xmx64m"];

pub(super) fn gnutls(site: &Site<'_>) -> Result<Command> {
    let mut command = mortal(site.program);
    command.args([
        "--http",
        "--quiet",
        "--require-client-cert",
        "--verify-client-cert",
        "--port",
        &PORT.to_string(),
    ]);
    command
        .arg("--x509cafile")
        .arg(site.ca)
        .arg("--x509certfile")
        .arg(site.cert)
        .arg("--x509keyfile")
        .arg(site.key);
    command.args([
        "--priority",
        &format!("NORMAL:-VERS-ALL:+VERS-{}", site.by_version("TLS1.2", "TLS1.3")),
    ]);
    if !site.mode.tickets() {
        command.arg("--noticket");
    }
    Ok(command)
}

pub(super) fn go(site: &Site<'_>) -> Result<Command> {
    let mut command = go_peer(site.peers, site.word, site.program, "server")?;
    identify(&mut command, site).args([&format!(":{PORT}"), site.protocol(), site.tickets()]);
    Ok(command)
}

/// Go's program as `client` or `server`, compiled by this compiler unless it was before.
pub(super) fn go_peer(peers: &Path, word: &str, compiler: &Path, role: &str) -> Result<Command> {
    let program = peers.join(format!("peer-{word}"));
    if !program.exists() {
        let mut build = Command::new(compiler);
        build.args(["build", "-o"]).arg(&program).arg(peers.join("main.go")).current_dir(peers);
        // Only the standard library and this compiler: no module, no download.
        build
            .env("GO111MODULE", "off")
            .env("GOFLAGS", "")
            .env("GOTOOLCHAIN", "local")
            .env_remove("GOROOT");
        process::run(&mut build)?;
    }
    let mut command = mortal(program);
    command.arg(role);
    Ok(command)
}

pub(super) fn java(site: &Site<'_>) -> Result<Command> {
    let tickets = format!("-Djdk.tls.server.enableSessionTicketExtension={}", site.mode.tickets());
    let mut command = java_peer(site.peers, site.program, &[&tickets], "server")?;
    identify(&mut command, site).args([&PORT.to_string(), site.protocol()]);
    Ok(command)
}

/// Java's program as `client` or `server`; the machine's compiler serves every JVM that is not
/// older.
pub(super) fn java_peer(peers: &Path, jvm: &Path, options: &[&str], role: &str) -> Result<Command> {
    if !peers.join("Peer.class").exists() {
        process::run(Command::new("javac").arg("-d").arg(peers).arg(peers.join("Peer.java")))?;
    }
    let mut command = mortal(jvm);
    command.args(JVM).args(options).arg("-cp").arg(peers).args(["Peer", role]);
    Ok(command)
}

pub(super) fn javascript(site: &Site<'_>) -> Result<Command> {
    let mut command = mortal(site.program);
    node_tls(&mut command, site);
    Ok(command)
}

pub(super) fn deno(site: &Site<'_>) -> Result<Command> {
    let mut command = deno_run(site);
    node_tls(&mut command, site);
    Ok(command)
}

pub(super) fn deno_serve(site: &Site<'_>) -> Result<Command> {
    let mut command = deno_run(site);
    command.arg(site.peers.join("serve.mjs")).arg(site.cert).arg(site.key).arg(PORT.to_string());
    Ok(command)
}

fn deno_run(site: &Site<'_>) -> Command {
    let mut command = mortal(site.program);
    command.args(["run", "--quiet", "--no-prompt", "--allow-all"]).env("DENO_DIR", site.directory);
    command
}

fn node_tls(command: &mut Command, site: &Site<'_>) {
    command.arg(site.peers.join("server.mjs"));
    identify(command, site)
        .args([&PORT.to_string(), site.protocol(), site.tickets()])
        .args(&site.ticket_key);
}

pub(super) fn erlang(site: &Site<'_>) -> Result<Command> {
    let mut command = mortal("escript");
    command.arg(site.peers.join("server.escript"));
    identify(&mut command, site).args([&PORT.to_string(), site.protocol()]);
    Ok(command)
}

/// The package's folder is that of its library, run by the machine's Python.
pub(super) fn gunicorn(site: &Site<'_>) -> Result<Command> {
    let mut command = mortal("python3");
    command
        .args(["-m", "gunicorn", "--chdir"])
        .arg(site.peers)
        .arg("--config")
        .arg(site.peers.join("gunicorn_peer.py"));
    command.args(["--bind", &format!("[::]:{PORT}"), "gunicorn_peer:application"]);
    command
        .arg("--ca-certs")
        .arg(site.ca)
        .arg("--certfile")
        .arg(site.cert)
        .arg("--keyfile")
        .arg(site.key);
    command.env("TLS_VERSION", site.protocol()).env("TICKETS", site.tickets());
    command.env("PYTHONPATH", site.program).env("PYTHONDONTWRITEBYTECODE", "1");
    Ok(command)
}

pub(super) fn wolfssl(site: &Site<'_>) -> Result<Command> {
    c_peer(site, "wolfssl.c", &["-lwolfssl"])
}

pub(super) fn mbedtls(site: &Site<'_>) -> Result<Command> {
    c_peer(site, "mbedtls.c", &["-lmbedtls", "-lmbedx509", "-lmbedcrypto"])
}

/// A program in C, compiled unless it was before.
fn c_peer(site: &Site<'_>, source: &str, libraries: &[&str]) -> Result<Command> {
    let program = site.peers.join(format!("peer-{}", site.word));
    if !program.exists() {
        process::run(
            Command::new("cc").arg("-o").arg(&program).arg(site.peers.join(source)).args(libraries),
        )?;
    }
    let mut command = mortal(program);
    identify(&mut command, site).args([&PORT.to_string(), site.protocol(), site.tickets()]);
    Ok(command)
}

pub(super) fn caddy(site: &Site<'_>) -> Result<Command> {
    let (ca, cert, key, protocol) =
        (site.ca.display(), site.cert.display(), site.key.display(), site.protocol());
    let config = configure(
        site,
        "Caddyfile",
        &format!(
            r#"{{
  admin off
  auto_https off
  persist_config off
}}
:{PORT} {{
  tls {cert} {key} {{
    protocols {protocol} {protocol}
    client_auth {{
      mode require_and_verify
      trust_pool file {ca}
    }}
  }}
  respond "ok"
}}
"#
        ),
    )?;
    let mut command = mortal(site.program);
    command.args(["run", "--adapter", "caddyfile", "--config"]).arg(config);
    command.env("XDG_DATA_HOME", site.directory).env("XDG_CONFIG_HOME", site.directory);
    Ok(command)
}

pub(super) fn haproxy(site: &Site<'_>) -> Result<Command> {
    let (ca, pem) = (site.ca.display(), both(site)?);
    let version = site.by_version("TLSv1.2", "TLSv1.3");
    let mut bind = format!("bind :{PORT} ssl crt {} ca-file {ca} verify required", pem.display());
    bind += &format!(" ssl-min-ver {version} ssl-max-ver {version}");
    if !site.mode.tickets() {
        bind += " no-tls-tickets";
    }
    if let Some(key) = &site.ticket_key {
        // The last but one of at least three seals.
        let key = openssl_base64(key)?;
        bind += &format!(
            " tls-ticket-keys {}",
            configure(site, "ticket.keys", &key.repeat(3))?.display()
        );
    }
    let config = configure(
        site,
        "haproxy.cfg",
        &format!(
            "global\n  user root\ndefaults\n  mode http\n  option httpclose\n  timeout client 10s\n  timeout server 10s\n  \
             timeout connect 10s\nfrontend lab\n  {bind}\n  \
             http-request return status 200 content-type text/plain string ok\n"
        ),
    )?;
    let mut command = mortal(site.program);
    command.args(["-db", "-f"]).arg(config);
    Ok(command)
}

pub(super) fn apache(site: &Site<'_>) -> Result<Command> {
    let (ca, cert, key, directory) =
        (site.ca.display(), site.cert.display(), site.key.display(), site.directory.display());
    let version = site.by_version("TLSv1.2", "TLSv1.3");
    let ticket_key = site
        .ticket_key
        .as_ref()
        .map_or(String::new(), |key| format!("SSLSessionTicketKeyFile {}", key.display()));
    let tickets = site.tickets();
    let config = configure(
        site,
        "apache.conf",
        &format!(
            r#"ServerRoot {directory}
ServerName vip.test
PidFile apache.pid
ErrorLog error.log
LoadModule mpm_event_module /usr/lib/apache2/modules/mod_mpm_event.so
LoadModule authz_core_module /usr/lib/apache2/modules/mod_authz_core.so
LoadModule alias_module /usr/lib/apache2/modules/mod_alias.so
LoadModule socache_shmcb_module /usr/lib/apache2/modules/mod_socache_shmcb.so
LoadModule ssl_module /usr/lib/apache2/modules/mod_ssl.so
User www-data
Group www-data
KeepAlive off
RedirectMatch 200 ^/
Listen {PORT}
SSLSessionCache shmcb:{directory}/cache(512000)
SSLEngine on
SSLProtocol -all +{version}
SSLCertificateFile {cert}
SSLCertificateKeyFile {key}
SSLCACertificateFile {ca}
SSLVerifyClient require
SSLSessionTickets {tickets}
{ticket_key}
"#
        ),
    )?;
    let mut command = mortal(site.program);
    // One process: children would outlive it when it is killed.
    command.arg("-X").arg("-f").arg(config);
    Ok(command)
}

pub(super) fn mosquitto(site: &Site<'_>) -> Result<Command> {
    let (ca, cert, key) = (site.ca.display(), site.cert.display(), site.key.display());
    let config = configure(
        site,
        "mosquitto.conf",
        &format!(
            "user root\nlistener {PORT}\nallow_anonymous true\nrequire_certificate true\n\
             cafile {ca}\ncertfile {cert}\nkeyfile {key}\ntls_version {}\n",
            site.by_version("tlsv1.2", "tlsv1.3")
        ),
    )?;
    // Its own setting is the lowest version only.
    let highest = format!(
        "openssl_conf = own\n[own]\nssl_conf = ssl\n[ssl]\nsystem_default = limits\n[limits]\nMaxProtocol = {}\n",
        site.by_version("TLSv1.2", "TLSv1.3")
    );
    let mut command = mortal(site.program);
    command.arg("-c").arg(config).env("OPENSSL_CONF", configure(site, "openssl.cnf", &highest)?);
    Ok(command)
}

/// Adds the server's files: authority, certificate, key.
fn identify<'c>(command: &'c mut Command, site: &Site<'_>) -> &'c mut Command {
    command.args([site.ca, site.cert, site.key])
}

/// Writes a file of this server.
fn configure(site: &Site<'_>, name: &str, text: &str) -> Result<PathBuf> {
    let file = site.directory.join(name);
    fs::write(&file, text).with_context(|| format!("write {name}"))?;
    Ok(file)
}

/// Certificate and key in one file.
fn both(site: &Site<'_>) -> Result<PathBuf> {
    let read =
        |file: &Path| fs::read_to_string(file).with_context(|| format!("read {}", file.display()));
    configure(site, "both.pem", &(read(site.cert)? + &read(site.key)?))
}

/// A file in base64, one line.
fn openssl_base64(file: &Path) -> Result<String> {
    process::run(Command::new("openssl").args(["base64", "-A", "-in"]).arg(file))
        .map(|text| text.trim().to_owned() + "\n")
}
