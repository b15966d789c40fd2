//! Every relative link in the project's Markdown files leads to a file, and every anchor to a
//! heading.

use std::{
    fs,
    path::{Path, PathBuf},
};

/// Directories that hold no pages of ours.
const SKIPPED: [&str; 3] = [".git", "target", "node_modules"];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the checkout above xtask")
}

fn pages(directory: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(directory).expect("list a directory").flatten() {
        let path = entry.path();
        let is_skipped =
            SKIPPED.iter().any(|name| path.file_name().is_some_and(|own| own == *name));
        if path.is_dir() && !path.is_symlink() && !is_skipped {
            pages(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "md") {
            found.push(path);
        }
    }
}

/// The lines of a page that are not in a code block.
fn prose(page: &str) -> impl Iterator<Item = &str> {
    let mut in_code = false;
    page.lines().filter(move |line| {
        let is_fence = line.trim_start().starts_with("```");
        in_code ^= is_fence;
        !in_code && !is_fence
    })
}

/// What stands in `](...)`.
fn links(page: &str) -> impl Iterator<Item = &str> {
    prose(page).flat_map(|line| line.split("](").skip(1)).filter_map(|rest| rest.split(')').next())
}

/// The anchors of a page's headings, as the usual renderers make them.
fn anchors(page: &str) -> impl Iterator<Item = String> {
    prose(page)
        .filter(|line| line.starts_with('#'))
        .map(|line| slug(line.trim_start_matches('#').trim()))
}

fn slug(heading: &str) -> String {
    let kept = heading.to_lowercase().replace(' ', "-");
    kept.chars().filter(|c| c.is_alphanumeric() || ['-', '_'].contains(c)).collect()
}

/// Why a link of the page at `from` leads nowhere; `None` if it does not, or leads elsewhere than
/// into the checkout.
fn fault(from: &Path, link: &str) -> Option<String> {
    if link.contains("://") || link.starts_with("mailto:") {
        return None;
    }
    let (path, anchor) =
        link.split_once('#').map_or((link, None), |(path, anchor)| (path, Some(anchor)));
    let target = if path.is_empty() {
        from.to_owned()
    } else {
        from.parent().expect("a directory").join(path)
    };
    if !target.exists() {
        return Some(format!("{}: {link} leads to no file", from.display()));
    }
    let anchor = anchor?;
    let page = fs::read_to_string(&target).expect("read the page that an anchor is in");
    (!anchors(&page).any(|own| own == anchor))
        .then(|| format!("{}: {link} leads to no heading", from.display()))
}

#[test]
fn every_relative_link_and_anchor_leads_somewhere() {
    let mut found = Vec::new();
    pages(root(), &mut found);
    assert!(found.iter().any(|page| page.ends_with("README.md")), "no page was found");
    let mut faults = Vec::new();
    for from in found {
        let page = fs::read_to_string(&from).expect("read a page");
        faults.extend(links(&page).filter_map(|link| fault(&from, link)));
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn a_heading_becomes_an_anchor_without_its_signs() {
    assert_eq!(slug("`[[interface]]`, at least one"), "interface-at-least-one");
    assert_eq!(slug("What has no record"), "what-has-no-record");
}
