//! `steer ha status`.

use super::{numbers_from, table, text};
use crate::ha::{PeerReport, Report, Rows, StoreReport};

/// The stores, the other gateways, and what became of rows.
pub(super) fn report(report: &Report) -> String {
    let Report { cluster, name, ready, why, stores, peers, rows, refused, mended } = report;
    let ready = if *ready { "ready" } else { "not ready" };
    let mut said = format!("gateway {name} of cluster {cluster}: {ready} ({why})\n\n");
    said += &stores_table(stores);
    said += "\n\n";
    said += &if peers.is_empty() {
        "no other gateway was heard of".to_owned()
    } else {
        peers_table(peers)
    };
    let Rows { told, taken, known, elsewhere, expired, full, unknown } = rows;
    said += &format!("\n\nrows told {told}, taken {taken}, known already {known}");
    for (n, what) in [
        (*elsewhere, "of pools or backends that are not here"),
        (*expired, "too old"),
        (*full, "without room"),
        (*unknown, "of kinds that this version does not know"),
        (*mended, "missing when whole states were compared, and mended"),
    ] {
        if n > 0 {
            said += &format!("\nrows {what}: {n}");
        }
    }
    if *refused > 0 {
        said +=
            &format!("\nmessages that could not be opened, of another key or damaged: {refused}");
    }
    said
}

fn stores_table(stores: &[StoreReport]) -> String {
    let mut rows = table(&["STORE", "STATE", "WRITTEN", "QUEUED", "DROPPED", "LAST ERROR"]);
    for store in stores {
        let state = match (store.connected, store.synced) {
            (false, _) => "down",
            (true, false) => "reading",
            (true, true) => "up",
        };
        let [written, queued, dropped] =
            [store.written, store.queued, store.dropped].map(|n| n.to_string());
        rows.add_row([
            store.server.clone(),
            state.to_owned(),
            written,
            queued,
            dropped,
            store.error.clone(),
        ]);
    }
    text(&rows)
}

fn peers_table(peers: &[PeerReport]) -> String {
    let header = [
        "GATEWAY",
        "STATE",
        "VERSION",
        "SESSIONS",
        "KEY NAMES",
        "RE-HOMED",
        "ROWS",
        "GAPS",
        "LAG P50",
        "LAG P99",
    ];
    let mut rows = table(&header);
    for peer in peers {
        let state = match (peer.alive, peer.ready) {
            (false, _) => "gone",
            (true, false) => "not ready",
            (true, true) => "ready",
        };
        let ms = |lag: f64| format!("{lag:.1} ms");
        let [sessions, names, flows] = peer.has;
        rows.add_row([
            peer.name.clone(),
            state.to_owned(),
            peer.version.clone(),
            sessions.to_string(),
            names.to_string(),
            flows.to_string(),
            peer.rows.to_string(),
            peer.gaps.to_string(),
            ms(peer.lag_p50_ms),
            ms(peer.lag_p99_ms),
        ]);
    }
    numbers_from(&mut rows, 3);
    text(&rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wrong_stands_there_and_what_is_not_does_not() {
        let store = StoreReport {
            server: "rediss://a:6379".to_owned(),
            error: "connect: refused".to_owned(),
            ..StoreReport::default()
        };
        let peer = PeerReport { name: "gw2".to_owned(), lag_p99_ms: 3.25, ..PeerReport::default() };
        let mut told = Report { stores: vec![store], ..Report::default() };
        let said = report(&told);
        assert!(said.contains("down") && said.contains("connect: refused"), "{said}");
        assert!(said.contains("not ready") && said.contains("no other gateway"), "{said}");
        assert!(!said.contains("not here"), "{said}");
        told.peers.push(peer);
        told.rows.elsewhere = 7;
        let said = report(&told);
        assert!(said.contains("gone") && said.contains("3.2 ms"), "{said}");
        assert!(said.contains("rows of pools or backends that are not here: 7"), "{said}");
    }
}
