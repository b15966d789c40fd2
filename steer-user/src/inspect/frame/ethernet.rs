//! Ethernet, and what its EtherTypes say is behind: tags, other encapsulations, IP.

use steer_common::wire::{ETHERTYPE_IPV4, ETHERTYPE_IPV6, ETHERTYPE_SERVICE_VLAN, ETHERTYPE_VLAN};

use super::{Kind, Next, Path, be16, path::Layer, ppp, take};

/// EtherTypes (IEEE 802 numbers) that lead on.
mod ethertype {
    /// Service tags of before IEEE 802.1ad.
    pub(super) const OLD_SERVICE_VLANS: [u16; 3] = [0x9100, 0x9200, 0x9300];
    pub(super) const TRILL: u16 = 0x22f3;
    pub(super) const ERSPAN_III: u16 = 0x22eb;
    /// Transparent Ethernet bridging, of GRE, Geneve and others.
    pub(super) const BRIDGED: u16 = 0x6558;
    pub(super) const PPP: u16 = 0x880b;
    pub(super) const MPLS: u16 = 0x8847;
    pub(super) const MPLS_UPSTREAM: u16 = 0x8848;
    pub(super) const PPPOE_DISCOVERY: u16 = 0x8863;
    pub(super) const PPPOE_SESSION: u16 = 0x8864;
    pub(super) const JUMBO_LLC: u16 = 0x8870;
    pub(super) const MACSEC: u16 = 0x88e5;
    pub(super) const PBB: u16 = 0x88e7;
    /// Cisco FabricPath.
    pub(super) const FABRIC_PATH: u16 = 0x8903;
    /// Cisco MetaData, which carries a security group.
    pub(super) const METADATA: u16 = 0x8909;
    /// Cisco VN-Tag.
    pub(super) const VN_TAG: u16 = 0x8926;
    /// HSR (IEC 62439-3).
    pub(super) const HSR: u16 = 0x892f;
    /// IEEE 802.1BR.
    pub(super) const E_TAG: u16 = 0x893f;
    pub(super) const NSH: u16 = 0x894f;
    /// IEEE 802.1CB.
    pub(super) const R_TAG: u16 = 0xf1c1;
}

/// Smallest EtherType; what is below is a length (IEEE 802.3 3.2.6).
const ETHERTYPE_MIN: u16 = 0x600;

/// Destination, source, EtherType or length.
pub(super) fn header(bytes: &[u8]) -> Option<Next<'_>> {
    let (h, behind) = take::<14>(bytes)?;
    Some(Next::EtherType(u16::from_be_bytes([h[12], h[13]]), behind))
}

/// What an EtherType says is behind it.
pub(super) fn behind<'a>(number: u16, bytes: &'a [u8], path: &mut Path) -> Option<Next<'a>> {
    Some(match number {
        ETHERTYPE_IPV4 | ETHERTYPE_IPV6 => Next::Ip(bytes),
        ETHERTYPE_VLAN | ETHERTYPE_SERVICE_VLAN => return vlan(bytes, path),
        number if ethertype::OLD_SERVICE_VLANS.contains(&number) => return vlan(bytes, path),
        ethertype::MPLS | ethertype::MPLS_UPSTREAM => Next::Mpls(bytes),
        ethertype::PPPOE_SESSION => return ppp::over_ethernet(bytes, path),
        ethertype::PPPOE_DISCOVERY => return Next::no_tcp(Kind::EtherType(number)),
        ethertype::PPP => Next::Ppp(bytes),
        ethertype::BRIDGED => Next::Ethernet(bytes),
        ethertype::ERSPAN_III => return super::gre::erspan(bytes, path),
        ethertype::JUMBO_LLC => Next::Llc(bytes),
        // Their tags have two, two, two and four bytes behind which the next EtherType stands.
        ethertype::VN_TAG | ethertype::HSR | ethertype::R_TAG => return skip(bytes, 4),
        ethertype::E_TAG => return skip(bytes, 6),
        ethertype::METADATA => return metadata(bytes),
        ethertype::FABRIC_PATH => Next::Ethernet(take::<2>(bytes)?.1),
        ethertype::PBB => return backbone(bytes, path),
        ethertype::TRILL => return trill(bytes),
        ethertype::NSH => return service_header(bytes),
        ethertype::MACSEC => return macsec(bytes),
        length if length < ETHERTYPE_MIN => {
            Next::Llc(bytes.get(..usize::from(length)).unwrap_or(bytes))
        }
        other => return Next::end(Kind::EtherType(other)),
    })
}

/// Class and number, EtherType. A tag with number 0 has a class alone.
fn vlan<'a>(bytes: &'a [u8], path: &mut Path) -> Option<Next<'a>> {
    let (h, behind) = take::<4>(bytes)?;
    let number = u16::from_be_bytes([h[0], h[1]]) & 0xfff;
    if number != 0 {
        path.push(Layer::Vlan, u32::from(number));
    }
    Some(Next::EtherType(u16::from_be_bytes([h[2], h[3]]), behind))
}

/// A tag of `len` bytes, EtherType.
fn skip(bytes: &[u8], len: usize) -> Option<Next<'_>> {
    Some(Next::EtherType(be16(bytes, len)?, bytes.get(len + 2..)?))
}

/// Version, number of options, options of four bytes, EtherType.
fn metadata(bytes: &[u8]) -> Option<Next<'_>> {
    skip(bytes, 2 + 4 * usize::from(*bytes.get(1)?))
}

/// IEEE 802.1ah: flags and service instance, the customer's frame.
fn backbone<'a>(bytes: &'a [u8], path: &mut Path) -> Option<Next<'a>> {
    let (h, behind) = take::<4>(bytes)?;
    path.push(Layer::Pbb, u32::from_be_bytes([0, h[1], h[2], h[3]]));
    Some(Next::Ethernet(behind))
}

/// RFC 6325 3: version 2 bits, reserved 2, multicast 1, words of options 5, hops 6; two nicknames,
/// options, the frame.
fn trill(bytes: &[u8]) -> Option<Next<'_>> {
    let options = usize::from(be16(bytes, 0)? >> 6 & 0x1f) * 4;
    Some(Next::Ethernet(bytes.get(6 + options..)?))
}

/// RFC 8300 2.2: version 2 bits, OAM 1, unassigned 1, time to live 6, words of header 6; type, next
/// protocol.
fn service_header(bytes: &[u8]) -> Option<Next<'_>> {
    let (h, _) = take::<8>(bytes)?;
    let first = u16::from_be_bytes([h[0], h[1]]);
    if first & 0x2000 != 0 {
        return Next::no_tcp(Kind::Other("NSH OAM"));
    }
    let behind = bytes.get(usize::from(first & 0x3f) * 4..)?;
    next_protocol(h[3], behind)
}

/// Next protocols as NSH (RFC 8300 2.2) and VXLAN-GPE number them.
pub(super) fn next_protocol(number: u8, behind: &[u8]) -> Option<Next<'_>> {
    Some(match number {
        1 | 2 => Next::Ip(behind),
        3 => Next::Ethernet(behind),
        4 => Next::EtherType(ethertype::NSH, behind),
        5 => Next::Mpls(behind),
        _ => return Next::unread(Kind::Other("NSH or VXLAN-GPE with another protocol behind")),
    })
}

/// IEEE 802.1AE: flags, short length, packet number, perhaps an identifier of eight bytes; what is
/// only authenticated is in clear.
fn macsec(bytes: &[u8]) -> Option<Next<'_>> {
    const IDENTIFIER: u8 = 0x20;
    const ENCRYPTED_OR_CHANGED: u8 = 0x0c;
    let flags = *bytes.first()?;
    if flags & ENCRYPTED_OR_CHANGED != 0 {
        return Next::unread(Kind::EtherType(ethertype::MACSEC));
    }
    skip(bytes, if flags & IDENTIFIER != 0 { 14 } else { 6 })
}

/// IEEE 802.2: two service access points and control; behind those of SNAP an organization and its
/// protocol.
pub(super) fn llc(bytes: &[u8]) -> Option<Next<'_>> {
    const UNNUMBERED: u8 = 3;
    const SNAP: u8 = 0xaa;
    const IP: u8 = 6;
    let (h, behind) = take::<3>(bytes)?;
    match (h[0] & 0xfe, h[2]) {
        (SNAP, UNNUMBERED) => snap(behind),
        (IP, UNNUMBERED) => Some(Next::Ip(behind)),
        (point, _) => Next::end(Kind::Llc(point)),
    }
}

fn snap(bytes: &[u8]) -> Option<Next<'_>> {
    /// RFC 1042.
    const ENCAPSULATED: [u8; 3] = [0, 0, 0];
    /// IEEE 802.1H.
    const TUNNELLED: [u8; 3] = [0, 0, 0xf8];
    const CISCO: [u8; 3] = [0, 0, 0xc];
    /// RFC 2684: frames of Ethernet, with their check sequence and without.
    const BRIDGED: [u8; 3] = [0, 0x80, 0xc2];
    let (h, behind) = take::<5>(bytes)?;
    let protocol = u16::from_be_bytes([h[3], h[4]]);
    match [h[0], h[1], h[2]] {
        ENCAPSULATED | TUNNELLED if protocol >= ETHERTYPE_MIN => {
            Some(Next::EtherType(protocol, behind))
        }
        BRIDGED if matches!(protocol, 1 | 7) => Some(Next::Ethernet(behind)),
        CISCO => Next::no_tcp(Kind::Other("Cisco discovery and the like")),
        [a, b, c] => Next::unread(Kind::Snap(u32::from_be_bytes([0, a, b, c]), protocol)),
    }
}

/// Whether this is an Ethernet frame, where it could be something else: what its EtherType says is
/// there.
pub(super) fn is_likely(bytes: &[u8]) -> bool {
    let Some(number) = be16(bytes, 12) else { return false };
    let behind = bytes.get(14..).unwrap_or_default();
    match (number, behind) {
        (ETHERTYPE_IPV4, [first, ..]) => first >> 4 == 4,
        (ETHERTYPE_IPV6, [first, ..]) => first >> 4 == 6,
        (..ETHERTYPE_MIN, [0x42, 0x42, 3, ..] | [0xaa, 0xaa, 3, ..]) => true,
        (..ETHERTYPE_MIN, _) => false,
        (number, _) => Kind::EtherType(number).has_name(),
    }
}
