//! One probe: a TCP connection, perhaps with a TLS handshake, and whose fault it is where there is
//! none.

use std::{
    io,
    net::SocketAddr,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::{self, Instant},
};
use tokio_rustls::TlsConnector;

use super::tls::Shaker;

/// What a backend is asked.
#[derive(Clone, Debug)]
pub(super) enum Ask {
    /// To take a connection.
    Tcp,
    /// To shake hands.
    Tls(Shaker),
    /// To answer a hello by anything: that its process lives.
    Sign(Shaker),
    /// Nothing, for this keeps us from asking.
    Nothing(String),
}

impl Ask {
    /// Whether the kernel of a backend answers it, whatever the process there does.
    pub(super) const fn is_of_kernel(&self) -> bool {
        matches!(self, Self::Tcp)
    }
}

/// What came of a probe.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Outcome {
    /// The backend answered as it should.
    Answered,
    /// It did not; why.
    Failed(String),
    /// Nothing was sent to it, by a fault of our own; which.
    NotMade(String),
}

/// Probes that could not be made, since the agent started.
static NOT_MADE: AtomicU64 = AtomicU64::new(0);

/// How many probes could not be made, since the agent started.
pub(crate) fn not_made() -> u64 {
    NOT_MADE.load(Ordering::Relaxed)
}

/// Probes once. What this machine answers itself says nothing: no client's packet is forwarded to
/// its own addresses.
pub(super) async fn probe(address: SocketAddr, timeout: Duration, ask: &Ask) -> Outcome {
    if let Ask::Nothing(why) = ask {
        return not_made_for(why);
    }
    let deadline = Instant::now() + timeout;
    let stream = match time::timeout_at(deadline, TcpStream::connect(address)).await {
        Ok(Ok(stream)) if stream.local_addr().is_ok_and(|own| own.ip() == address.ip()) => {
            return Outcome::Failed(
                "this machine has the address itself: nothing is forwarded to it".to_owned(),
            );
        }
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) if is_ours(&error) => return not_made_for(&error.to_string()),
        Ok(Err(error)) => return Outcome::Failed(error.to_string()),
        Err(_) => {
            return Outcome::Failed(format!(
                "no answer in {}",
                humantime::format_duration(timeout)
            ));
        }
    };
    let (Ask::Tls(shaker) | Ask::Sign(shaker)) = ask else { return Outcome::Answered };
    match time::timeout_at(deadline, shake(stream, address, shaker, deadline)).await {
        Ok(Ok(())) => Outcome::Answered,
        // A refusal is a sign of life, and so is an end.
        Ok(Err(_)) if matches!(ask, Ask::Sign(_)) => Outcome::Answered,
        Ok(Err(error)) => Outcome::Failed(format!("TLS: {error}")),
        Err(_) => Outcome::Failed(format!(
            "it takes connections, and did not answer a ClientHello in {}",
            humantime::format_duration(timeout)
        )),
    }
}

fn not_made_for(why: &str) -> Outcome {
    NOT_MADE.fetch_add(1, Ordering::Relaxed);
    Outcome::NotMade(why.to_owned())
}

/// Shakes hands, and takes leave as a client does.
async fn shake(
    stream: TcpStream,
    address: SocketAddr,
    shaker: &Shaker,
    deadline: Instant,
) -> io::Result<()> {
    let (config, name) = shaker.of(address);
    let mut stream = TlsConnector::from(config).connect(name, stream).await?;
    // What is left unread would be answered by a reset, which the server's log may tell.
    let leave = async {
        stream.shutdown().await?;
        let mut rest = [0; 512];
        while stream.read(&mut rest).await? > 0 {}
        io::Result::Ok(())
    };
    let half = deadline.saturating_duration_since(Instant::now()) / 2;
    let _ = time::timeout(half, leave).await;
    Ok(())
}

/// Errors of connect(2) and socket(2) that tell of this process, not of its peer: no descriptor, no
/// memory, no port, forbidden by a local rule. A backend without a route is not among them: its
/// clients' packets have none, either.
fn is_ours(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(
            libc::EMFILE
                | libc::ENFILE
                | libc::ENOBUFS
                | libc::ENOMEM
                | libc::EAGAIN
                | libc::EADDRNOTAVAIL
                | libc::EPERM
                | libc::EACCES
                | libc::EAFNOSUPPORT
        )
    )
}

/// Takes as many descriptors as this process may have: a shell gives 1024 of them, of which each
/// backend's probe takes one.
pub(super) fn allow_descriptors() {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current != maximum
        && let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum })
    {
        log::warn!("raise the limit of open files: {error}");
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, sync::Arc};

    use rcgen::{CertifiedKey, generate_simple_self_signed};
    use rustls::{
        RootCertStore, ServerConfig,
        crypto::ring,
        pki_types::{PrivateKeyDer, pem::PemObject as _},
        server::WebPkiClientVerifier,
        version::TLS12,
    };
    use tokio::net::TcpListener;
    use tokio_rustls::TlsAcceptor;

    use super::*;
    use crate::config::Tls;

    #[tokio::test]
    async fn a_probe_tells_its_own_answer_a_refusal_and_silence_apart() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let second = Duration::from_secs(1);
        let own = probe(address, second, &Ask::Tcp).await;
        assert!(
            matches!(&own, Outcome::Failed(why) if why.contains("has the address itself")),
            "{own:?}"
        );
        drop(listener);
        let refused = probe(address, second, &Ask::Tcp).await;
        assert!(matches!(&refused, Outcome::Failed(why) if why.contains("refused")), "{refused:?}");
        let silent = probe(address, Duration::ZERO, &Ask::Tcp).await;
        assert!(matches!(&silent, Outcome::Failed(_)), "{silent:?}");
    }

    /// A server at a local address that probes do not come from: what it does with each connection.
    async fn served<F: Future<Output = ()> + Send + 'static>(
        does: impl Fn(TcpStream) -> F + Send + 'static,
    ) -> SocketAddr {
        let listener = TcpListener::bind("127.0.1.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(does(stream));
            }
        });
        address
    }

    #[tokio::test]
    async fn a_process_that_says_nothing_fails_a_handshake_and_shows_no_sign() {
        let silent = served(|stream| async move {
            let _stream = stream;
            std::future::pending::<()>().await;
        })
        .await;
        let closing = served(|stream| async move { drop(stream) }).await;
        let (any, moment) = (Shaker::any().unwrap(), Duration::from_millis(100));
        let asked = |address, ask: Ask| async move { probe(address, moment, &ask).await };
        assert_eq!(asked(silent, Ask::Tcp).await, Outcome::Answered);
        for ask in [Ask::Tls(any.clone()), Ask::Sign(any.clone())] {
            let told = asked(silent, ask).await;
            assert!(
                matches!(&told, Outcome::Failed(why) if why.contains("did not answer a ClientHello")),
                "{told:?}"
            );
        }
        let second = Duration::from_secs(5);
        assert_eq!(probe(closing, second, &Ask::Sign(any.clone())).await, Outcome::Answered);
        let told = probe(closing, second, &Ask::Tls(any)).await;
        assert!(matches!(&told, Outcome::Failed(why) if why.starts_with("TLS: ")), "{told:?}");
    }

    /// By TLS 1.2, in which a client hears of a refusal before its handshake ends.
    #[tokio::test]
    async fn a_server_that_wants_a_certificate_is_shown_the_one_of_the_file() {
        let files = tempfile::tempdir().unwrap();
        let CertifiedKey { cert, signing_key } =
            generate_simple_self_signed(vec!["probe.test".to_owned()]).unwrap();
        let [certificate, key] = ["cert.pem", "key.pem"].map(|name| files.path().join(name));
        fs::write(&certificate, cert.pem()).unwrap();
        fs::write(&key, signing_key.serialize_pem()).unwrap();
        let mut roots = RootCertStore::empty();
        roots.add(cert.der().clone()).unwrap();
        let provider = Arc::new(ring::default_provider());
        let judge =
            WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider));
        let config = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&TLS12])
            .unwrap()
            .with_client_cert_verifier(judge.build().unwrap())
            .with_single_cert(
                vec![cert.der().clone()],
                PrivateKeyDer::from_pem_slice(signing_key.serialize_pem().as_bytes()).unwrap(),
            )
            .unwrap();
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let address = served(move |stream| {
            let accepting = acceptor.accept(stream);
            async move { drop(accepting.await) }
        })
        .await;
        let (second, none) = (Duration::from_secs(5), Shaker::any().unwrap());
        let told = probe(address, second, &Ask::Tls(none)).await;
        assert!(matches!(&told, Outcome::Failed(why) if why.contains("alert")), "{told:?}");
        let settings = Tls { certificate: Some(certificate), key: Some(key), ..Tls::default() };
        let shown = Shaker::new(&settings).unwrap();
        assert_eq!(probe(address, second, &Ask::Tls(shown)).await, Outcome::Answered);
    }

    #[test]
    fn what_this_machine_lacks_is_no_fault_of_a_backend() {
        for ours in [libc::EMFILE, libc::ENFILE, libc::EADDRNOTAVAIL, libc::EPERM, libc::EACCES] {
            assert!(is_ours(&io::Error::from_raw_os_error(ours)), "{ours}");
        }
        for theirs in [
            libc::ECONNREFUSED,
            libc::EHOSTUNREACH,
            libc::ENETUNREACH,
            libc::ETIMEDOUT,
            libc::ECONNRESET,
        ] {
            assert!(!is_ours(&io::Error::from_raw_os_error(theirs)), "{theirs}");
        }
    }

    #[test]
    fn the_soft_limit_of_descriptors_becomes_the_hard_one() {
        allow_descriptors();
        let limit = getrlimit(Resource::Nofile);
        assert_eq!(limit.current, limit.maximum);
    }
}
