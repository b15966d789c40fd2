use ratatui::{Terminal, backend::TestBackend, crossterm::event::KeyModifiers};
use serde_json::json;

use super::*;
use crate::report::{Backends, Stats};

/// A gateway with as many backends; the n-th look finds n times as much of everything.
fn sample(at: Instant, backends: u32, n: u64) -> Sample {
    let outcome = |n: u64| json!({"accepted": 3 * n, "rejected": n, "not_offered": n});
    let backend = |id: u32| {
        let k = n * u64::from(id + 1);
        json!({
            "id": id, "address": format!("10.0.0.{}:443", id + 1), "vip": "198.51.100.10:443",
            "state": if id == 1 { "down" } else { "up" }, "weight": 1, "backup": false, "drain_seconds": null,
            "return_path_seen": true, "syns": k, "syn_acks": k, "flows": 10 * k, "rehomed": 5 * k,
            "learned": k, "hits": k, "resumed": k, "tls12": outcome(k), "tls13": outcome(0),
            "packets": k, "bytes": 1_000_000 * k
        })
    };
    let all = json!({"backends": (0..backends).map(backend).collect::<Vec<_>>()});
    let counters = json!({"counters": {"syn": 100 * n, "rehome": 50 * n, "session-hit": 20 * n, "from-client": 4000 * n}});
    let stats = serde_json::from_value::<Stats>(counters).unwrap();
    Sample { at, stats, backends: serde_json::from_value::<Backends>(all).unwrap() }
}

fn status() -> Status {
    serde_json::from_value(json!({
        "pin_dir": "/sys/fs/bpf/steer", "layout": 4, "bypass": true, "leave": false,
        "agent": { "running": true, "starting": false, "pid": 7, "version": "0.1.0" },
        "health": { "state": "degraded", "because": ["backend 10.0.0.2:443 is down"] },
        "vips": [], "interfaces": [], "bridges": [], "drift": [], "unseen": [], "warnings": [],
        "tables": [{"name": "sessions", "entries": 512, "max_entries": 1024}]
    }))
    .unwrap()
}

/// A screen that shows two looks, two seconds apart.
fn screen(backends: u32) -> Screen {
    let start = Instant::now();
    let (_, looks) = mpsc::channel();
    let mut screen = Screen::new(sample(start, backends, 1), status(), looks);
    screen.now = sample(start + Duration::from_secs(2), backends, 2);
    screen
}

fn frame(screen: &Screen) -> Frame {
    Frame::new(&screen.before, &screen.now, &screen.status, screen.view.order)
}

/// The lines of a terminal of 80 columns and 24 lines.
fn shown(screen: &Screen) -> Vec<String> {
    let mut terminal = Terminal::new(TestBackend::new(80, 24)).unwrap();
    let frame = frame(screen);
    terminal.draw(|on| draw::draw(on, &frame, &screen.view)).unwrap();
    draw::lines(terminal.backend().buffer())
}

fn press(screen: &mut Screen, code: KeyCode) {
    screen.pressed(KeyEvent::new(code, KeyModifiers::NONE));
}

#[test]
fn a_frame_tells_rates_and_not_totals() {
    let frame = frame(&screen(3));
    let Rates { packets_from_clients, flows, rehomes, resumed_percent, bytes, .. } = frame.rates;
    assert_eq!((packets_from_clients, flows, rehomes), (2000.0, 50.0, 25.0));
    assert_eq!((resumed_percent, bytes), (Some(75.0), 3_000_000.0));
    let last = &frame.backends[2];
    assert_eq!((last.flows, last.rehomes, last.bytes), (15.0, 7.5, 1_500_000.0));
    let verdicts = frame.verdicts.iter().map(|row| (&row.event[..], row.rate, row.total));
    assert_eq!(verdicts.collect::<Vec<_>>(), [("rehome", 25.0, 100), ("session-hit", 10.0, 40)]);
}

#[test]
fn counters_that_began_anew_are_no_rate() {
    let mut screen = screen(2);
    std::mem::swap(&mut screen.before.stats, &mut screen.now.stats);
    assert_eq!(frame(&screen).rates.flows, 0.0);
}

#[test]
fn everything_has_a_place_on_80_columns_and_24_lines() {
    let lines = shown(&screen(20));
    let all = lines.join("\n");
    for part in [
        "steer 0.1.0  degraded  BYPASS",
        "backend 10.0.0.2:443 is down",
        "packets/s 2000 in",
        "75 % now",
        "BACKEND",
        "10.0.0.1:443",
        "198.51.100.10:443",
        "verdicts",
        "session-hit",
        "tables",
        "50 %",
        "q quit",
    ] {
        assert!(all.contains(part), "{part} is not in\n{all}");
    }
    assert!(lines.iter().all(|line| line.chars().count() <= 80), "{all}");
}

#[test]
fn keys_sort_scroll_pause_and_quit() {
    let mut screen = screen(20);
    press(&mut screen, KeyCode::Char('s'));
    let first = |screen: &Screen| frame(screen).backends[0].address.clone();
    assert_eq!(first(&screen), "10.0.0.20:443", "those with most flows are first");
    press(&mut screen, KeyCode::Down);
    assert!(shown(&screen).join("\n").contains("20 from the 2. on"));
    for _ in 0..100 {
        press(&mut screen, KeyCode::Down);
    }
    assert!(shown(&screen).join("\n").contains("10.0.0.1:443"), "the last one stays in sight");
    press(&mut screen, KeyCode::Char('p'));
    assert!(shown(&screen)[0].contains("PAUSED"));
    press(&mut screen, KeyCode::Char('q'));
    assert!(screen.ended);
}

#[test]
fn control_c_quits_and_c_alone_does_not() {
    let mut screen = screen(1);
    press(&mut screen, KeyCode::Char('c'));
    assert!(!screen.ended);
    screen.pressed(KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL));
    assert!(screen.ended);
}

#[test]
fn a_printed_frame_has_every_backend() {
    let text = draw::text(&frame(&screen(40)));
    assert!(text.contains("10.0.0.40:443") && text.contains("sessions"), "{text}");
}

#[test]
fn a_tiny_terminal_is_no_panic() {
    let screen = screen(3);
    for (columns, rows) in [(1, 1), (20, 5), (10, 40), (200, 2)] {
        let mut terminal = Terminal::new(TestBackend::new(columns, rows)).unwrap();
        let frame = frame(&screen);
        terminal.draw(|on| draw::draw(on, &frame, &screen.view)).unwrap();
    }
}
