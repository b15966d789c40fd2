//! `[[bridge]]`.

use std::collections::HashMap;

use steer_common::shared::MAX_BRIDGES;
use toml::Spanned;

use super::{Result, refuse_no_name};
use crate::config::{Bridge, Interface, error::Source, raw};

/// The bridges of the file. A port is in one bridge, on one side, and no interface beside that.
pub(super) fn bridges(
    raw: &[raw::Bridge],
    interfaces: &[Interface],
    source: &Source<'_>,
) -> Result<Vec<Bridge>> {
    if raw.len() > MAX_BRIDGES as usize {
        return Err(source.whole(format!("{} bridges; expected at most {MAX_BRIDGES}", raw.len())));
    }
    let mut taken = Taken { interfaces, by: HashMap::new(), source };
    let mut bridges = Vec::<Bridge>::new();
    for bridge in raw {
        let name = bridge.name.get_ref();
        refuse_no_name(&bridge.name, source)?;
        if bridges.iter().any(|other| other.name == *name) {
            let message = format!("`{name}` stands here twice; expected each bridge once");
            return Err(source.error(&bridge.name.span(), message));
        }
        bridges.push(Bridge {
            name: name.clone(),
            outside: taken.side(name, "outside", "the balancer", &bridge.outside)?,
            inside: taken.side(name, "inside", "the servers", &bridge.inside)?,
            vlans: bridge.vlans.clone(),
            stp: bridge.stp,
        });
    }
    Ok(bridges)
}

/// Who claimed which port.
struct Taken<'a> {
    interfaces: &'a [Interface],
    by: HashMap<String, String>,
    source: &'a Source<'a>,
}

impl Taken<'_> {
    /// The ports of one side.
    fn side(
        &mut self,
        bridge: &str,
        side: &str,
        towards: &str,
        ports: &Spanned<Vec<Spanned<String>>>,
    ) -> Result<Vec<String>> {
        if ports.get_ref().is_empty() {
            let message =
                format!("no port of {bridge} is {side}; expected at least one, towards {towards}");
            return Err(self.source.error(&ports.span(), message));
        }
        ports.get_ref().iter().map(|port| self.port(bridge, side, port)).collect()
    }

    fn port(&mut self, bridge: &str, side: &str, port: &Spanned<String>) -> Result<String> {
        refuse_no_name(port, self.source)?;
        let name = port.get_ref();
        let refuse = |why: String| Err(self.source.error(&port.span(), format!("`{name}` {why}")));
        if self.interfaces.iter().any(|interface| interface.name == *name) {
            return refuse(
                "is an [[interface]] already; expected no [[interface]] for the port of a bridge"
                    .to_owned(),
            );
        }
        if name == bridge {
            return refuse("is the bridge itself; expected its ports".to_owned());
        }
        match self.by.insert(name.clone(), format!("{side} at {bridge}")) {
            None => Ok(name.clone()),
            Some(other) => {
                refuse(format!("is {other} already; expected each port once, on one side"))
            }
        }
    }
}

/// Refuses a bridge that nobody uses, and pools that have none.
pub(super) fn refuse_unused(
    bridges: &[raw::Bridge],
    pools: &[Spanned<raw::Pool>],
    source: &Source<'_>,
) -> Result<()> {
    let mut shapes = pools.iter().filter_map(|pool| pool.get_ref().shape.as_ref());
    let bridged = shapes.find(|shape| *shape.get_ref() == raw::Shape::Bridge);
    match (bridges.first(), bridged) {
        (None, Some(shape)) => Err(source.error(
            &shape.span(),
            "there is no [[bridge]]; expected one, with `name`, `outside` and `inside`",
        )),
        (Some(bridge), None) => Err(source.error(
            &bridge.name.span(),
            "nothing is served at a bridge; expected a [[pool]] with `shape = \"bridge\"`",
        )),
        (Some(_), Some(_)) | (None, None) => Ok(()),
    }
}
