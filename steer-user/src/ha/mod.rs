//! What gateways learn, all know: rows of sessions, key names and re-homed flows, told by way of
//! stores (Valkey or Redis).

mod flows;
mod record;
mod seal;
