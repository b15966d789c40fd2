//! Programs that are wrong on purpose: what guards a translation must notice when it is not made.

use anyhow::{Context, Result, ensure};
use steer_tests::{
    case::{Case, OWNER},
    loss::Loss,
    payload,
    setting::PLAIN,
};

/// The opposite of `five_times_twenty_megabytes_at_2_percent_loss_and_no_sack_is_discarded`.
#[test]
fn without_sack_translation_the_owner_discards_what_the_client_selects() -> Result<()> {
    const MEGABYTES_3: usize = 3 * 1024 * 1024;
    let object = std::env::var("STEER_MUTANT_SACK")
        .context("find the programs without SACK translation: `cargo xtask test` builds them")?;
    let mut scenario = PLAIN.wire().scenario();
    scenario.steer.environment.push(("STEER_BPF_OBJECT".to_owned(), object));
    let run = scenario.start()?;
    let case = Case::start(&run)?;
    let sum = run.servers[OWNER].put("down", &payload::bytes(MEGABYTES_3, 1))?;
    let _loss = Loss::everywhere(&run.lab, 2)?;
    let (handshake, response) =
        run.connect(&case.client, &case.dial, |connection| connection.get("/files/down"))?;
    ensure!(handshake.resumed && response.sha256 == sum, "{handshake:?}");
    let discarded = case.kernel(OWNER + 1, "TcpExt.TCPSACKDiscard")?;
    ensure!(discarded > 0, "no SACK was discarded: the mutant went unnoticed");
    Ok(())
}
