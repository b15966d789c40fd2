//! Probes that shake hands: what a client's TLS would meet, up to the end of the handshake.
//!
//! Nothing is resumed: an answer is to come from the process itself, with its own key.

use std::{
    collections::HashMap,
    fmt, fs,
    net::SocketAddr,
    path::Path,
    sync::{Arc, OnceLock},
};

use anyhow::{Context as _, Result, bail};
use rustls::{
    ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme,
    client::{
        Resumption, WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::{CryptoProvider, ring},
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime, pem::PemObject as _},
    version::{TLS12, TLS13},
};

use crate::config::{self, Pool, TlsVersion};

/// How one kind of handshake is made.
#[derive(Clone)]
pub(super) struct Shaker {
    config: Arc<ClientConfig>,
    sni: Option<ServerName<'static>>,
}

impl fmt::Debug for Shaker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Shaker")
    }
}

impl Shaker {
    /// Reads what a pool's probes need.
    ///
    /// # Errors
    /// When a file cannot be read or holds something else, or certificate and key do not fit.
    pub(super) fn new(settings: &config::Tls) -> Result<Self> {
        let config::Tls { sni, ca, certificate, key, min_version, max_version } = settings;
        let versions = [(TlsVersion::V1_2, &TLS12), (TlsVersion::V1_3, &TLS13)];
        let versions = versions.iter().filter(|(v, _)| (*min_version..=*max_version).contains(v));
        let versions = versions.map(|(_, version)| *version).collect::<Vec<_>>();
        let builder = ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(&versions)
            .context("choose TLS versions")?
            .dangerous()
            .with_custom_certificate_verifier(verifier(ca.as_deref())?);
        let mut config = match (certificate, key) {
            (Some(certificate), Some(key)) => builder
                .with_client_auth_cert(certificates(certificate)?, private_key(key)?)
                .with_context(|| format!("use {} with {}", certificate.display(), key.display()))?,
            _ => builder.with_no_client_auth(),
        };
        config.resumption = Resumption::disabled();
        let name = |name: &String| {
            ServerName::try_from(name.clone())
                .with_context(|| format!("{name:?} is no name of a server"))
        };
        Ok(Self { config: Arc::new(config), sni: sni.as_ref().map(name).transpose()? })
    }

    /// One for backends of which nothing is configured: whatever they answer will do.
    pub(super) fn any() -> Result<Self> {
        Self::new(&config::Tls::default())
    }

    /// What shakes hands, and the name that is asked for.
    pub(super) fn of(&self, address: SocketAddr) -> (Arc<ClientConfig>, ServerName<'static>) {
        let name = self.sni.clone().unwrap_or_else(|| ServerName::from(address.ip()));
        (Arc::clone(&self.config), name)
    }
}

/// What handshakes need, by their settings, each read once.
#[derive(Default, Debug)]
pub(super) struct Shakers {
    made: HashMap<Arc<config::Tls>, Result<Shaker, String>>,
    any: OnceLock<Option<Shaker>>,
}

impl Shakers {
    /// What a pool's handshakes need, or why there is none.
    pub(super) fn of(&mut self, settings: &Arc<config::Tls>) -> Result<Shaker, String> {
        let made = self.made.entry(Arc::clone(settings));
        made.or_insert_with(|| Shaker::new(settings).map_err(|error| format!("{error:#}"))).clone()
    }

    /// What a handshake with a suspect needs whose probes are others.
    pub(super) fn any(&self) -> Option<Shaker> {
        self.any.get_or_init(|| Shaker::any().ok()).clone()
    }
}

/// Refuses pools whose handshakes cannot be made: a file is missing or holds something else.
pub(crate) fn require(pools: &[Pool]) -> Result<()> {
    for pool in pools {
        if let config::Health::Probes(probes) = &pool.health
            && let Some(tls) = &probes.tls
        {
            let made = Shaker::new(tls);
            made.with_context(|| format!("{}: health", pool.service().titled()))?;
        }
    }
    Ok(())
}

fn provider() -> Arc<CryptoProvider> {
    static PROVIDER: OnceLock<Arc<CryptoProvider>> = OnceLock::new();
    Arc::clone(PROVIDER.get_or_init(|| Arc::new(ring::default_provider())))
}

fn certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>> {
    let text = read(file)?;
    let found = CertificateDer::pem_slice_iter(&text).collect::<Result<Vec<_>, _>>();
    let found = found.with_context(|| format!("read certificates of {}", file.display()))?;
    if found.is_empty() {
        bail!("{} has no certificate in PEM", file.display());
    }
    Ok(found)
}

fn private_key(file: &Path) -> Result<PrivateKeyDer<'static>> {
    let text = read(file)?;
    PrivateKeyDer::from_pem_slice(&text)
        .with_context(|| format!("read a private key of {}", file.display()))
}

fn read(file: &Path) -> Result<Vec<u8>> {
    fs::read(file).with_context(|| format!("read {}", file.display()))
}

/// Who judges certificates: by these authorities, or nobody.
fn verifier(ca: Option<&Path>) -> Result<Arc<dyn ServerCertVerifier>> {
    let Some(ca) = ca else { return Ok(Arc::new(Anybody)) };
    let mut roots = RootCertStore::empty();
    for certificate in certificates(ca)? {
        roots
            .add(certificate)
            .with_context(|| format!("trust a certificate of {}", ca.display()))?;
    }
    let built = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider()).build();
    let judge = built.with_context(|| format!("trust {}", ca.display()))?;
    Ok(judge)
}

/// Takes any certificate: it is the process that is asked after, not who it is.
#[derive(Debug)]
struct Anybody;

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        provider().signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use rcgen::{CertifiedKey, generate_simple_self_signed};
    use tempfile::TempDir;

    use super::*;

    /// A certificate with its key, as files.
    fn files() -> (TempDir, PathBuf, PathBuf) {
        let directory = tempfile::tempdir().unwrap();
        let CertifiedKey { cert, signing_key } =
            generate_simple_self_signed(vec!["probe.test".to_owned()]).unwrap();
        let (certificate, key) =
            (directory.path().join("cert.pem"), directory.path().join("key.pem"));
        fs::write(&certificate, cert.pem()).unwrap();
        fs::write(&key, signing_key.serialize_pem()).unwrap();
        (directory, certificate, key)
    }

    #[track_caller]
    fn refused(settings: config::Tls) -> String {
        format!("{:#}", Shaker::new(&settings).unwrap_err())
    }

    #[test]
    fn files_that_are_not_what_they_should_be_are_refused_by_name() {
        let (directory, certificate, key) = files();
        let with = |certificate: &Path, key: &Path| config::Tls {
            certificate: Some(certificate.to_owned()),
            key: Some(key.to_owned()),
            ..config::Tls::default()
        };
        Shaker::new(&with(&certificate, &key)).unwrap();
        let missing = directory.path().join("none.pem");
        for settings in [
            with(&missing, &key),
            with(&certificate, &missing),
            config::Tls { ca: Some(missing.clone()), ..config::Tls::default() },
        ] {
            let told = refused(settings);
            assert!(told.contains("none.pem") && told.contains("No such file"), "{told}");
        }
        assert!(refused(with(&key, &key)).contains("key.pem has no certificate in PEM"));
        assert!(refused(with(&certificate, &certificate)).contains("read a private key of"));
        let (_other, other, _) = files();
        assert!(refused(with(&other, &key)).contains("use "), "a key of another certificate");
    }

    #[test]
    fn without_a_name_that_is_asked_for_the_address_is_meant() {
        let address = SocketAddr::from(([10, 0, 0, 1], 443));
        let (_, name) = Shaker::any().unwrap().of(address);
        assert_eq!(name, ServerName::from(address.ip()));
        let settings = config::Tls { sni: Some("probe.test".to_owned()), ..config::Tls::default() };
        let (_, name) = Shaker::new(&settings).unwrap().of(address);
        assert_eq!(name.to_str(), "probe.test");
    }
}
