//! The agent's Unix socket: one JSON object a line asks, one answers. For what needs the agent;
//! everything else the CLI reads from the pinned maps.

mod client;
mod request;
mod server;

pub use client::{InForce, ask, ask_about, ask_config, ask_ha, ask_held, ask_reload, ask_warnings};
pub use request::{REQUEST_MAX, Reply, Request};
pub(crate) use server::{
    Desk, Listener, bind, refuse_file_in_place, remove_dead_socket, send, serve,
};
