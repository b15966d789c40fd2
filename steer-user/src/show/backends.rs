//! `steer backends list` for people.

use crate::report::{BackendReport, Backends, Resumptions};

/// The backends; below, what became of the hellos they got, where there were any.
pub(super) fn text(backends: &Backends) -> String {
    let resumptions = resumptions(backends).map_or(String::new(), |table| format!("\n\n{table}"));
    backends_table(backends) + &resumptions
}

fn backends_table(backends: &Backends) -> String {
    let mut table = super::table(&[
        "ID", "BACKEND", "VIP", "STATE", "RETURN", "WEIGHT", "OPEN", "SESSIONS", "FLOWS",
        "RE-HOMED", "LEARNED", "HITS", "RESUMED",
    ]);
    for backend in &backends.backends {
        let BackendReport {
            id,
            address,
            vip,
            weight,
            open_flows,
            sessions,
            flows,
            rehomed,
            learned,
            hits,
            resumed,
            ..
        } = backend;
        table.add_row([
            id.to_string(),
            address.to_string(),
            vip.to_string(),
            state(backend),
            way_back(backend).to_owned(),
            weight.to_string(),
            counted(*open_flows),
            counted(*sessions),
            flows.to_string(),
            rehomed.to_string(),
            learned.to_string(),
            hits.to_string(),
            resumed.to_string(),
        ]);
    }
    super::numbers_from(&mut table, 5);
    super::text(&table)
}

/// A number that only the agent knows.
fn counted(n: Option<u64>) -> String {
    n.map_or("-".to_owned(), |n| n.to_string())
}

fn state(backend: &BackendReport) -> String {
    let word = backend.state.word();
    let word = if backend.backup { format!("{word}, backup") } else { word.to_owned() };
    backend.drain_seconds.map_or(word.clone(), |seconds| format!("{word} {seconds}s"))
}

/// Whether answers to clients' SYNs came back through here; `-`: there was no SYN to answer.
fn way_back(backend: &BackendReport) -> &'static str {
    match (backend.return_path_seen || backend.syn_acks > 0, backend.syns) {
        (true, _) => "seen",
        (false, 0) => "-",
        (false, _) => "not seen",
    }
}

fn resumptions(backends: &Backends) -> Option<String> {
    let mut table =
        super::table(&["BACKEND", "TLS", "ACCEPTED", "REJECTED", "NOT OFFERED", "RESUMPTION RATE"]);
    for backend in &backends.backends {
        for (version, outcomes) in [("<= 1.2", backend.tls12), ("1.3", backend.tls13)] {
            let Resumptions { accepted, rejected, not_offered } = outcomes;
            if accepted + rejected + not_offered > 0 {
                table.add_row([
                    backend.address.to_string(),
                    version.to_owned(),
                    accepted.to_string(),
                    rejected.to_string(),
                    not_offered.to_string(),
                    outcomes.rate().map_or("-".to_owned(), |rate| format!("{rate:.1} %")),
                ]);
            }
        }
    }
    super::numbers_from(&mut table, 2);
    (table.row_count() > 0).then(|| super::text(&table))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_way_back_is_seen_not_seen_or_not_known() {
        let told = [(true, 0, 0), (false, 3, 2), (false, 3, 0), (false, 0, 0)].map(
            |(return_path_seen, syns, syn_acks)| {
                way_back(&BackendReport { return_path_seen, syns, syn_acks, ..backend() })
            },
        );
        assert_eq!(told, ["seen", "seen", "not seen", "-"]);
    }

    #[test]
    fn the_measured_rate_stands_below_the_backends() {
        let backend = backend();
        let idle = BackendReport { tls13: backend.tls12, ..backend.clone() };
        let told = text(&Backends { counted_seconds: None, backends: vec![backend] });
        let row = told.lines().last().unwrap().split_whitespace().collect::<Vec<_>>();
        assert_eq!(row, ["10.0.0.1:443", "1.3", "2", "1", "6", "66.7", "%"]);
        assert_eq!(
            text(&Backends { counted_seconds: None, backends: vec![idle] }).lines().count(),
            2,
            "no table without a row"
        );
    }

    fn backend() -> BackendReport {
        BackendReport {
            return_path_seen: true,
            syns: 9,
            syn_acks: 9,
            flows: 9,
            resumed: 2,
            tls13: Resumptions { accepted: 2, rejected: 1, not_offered: 6 },
            ..BackendReport::idle()
        }
    }
}
