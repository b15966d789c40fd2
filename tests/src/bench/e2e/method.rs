//! What the page says before anything is measured: what, why and how.

use anyhow::Result;

use super::{CLIENTS, Effort, EndToEnd, bulk::FILE};
use crate::{
    bench::record::{Peer, Report},
    scenario::N_SOURCES,
};

/// The page before anything was measured.
pub(super) fn begin(effort: Effort, options: &EndToEnd) -> Result<Report> {
    let mut command = "cargo xtask bench e2e --record docs/bench".to_owned();
    if options.quick {
        command += " --quick";
    }
    let peers = [Peer::Nginx, Peer::Openssl, Peer::Haproxy, Peer::Nft];
    let mut report = Report::new("e2e", "End to end", &command, &peers)?;
    method(effort).iter().for_each(|paragraph| report.method(paragraph));
    Ok(report)
}

fn method(effort: Effort) -> [String; 7] {
    let Effort { rounds, turn, handshakes, transfers } = effort;
    let (seconds, megabytes) = (turn.as_secs_f64(), FILE / 1_000_000);
    [
        format!(
            "What a client sees through each way to three nginx with mutual TLS, in network namespaces: clients, gateway \
             and servers have a TCP stack each, joined by veth links. At each connection a client comes from another of \
             {N_SOURCES} source addresses. Each nginx has a session cache and ticket keys of its own."
        ),
        "Ways, each in a lab of its own: **direct**, the client dials the server that holds its session and the gateway \
         forwards the packets, nothing more, so that the path is as long as the others'; **nft DNAT** by a hash of the \
         source address; **HAProxy** in TCP mode with its published SSL-ID stick table, repaired by `tcp-response \
         inspect-delay 5s` and `tcp-response content accept if serverhello` (the servers see its address, not the \
         clients'; the table knows session IDs, not tickets); **steer** on TC and on XDP."
            .to_owned(),
        format!(
            "Rates: {CLIENTS} clients in a closed loop. A connection is TCP connect, handshake, `GET /`, an answer of 20 \
             bytes that says who answered and whether the session was resumed, and an orderly end at both sides. A turn \
             takes {seconds:.1} s; in each of {rounds} rounds every way has its turn, each round beginning with another. \
             Figures are medians of the rounds, ratios medians of the ratios within a round. **resumed/s** counts \
             connections that both ends call resumed, **full/s** full handshakes; **resumed** is their share of all. \
             Before that, a guest resumed one session of each server from the address where it got it: the key of TLS 1.3 \
             tickets is known from the first accepted ticket on."
        ),
        "Clients, gateway and servers share the machine's cores: a rate tells how much CPU all of them need for a \
         connection. The load generator is rustls on threads, its settings made once, its sessions kept in memory; it is \
         the same on every way. Links have finished checksums and GRO on, as a wire has it, because XDP needs that."
            .to_owned(),
        "CPU, per connection: user and system time of the clients' process, of the three nginx, of the gateway's process \
         (HAProxy or steer's agent), and their sum with the kernel's softirq threads. Softirqs, in which packets cross \
         the links and the gateway forwards, are in the time of the process whose packets they carry. **programs** is \
         `run_time_ns` of steer's programs, in a turn of its own in which the kernel counts it; what the kernel does \
         around them is not in it."
            .to_owned(),
        format!(
            "Latency: {handshakes} resumptions of a session ID on each way, one at a time, the ways in turns, never two in succession on one; the time \
             from TCP connect to Finished. *stays*: from an address whose first backend is the owner. *SYN and SYN-ACK*: a \
             TCP connect of the gateway's own to the backend, just after each."
        ),
        format!(
            "Bulk: {megabytes} MB (10^6 bytes) over one TLS 1.2 connection, down a file, up what nginx reads and drops; \
             from the end of the handshake to the server's FIN; {transfers} rounds as above. TC and its rivals on links \
             with all offloads of veth (segments of 64 KB, no checksums); XDP, and another direct way to compare it with, \
             on links with finished checksums. **CPU** is the sum as above, for one transfer down and one up."
        ),
    ]
}
