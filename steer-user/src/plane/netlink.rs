//! What only netlink tells of interfaces, for callers that are not asynchronous.

use std::{collections::HashMap, thread};

use anyhow::{Context as _, Result, anyhow};
use futures_util::TryStreamExt as _;
use rtnetlink::{
    Handle,
    packet_route::{
        link::{LinkAttribute, LinkMessage, LinkXdp},
        tc::TcMessage,
    },
};

/// A filter at the TC ingress of an interface.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Filter {
    /// The smaller, the earlier.
    pub(super) priority: u16,
    /// Its number among those of its priority.
    pub(super) handle: u32,
}

/// The filters at the TC ingress of an interface, in the order in which they run.
pub(super) fn ingress_filters(index: u32) -> Result<Vec<Filter>> {
    ask(async move |handle| {
        let mut found: Vec<TcMessage> = Vec::new();
        let mut filters =
            std::pin::pin!(handle.traffic_filter(index as i32).get().ingress().execute());
        while let Some(message) =
            filters.try_next().await.context("list the filters of an interface")?
        {
            found.push(message);
        }
        // `tcm_info`: the priority in the upper half. A priority is told once without a handle.
        let filter = |message: &TcMessage| Filter {
            priority: (message.header.info >> 16) as u16,
            handle: u32::from(message.header.handle),
        };
        Ok(found.iter().map(filter).filter(|filter| filter.handle != 0).collect())
    })
}

/// Every interface of the network namespace.
pub(crate) fn links() -> Result<Vec<LinkMessage>> {
    ask(async |handle| {
        handle.link().get().execute().try_collect().await.context("list the interfaces")
    })
}

/// The XDP program of each interface that has one, by the interface's index.
pub(super) fn xdp_programs() -> Result<HashMap<u32, u32>> {
    ask(async |handle| {
        let links: Vec<LinkMessage> =
            handle.link().get().execute().try_collect().await.context("list the interfaces")?;
        Ok(links.iter().filter_map(|link| Some((link.header.index, xdp_program(link)?))).collect())
    })
}

fn xdp_program(link: &LinkMessage) -> Option<u32> {
    let of = |attribute: &LinkXdp| match attribute {
        LinkXdp::ProgId(id)
        | LinkXdp::DrvProgId(id)
        | LinkXdp::SkbProgId(id)
        | LinkXdp::HwProgId(id) => Some(*id),
        _ => None,
    };
    link.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::Xdp(told) => told.iter().find_map(of),
        _ => None,
    })
}

/// Asks on a thread of its own, which is in the caller's network namespace, whether the caller is
/// inside a runtime or not.
fn ask<T: Send>(question: impl AsyncFnOnce(Handle) -> Result<T> + Send) -> Result<T> {
    let answer = || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .context("start a runtime")?;
        runtime.block_on(async {
            let (connection, handle, _) =
                rtnetlink::new_connection().context("open a netlink socket")?;
            tokio::spawn(connection);
            question(handle).await
        })
    };
    thread::scope(|scope| scope.spawn(answer).join())
        .unwrap_or_else(|_| Err(anyhow!("asking by netlink panicked")))
}
