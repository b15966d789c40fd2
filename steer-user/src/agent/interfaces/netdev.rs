//! Asks the kernel which interfaces run XDP programs and take frames that XDP redirects, and hears
//! of changes: the generic netlink family `netdev` (Linux 6.3,
//! Documentation/netlink/specs/netdev.yaml).
//!
//! Drivers report it as it is at the moment: virtio_net and the like only while they have an XDP
//! program, veth only while its peer has GRO or XDP.

use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use futures_util::{Stream, StreamExt as _};
use netlink_packet_generic::{
    GenlFamily, GenlHeader, GenlMessage,
    ctrl::{
        GenlCtrl, GenlCtrlCmd,
        nlas::{GenlCtrlAttrs, McastGrpAttrs},
    },
};
use rtnetlink::{
    packet_core::{
        DecodeError, Emitable, NLM_F_DUMP, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload,
        NlasIterator, ParseableParametrized, parse_u32, parse_u64,
    },
    proto::new_connection,
    sys::{AsyncSocket as _, SocketAddr, protocols::NETLINK_GENERIC},
};
use tokio::time;

/// Longest wait for the next part of an answer.
const PATIENCE: Duration = Duration::from_secs(5);
/// `NETDEV_CMD_DEV_GET`.
const DEV_GET: u8 = 1;
/// `NETDEV_A_DEV_IFINDEX`, u32.
const IFINDEX: u16 = 1;
/// `NETDEV_A_DEV_XDP_FEATURES`, u64.
const XDP_FEATURES: u16 = 3;
/// `NETDEV_XDP_ACT_BASIC`: the interface's driver runs an XDP program.
const BASIC: u64 = 1;
/// `NETDEV_XDP_ACT_NDO_XMIT`: the interface takes frames that XDP redirects to it.
const NDO_XMIT: u64 = 4;
/// The multicast group that tells of interfaces that come, go and change.
const MANAGEMENT: &str = "mgmt";

/// The family, as this kernel has it.
pub(super) struct Netdev {
    id: u16,
    group: u32,
}

impl Netdev {
    /// Finds the family; `None` before Linux 6.3.
    pub(super) async fn find() -> Result<Option<Self>> {
        let (connection, handle, _) =
            new_connection(NETLINK_GENERIC).context("open a generic netlink socket")?;
        tokio::spawn(connection);
        let name = GenlCtrlAttrs::FamilyName(Device::family_name().to_owned());
        let ask =
            GenlMessage::from_payload(GenlCtrl { cmd: GenlCtrlCmd::GetFamily, nlas: vec![name] });
        let mut answers = handle
            .request(request(ask, NLM_F_REQUEST), kernel())
            .context("ask for the family netdev")?;
        while let Some(answer) = answers.next().await {
            match answer.payload {
                NetlinkPayload::InnerMessage(family) => return Ok(Self::read(&family.payload)),
                NetlinkPayload::Error(error) if error.raw_code() == -libc::ENOENT => {
                    return Ok(None);
                }
                NetlinkPayload::Error(error) => {
                    return Err(error.to_io()).context("ask for the family netdev");
                }
                _ => {}
            }
        }
        Ok(None)
    }

    fn read(family: &GenlCtrl) -> Option<Self> {
        let id = family.nlas.iter().find_map(|nla| match nla {
            GenlCtrlAttrs::FamilyId(id) => Some(*id),
            _ => None,
        });
        let groups = family.nlas.iter().find_map(|nla| match nla {
            GenlCtrlAttrs::McastGroups(groups) => Some(groups),
            _ => None,
        });
        let group = groups?
            .iter()
            .find(|group| group.contains(&McastGrpAttrs::Name(MANAGEMENT.to_owned())))?;
        let group = group.iter().find_map(|nla| match nla {
            McastGrpAttrs::Id(id) => Some(*id),
            McastGrpAttrs::Name(_) => None,
        });
        Some(Self { id: id?, group: group? })
    }

    /// What every interface of this network namespace can do now.
    ///
    /// The kernel answers by many messages and does not say so (no `NLM_F_MULTI` in them): the
    /// connection takes the first for the whole answer, and the others for messages that nobody
    /// asked for. On this socket there are no such: both are read.
    pub(super) async fn devices(&self) -> Result<Vec<Device>> {
        let opened = new_connection::<GenlMessage<Device>>(NETLINK_GENERIC);
        let (mut connection, handle, rest) = opened.context("open a generic netlink socket")?;
        connection.set_forward_done(true);
        tokio::spawn(connection);
        let mut ask = GenlMessage::from_payload(Device::default());
        ask.set_resolved_family_id(self.id);
        let first = handle.request(request(ask, NLM_F_REQUEST | NLM_F_DUMP), kernel());
        let first = first.context("list what interfaces can do")?;
        let mut answers = first.chain(rest.map(|(message, _)| message));
        let mut devices = Vec::new();
        loop {
            let answer = time::timeout(PATIENCE, answers.next())
                .await
                .context("list what interfaces can do")?;
            match answer.map(|message| message.payload) {
                Some(NetlinkPayload::InnerMessage(GenlMessage { payload: device, .. })) => {
                    devices.push(device)
                }
                Some(NetlinkPayload::Error(error)) => {
                    return Err(error.to_io()).context("list what interfaces can do");
                }
                Some(NetlinkPayload::Done(_)) => return Ok(devices),
                Some(_) => {}
                None => bail!("list what interfaces can do: the kernel's answer has no end"),
            }
        }
    }

    /// An item for every change of what any interface can do.
    pub(super) fn changes(&self) -> Result<impl Stream<Item = ()> + Unpin + use<>> {
        let opened = new_connection::<GenlMessage<Device>>(NETLINK_GENERIC);
        let (mut connection, handle, changes) = opened.context("open a generic netlink socket")?;
        let socket = connection.socket_mut().socket_mut();
        socket.add_membership(self.group).context("listen to what interfaces can do")?;
        tokio::spawn(connection);
        // The connection ends with the last handle.
        Ok(changes.map(move |_| drop(handle.clone())))
    }
}

/// Where requests go.
fn kernel() -> SocketAddr {
    SocketAddr::new(0, 0)
}

fn request<F: std::fmt::Debug + GenlFamily + Emitable>(
    ask: GenlMessage<F>,
    flags: u16,
) -> NetlinkMessage<GenlMessage<F>> {
    let mut message = NetlinkMessage::from(ask);
    message.header.flags = flags;
    message.finalize();
    message
}

/// What the kernel tells of one interface.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Device {
    /// Its index.
    pub(super) ifindex: u32,
    /// Any of `NETDEV_XDP_ACT_*`.
    pub(super) features: u64,
}

impl Device {
    /// Whether it takes frames that XDP redirects to it.
    pub(super) fn takes_xdp(self) -> bool {
        self.ifindex != 0 && self.features & NDO_XMIT != 0
    }

    /// Whether its driver runs XDP programs.
    pub(super) fn runs_xdp(self) -> bool {
        self.features & BASIC != 0
    }
}

impl GenlFamily for Device {
    fn family_name() -> &'static str {
        "netdev"
    }

    fn command(&self) -> u8 {
        DEV_GET
    }

    fn version(&self) -> u8 {
        1
    }
}

impl Emitable for Device {
    fn buffer_len(&self) -> usize {
        0
    }

    fn emit(&self, _: &mut [u8]) {}
}

impl ParseableParametrized<[u8], GenlHeader> for Device {
    fn parse_with_param(bytes: &[u8], _: GenlHeader) -> Result<Self, DecodeError> {
        let mut device = Self::default();
        for attribute in NlasIterator::new(bytes) {
            let attribute = attribute?;
            match attribute.kind() {
                IFINDEX => device.ifindex = parse_u32(attribute.value())?,
                XDP_FEATURES => device.features = parse_u64(attribute.value())?,
                _ => {}
            }
        }
        Ok(device)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An answer of Linux 6.18 to DEV_GET about a veth whose peer has GRO: index 7, features 0x67.
    const ANSWER: [u8; 20] = [8, 0, 1, 0, 7, 0, 0, 0, 12, 0, 3, 0, 0x67, 0, 0, 0, 0, 0, 0, 0];

    fn parsed(bytes: &[u8]) -> Result<Device, DecodeError> {
        Device::parse_with_param(bytes, GenlHeader { cmd: DEV_GET, version: 1 })
    }

    #[test]
    fn an_interface_takes_frames_of_xdp_where_the_kernel_sets_the_bit() {
        assert!(parsed(&ANSWER).unwrap().takes_xdp() && parsed(&ANSWER).unwrap().runs_xdp());
        let mut without = ANSWER;
        without[12] = 0x63;
        assert!(!parsed(&without).unwrap().takes_xdp());
    }

    /// Of a kernel that has the family at all.
    #[tokio::test]
    async fn this_kernel_answers_and_its_loopback_takes_no_frames_of_xdp() {
        let Some(netdev) = Netdev::find().await.unwrap() else { return };
        assert!(netdev.id >= 0x10 && netdev.group > 0);
        let devices = netdev.devices().await.unwrap();
        assert!(
            devices
                .iter()
                .any(|device| device.ifindex == 1 && !device.takes_xdp() && !device.runs_xdp())
        );
        assert!(netdev.changes().is_ok());
    }

    #[test]
    fn what_says_nothing_of_features_takes_nothing_and_what_is_cut_is_refused() {
        assert_eq!(parsed(&ANSWER[..8]).unwrap(), Device { ifindex: 7, features: 0 });
        assert!(parsed(&ANSWER[..14]).is_err());
    }
}
