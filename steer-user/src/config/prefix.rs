//! Prefixes of addresses: whom `exempt` leaves alone.

use std::{fmt, net::IpAddr, str::FromStr};

use serde::{Deserialize, Deserializer, de::Error as _};

/// Addresses that begin alike; a single one is a prefix of all of its bits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Prefix {
    address: IpAddr,
    len: u8,
}

impl Prefix {
    /// The address, in which no bit behind the prefix is set.
    pub fn address(&self) -> IpAddr {
        self.address
    }

    /// Bits that count.
    pub fn bits(&self) -> u8 {
        self.len
    }

    /// Whether an address begins with it.
    pub fn covers(&self, address: IpAddr) -> bool {
        address.is_ipv4() == self.address.is_ipv4() && first(address, self.len) == self.address
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.len == width(self.address) {
            true => self.address.fmt(f),
            false => write!(f, "{}/{}", self.address, self.len),
        }
    }
}

impl FromStr for Prefix {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let form = || {
            format!("`{text}` is no prefix; expected an address such as 10.0.0.2 or 10.0.0.0/24")
        };
        let (address, len) = text.split_once('/').map_or((text, None), |(a, len)| (a, Some(len)));
        let address: IpAddr = address.parse().map_err(|_| form())?;
        if matches!(address, IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some()) {
            return Err(format!(
                "`{text}`: expected the IPv4 address itself, not mapped into IPv6"
            ));
        }
        let most = width(address);
        let len = match len {
            None => most,
            Some(len) => {
                let digits = !len.is_empty() && len.bytes().all(|digit| digit.is_ascii_digit());
                let len = len.parse().ok().filter(|len| digits && *len <= most);
                len.ok_or_else(|| format!("`{text}`: expected a length from 0 to {most}"))?
            }
        };
        let prefix = Self { address: first(address, len), len };
        match prefix.address == address {
            true => Ok(prefix),
            false => Err(format!("`{text}` has bits behind its length; expected {prefix}")),
        }
    }
}

impl<'de> Deserialize<'de> for Prefix {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        String::deserialize(from)?.parse().map_err(D::Error::custom)
    }
}

/// Bits of an address of this family.
fn width(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

/// The address without what stands behind its first `len` bits.
fn first(address: IpAddr, len: u8) -> IpAddr {
    match address {
        IpAddr::V4(v4) => {
            let mask = u32::MAX.checked_shl(32 - u32::from(len)).unwrap_or(0);
            IpAddr::V4((v4.to_bits() & mask).into())
        }
        IpAddr::V6(v6) => {
            let mask = u128::MAX.checked_shl(128 - u32::from(len)).unwrap_or(0);
            IpAddr::V6((v6.to_bits() & mask).into())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_and_prefixes_of_both_families_are_read_and_written() {
        for text in ["10.0.0.2", "10.0.0.0/24", "0.0.0.0/0", "2001:db8::2", "2001:db8::/33", "::/0"]
        {
            assert_eq!(text.parse::<Prefix>().unwrap().to_string(), text);
        }
        let whole: Prefix = "10.0.0.2/32".parse().unwrap();
        assert_eq!((whole.to_string(), whole.bits()), ("10.0.0.2".to_owned(), 32));
    }

    #[test]
    fn a_prefix_covers_what_begins_with_it_in_its_own_family() {
        for (prefix, address, covered) in [
            ("10.0.0.0/24", "10.0.0.255", true),
            ("10.0.0.0/24", "10.0.1.0", false),
            ("10.0.0.2", "10.0.0.2", true),
            ("10.0.0.2", "10.0.0.3", false),
            ("0.0.0.0/0", "192.0.2.1", true),
            ("0.0.0.0/0", "2001:db8::1", false),
            ("2001:db8::/33", "2001:db8:7fff::1", true),
            ("2001:db8::/33", "2001:db8:8000::1", false),
        ] {
            let prefix: Prefix = prefix.parse().unwrap();
            assert_eq!(prefix.covers(address.parse().unwrap()), covered, "{prefix} {address}");
        }
    }

    #[test]
    fn what_is_no_prefix_is_refused_with_what_was_expected() {
        for (text, expected) in [
            ("", "expected an address"),
            ("balancer", "expected an address"),
            ("10.0.0.2:443", "expected an address"),
            ("10.0.0.0/33", "expected a length from 0 to 32"),
            ("10.0.0.0/", "expected a length from 0 to 32"),
            ("10.0.0.0/+8", "expected a length from 0 to 32"),
            ("2001:db8::/129", "expected a length from 0 to 128"),
            ("10.0.0.1/24", "expected 10.0.0.0/24"),
            ("2001:db8::1/64", "expected 2001:db8::/64"),
            ("::ffff:10.0.0.2", "expected the IPv4 address itself"),
        ] {
            let told = text.parse::<Prefix>().unwrap_err();
            assert!(told.contains(expected), "{text}: {told}");
        }
    }
}
