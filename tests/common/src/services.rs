//! What is asked of every profile of a managed service: that it is tried, says where it was read, and has a page in the docs.

use std::collections::BTreeSet;
use std::path::Path;

/// The profiles in a directory.
pub fn profiles_in(directory: &Path) -> BTreeSet<String> {
    let files = std::fs::read_dir(directory).expect("the directory of profiles");
    files
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "toml"))
        .map(|path| path.file_stem().expect("a name").to_string_lossy().into_owned())
        .collect()
}

/// Fails where a profile does not say where it was read, or what could not be found, or `docs/services` has no such page about it.
#[track_caller]
pub fn check_sources(service: &str, page: &str, (read_at, not_found): (&[String], &[String])) {
    assert!(!read_at.is_empty() && !not_found.is_empty(), "{service}");
    assert!(read_at.iter().all(|page| page.starts_with("https://")), "{service}");
    let text = std::fs::read_to_string(crate::top().join(format!("docs/services/{page}.md")));
    assert!(text.is_ok_and(|text| text.contains(service)), "docs/services/{page}.md is about {service}");
}
