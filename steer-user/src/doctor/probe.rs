//! Connections from this machine to each backend, from the VIP's own address where it is here: their
//! answers show routes both ways.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use tokio::{net::TcpSocket, task::JoinSet, time};

use super::Findings;
use crate::{
    address::is_own,
    config::{Config, Pool},
};

/// An answer that takes longer is none.
const PATIENCE: Duration = Duration::from_secs(2);
/// Connections at a time.
const AT_ONCE: usize = 64;

/// What a probe met.
enum Met {
    Connected,
    Refused,
    Silent,
    Unreachable(io::Error),
}

pub(super) async fn look(findings: &mut Findings, config: &Config) {
    let mut probes = Vec::new();
    for pool in config.pools.iter().filter(|pool| !pool.is_bridged()) {
        let vip = pool.vip().map(|vip| vip.address.ip()).filter(|vip| is_own(*vip));
        probes.extend(targets(pool).map(|backend| (vip, backend)));
    }
    let mut met = Vec::new();
    for part in probes.chunks(AT_ONCE) {
        let mut running = JoinSet::new();
        for (from, to) in part.iter().copied() {
            running.spawn(async move { (from, to, probe(from, to).await) });
        }
        met.extend(running.join_all().await);
    }
    met.sort_by_key(|(_, to, _)| *to);
    for (from, to, met) in met {
        told(findings, from, to, met);
    }
}

fn targets(pool: &Pool) -> impl Iterator<Item = SocketAddr> {
    pool.backends.iter().map(|backend| backend.address)
}

async fn probe(from: Option<IpAddr>, to: SocketAddr) -> Met {
    let connect = async {
        let socket = if to.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
        if let Some(from) = from.filter(|from| from.is_ipv4() == to.is_ipv4()) {
            socket.bind((from, 0).into())?;
        }
        socket.connect(to).await
    };
    match time::timeout(PATIENCE, connect).await {
        Ok(Ok(_)) => Met::Connected,
        Ok(Err(error)) if error.kind() == io::ErrorKind::ConnectionRefused => Met::Refused,
        Ok(Err(error)) => Met::Unreachable(error),
        Err(_) => Met::Silent,
    }
}

fn told(findings: &mut Findings, from: Option<IpAddr>, to: SocketAddr, met: Met) {
    let by = from.map_or(String::new(), |vip| format!(" to a connection from {vip}"));
    match met {
        Met::Connected => findings.good("return path", format!("{to} answers{by}")),
        Met::Refused => {
            let text =
                format!("{to} refuses connections: start its TLS server, or correct the port");
            findings.warn("return path", text);
        }
        Met::Silent => {
            let route = match from {
                Some(vip) => format!(
                    "its route back to {vip} must lead through this gateway, and no firewall may drop it"
                ),
                None => "it is down, a firewall drops it, or its route back does not lead here"
                    .to_owned(),
            };
            findings.warn(
                "return path",
                format!("{to} does not answer{by} in {} s: {route}", PATIENCE.as_secs()),
            );
        }
        Met::Unreachable(error) => {
            let text =
                format!("{to} cannot be reached: {error}; ip route get {} shows the way", to.ip());
            findings.warn("return path", text);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn who_listens_answers_and_who_does_not_refuses() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let at = listener.local_addr().unwrap();
        assert!(matches!(probe(Some(at.ip()), at).await, Met::Connected));
        drop(listener);
        let met = probe(None, at).await;
        let mut findings = Findings::default();
        told(&mut findings, None, at, met);
        assert!(findings.0[0].text.contains("refuses connections"), "{:?}", findings.0);
    }
}
