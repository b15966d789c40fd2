//! For how long a cluster takes the connections of its VIPs. A connection without a record that may be
//! older than that is the kernel's own; one that is older than this gateway alone is the cluster's.

use anyhow::Result;

use crate::{address::socket, clock, plane::Plane, service::Service};

/// A VIP that is older is as old, seconds.
const OLDEST: u32 = i32::MAX as u32 / 2;
/// Ages that differ by no more are the same, seconds.
const SAME: i32 = 2;

/// For how long, seconds, this gateway, or one before it, takes the connections of each VIP.
///
/// # Errors
/// When a map cannot be read.
pub(super) fn told(plane: &Plane) -> Result<Vec<(String, u32)>> {
    let now = clock::seconds();
    let age = |since: u32| if since == 0 { OLDEST } else { clock::age(now, since).min(OLDEST) };
    let (vips, entrances) = (plane.vips()?, plane.entrances()?);
    let vips = vips.iter().map(|(at, vip)| (Service::of(at).to_string(), age(vip.since)));
    let entrances =
        entrances.iter().map(|(_, at)| (socket(&at.endpoint).to_string(), age(at.since)));
    Ok(vips.chain(entrances).collect())
}

/// Makes VIPs as old as another gateway says that they are.
///
/// # Errors
/// When a map cannot be read or written.
pub(super) fn take(plane: &mut Plane, ages: &[(String, u32)]) -> Result<()> {
    let now = clock::seconds();
    let older = |service: Service, since: u32| {
        let (_, age) = ages.iter().find(|(name, _)| *name == service.to_string())?;
        older(now, since, *age)
    };
    let (mut vips, mut is_older) = (plane.vips()?, false);
    for (at, vip) in &mut vips {
        if let Some(began) = older(Service::of(at), vip.since) {
            (vip.since, is_older) = (began, true);
        }
    }
    for (number, mut entrance) in plane.entrances()? {
        let service = Service::Vip(socket(&entrance.endpoint));
        if let Some(began) = older(service, entrance.since) {
            (entrance.since, is_older) = (began, true);
            plane.set_entrance(number, &entrance)?;
        }
    }
    // Entrances are listed with the VIPs.
    if is_older { plane.set_vips(&vips) } else { Ok(()) }
}

/// Since when a VIP's connections are taken that another gateway took for `age` seconds; `None`: as
/// stands in `since`, where 0 says always.
fn older(now: u32, since: u32, age: u32) -> Option<u32> {
    let began = match now.wrapping_sub(age.min(OLDEST)) {
        0 => u32::MAX,
        began => began,
    };
    let by = since.wrapping_sub(began) as i32;
    (since != 0 && by > SAME).then_some(began)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_vip_gets_older_and_never_younger() {
        for (now, since, age, expected) in [
            (1000, 990, 500, Some(500)),
            (1000, 990, 5, None),
            (1000, 990, 12, None),
            (1000, 990, 13, Some(987)),
            // Before this machine ran; that time has no 0.
            (60, 50, 500, Some(60_u32.wrapping_sub(500))),
            (60, 50, 60, Some(u32::MAX)),
            (60, 0, 500, None),
            (1000, 990, u32::MAX, Some(1000_u32.wrapping_sub(OLDEST))),
        ] {
            assert_eq!(older(now, since, age), expected, "{now} {since} {age}");
        }
    }
}
