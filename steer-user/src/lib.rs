//! Agent and command line of `steer`: loads and pins the kernel programs, fills pools and lookup
//! tables, probes health, ages tables, exports, serves the CLI.
//!
//! Modules stand in the order in which the agent comes up; `show` is the only one that prints, and
//! `inspect`'s verb, row by row; `top` draws on a terminal.

pub mod address;
pub mod agent;
pub mod assess;
pub mod cli;
pub mod clock;
pub mod config;
mod connection_limit;
pub mod control;
pub mod crash;
pub mod doctor;
pub mod export;
pub mod ha;
pub mod inspect;
pub mod logging;
mod new_file;
pub mod plane;
pub mod pool;
pub mod report;
mod rows;
pub mod saving;
pub mod service;
pub mod session_file;
pub mod show;
pub mod supervisor;
pub mod sysdump;
pub mod ticket_keys;
pub mod top;
