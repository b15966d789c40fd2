//! A store that is another machine's: reached by TLS, with certificates, as a user that may do no more
//! than gateways do.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use serde_json::Value;
use steer_tests::{
    agent::Agent,
    process::{Server, eventually, mortal},
    scenario::Run,
    setting::in_one_setting,
};

/// Where the store listens, in the gateway's own namespace.
const PORT: u16 = 7443;
/// Longest wait for the store to be noticed.
const PATIENCE: Duration = Duration::from_secs(20);

/// Files of the store and of the gateway.
struct Files(tempfile::TempDir);

impl Files {
    fn at(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn write(&self, name: &str, text: &str) -> Result<()> {
        fs::write(self.at(name), text)?;
        fs::set_permissions(self.at(name), fs::Permissions::from_mode(0o600))?;
        Ok(())
    }

    /// An authority, and what it certifies store and gateway.
    fn certify(&self) -> Result<()> {
        let mut authority = CertificateParams::default();
        authority.distinguished_name.push(DnType::CommonName, "stores");
        authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let authority = CertifiedIssuer::self_signed(authority, KeyPair::generate()?)?;
        self.write("ca.pem", &authority.pem())?;
        for name in ["store", "gateway"] {
            let key = KeyPair::generate()?;
            let mut params = CertificateParams::new(vec!["127.0.0.1".to_owned()])?;
            params.distinguished_name.push(DnType::CommonName, name);
            let certificate = params.signed_by(&key, &authority)?;
            self.write(&format!("{name}.pem"), &certificate.pem())?;
            self.write(&format!("{name}.key"), &key.serialize_pem())?;
        }
        Ok(())
    }

    /// The store, whose only user is of this rule.
    fn start(&self, run: &Run, rule: &str) -> Result<Server> {
        self.write("users", &format!("{rule}\nuser default off\n"))?;
        let file = |name: &str| self.at(name).display().to_string();
        let config = format!(
            "daemonize no\nport 0\ntls-port {PORT}\nbind 127.0.0.1\nsave \"\"\nlogfile {}\ntls-cert-file {}\n\
             tls-key-file {}\ntls-ca-cert-file {}\ntls-auth-clients yes\naclfile {}\n",
            file("log"),
            file("store.pem"),
            file("store.key"),
            file("ca.pem"),
            file("users")
        );
        self.write("redis.conf", &config)?;
        let mut command = mortal("redis-server");
        command.arg(self.at("redis.conf"));
        run.lab.gateway().spawn(command)
    }
}

/// Waits until a store is as it should be; what is told of it.
fn store(steer: &Agent<'_>, is_right: impl Fn(&Value) -> bool) -> Result<Value> {
    let look = || Some(steer.json("ha status").ok()?["stores"][0].clone()).filter(&is_right);
    eventually(PATIENCE, look).with_context(|| format!("{:?}", steer.steer("ha status")))
}

#[test]
fn a_store_is_reached_by_tls_with_a_certificate_and_as_a_user_who_may_do_no_more() -> Result<()> {
    in_one_setting(|setting| {
        let mut run = setting.scenario().start()?;
        let files = Files(tempfile::tempdir()?);
        files.certify()?;
        files.write("password", "s3cret\n")?;
        let path = |name: &str| -> PathBuf { Path::new(files.0.path()).join(name) };
        run.steer.top.push(format!(
            "[ha]\nservers = [\"rediss://127.0.0.1:{PORT}\"]\nname = \"gw1\"\nkey_file = {:?}\nca = {:?}\n\
             certificate = {:?}\nkey = {:?}\nuser = \"steer\"\npassword_file = {:?}",
            path("ha.key"),
            path("ca.pem"),
            path("gateway.pem"),
            path("gateway.key"),
            path("password")
        ));
        let mut steer = Agent::prepare(&run.lab, &run.steer)?;
        steer.steer(&format!("ha key {}", path("ha.key").display()))?;
        let rule = steer.steer("ha acl")?.trim().replace("PASSWORD", "s3cret");
        let redis = files.start(&run, &rule)?;
        steer.launch()?;
        store(&steer, |store| store["connected"] == true && store["error"] == "")?;
        run.session_at(&run.new_client()?, 0)?;
        store(&steer, |store| store["written"].as_u64() > Some(0))?;
        eventually(PATIENCE, || steer.steer("ha ready").ok()).context("never ready")?;
        // A user who may not write: the store is down, and says why.
        drop(redis);
        let _redis = files.start(&run, &rule.replace(" +set ", " "))?;
        let told = store(&steer, |store| {
            store["error"].as_str().is_some_and(|error| error.contains("no permissions"))
        })?;
        ensure!(told["connected"] == false, "{told}");
        ensure!(steer.steer("ha ready")?.starts_with("ready"), "what was ready stays so");
        Ok(())
    })
}
