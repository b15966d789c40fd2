//! Removes the clsact qdiscs that this program added, on kernels before 6.6, which attach TC
//! programs below one.

use anyhow::{Context as _, Result};
use futures_util::TryStreamExt as _;
use rtnetlink::{
    Handle,
    packet_route::tc::{TcHandle, TcMessage},
};

use crate::plane::ifindex;

/// Removes the clsact of each interface, unless a filter of someone else sits there.
pub(crate) async fn remove_unused(interfaces: &[String]) -> Result<()> {
    if interfaces.is_empty() {
        return Ok(());
    }
    let (connection, handle, _) = rtnetlink::new_connection().context("open a netlink socket")?;
    tokio::spawn(connection);
    // One that is gone took its clsact along.
    for index in interfaces.iter().filter_map(|interface| ifindex(interface)) {
        if !in_use(&handle, index as i32).await? {
            remove(&handle, index as i32).await?;
        }
    }
    Ok(())
}

async fn in_use(handle: &Handle, index: i32) -> Result<bool> {
    let ask = || handle.traffic_filter(index);
    let mut ingress = std::pin::pin!(ask().get().ingress().execute());
    let mut egress = std::pin::pin!(ask().get().egress().execute());
    let first = ingress.try_next().await.context("list the filters of an interface")?;
    let second = egress.try_next().await.context("list the filters of an interface")?;
    Ok(first.is_some() || second.is_some())
}

async fn remove(handle: &Handle, index: i32) -> Result<()> {
    let mut request = handle.qdisc().del(index);
    let message: &mut TcMessage = request.message_mut();
    message.header.parent = TcHandle::CLSACT;
    message.header.handle = TcHandle::from(CLSACT_HANDLE);
    request.execute().await.context("remove the clsact of an interface")
}

/// What `tc` prints as `ffff:`.
const CLSACT_HANDLE: u32 = 0xffff_0000;
