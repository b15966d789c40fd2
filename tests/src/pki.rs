//! The certificates of a run: one authority, a certificate per backend with its own name, one for
//! the clients.

use std::sync::Arc;

use anyhow::{Context, Result};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyPair, KeyUsagePurpose,
};
use rustls::{
    ClientConfig, RootCertStore, SupportedProtocolVersion,
    crypto::ring::default_provider,
    pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer},
};

/// The host name that all backends of the VIP are certified for.
pub const HOST: &str = "vip.test";

/// A certificate with its key.
pub struct Identity {
    /// Common name.
    pub name: String,
    certificate: CertificateDer<'static>,
    certificate_pem: String,
    key: KeyPair,
}

impl Identity {
    /// The certificate in PEM.
    pub fn certificate_pem(&self) -> &str {
        &self.certificate_pem
    }

    /// The key in PEM.
    pub fn key_pem(&self) -> String {
        self.key.serialize_pem()
    }
}

/// The authority and all it certified.
pub struct Pki {
    authority: CertifiedIssuer<'static, KeyPair>,
    servers: Vec<Identity>,
    client: Identity,
}

impl Pki {
    /// Makes an authority, a client, and `n_servers` servers named `backend-0`, `backend-1`, ...
    ///
    /// # Errors
    /// When a key cannot be made.
    pub fn make(n_servers: usize) -> Result<Self> {
        let authority = authority().context("make a certificate authority")?;
        let servers = (0..n_servers)
            .map(|index| {
                issue(&authority, &format!("backend-{index}"), ExtendedKeyUsagePurpose::ServerAuth)
            })
            .collect::<Result<Vec<_>>>()?;
        let client = issue(&authority, "client", ExtendedKeyUsagePurpose::ClientAuth)?;
        Ok(Self { authority, servers, client })
    }

    /// The authority's certificate in PEM.
    pub fn authority_pem(&self) -> String {
        self.authority.pem()
    }

    /// The client's identity.
    pub fn client(&self) -> &Identity {
        &self.client
    }

    /// What a backend shows.
    pub fn server(&self, index: usize) -> &Identity {
        &self.servers[index]
    }

    /// The name in a server's certificate, if it is one of ours.
    pub fn name_of(&self, certificate: &CertificateDer<'_>) -> Option<&str> {
        self.servers
            .iter()
            .find(|server| server.certificate == *certificate)
            .map(|server| server.name.as_str())
    }

    /// A client's TLS settings: TLS 1.2, this authority, and the client certificate unless it shall
    /// have none.
    ///
    /// # Errors
    /// When rustls refuses the certificates.
    pub fn client_config(
        &self,
        with_certificate: bool,
        version: &'static SupportedProtocolVersion,
    ) -> Result<ClientConfig> {
        let mut roots = RootCertStore::empty();
        roots.add(self.authority.der().clone()).context("trust the authority")?;
        let builder = ClientConfig::builder_with_provider(Arc::new(default_provider()))
            .with_protocol_versions(&[version])?
            .with_root_certificates(roots);
        if !with_certificate {
            return Ok(builder.with_no_client_auth());
        }
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(self.client.key.serialize_der()));
        builder
            .with_client_auth_cert(vec![self.client.certificate.clone()], key)
            .context("use the client certificate")
    }
}

fn authority() -> Result<CertifiedIssuer<'static, KeyPair>> {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, "steer lab authority");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    Ok(CertifiedIssuer::self_signed(params, KeyPair::generate()?)?)
}

fn issue(
    authority: &CertifiedIssuer<'static, KeyPair>,
    name: &str,
    purpose: ExtendedKeyUsagePurpose,
) -> Result<Identity> {
    let key = KeyPair::generate()?;
    let mut params = CertificateParams::new(vec![HOST.to_owned()])?;
    params.distinguished_name.push(DnType::CommonName, name);
    params.extended_key_usages = vec![purpose];
    let certificate =
        params.signed_by(&key, authority).with_context(|| format!("certify {name}"))?;
    Ok(Identity {
        name: name.to_owned(),
        certificate: certificate.der().clone(),
        certificate_pem: certificate.pem(),
        key,
    })
}
