//! A connection through the VIP on which one byte goes to and fro, so that it shows when the
//! gateway stands still.

use std::{
    io::{Read as _, Write as _},
    net::{TcpListener, TcpStream},
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};

use crate::topology::{Family, Lab, backend, vip};

/// Longest wait for a byte: a gateway that stood still for so long lost the connection.
const LOST: Duration = Duration::from_secs(5);
/// Between two bytes: the processors are wanted for what is measured.
const PAUSE: Duration = Duration::from_millis(1);

/// What went to and fro.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Trips {
    pub(super) count: u64,
    pub(super) slowest: Duration,
}

/// Does something while a byte goes to and fro between a client and a backend.
///
/// # Errors
/// Those of `work`, and when the connection breaks.
pub(super) fn meanwhile<T>(lab: &Lab, work: impl FnOnce() -> Result<T>) -> Result<(T, Trips)> {
    let listener =
        lab.backend(0).run(|| TcpListener::bind(backend(Family::V4, 0)).context("listen"))?;
    let connect =
        || TcpStream::connect_timeout(&vip(Family::V4), LOST).context("connect to the VIP");
    let client = lab.client().run(connect)?;
    let (server, _) = listener.accept().context("accept")?;
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        let echo = scope.spawn(|| echo(server));
        let trips = scope.spawn(|| to_and_fro(client, &over));
        let done = work();
        over.store(true, Ordering::Relaxed);
        let trips = trips.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        drop(echo.join());
        Ok((done?, trips))
    })
}

fn to_and_fro(mut stream: TcpStream, over: &AtomicBool) -> Result<Trips> {
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(LOST))?;
    let mut trips = Trips::default();
    while !over.load(Ordering::Relaxed) {
        let start = Instant::now();
        stream.write_all(b"?").context("send a byte through the gateway")?;
        stream.read_exact(&mut [0]).context("wait for a byte through the gateway")?;
        trips.slowest = trips.slowest.max(start.elapsed());
        trips.count += 1;
        thread::sleep(PAUSE);
    }
    Ok(trips)
}

fn echo(mut stream: TcpStream) {
    let mut byte = [0];
    while stream.read_exact(&mut byte).is_ok() && stream.write_all(&byte).is_ok() {}
}
