//! OpenSSL as the client, and what is never learned from TLS 1.3.

use std::{fs, net::SocketAddr, process::Stdio};

use anyhow::{Context, Result, ensure};
use steer_common::counters::Counter;
use steer_tests::{
    agent::Hook,
    nginx,
    pki::{Identity, Pki},
    process::mortal,
    scenario::{Run, Scenario},
    setting::in_settings,
    topology::Family,
};
use tempfile::TempDir;

#[test]
fn an_openssl_client_resumes_on_its_owner_from_another_address() -> Result<()> {
    in_settings(71, |setting| {
        let run = setting.scenario().start()?;
        let steer = run.agent()?;
        let client = OpenSsl::new(&run)?;
        let first = client.connect(run.source_of(0)?, "-tls1_2", "-sess_out")?;
        ensure!(first.contains("New, TLSv1.2"), "{first}");
        let again = client.connect(run.source_not_of(0)?, "-tls1_2", "-sess_in")?;
        ensure!(again.contains("Reused, TLSv1.2"), "{again}");
        ensure!(steer.count(Counter::SpliceOpened)? == 1, "one flow was re-homed");
        Ok(())
    })
}

/// A renegotiation (RFC 5746) is inside of TLS: on a moved flow it ends as it does without steer.
#[test]
fn renegotiation_on_a_moved_flow_ends_as_it_does_directly() -> Result<()> {
    in_settings(90, |setting| {
        let run = setting.scenario().start()?;
        let steer = run.agent()?;
        let client = OpenSsl::new(&run)?;
        let (home, away) = (run.source_of(0)?, run.source_not_of(0)?);
        let ended = |target| -> Result<Vec<String>> {
            // Servers forget the session of a connection that ended like this.
            client.connect(home, "-tls1_2", "-sess_out")?;
            let said = client.say("R\n", target, away, "-tls1_2", "-sess_in")?;
            ensure!(said.contains("Reused, TLSv1.2") && said.contains("RENEGOTIATING"), "{said}");
            // Errors name the thread that met them, in front.
            let errors = said
                .lines()
                .filter_map(|line| line.split_once(":error:").map(|(_, error)| error.to_owned()));
            Ok(errors.collect())
        };
        let (through, direct) = (ended(run.vip())?, ended(run.backend_address(0))?);
        ensure!(through == direct, "through steer {through:?}, directly {direct:?}");
        ensure!(steer.count(Counter::SpliceOpened)? == 1, "one flow was re-homed");
        Ok(())
    })
}

/// The session ID of TLS 1.3 is random and echoed (RFC 8446 4.1.3): a row of it could only mislead.
#[test]
fn nothing_is_learned_from_the_session_id_of_tls13() -> Result<()> {
    let servers = nginx::Settings { protocols: "TLSv1.3".to_owned(), ..nginx::Settings::default() };
    let run = Scenario::new(Hook::Tc, Family::V4).nginx(servers).start()?;
    let steer = run.agent()?;
    let client = OpenSsl::new(&run)?;
    for source in 0..8 {
        let said = client.connect(source, "-tls1_3", "-sess_out")?;
        ensure!(said.contains("New, TLSv1.3"), "{said}");
    }
    ensure!(steer.count(Counter::ServerTls13)? == 8, "every ServerHello was known for what it is");
    ensure!(steer.count(Counter::Learned)? == 0, "something was learned");
    Ok(())
}

#[test]
fn an_openssl_client_without_a_certificate_teaches_nothing() -> Result<()> {
    let run = Scenario::new(Hook::Tc, Family::V4).start()?;
    let steer = run.agent()?;
    let said = OpenSsl::without_certificate(&run)?.connect(0, "-tls1_2", "-sess_out")?;
    ensure!(said.contains("New, TLSv1.2") && said.contains("400 Bad Request"), "{said}");
    ensure!(
        steer.count(Counter::SessionNoCertificate)? == 1 && steer.count(Counter::Learned)? == 0,
        "learned"
    );
    Ok(())
}

/// nginx does not refuse a certificate that it does not trust before it has answered in HTTP; what
/// it thinks of it is encrypted. Only `sessions_per_source` bounds what such clients teach.
#[test]
fn a_certificate_of_another_authority_is_learned_from_and_counts_to_its_source() -> Result<()> {
    let run = Scenario::new(Hook::Tc, Family::V4).vip_setting("sessions_per_source = 2").start()?;
    let steer = run.agent()?;
    let client = OpenSsl::with(&run, Some(Pki::make(0)?.client()))?;
    for _ in 0..3 {
        let said = client.connect(0, "-tls1_2", "-sess_out")?;
        ensure!(said.contains("New, TLSv1.2") && said.contains("400 Bad Request"), "{said}");
    }
    ensure!(
        steer.count(Counter::Learned)? == 2 && steer.count(Counter::SessionQuota)? == 1,
        "two and no third"
    );
    Ok(())
}

/// `openssl s_client`.
struct OpenSsl<'a> {
    run: &'a Run,
    files: TempDir,
    certificate: bool,
}

impl<'a> OpenSsl<'a> {
    /// With the lab's client certificate.
    fn new(run: &'a Run) -> Result<Self> {
        Self::with(run, Some(run.pki.client()))
    }

    fn without_certificate(run: &'a Run) -> Result<Self> {
        Self::with(run, None)
    }

    fn with(run: &'a Run, identity: Option<&Identity>) -> Result<Self> {
        let files = tempfile::Builder::new().prefix("steer-openssl-").tempdir()?;
        fs::write(files.path().join("ca.pem"), run.pki.authority_pem())?;
        if let Some(identity) = identity {
            fs::write(
                files.path().join("client.pem"),
                identity.certificate_pem().to_owned() + &identity.key_pem(),
            )?;
        }
        Ok(Self { run, files, certificate: identity.is_some() })
    }

    /// Shakes hands from a source address, asks for `/`, and returns what OpenSSL says of it.
    fn connect(&self, source: usize, version: &str, session: &str) -> Result<String> {
        self.say("GET / HTTP/1.0\r\n\r\n", self.run.vip(), source, version, session)
    }

    /// Shakes hands with `target`, says something, and returns what OpenSSL says of it.
    fn say(
        &self,
        words: &str,
        target: SocketAddr,
        source: usize,
        version: &str,
        session: &str,
    ) -> Result<String> {
        let file = |name: &str| self.files.path().join(name);
        let mut command = mortal("openssl");
        command.args(["s_client", "-connect", &target.to_string(), version]);
        command.args(["-bind", &SocketAddr::new(self.run.source(source), 0).to_string()]);
        command.arg("-CAfile").arg(file("ca.pem")).arg(session).arg(file("session"));
        if self.certificate {
            command.arg("-cert").arg(file("client.pem"));
        }
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        self.run.lab.client().run(|| {
            let mut child = command.spawn().context("run openssl")?;
            let mut stdin = child.stdin.take().context("open its input")?;
            std::io::Write::write_all(&mut stdin, words.as_bytes())?;
            std::thread::sleep(std::time::Duration::from_millis(300));
            drop(stdin);
            let output = child.wait_with_output()?;
            Ok(String::from_utf8_lossy(&output.stdout).into_owned()
                + &String::from_utf8_lossy(&output.stderr))
        })
    }
}
