//! What the agent may do, whom it listens to, and what it never tells. SECURITY.md points here.

mod bystander;
mod refused;
mod rights;
mod secrets;
mod socket;
