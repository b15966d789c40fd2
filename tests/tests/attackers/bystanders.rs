//! Honest clients while somebody attacks: two downloads that go on, and sessions that are offered
//! again afterwards.

use std::{net::SocketAddr, panic::resume_unwind, thread};

use anyhow::{Context, Result, ensure};
use steer_common::shared::{FLOW_RESET, Flow, FlowKey};
use steer_tests::{
    case::{Case, FIRST, OWNER},
    client::{Client, Dial, Handshake},
    payload,
    scenario::Scenario,
    setting::{Setting, in_settings},
    tables::entries,
};
use steer_user::{
    address::{address, endpoint},
    plane::{PinDir, Plane},
};

/// Ports of the two downloads, so that an attacker can aim at them.
const PORTS: [u16; 2] = [4001, 4002];
/// Portions that an attack comes in, while the downloads go on.
pub(crate) const PORTIONS: usize = 32;
/// Size of what is downloaded, bytes.
const FILE: usize = 8 << 20;
/// Clients that hold a session meanwhile.
const CROWD: usize = 16;
/// Tables that strangers must not fill.
const TABLES: [&str; 7] =
    ["sessions", "key_names", "key_name_tries", "flows", "splices", "pending", "fragments"];

/// A scenario without health checks, whose clients take downloads in small pieces, so that both
/// sides speak all along. Tables are large enough for what honest clients do.
pub(crate) fn scenario(setting: Setting) -> Scenario {
    let scenario =
        setting.finished().scenario().client_sysctl("ipv4/tcp_rmem", "4096 65536 131072");
    let mut scenario = ["sessions", "flows", "splices"]
        .iter()
        .fold(scenario, |s, table| s.size(&format!("{table} = 8192")));
    scenario.steer.health = vec!["enabled = false".to_owned()];
    scenario
}

/// Two downloads go on while `attack` is carried out, and it judges what was counted: no table
/// grew, nobody was harmed, and every session that was known resumes.
pub(crate) fn attacked(
    number: usize,
    attack: impl Fn(&Case<'_>, &Bystanders) -> Result<()>,
) -> Result<()> {
    in_settings(number, |setting| {
        let run = scenario(setting).start()?;
        let mut case = Case::start(&run)?;
        let bystanders = Bystanders::gather(&mut case)?;
        attack(&case, &bystanders)?;
        bystanders.no_table_grew(&case)?;
        case.unharmed(1)?;
        bystanders.resume(&case)
    })
}

/// A moment of a download at which a portion of the attack comes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Moment {
    /// From 0 to [`PORTIONS`].
    pub(crate) portion: usize,
    /// Who downloads; the flow is live.
    pub(crate) client: SocketAddr,
    /// Who holds the flow: [`OWNER`] where it moved, [`FIRST`] where it stays.
    pub(crate) holder: usize,
}

pub(crate) struct Bystanders {
    sum: String,
    stranger: Client,
    /// Clients with a session each, and the backend's name that issued it.
    crowd: Vec<(Client, String)>,
    entries: Vec<usize>,
}

impl Bystanders {
    /// Gives a crowd its sessions, and counts from here.
    pub(crate) fn gather(case: &mut Case<'_>) -> Result<Self> {
        let run = case.run;
        let body = payload::bytes(FILE, 11);
        for server in &run.servers {
            server.put("big", &body)?;
        }
        let stranger = run.new_client()?;
        let visit = |index: usize| {
            let client = stranger.sibling();
            // To its very end, or its last packets would be counted below.
            let server = case.fetch_with(&client, &run.dial(index))?.server;
            Ok((client, server))
        };
        let crowd = (0..CROWD).map(visit).collect::<Result<_>>()?;
        case.count_from_here()?;
        let entries = counts(case)?;
        Ok(Self { sum: payload::sha256(&body), stranger, crowd, entries })
    }

    /// Lets two downloads go on while `attack` is carried out portion by portion, and expects both
    /// to arrive whole: one of a flow that moved, one of a flow that stays.
    pub(crate) fn during(
        &self,
        case: &Case<'_>,
        attack: impl Fn(Moment) -> Result<()> + Sync,
    ) -> Result<()> {
        let (resumes, stranger) = (&case.client, self.stranger.sibling());
        let moves =
            Moment { portion: 0, client: (case.dial.source, PORTS[0]).into(), holder: OWNER };
        let stays = Moment {
            portion: PORTIONS / 2,
            client: (case.dial.source, PORTS[1]).into(),
            holder: FIRST,
        };
        let (spliced, plain) = thread::scope(|scope| {
            let spliced = scope.spawn(|| self.download(case, resumes, moves, &attack));
            let plain = scope.spawn(|| self.download(case, &stranger, stays, &attack));
            [spliced, plain]
                .map(|end| end.join().unwrap_or_else(|panic| resume_unwind(panic)))
                .into()
        });
        let (spliced, plain) =
            (spliced.context("the re-homed flow")?, plain.context("the flow that stays")?);
        ensure!(spliced.resumed && !plain.resumed, "{spliced:?} {plain:?}");
        Ok(())
    }

    /// One download; half of the portions come while it goes on.
    fn download(
        &self,
        case: &Case<'_>,
        client: &Client,
        begin: Moment,
        attack: &(impl Fn(Moment) -> Result<()> + Sync),
    ) -> Result<Handshake> {
        const STEP: usize = FILE / (PORTIONS / 2 + 1);
        let dial = Dial { source_port: Some(begin.client.port()), ..case.dial.clone() };
        let (mut done, mut trouble) = (0, Ok(()));
        let (handshake, response) = case.run.connect(client, &dial, |connection| {
            let response = connection.get_watched("/files/big", |read| {
                if trouble.is_ok() && done < PORTIONS / 2 && read > done * STEP {
                    trouble = attack(Moment { portion: begin.portion + done, ..begin });
                    done += 1;
                }
            })?;
            connection.finish()?;
            Ok(response)
        })?;
        trouble?;
        ensure!(done == PORTIONS / 2, "only {done} portions of the attack came while it went on");
        ensure!(response.sha256 == self.sum, "the download arrived changed");
        Ok(handshake)
    }

    /// Expects every session that was known to resume on its owner, whatever address its client
    /// comes from.
    #[track_caller]
    pub(crate) fn resume(&self, case: &Case<'_>) -> Result<()> {
        let before = self.entries[0];
        let now = entries(&case.steer, "sessions")?;
        assert!(now >= before, "{now} sessions of {before} are left");
        for index in 0..CROWD {
            ensure!(self.reconnects(case, index)?, "client {index} has to make a full handshake");
        }
        Ok(())
    }

    /// Lets one of the crowd come back from another address; whether it resumed, which only its
    /// owner can.
    pub(crate) fn reconnects(&self, case: &Case<'_>, index: usize) -> Result<bool> {
        let (client, owner) = &self.crowd[index % CROWD];
        let handshake = case.run.visit(client, &case.run.dial(2 * index + 1))?;
        ensure!(!handshake.resumed || handshake.server == *owner, "{handshake:?}, not {owner}");
        Ok(handshake.resumed)
    }

    /// Expects no table to hold more than the two downloads brought: a session, two flows, a
    /// splice.
    #[track_caller]
    pub(crate) fn no_table_grew(&self, case: &Case<'_>) -> Result<()> {
        // The flow that moved gave its splice back when it ended.
        let own = [1, 0, 0, 2, 0, 0, 0];
        let now = counts(case)?;
        let expected: Vec<_> =
            self.entries.iter().zip(own).map(|(before, own)| before + own).collect();
        assert_eq!(now, expected, "entries of {TABLES:?}, {:?} before", self.entries);
        Ok(())
    }
}

fn counts(case: &Case<'_>) -> Result<Vec<usize>> {
    TABLES.iter().map(|table| entries(&case.steer, table)).collect()
}

/// The record of a client's flow.
pub(crate) fn record(case: &Case<'_>, client: SocketAddr) -> Result<Flow> {
    let plane = Plane::open(&PinDir::new(case.steer.pin_dir()))?;
    let vip = plane.vip(&endpoint(case.run.vip()))?.context("no VIP")?;
    let key = FlowKey::of_vip(address(client.ip()), client.port().to_be_bytes(), vip.id);
    plane.flow(&key)?.with_context(|| format!("no flow of {client}"))
}

/// Expects nobody to take a client's flow for closed.
pub(crate) fn is_open(case: &Case<'_>, client: SocketAddr) -> Result<()> {
    let flags = record(case, client)?.flags;
    ensure!(flags & FLOW_RESET == 0, "{client} is taken for closed: {flags:#x}");
    Ok(())
}
