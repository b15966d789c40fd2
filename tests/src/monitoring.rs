//! deploy/monitoring before Debian's Prometheus: rules and their tests by promtool, and every query
//! of the dashboard asked of a Prometheus that scrapes an agent with traffic.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use crate::{
    agent::{Agent, Hook},
    process::{self, eventually, mortal},
    scenario::{Run, Scenario},
    topology::Family,
};

/// Where the agent serves its metrics, in the gateway; as in deploy/monitoring/prometheus.yml.
const METRICS: &str = "127.0.0.1:9464";
const PROMETHEUS: &str = "127.0.0.1:9090";
/// A query that has no answer after so long has none.
const ANSWERED: Duration = Duration::from_secs(60);

/// What is done.
#[derive(Clone, Default, Debug)]
pub struct Options {
    /// The checkout's directory deploy/monitoring.
    pub files: PathBuf,
    /// Where to put a picture of the built-in page, by headless Chromium.
    pub picture: Option<PathBuf>,
    /// How long the gateway stays with its traffic once all was asked, for looking at it.
    pub hold: Duration,
}

/// Tries everything, and tells what was tried.
///
/// # Errors
/// At the first rule that promtool refuses, and with every query that has no answer.
pub fn run(options: &Options) -> Result<()> {
    for line in
        ["check rules alerts.yml", "test rules alerts.test.yml", "check config prometheus.yml"]
    {
        let mut promtool = Command::new("promtool");
        process::run(promtool.args(line.split(' ')).current_dir(&options.files))?;
        println!("promtool {line}: good");
    }
    let mut scenario = Scenario::new(Hook::Tc, Family::V4);
    scenario.steer.top.push(format!("metrics = \"{METRICS}\""));
    let run = scenario.start()?;
    let steer = run.agent()?;
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let traffic = scope.spawn(|| visits(&run, &done));
        let asked = ask(&run, &steer, options);
        done.store(true, Ordering::Relaxed);
        let visits = traffic.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        println!("{} visits meanwhile", visits?);
        asked
    })
}

/// Clients that come back from other addresses until all is done.
fn visits(run: &Run, done: &AtomicBool) -> Result<u64> {
    let mut visits = 0;
    while !done.load(Ordering::Relaxed) {
        let client = run.new_client()?;
        for _ in 0..4 {
            run.resume_elsewhere(&client)?;
            visits += 1;
        }
    }
    Ok(visits)
}

fn ask(run: &Run, steer: &Agent<'_>, options: &Options) -> Result<()> {
    let directory = tempfile::tempdir().context("make a directory for Prometheus")?;
    let text = fs::read_to_string(options.files.join("prometheus.yml"))?;
    let config = directory.path().join("prometheus.yml");
    // What is asked over a minute needs some scrapes in it.
    fs::write(&config, text.replace("scrape_interval: 15s", "scrape_interval: 1s"))?;
    fs::copy(options.files.join("alerts.yml"), directory.path().join("alerts.yml"))?;
    let mut prometheus = mortal("prometheus");
    prometheus
        .arg(format!("--config.file={}", config.display()))
        .arg(format!("--storage.tsdb.path={}", directory.path().join("data").display()))
        .arg(format!("--web.listen-address={PROMETHEUS}"))
        .arg("--log.level=warn");
    let _prometheus = run.lab.gateway().spawn(prometheus)?;
    let up = || query(run, "up{job=\"steer\"} == 1").ok().filter(|n| *n > 0);
    eventually(ANSWERED, up).context("Prometheus does not scrape the agent")?;

    let queries = queries(&options.files)?;
    let mut silent = Vec::new();
    for (title, expression) in &queries {
        let answered = || query(run, expression).ok().filter(|n| *n > 0);
        match eventually(ANSWERED, answered) {
            Some(n) => println!("{title}: {n} series"),
            None => silent.push(format!("{title}: {expression}: {:?}", query(run, expression))),
        }
    }
    ensure!(silent.is_empty(), "without an answer: {silent:#?}\nlog: {}", steer.log());
    println!("{} queries of the dashboard are answered", queries.len());
    rules_are_evaluated(run)?;
    if let Some(picture) = &options.picture {
        take_picture(run, picture)?;
    }
    if !options.hold.is_zero() {
        let net = run.lab.gateway().path();
        println!("nsenter --net={net} {:?}", steer.command(""));
    }
    thread::sleep(options.hold);
    Ok(())
}

/// The expressions of the dashboard by the titles of their panels, with its variables filled in.
fn queries(files: &Path) -> Result<Vec<(String, String)>> {
    let text = fs::read_to_string(files.join("dashboard.json"))?;
    let dashboard = serde_json::from_str::<Value>(&text).context("read dashboard.json")?;
    let mut found = Vec::new();
    for panel in dashboard["panels"].as_array().context("a dashboard without panels")? {
        let title = panel["title"].as_str().context("a panel without title")?;
        for target in panel["targets"].as_array().context("a panel without targets")? {
            let expression = target["expr"].as_str().context("a target without expression")?;
            let expression =
                expression.replace("$instance", ".*").replace("$__rate_interval", "20s");
            ensure!(!expression.contains('$'), "{title}: an unknown variable: {expression}");
            found.push((title.to_owned(), expression));
        }
    }
    ensure!(found.len() >= 10, "the dashboard has {} queries", found.len());
    Ok(found)
}

/// How many series answer a query.
fn query(run: &Run, expression: &str) -> Result<usize> {
    let mut curl = Command::new("curl");
    curl.args(["--silent", "--data-urlencode", &format!("query={expression}")]);
    curl.arg(format!("http://{PROMETHEUS}/api/v1/query"));
    let text = run.lab.gateway().run(|| process::run(&mut curl))?;
    let answer = serde_json::from_str::<Value>(&text).context("read Prometheus' answer")?;
    ensure!(answer["status"] == "success", "{text}");
    Ok(answer["data"]["result"].as_array().map_or(0, Vec::len))
}

/// Every alert rule could be evaluated.
fn rules_are_evaluated(run: &Run) -> Result<()> {
    let evaluated = || {
        let text =
            run.lab.gateway().tool(&format!("curl -s http://{PROMETHEUS}/api/v1/rules")).ok()?;
        let answer = serde_json::from_str::<Value>(&text).ok()?;
        let rules = answer["data"]["groups"][0]["rules"].as_array()?.clone();
        rules.iter().all(|rule| rule["health"] == "ok").then_some(rules.len())
    };
    let n = eventually(2 * ANSWERED, evaluated).context("a rule is not evaluated")?;
    println!("{n} alert rules are evaluated");
    Ok(())
}

/// The built-in page after a minute with this traffic.
fn take_picture(run: &Run, picture: &Path) -> Result<()> {
    let profile = tempfile::tempdir().context("make a directory for Chromium")?;
    let mut chromium = Command::new("chromium");
    chromium
        .args(["--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"])
        .args(["--window-size=1200,680", "--virtual-time-budget=120000"])
        .arg(format!("--user-data-dir={}", profile.path().display()))
        .arg(format!("--screenshot={}", picture.display()))
        .arg(format!("http://{METRICS}/"));
    run.lab.gateway().run(|| process::run(&mut chromium))?;
    println!("a picture of the page: {}", picture.display());
    Ok(())
}
