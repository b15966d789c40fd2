//! Real streams, recorded: a client's first flight, or a server's up to where it is encrypted.

/// Names each file of `fixtures` and lists all.
macro_rules! fixtures {
    ($($name:ident = $file:literal;)+) => {
        $(pub(crate) const $name: &str = include_str!(concat!("../fixtures/", $file, ".hex"));)+
        const ALL: &[(&str, &str)] = &[$(($file, $name)),+];
    };
}
fixtures! {
    OPENSSL12_FULL = "openssl12_full.client";
    OPENSSL12_RESUMED = "openssl12_resumed.client";
    OPENSSL13 = "openssl13.client";
    GO12 = "go12_resumed.client";
    JAVA12 = "java12_resumed.client";
    NSS12 = "nss12_resumed.client";
    SERVER12_FULL = "openssl12_full.server";
    SERVER12_RESUMED = "openssl12_resumed.server";
    SERVER12_TICKET = "openssl12_ticket.server";
    SERVER13 = "openssl13.server";
    SERVER13_NO_ID = "nocompat13.server";
}

/// The streams whose file name ends so.
pub(crate) fn streams(side: &str) -> impl Iterator<Item = (&'static str, Vec<u8>)> {
    ALL.iter().filter(move |(file, _)| file.ends_with(side)).map(|(file, hex)| (*file, bytes(hex)))
}

pub(crate) fn bytes(hex: &str) -> Vec<u8> {
    let digits: Vec<u8> =
        hex.bytes().filter_map(|c| char::from(c).to_digit(16)).map(|d| d as u8).collect();
    digits.chunks(2).map(|pair| pair[0] << 4 | pair[1]).collect()
}
