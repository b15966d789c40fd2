//! Whose a connection is, as the header of a PROXY protocol announces it ("The PROXY protocol" of
//! HAProxy, section 2).

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

/// What a header announces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Proxied {
    /// Version of the protocol.
    pub(crate) version: &'static str,
    /// The client that the proxy speaks for; `None` where it speaks for itself or does not say.
    pub(crate) client: Option<SocketAddr>,
}

impl Proxied {
    /// Reads a header, which is whole.
    pub(super) fn read(header: &[u8]) -> Self {
        match header.first() {
            Some(b'P') => Self { version: "v1", client: of_line(header) },
            _ => Self { version: "v2", client: of_block(header) },
        }
    }
}

/// Version 1 (section 2.1): `PROXY TCP4 source destination source-port destination-port`.
fn of_line(header: &[u8]) -> Option<SocketAddr> {
    let mut words = std::str::from_utf8(header).ok()?.trim_ascii_end().split(' ').skip(1);
    let family = words.next()?;
    let (source, source_port) =
        (words.next()?.parse::<IpAddr>().ok()?, words.nth(1)?.parse().ok()?);
    let is_its = source.is_ipv4() == (family == "TCP4");
    (is_its && family != "UNKNOWN").then_some(SocketAddr::new(source, source_port))
}

/// Version 2 (section 2.2): signature 12 bytes, version and command, family and protocol, length 2,
/// then both addresses and both ports.
fn of_block(header: &[u8]) -> Option<SocketAddr> {
    const COMMAND_PROXY: u8 = 1;
    const IPV4: u8 = 1;
    const IPV6: u8 = 2;
    let (fixed, addresses) = header.split_first_chunk::<16>()?;
    if fixed[12] & 0xf != COMMAND_PROXY {
        return None;
    }
    let port = |at: usize| Some(u16::from_be_bytes(*addresses.get(at..)?.first_chunk()?));
    match fixed[13] >> 4 {
        IPV4 => Some(SocketAddr::new(IpAddr::from(*addresses.first_chunk::<4>()?), port(8)?)),
        IPV6 => {
            Some(SocketAddr::new(Ipv6Addr::from(*addresses.first_chunk::<16>()?).into(), port(32)?))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn assert_client(header: &[u8], version: &str, client: Option<&str>) {
        let read = Proxied::read(header);
        assert_eq!(
            (read.version, read.client),
            (version, client.map(|client| client.parse().expect("an address")))
        );
    }

    fn block(command: u8, family: u8, addresses: &[u8]) -> Vec<u8> {
        [
            b"\r\n\r\n\0\r\nQUIT\n",
            &[command, family][..],
            &(addresses.len() as u16).to_be_bytes(),
            addresses,
        ]
        .concat()
    }

    #[test]
    fn lines_say_who_dialled() {
        assert_client(
            b"PROXY TCP4 192.0.2.7 198.51.100.1 56324 443\r\n",
            "v1",
            Some("192.0.2.7:56324"),
        );
        assert_client(
            b"PROXY TCP6 2001:db8::7 2001:db8::1 1 443\r\n",
            "v1",
            Some("[2001:db8::7]:1"),
        );
        for silent in [
            "PROXY UNKNOWN\r\n",
            "PROXY UNKNOWN 192.0.2.7 198.51.100.1 1 2\r\n",
            "PROXY TCP4 2001:db8::7 2001:db8::1 1 443\r\n",
            "PROXY TCP6 192.0.2.7 198.51.100.1 1 2\r\n",
            "PROXY TCP4 192.0.2.7\r\n",
            "PROXY TCP4 192.0.2.7 198.51.100.1 99999 443\r\n",
        ] {
            assert_client(silent.as_bytes(), "v1", None);
        }
    }

    #[test]
    fn blocks_say_who_dialled() {
        let v4 = [192, 0, 2, 7, 198, 51, 100, 1, 0xdc, 4, 1, 0xbb];
        assert_client(&block(0x21, 0x11, &v4), "v2", Some("192.0.2.7:56324"));
        assert_client(
            &block(0x21, 0x11, &[&v4[..], &[4, 0, 1, 0]].concat()),
            "v2",
            Some("192.0.2.7:56324"),
        );
        let mut v6 = [0; 36];
        v6[..4].copy_from_slice(&[0x20, 1, 0xd, 0xb8]);
        (v6[15], v6[33]) = (7, 9);
        assert_client(&block(0x21, 0x21, &v6), "v2", Some("[2001:db8::7]:9"));
        assert_client(&block(0x20, 0x11, &v4), "v2", None);
        assert_client(&block(0x21, 0x31, &[0; 216]), "v2", None);
        assert_client(&block(0x21, 0x11, &v4[..9]), "v2", None);
        assert_client(&block(0x20, 0, &[]), "v2", None);
    }
}
