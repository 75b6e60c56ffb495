//! What the README says about names, held against what the program has: settings with their defaults, outcomes, metrics,
//! links to files; and the pages on services, whose settings are tried. Whoever adds one finds out here that nobody has told the user.

mod common;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use crema::command::{self, Route};
use crema::metrics::{Outcome, descriptions};

use common::tls::Authority;

fn file(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(name);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The pages on managed services, by their paths from the top.
fn pages_on_services() -> Vec<String> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/services");
    let entries = fs::read_dir(directory).expect("a directory").map(|entry| entry.expect("an entry").file_name());
    let pages: Vec<String> = entries.map(|name| format!("docs/services/{}", name.to_string_lossy())).collect();
    assert!(pages.len() > 8, "{pages:?}");
    pages
}

/// The cells of a table's row that begins with this name in code.
fn row<'a>(page: &'a str, name: &str) -> Option<Vec<&'a str>> {
    let cells = |line: &'a str| line.trim_matches('|').split('|').map(str::trim).collect::<Vec<_>>();
    page.lines().filter(|line| line.starts_with('|')).map(cells).find(|cells| {
        let mut names = cells[0].split(", ");
        names.any(|shown| shown == format!("`{name}`"))
    })
}

#[test]
fn the_readme_has_every_setting_with_its_default() {
    let (readme, shipped) = (file("README.md"), file("config/crema.toml"));
    let mut table = String::new();
    let mut settings = 0;
    for line in shipped.lines() {
        if let Some(name) = line.strip_prefix('[').and_then(|line| line.strip_suffix(']')) {
            table = format!("{name}.");
        } else if let Some((key, value)) = line.split_once(" = ").filter(|_| !line.starts_with('#')) {
            let (key, value) = (format!("{table}{key}"), value.trim_matches('"'));
            settings += 1;
            match row(&readme, &key) {
                Some(cells) => assert_eq!(cells[1], format!("`{value}`"), "the default of {key}"),
                None => assert!(readme.contains(&format!("`{key}`")), "{key} is not in the README"),
            }
        }
    }
    assert!(settings > 20, "{settings} settings in config/crema.toml");
}

#[test]
fn the_readme_explains_every_outcome() {
    let readme = file("README.md");
    for outcome in Outcome::ALL {
        assert!(row(&readme, outcome.as_str()).is_some(), "outcome {} is not in the README", outcome.as_str());
    }
}

/// What the table has crema do itself, or give a client a connection for, stands in the README; and nothing else does.
#[test]
fn the_readme_has_every_command_that_is_more_than_passed_on() {
    let readme = file("README.md");
    let section = readme.split("## What crema answers itself").nth(1).and_then(|rest| rest.split("\n## ").next());
    let table = section.expect("a section of that name").lines().filter_map(|line| line.strip_prefix("| `"));
    let names = table.flat_map(|line| line.split(" | ").next().expect("a cell").split('`').step_by(2));
    let mut told: Vec<String> = names.map(|name| name.to_lowercase().replace(' ', "|")).collect();
    let own = |route| matches!(route, Route::Session(_) | Route::Home | Route::Taint | Route::Close);
    let rows = command::all().iter().filter(|row| own(row.route) && row.id != command::unknown().id);
    let mut known: Vec<&str> = rows.map(|row| row.name).collect();
    told.sort_unstable();
    known.sort_unstable();
    assert_eq!(told, known, "left: the README; right: the table of commands");
}

/// A module that holds a point of the contract says so in its head, by the number that the point has in the README.
#[test]
fn every_point_of_the_contract_is_held_somewhere() {
    let readme = file("README.md");
    let section = readme.split("## What you may rely on").nth(1).and_then(|rest| rest.split("\nNot promised").next());
    let section = section.expect("a section of that name");
    let points: Vec<usize> = (1..100).take_while(|n| section.contains(&format!("\n{n}. **"))).collect();
    let mut held = Vec::new();
    let mut open = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join("src")];
    while let Some(path) = open.pop() {
        if path.is_dir() {
            open.extend(fs::read_dir(&path).expect("a directory").map(|entry| entry.expect("an entry").path()));
            continue;
        }
        let text = fs::read_to_string(&path).unwrap_or_default();
        let opening = text.lines().take_while(|line| line.starts_with("//!"));
        let cited = opening.filter_map(|line| line.split_once("Holds contract point")).map(|(_, cited)| cited);
        for number in cited.flat_map(|cited| cited.split(|c: char| !c.is_ascii_digit())).filter(|part| !part.is_empty())
        {
            let number = number.parse().expect("digits");
            assert!(points.contains(&number), "{}: the README has no point {number}", path.display());
            held.push(number);
        }
    }
    let missing: Vec<_> = points.iter().filter(|point| !held.contains(point)).collect();
    assert!(points.len() >= 8 && missing.is_empty(), "points of the README that no module holds: {missing:?}");
}

/// Of the tables on TLS: whoever looks for a line of the log must find it.
#[test]
fn the_lines_of_the_log_that_the_page_on_tls_explains_are_written() {
    let sources = ["net/tls/problem.rs", "net/proxy_protocol.rs", "server/welcome.rs"];
    let sources: String = sources.iter().map(|source| file(&format!("src/{source}"))).collect();
    let page = file("docs/tls.md");
    let lines: Vec<&str> = page.lines().filter_map(|line| line.strip_prefix("| `")?.split('`').next()).collect();
    let missing: Vec<_> = lines.iter().filter(|line| !sources.contains(**line)).collect();
    assert!(lines.len() > 5 && missing.is_empty(), "{missing:?}");
}

#[test]
fn every_metric_that_a_page_names_exists() {
    let known: Vec<&str> = descriptions().map(|(name, _)| name).collect();
    let pages =
        ["README.md", "ARCHITECTURE.md", "CHANGELOG.md", "config/prometheus.yml", "Makefile"].map(str::to_owned);
    for page in pages.into_iter().chain(["docs/tls.md".to_owned()]).chain(pages_on_services()) {
        let text = file(&page);
        let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
        for word in words.filter(|word| word.starts_with("crema_")) {
            let name = word.trim_end_matches("_bucket");
            assert!(known.contains(&name), "{page} names {word}, which is no metric");
        }
    }
}

#[test]
fn links_lead_to_files() {
    let pages = ["README.md", "ARCHITECTURE.md", "CHANGELOG.md"].map(str::to_owned);
    for page in pages.into_iter().chain(["docs/tls.md".to_owned()]).chain(pages_on_services()) {
        let text = file(&page);
        let from = Path::new(env!("CARGO_MANIFEST_DIR")).join(&page);
        let targets = text.split("](").skip(1).filter_map(|rest| rest.split(')').next());
        for target in targets.filter(|target| !target.starts_with("http") && !target.starts_with('#')) {
            let path = target.split('#').next().expect("split yields at least one part");
            assert!(from.parent().is_some_and(|from| from.join(path).exists()), "{page} links to {target}");
        }
    }
}

/// With `--check`, where the files that they name are there.
#[test]
fn the_settings_on_the_pages_on_services_are_good() {
    let authority = Authority::new();
    let files = tempfile::tempdir().expect("a directory");
    fs::copy(authority.ca(), files.path().join("ca.pem")).expect("our own directory");
    fs::write(files.path().join("token"), "a-token\n").expect("our own directory");
    // The programs that print tokens.
    for program in ["gcloud", "az", "elasticache-token"] {
        let path = files.path().join(program);
        fs::write(&path, "#!/bin/sh\necho a-token\n").expect("our own directory");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("our own file");
    }
    let mut blocks = 0;
    for page in pages_on_services() {
        let text = file(&page);
        for block in text.split("```toml\n").skip(1).filter_map(|rest| rest.split("```").next()) {
            let here = files.path().display().to_string();
            let settings = block.replace("/etc/crema", &here).replace("/usr/local/bin", &here);
            let path = files.path().join("crema.toml");
            fs::write(&path, &settings).expect("our own directory");
            let mut crema = Command::new(env!("CARGO_BIN_EXE_crema"));
            let output = crema
                .env_clear()
                .env("PATH", &here)
                .arg("--check")
                .arg("--config")
                .arg(&path)
                .output()
                .expect("the program");
            assert!(output.status.success(), "{page}:\n{settings}\n{}", String::from_utf8_lossy(&output.stderr));
            blocks += 1;
        }
    }
    assert!(blocks > 8, "{blocks} blocks of settings");
}

/// Each step of a walk begins its functions with the file in which they stand.
#[test]
fn the_walks_go_through_functions_that_there_are() {
    let walks = file("docs/walks.md");
    let mut steps = 0;
    let mut missing = Vec::new();
    for line in walks.lines().filter(|line| line.starts_with(|c: char| c.is_ascii_digit())) {
        let mut source = None;
        for word in line.split('`').skip(1).step_by(2) {
            if word.strip_suffix(".rs").is_some() && !word.starts_with("tests/") {
                source = Some(file(&format!("src/{word}")));
            } else if let Some(source) = &source
                && word.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_')
            {
                steps += 1;
                let defined = [format!("fn {word}("), format!("fn {word}<")];
                if !defined.iter().any(|text| source.contains(text)) {
                    missing.push(format!("{word} in: {line}"));
                }
            }
        }
    }
    assert!(missing.is_empty(), "{}", missing.join("\n"));
    assert!(steps > 50, "{steps} functions in docs/walks.md");
}
