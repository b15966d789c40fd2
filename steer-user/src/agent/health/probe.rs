//! One probe: a TCP connection, and whose fault it is where there is none.

use std::{
    io,
    net::SocketAddr,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::{net::TcpStream, time};

/// What came of a probe.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Outcome {
    /// The backend took the connection.
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
pub(super) async fn probe(address: SocketAddr, timeout: Duration) -> (SocketAddr, Outcome) {
    let outcome = match time::timeout(timeout, TcpStream::connect(address)).await {
        Ok(Ok(stream)) if stream.local_addr().is_ok_and(|own| own.ip() == address.ip()) => {
            Outcome::Failed(
                "this machine has the address itself: nothing is forwarded to it".to_owned(),
            )
        }
        Ok(Ok(_)) => Outcome::Answered,
        Ok(Err(error)) if is_ours(&error) => {
            NOT_MADE.fetch_add(1, Ordering::Relaxed);
            Outcome::NotMade(error.to_string())
        }
        Ok(Err(error)) => Outcome::Failed(error.to_string()),
        Err(_) => Outcome::Failed(format!("no answer in {}", humantime::format_duration(timeout))),
    };
    (address, outcome)
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
    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn a_probe_tells_its_own_answer_a_refusal_and_silence_apart() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let second = Duration::from_secs(1);
        let (_, own) = probe(address, second).await;
        assert!(
            matches!(&own, Outcome::Failed(why) if why.contains("has the address itself")),
            "{own:?}"
        );
        drop(listener);
        let (_, refused) = probe(address, second).await;
        assert!(matches!(&refused, Outcome::Failed(why) if why.contains("refused")), "{refused:?}");
        let (_, silent) = probe(address, Duration::ZERO).await;
        assert!(matches!(&silent, Outcome::Failed(_)), "{silent:?}");
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
