//! What a store gets is sealed: it can neither read what gateways know, nor make any of it up.
//!
//! XChaCha20-Poly1305 (draft-irtf-cfrg-xchacha 2.3) under one key of the cluster. The clear head of
//! a message, the cluster, who wrote it and what it is are authenticated with it, so that none can
//! be taken for another one.

use std::{
    fmt,
    fs::File,
    io::{self, Read as _, Write as _},
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _},
    path::Path,
};

use anyhow::{Context as _, Result, bail, ensure};
use chacha20poly1305::{
    Key, KeyInit as _, XChaCha20Poly1305, XNonce,
    aead::{Aead as _, Payload},
};
use zeroize::Zeroizing;

/// Length of the key, bytes; twice as many digits stand in its file.
const KEY_LEN: usize = 32;
/// Length of a nonce, bytes.
const NONCE_LEN: usize = 24;
/// What a message begins with: what it is, and the version of its form.
const MAGIC: [u8; 4] = *b"sth1";
/// Length of the clear head, bytes: [`MAGIC`], epoch, number, nonce.
const HEAD_LEN: usize = MAGIC.len() + 8 + 8 + NONCE_LEN;

/// What a message is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Purpose {
    /// Rows, as they come.
    Batch,
    /// A part of all that a gateway knows.
    Part,
    /// What names those parts.
    Contents,
    /// That a gateway is there, and how it is.
    Beat,
}

/// Which message it is of those that its gateway wrote.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Number {
    /// Another one for each time that the gateway began anew.
    pub(super) epoch: u64,
    /// One more for each message of its kind.
    pub(super) sequence: u64,
}

/// A key of a cluster.
pub(super) struct Seal {
    cipher: XChaCha20Poly1305,
    cluster: String,
}

impl fmt::Debug for Seal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Seal")
    }
}

impl Seal {
    /// Reads the key of a cluster.
    ///
    /// # Errors
    /// Where the file cannot be read, others than its owner may read it, or it holds something
    /// else.
    pub(super) fn read(file: &Path, cluster: &str) -> Result<Self> {
        let key = read_key(file).with_context(|| format!("read {}", file.display()))?;
        Ok(Self::new(&key, cluster))
    }

    fn new(key: &[u8; KEY_LEN], cluster: &str) -> Self {
        Self { cipher: XChaCha20Poly1305::new(&Key::from(*key)), cluster: cluster.to_owned() }
    }

    /// Seals what a gateway says.
    ///
    /// # Errors
    /// Where there is no randomness, or too much is said.
    pub(super) fn seal(
        &self,
        purpose: Purpose,
        gateway: &str,
        number: Number,
        text: &[u8],
    ) -> Result<Vec<u8>> {
        let mut nonce = [0; NONCE_LEN];
        getrandom::fill(&mut nonce).context("get a nonce")?;
        let mut message = Vec::with_capacity(HEAD_LEN + text.len() + 16);
        message.extend_from_slice(&MAGIC);
        message.extend_from_slice(&number.epoch.to_be_bytes());
        message.extend_from_slice(&number.sequence.to_be_bytes());
        message.extend_from_slice(&nonce);
        let aad = self.beside(purpose, gateway, &message);
        let sealed = self
            .cipher
            .encrypt(&XNonce::from(nonce), Payload { msg: text, aad: &aad })
            .map_err(|_| anyhow::anyhow!("seal {} bytes", text.len()))?;
        message.extend_from_slice(&sealed);
        Ok(message)
    }

    /// Opens what a gateway is said to have sealed; `None`: it did not, or with another key.
    pub(super) fn open(
        &self,
        purpose: Purpose,
        gateway: &str,
        message: &[u8],
    ) -> Option<(Number, Vec<u8>)> {
        let (head, sealed) = message.split_at_checked(HEAD_LEN)?;
        let rest = head.strip_prefix(&MAGIC)?;
        let (epoch, rest) = rest.split_first_chunk::<8>()?;
        let (sequence, nonce) = rest.split_first_chunk::<8>()?;
        let number =
            Number { epoch: u64::from_be_bytes(*epoch), sequence: u64::from_be_bytes(*sequence) };
        let nonce = <[u8; NONCE_LEN]>::try_from(nonce).ok()?;
        let aad = self.beside(purpose, gateway, head);
        let text = self.cipher.decrypt(&XNonce::from(nonce), Payload { msg: sealed, aad: &aad });
        text.ok().map(|text| (number, text))
    }

    /// What is authenticated beside the text.
    fn beside(&self, purpose: Purpose, gateway: &str, head: &[u8]) -> Vec<u8> {
        let mut aad = head.to_vec();
        aad.push(purpose as u8);
        // Neither name has a zero in it.
        for name in [self.cluster.as_str(), gateway] {
            aad.extend_from_slice(name.as_bytes());
            aad.push(0);
        }
        aad
    }
}

fn read_key(file: &Path) -> Result<Zeroizing<[u8; KEY_LEN]>> {
    let file = File::open(file)?;
    let mode = file.metadata()?.mode();
    ensure!(
        mode & 0o077 == 0,
        "its mode is {:03o}; expected 600: whoever reads it can tell the gateways anything",
        mode & 0o777
    );
    let mut text = Zeroizing::new(String::new());
    let read = file.take(4 * KEY_LEN as u64).read_to_string(&mut text);
    read.context("expected what `steer ha key` wrote")?;
    let digits = text.trim_end().as_bytes();
    let mut key = Zeroizing::new([0; KEY_LEN]);
    ensure!(
        digits.len() == 2 * KEY_LEN,
        "{} digits; expected {}, as `steer ha key` writes them",
        digits.len(),
        2 * KEY_LEN
    );
    for (byte, pair) in key.iter_mut().zip(digits.chunks(2)) {
        let value =
            std::str::from_utf8(pair).ok().and_then(|pair| u8::from_str_radix(pair, 16).ok());
        let Some(value) = value else {
            bail!("no hexadecimal digits; expected what `steer ha key` wrote")
        };
        *byte = value;
    }
    Ok(key)
}

/// Makes a key in a file that is not there yet, mode 0600.
///
/// # Errors
/// Where it is there, or cannot be written.
pub(crate) fn make_key(file: &Path) -> Result<()> {
    let mut key = Zeroizing::new([0; KEY_LEN]);
    getrandom::fill(key.as_mut_slice()).context("get a key")?;
    let mut text = Zeroizing::new(String::with_capacity(2 * KEY_LEN + 1));
    for byte in key.iter() {
        for digit in [byte >> 4, byte & 0xf] {
            text.push(char::from_digit(digit.into(), 16).unwrap_or_default());
        }
    }
    text.push('\n');
    let write = || -> io::Result<()> {
        let made = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(file);
        let mut made = made?;
        made.write_all(text.as_bytes())?;
        made.sync_all()
    };
    write().with_context(|| format!("make {}", file.display()))
}

#[cfg(test)]
pub(super) mod tests {
    use std::{fs, os::unix::fs::PermissionsExt as _};

    use super::*;

    pub(in crate::ha) fn seal() -> Seal {
        Seal::new(&[7; KEY_LEN], "edge")
    }

    const NUMBER: Number = Number { epoch: 9, sequence: 3 };

    #[test]
    fn what_is_sealed_is_opened_as_what_it_is_and_as_nothing_else() {
        let seal = seal();
        let message = seal.seal(Purpose::Batch, "gw1", NUMBER, b"rows").unwrap();
        assert!(!message.windows(4).any(|bytes| bytes == b"rows"));
        let opened = seal.open(Purpose::Batch, "gw1", &message);
        assert_eq!(opened, Some((NUMBER, b"rows".to_vec())));
        assert_eq!(seal.open(Purpose::Part, "gw1", &message), None);
        assert_eq!(seal.open(Purpose::Batch, "gw2", &message), None);
        let others = Seal::new(&[7; KEY_LEN], "core");
        assert_eq!(others.open(Purpose::Batch, "gw1", &message), None);
        let others = Seal::new(&[8; KEY_LEN], "edge");
        assert_eq!(others.open(Purpose::Batch, "gw1", &message), None);
        for at in 0..message.len() {
            let mut changed = message.clone();
            changed[at] ^= 1;
            assert_eq!(seal.open(Purpose::Batch, "gw1", &changed), None, "byte {at}");
            assert_eq!(seal.open(Purpose::Batch, "gw1", &message[..at]), None, "{at} bytes");
        }
    }

    #[test]
    fn no_two_messages_have_one_nonce() {
        let seal = seal();
        let sealed = || seal.seal(Purpose::Batch, "gw1", NUMBER, b"rows").unwrap();
        assert_ne!(sealed(), sealed());
    }

    #[test]
    fn a_key_is_made_once_and_read_where_nobody_else_may_read_it() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("ha.key");
        make_key(&file).unwrap();
        assert_eq!(fs::metadata(&file).unwrap().mode() & 0o777, 0o600);
        Seal::read(&file, "edge").unwrap();
        assert!(make_key(&file).is_err(), "a key was written over");
        let told = |text: &str, mode| {
            fs::write(&file, text).unwrap();
            fs::set_permissions(&file, fs::Permissions::from_mode(mode)).unwrap();
            format!("{:#}", Seal::read(&file, "edge").unwrap_err())
        };
        let digits = "ab".repeat(KEY_LEN);
        for (text, mode, expected) in [
            (digits.as_str(), 0o640, "its mode is 640; expected 600"),
            ("abcd", 0o600, "4 digits; expected 64"),
            (&"xy".repeat(KEY_LEN), 0o600, "no hexadecimal digits"),
            (&"ab".repeat(99), 0o600, "digits; expected 64"),
        ] {
            let told = told(text, mode);
            assert!(told.contains(expected) && told.contains("ha.key"), "{told}");
        }
    }
}
