//! The guide for those who come from the crate multi-tier-cache: its examples run as they stand, and none of the crate's public items is
//! missing in it, nor is any named that the crate does not have.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use common::http::HttpOrigin;
use common::page::{Page, is_shown, is_unexpected, only_reads};
use common::{Crema, Redis};

/// Where the guide has a server below Redis.
const TIER: &str = "127.0.0.1:6399";

/// Where it has a program that values come from.
const ORIGIN: &str = "127.0.0.1:8080";

/// The guide.
fn guide() -> Page {
    Page::read("docs/from-multi-tier-cache.md")
}

#[test]
fn the_examples_of_the_guide_run_as_they_stand() {
    if std::env::vars_os().any(|(name, _)| name == "CREMA_TEST_DIRECT" || name == "CREMA_TEST_TLS") {
        return; // they say the addresses of a crema without TLS
    }
    let lessons = guide().lessons();
    assert!(lessons.len() > 8 && lessons.iter().map(|lesson| lesson.examples.len()).sum::<usize>() > 50, "{lessons:?}");
    for lesson in lessons {
        let redis = Redis::start();
        let directory = tempfile::tempdir().expect("a directory");
        let file = directory.path().join("crema.toml");
        let below = lesson.settings.contains(TIER).then(Redis::start);
        let at = below.as_ref().map(|below| below.addr().to_string()).unwrap_or_default();
        let origin = HttpOrigin::start();
        let settings = lesson.settings.replace(TIER, &at).replace(ORIGIN, &origin.addr().to_string());
        fs::write(&file, settings).expect("a file of its own");
        let crema = Crema::over(redis.addr()).flag("--config", file.display()).start();
        crema.await_channel();
        lesson.examples.iter().for_each(|example| example.run(&crema, &redis, directory.path(), true));
    }
}

/// The names in code of the guide, `Type::{a, b}` being two.
fn named(guide: &str) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    let prose = guide.split("```").step_by(2).collect::<String>();
    for span in prose.split('`').skip(1).step_by(2) {
        match span.split_once('{').and_then(|(of, rest)| Some((of, rest.strip_suffix('}')?))) {
            Some((of, each)) => names.extend(each.split(", ").map(|name| format!("{of}{name}"))),
            None => _ = names.insert(span.to_owned()),
        }
    }
    names
}

/// The sources of the crate on which the application of `tests/interop` depends. None where Cargo has not fetched it.
fn sources() -> Option<PathBuf> {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/interop/Cargo.toml");
    let mut cargo = Command::new(env!("CARGO"));
    cargo.args(["metadata", "--locked", "--offline", "--format-version", "1", "--manifest-path"]).arg(manifest);
    let metadata: serde_json::Value = serde_json::from_slice(&cargo.output().ok()?.stdout).ok()?;
    let packages = metadata["packages"].as_array()?;
    let package = packages.iter().find(|package| package["name"] == "multi-tier-cache")?;
    assert!(
        guide().text.contains(&format!("version {}", package["version"].as_str()?)),
        "the guide is about this version"
    );
    Some(Path::new(package["manifest_path"].as_str()?).with_file_name("src"))
}

/// Its public items: types, functions and modules by name, methods and variants as `Type::name`, fields as `Type.name`. Its sources are as
/// rustfmt writes them.
fn public_items(sources: &Path) -> BTreeSet<String> {
    let mut files: Vec<PathBuf> = ["", "backends"]
        .iter()
        .flat_map(|dir| fs::read_dir(sources.join(dir)).expect("sources"))
        .map(|entry| entry.expect("an entry").path())
        .collect();
    files.retain(|path| path.extension().is_some_and(|extension| extension == "rs"));
    let texts: Vec<String> = files.iter().map(|path| fs::read_to_string(path).expect("text")).collect();
    let own = |text: &String| text.split("#[cfg(test)]\nmod tests").next().unwrap_or_default().to_owned();
    let texts: Vec<String> = texts.iter().map(own).collect();
    let mut items: BTreeSet<String> = texts
        .iter()
        .flat_map(|text| text.lines())
        .filter_map(|line| declared(line, ""))
        .map(|(_, name)| name)
        .collect();
    items.extend(texts.iter().flat_map(|text| handed_on(text)));
    for text in &texts {
        let mut within: Option<(&str, String)> = None;
        for line in text.lines() {
            if line == "}" {
                within = None;
            } else if let Some((kind, name)) = declared(line, "") {
                within = Some((kind, name)).filter(|_| line.ends_with('{'));
            } else if let Some(of) = line.strip_prefix("impl ").filter(|rest| !rest.contains(" for ")) {
                let name = of.trim_end_matches([' ', '{']).to_owned();
                within = items.contains(&name).then_some(("impl", name));
            } else if let Some((kind, of)) = &within {
                items.extend(member(kind, of, line));
            }
        }
    }
    items
}

/// The names that a file hands on, from elsewhere in the crate or from another.
fn handed_on(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    for path in text.split("\npub use ").skip(1).filter_map(|rest| rest.split(';').next()) {
        let path: String = path.lines().filter(|line| !line.trim_start().starts_with("//")).collect();
        let last = path.rsplit("::").next().unwrap_or_default();
        let names = path.split_once('{').map_or(last, |(_, names)| names.trim_end_matches('}'));
        let names = names.split(',').filter_map(|name| name.rsplit(" as ").next()).map(str::trim);
        found.extend(names.filter(|name| !name.is_empty()).map(str::to_owned));
    }
    found
}

/// What a line declares publicly at this indentation.
fn declared<'a>(line: &'a str, indent: &str) -> Option<(&'a str, String)> {
    let rest = line.strip_prefix(indent)?.strip_prefix("pub ")?;
    let rest = rest.strip_prefix("async ").or_else(|| rest.strip_prefix("const ")).unwrap_or(rest);
    let (kind, rest) = rest.split_once(' ')?;
    let is_item = ["struct", "enum", "trait", "type", "fn", "mod"].contains(&kind);
    is_item.then(|| (kind, rest.chars().take_while(|char| char.is_alphanumeric() || *char == '_').collect()))
}

/// What a line in the body of a type, a trait or an `impl` adds to it.
fn member(kind: &str, of: &str, line: &str) -> Option<String> {
    let inner = line.strip_prefix("    ").filter(|rest| !rest.starts_with(' '))?;
    let word = |text: &str| text.chars().take_while(|char| char.is_alphanumeric() || *char == '_').collect::<String>();
    match kind {
        "struct" => inner.strip_prefix("pub ").map(|field| format!("{of}.{}", word(field))),
        "enum" if inner.starts_with(char::is_uppercase) => Some(format!("{of}::{}", word(inner))),
        "trait" => inner.strip_prefix("fn ").map(|name| format!("{of}::{}", word(name))),
        "impl" => declared(line, "    ").map(|(_, name)| format!("{of}::{name}")),
        _ => None,
    }
}

#[test]
fn no_public_item_of_the_crate_is_missing_and_none_is_invented() {
    let Some(sources) = sources() else {
        assert!(std::env::var_os("CI").is_none(), "multi-tier-cache is not there; `make interop` fetches it");
        eprintln!("skipped: multi-tier-cache is not there; `make interop` fetches it");
        return;
    };
    let (items, named) = (public_items(&sources), named(&guide().text));
    for known in [
        "CacheManager::get_or_compute_with",
        "CacheStrategy::Custom",
        "TierConfig.ttl_scale",
        "StreamingBackend::stream_ack",
        "matches_pattern",
        "L2Cache",
        "backends",
        "Bytes",
        "Arc",
    ] {
        assert!(items.contains(known), "{known} was not found: {items:?}");
    }
    let missing: Vec<&String> = items.difference(&named).collect();
    assert!(missing.is_empty(), "not in the guide: {missing:#?}");
    let of_the_crate = |name: &&String| {
        name.split(['.', ':']).next().is_some_and(|of| of.starts_with(char::is_uppercase) && items.contains(of))
    };
    let invented: Vec<&String> = named.difference(&items).filter(of_the_crate).collect();
    assert!(invented.is_empty(), "not in the crate: {invented:#?}");
}

#[test]
fn what_is_handed_on_is_known_by_its_last_name() {
    let text = "//! x\npub use std::sync::Arc;\npub use a::{\n    B,\n    // why\n    C as D,\n};\nuse e::F;\n";
    assert_eq!(handed_on(text), ["Arc", "B", "D"]);
}

#[test]
fn no_error_is_among_the_lines_that_are_left_out() {
    let shown = ["...", "WRONGTYPE Operation"].map(str::to_owned);
    assert!(is_unexpected("ERR crema: x", &shown) && is_unexpected("NOPERM x", &shown));
    assert!(!is_unexpected("WRONGTYPE Operation", &shown) && !is_unexpected("ERRORS", &shown));
    assert!(!only_reads("sleep 0.6; redis-cli -p 6380 get user:1") && only_reads("redis-cli -p 6380 get user:1"));
}

#[test]
fn what_is_shown_may_leave_lines_out() {
    let lines = |text: &'static str| text.lines().map(str::to_owned).collect::<Vec<_>>();
    for (shown, said, fits) in [
        ("a\nb", &["a", "b"][..], true),
        ("a\nb", &["a"], false),
        ("a", &["a", "b"], false),
        ("...\nb\n...", &["a", "b"], true),
        ("...\nb", &["b", "c"], false),
        ("", &[], true),
    ] {
        assert_eq!(is_shown(said, &lines(shown)), fits, "{shown}");
    }
}
