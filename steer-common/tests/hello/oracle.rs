//! What tls-parser reads.

use steer_common::wire::tls::{client_hello::PSK_IDENTITIES, extension::ENCRYPTED_CLIENT_HELLO};
use tls_parser::{
    SNIType, TlsExtension, TlsMessage, TlsMessageHandshake, TlsVersion,
    parse_tls_client_hello_extensions, parse_tls_message_handshake,
};

use crate::Offer;

/// What the ClientHello in `message` offers; `None` where tls-parser does not accept all of it.
pub(crate) fn offer(message: &[u8]) -> Option<Offer> {
    let (rest, parsed) = parse_tls_message_handshake(message).ok()?;
    let TlsMessage::Handshake(TlsMessageHandshake::ClientHello(hello)) = parsed else {
        return None;
    };
    let (unread, extensions) =
        parse_tls_client_hello_extensions(hello.ext.unwrap_or_default()).ok()?;
    if !rest.is_empty() || !unread.is_empty() {
        return None;
    }
    let mut offer = Offer {
        message_len: message.len(),
        version: hello.version.0.min(0x0303),
        session_id: hello.session_id.map(Vec::from).unwrap_or_default(),
        ..Offer::default()
    };
    for extension in extensions {
        match extension {
            TlsExtension::SessionTicket(ticket) => offer.ticket = ticket.to_vec(),
            TlsExtension::SNI(names) => {
                if let Some((SNIType(0), name)) = names.first() {
                    offer.server_name = name.to_vec();
                }
            }
            TlsExtension::SupportedVersions(versions) => {
                let known = versions
                    .iter()
                    .map(|TlsVersion(version)| *version)
                    .filter(|v| (0x0301..=0x0304).contains(v));
                offer.version = known.max().unwrap_or(offer.version);
            }
            TlsExtension::PreSharedKey(body) => {
                let identities = identities(body)?;
                offer.n_psk = identities.len();
                offer.psk = identities.into_iter().take(PSK_IDENTITIES).collect();
            }
            TlsExtension::Unknown(kind, _) => offer.ech |= kind.0 == ENCRYPTED_CLIENT_HELLO,
            _ => {}
        }
    }
    Some(offer)
}

/// RFC 8446 4.2.11; tls-parser leaves the extension as it is.
fn identities(body: &[u8]) -> Option<Vec<Vec<u8>>> {
    let (len, rest) = body.split_first_chunk::<2>()?;
    let mut list = rest.get(..usize::from(u16::from_be_bytes(*len)))?;
    let mut found = Vec::new();
    while let Some((len, rest)) = list.split_first_chunk::<2>() {
        let len = usize::from(u16::from_be_bytes(*len));
        found.push(rest.get(..len)?.to_vec());
        list = rest.get(len + 4..)?;
    }
    list.is_empty().then_some(found)
}
