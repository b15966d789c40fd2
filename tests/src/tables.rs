//! How many entries a running steer's tables hold, those too that `steer status` does not show.

use anyhow::{Context, Result, bail};
use aya::{
    Pod,
    maps::{Array, HashMap, Map, MapData},
};
use steer_common::{
    session::Kind,
    shared::{
        BridgePath, Flow, FlowKey, FragmentKey, FragmentRoute, KeyName, Leg, Pending, Session,
        SessionKey,
    },
};
use steer_user::{
    clock,
    plane::{PinDir, Plane},
};

use crate::agent::Agent;

/// Counts the entries of a table. Nothing else may change it meanwhile.
///
/// # Errors
/// When there is no such table.
pub fn entries(steer: &Agent<'_>, table: &str) -> Result<usize> {
    match table {
        "sessions" => count::<SessionKey, Session>(steer, table),
        "key_names" | "key_name_tries" => count::<SessionKey, KeyName>(steer, table),
        "flows" | "splices" | "handshakes" => count::<FlowKey, Flow>(steer, table),
        "legs" => count::<FlowKey, Leg>(steer, table),
        "pending" => count::<FlowKey, Pending>(steer, table),
        "fragments" => count::<FragmentKey, FragmentRoute>(steer, table),
        _ => bail!("no table is named {table}"),
    }
}

fn count<K: Pod, V: Pod>(steer: &Agent<'_>, table: &str) -> Result<usize> {
    let map = MapData::from_pin(steer.map_pin(table)).and_then(Map::from_map_data);
    let map: HashMap<MapData, K, V> =
        map.and_then(HashMap::try_from).with_context(|| format!("open {table}"))?;
    let mut n = 0;
    for key in map.keys() {
        key.with_context(|| format!("walk {table}"))?;
        n += 1;
    }
    Ok(n)
}

/// Has so many sessions in the table that nobody ever had, of the backend with number 0.
///
/// # Errors
/// When they do not fit.
pub fn fill_sessions(steer: &Agent<'_>, n: u32) -> Result<()> {
    let mut plane = Plane::open(&pins(steer))?;
    let (_, vip) = *plane.vips()?.first().context("no VIP")?;
    let now = clock::seconds();
    for number in 0..n {
        let key = SessionKey::new(vip.id, Kind::SessionId, &number.to_be_bytes().repeat(8));
        let session = Session { first_seen: now, last_seen: now, ..Session::default() };
        plane.sessions.insert(&key.context("no session ID")?, &session)?;
    }
    Ok(())
}

/// The pins of a running steer.
pub fn pins(steer: &Agent<'_>) -> PinDir {
    PinDir::new(steer.pin_dir())
}

/// Forgets what frames at a bridge showed of the ways to backends.
///
/// # Errors
/// When there is no such table.
pub fn forget_bridge_paths(steer: &Agent<'_>) -> Result<()> {
    let map = MapData::from_pin(steer.map_pin("bridge_paths")).and_then(Map::from_map_data);
    let map: Result<Array<MapData, BridgePath>, _> = map.and_then(Array::try_from);
    let mut paths = map.context("open bridge_paths")?;
    for id in 0..paths.len() {
        paths.set(id, BridgePath::default(), 0).context("write bridge_paths")?;
    }
    Ok(())
}
