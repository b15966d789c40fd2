//! Captures merged by time: however many files there are, and in whatever order they were named,
//! packets come in the order of their times.
//!
//! Each file is read on until it comes to a packet that is later than another file's next one. A
//! file's own order is kept where its times go back.

use std::fs::File;

use serde::Serialize;

use crate::inspect::{
    Ending, Refused,
    capture::{Capture, Item, Until},
};

/// A capture that was read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Source {
    /// How messages name it.
    pub name: String,
    /// How it ended.
    pub ending: Ending,
}

struct Open {
    capture: Capture,
    /// Which of the files it is.
    index: usize,
    /// When its next packet was captured.
    next: u64,
}

/// Hands everything in them to `take`, until that fails. How each one ended, in the order in which
/// they were named.
///
/// # Errors
/// The name of the first that is no capture, and why.
pub(super) fn read(
    files: Vec<(String, File)>,
    mut take: impl FnMut(Item<'_>) -> Result<(), ()>,
) -> Result<Vec<Source>, (String, Refused)> {
    let mut sources = Vec::new();
    let mut open = Vec::new();
    for (index, (name, file)) in files.into_iter().enumerate() {
        let capture = Capture::open(file).map_err(|why| (name.clone(), why))?;
        sources.push(Source { name, ending: Ending::Whole });
        open.push(Open { capture, index, next: 0 });
    }
    // The smallest of what is known of the next packets is read on, up to the second smallest.
    while let Some(at) = earliest(&open) {
        let last = open.iter().enumerate().filter(|(other, _)| *other != at);
        let last = last.map(|(_, other)| other.next).min().unwrap_or(u64::MAX);
        let file = &mut open[at];
        match file.capture.for_each_until(last, &mut take) {
            Ok(Until::Later(next)) => file.next = next,
            Ok(Until::End(ending)) => {
                sources[file.index].ending = ending;
                open.swap_remove(at);
            }
            Err(()) => break,
        }
    }
    Ok(sources)
}

fn earliest(open: &[Open]) -> Option<usize> {
    (0..open.len()).min_by_key(|index| (open[*index].next, open[*index].index))
}
