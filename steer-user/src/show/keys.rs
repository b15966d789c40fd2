//! `steer keys` for people.

use crate::{
    report::Keys,
    ticket_keys::{BackendKeys, Generated},
};

/// Where names stand, then the names.
pub(super) fn text(keys: &Keys) -> String {
    let mut layouts = super::table(&["VIP", "KEY NAMES", ""]);
    for layout in &keys.layouts {
        layouts.add_row([
            layout.vip.to_string(),
            layout.layout.clone().unwrap_or("?".to_owned()),
            layout.origin.word().to_owned(),
        ]);
    }
    format!("{}\n\n{}", super::text(&layouts), names(keys))
}

fn names(keys: &Keys) -> String {
    let header =
        ["KEY NAME", "VIP", "OWNER", "ORIGIN", "AGE", "IDLE", "HITS", "ACCEPTED", "SHARED"];
    let mut table = super::table(&header);
    for name in &keys.names {
        let owner =
            name.owner_address.map_or("forgotten".to_owned(), |address| address.to_string());
        table.add_row([
            name.name.clone(),
            name.vip.map_or("gone".to_owned(), |vip| vip.to_string()),
            owner,
            name.origin.word().to_owned(),
            super::seconds(name.age_seconds),
            super::seconds(name.idle_seconds),
            name.hits.to_string(),
            name.accepted.to_string(),
            if name.shared { "yes: does not steer" } else { "no" }.to_owned(),
        ]);
    }
    super::text(&table)
}

/// What to write where, backend by backend.
pub(super) fn generated(generated: &Generated) -> String {
    generated.backends.iter().map(lines).collect::<Vec<_>>().join("\n\n")
}

fn lines(keys: &BackendKeys) -> String {
    let BackendKeys { address, rotated, nginx: [current, previous], toml, .. } = keys;
    let done =
        if *rotated { "a new key, the one before is the previous one now" } else { "new keys" };
    format!(
        "{address}: {done}\n  on this server, its files where nginx reads them, in this order:\n    {current}\n    \
         {previous}\n  on the gateway, in its [[vip.backend]]:\n    {toml}"
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::{KeyNameReport, LayoutOrigin, LayoutReport, NameOrigin};

    #[test]
    fn a_shared_name_says_that_it_does_not_steer() {
        let vip = "198.51.100.10:443".parse().unwrap();
        let name = KeyNameReport {
            name: "a1b2c3d4".into(),
            vip: Some(vip),
            owner: 3,
            owner_address: Some("10.0.0.1:443".parse().unwrap()),
            origin: NameOrigin::Learned,
            shared: true,
            age_seconds: 61,
            idle_seconds: 4,
            hits: 2,
            accepted: 1,
        };
        let layouts =
            vec![LayoutReport { vip, layout: Some("4@0".into()), origin: LayoutOrigin::Found }];
        let told = text(&Keys { layouts, names: vec![name] });
        let rows = told
            .lines()
            .map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "))
            .collect::<Vec<_>>();
        assert_eq!(rows[1], "198.51.100.10:443 4@0 found");
        assert_eq!(
            rows[4],
            "a1b2c3d4 198.51.100.10:443 10.0.0.1:443 learned 1m 1s 4s 2 1 yes: does not steer"
        );
    }

    #[test]
    fn the_lines_to_add_are_told_for_each_place() {
        let keys = BackendKeys {
            address: "10.0.0.11:443".parse().unwrap(),
            rotated: true,
            current: "/k/current.key".into(),
            previous: "/k/previous.key".into(),
            key_names: ["aa".into(), "bb".into()],
            nginx: [
                "ssl_session_ticket_key /k/current.key;".into(),
                "ssl_session_ticket_key /k/previous.key;".into(),
            ],
            toml: "key_names = [\"aa\", \"bb\"]".into(),
        };
        let told = generated(&Generated { backends: vec![keys] });
        let lines = told.lines().map(str::trim).collect::<Vec<_>>();
        assert_eq!(lines[0], "10.0.0.11:443: a new key, the one before is the previous one now");
        assert_eq!(
            lines[2..4],
            ["ssl_session_ticket_key /k/current.key;", "ssl_session_ticket_key /k/previous.key;"]
        );
        assert_eq!(lines[5], "key_names = [\"aa\", \"bb\"]");
    }
}
