//! What README and docs say about names, held against what the program has: settings with their defaults, outcomes, metrics, commands,
//! files, links. Whoever adds one finds out here that nobody has told the user. What the pages show is run by `examples.rs`.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Component, Path, PathBuf};

use crema::command::{self, Route};
use crema::metrics::{Outcome, descriptions};

use common::page::{Page, named_files, pages};
use common::top;

fn file(name: &str) -> String {
    Page::read(name).text
}

/// The pages, and what stands beside the README.
fn all_pages() -> Vec<Page> {
    let beside = ["ARCHITECTURE.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md", "docs/SUMMARY.md"];
    pages().into_iter().chain(beside.map(Page::read)).collect()
}

/// Between this heading and the next of its kind.
fn chapter<'a>(text: &'a str, heading: &str) -> &'a str {
    let rest = text.split(&format!("\n## {heading}\n")).nth(1).unwrap_or_else(|| panic!("no chapter {heading}"));
    rest.split("\n## ").next().expect("split yields at least one part")
}

#[test]
fn the_readme_is_read_in_a_few_minutes() {
    let size = file("README.md").len();
    assert!(size <= 8 << 10, "{size} bytes");
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
fn the_page_on_settings_has_each_with_its_default() {
    let (page, shipped) = (file("docs/settings.md"), file("config/crema.toml"));
    let mut table = String::new();
    let mut settings = 0;
    for line in shipped.lines() {
        if let Some(name) = line.strip_prefix('[').and_then(|line| line.strip_suffix(']')) {
            table = format!("{name}.");
        } else if let Some((key, value)) = line.split_once(" = ").filter(|_| !line.starts_with('#')) {
            let (key, value) = (format!("{table}{key}"), value.trim_matches('"'));
            settings += 1;
            let cells = row(&page, &key).unwrap_or_else(|| panic!("{key} is not in docs/settings.md"));
            assert_eq!(cells[1], format!("`{value}`"), "the default of {key}");
        }
    }
    assert!(settings > 20, "{settings} settings in config/crema.toml");
}

/// Of tables that may stand several times in the file, which has them as comments.
#[test]
fn the_pages_have_every_setting_of_users_rules_tiers_and_origins() {
    let shipped = file("config/crema.toml");
    let mut tables = 0;
    for table in shipped.split("\n# [[").skip(1) {
        let (name, rest) = table.split_once("]]\n").expect("the name of a table ends");
        let page = match name {
            "origin" => file("docs/origins.md"),
            "rule" => chapter(&file("docs/settings.md"), "Rules").to_owned(),
            "tier" => chapter(&file("docs/settings.md"), "Tiers").to_owned(),
            _ => chapter(&file("docs/settings.md"), "Users").to_owned(),
        };
        let own = rest.lines().take_while(|line| line.starts_with('#'));
        let keys = own.filter_map(|line| line.strip_prefix("# ")?.split_once(" = ")).map(|(key, _)| key);
        let mut count = 0;
        for key in keys.filter(|key| !key.contains(|c: char| !c.is_ascii_lowercase() && c != '_')) {
            let told = [format!("`{key}`"), format!("\n{key} = ")];
            assert!(told.iter().any(|told| page.contains(told)), "{key} of [[{name}]] is on no page");
            count += 1;
        }
        assert!(count > 3, "{count} settings of [[{name}]]");
        tables += 1;
    }
    assert_eq!(tables, 4);
}

#[test]
fn every_outcome_is_explained() {
    let page = file("docs/operations.md");
    for outcome in Outcome::ALL {
        assert!(row(&page, outcome.as_str()).is_some(), "outcome {} is not in docs/operations.md", outcome.as_str());
    }
}

/// What the table has crema do itself, or give a client a connection for, stands on the page; and nothing else does.
#[test]
fn the_page_on_commands_has_each_that_is_more_than_passed_on() {
    let page = file("docs/commands.md");
    let table = chapter(&page, "What crema answers itself").lines().filter_map(|line| line.strip_prefix("| `"));
    let names = table.flat_map(|line| line.split(" | ").next().expect("a cell").split('`').step_by(2));
    let mut told: Vec<String> = names.map(|name| name.to_lowercase().replace(' ', "|")).collect();
    let own = |route| matches!(route, Route::Session(_) | Route::Home | Route::Taint | Route::Close);
    let rows = command::all().iter().filter(|row| own(row.route) && row.id != command::unknown().id);
    let mut known: Vec<&str> = rows.map(|row| row.name).collect();
    told.sort_unstable();
    known.sort_unstable();
    assert_eq!(told, known, "left: the page; right: the table of commands");
}

/// What stands in bold at the head of each point.
fn points(text: &str) -> Vec<String> {
    let point = |n: usize| {
        let rest = text.split(&format!("\n{n}. **")).nth(1)?;
        Some(rest.split("**").next()?.trim_end_matches('.').to_owned())
    };
    (1..100).map_while(point).collect()
}

/// A module that holds a point of the contract says so in its head, by the number that the point has.
#[test]
fn every_point_of_the_contract_is_held_somewhere() {
    let (page, readme) = (file("docs/contract.md"), file("README.md"));
    let points = points(page.split("\n## ").next().expect("split yields at least one part"));
    assert_eq!(points, self::points(chapter(&readme, "What you may rely on")), "left: the contract; right: the README");
    let mut held = Vec::new();
    let mut open = vec![top().join("src")];
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
            let number: usize = number.parse().expect("digits");
            let exists = (1..=points.len()).contains(&number);
            assert!(exists, "{}: the contract has no point {number}", path.display());
            held.push(number);
        }
    }
    let missing: Vec<_> = (1..=points.len()).filter(|point| !held.contains(point)).collect();
    assert!(points.len() >= 8 && missing.is_empty(), "points that no module holds: {missing:?}");
}

/// Of the tables on TLS: whoever looks for a line of the log must find it.
#[test]
fn the_lines_of_the_log_that_the_page_on_tls_explains_are_written() {
    let sources = ["net/tls/problem.rs", "net/proxy_protocol.rs", "server/welcome.rs"];
    let sources: String = sources.iter().map(|source| file(&format!("src/{source}"))).collect();
    let page = file("docs/tls.md");
    let tables = page.split("\n| in the log |").skip(1).filter_map(|rest| rest.split("\n\n").next());
    let lines = tables.flat_map(str::lines).filter_map(|line| line.strip_prefix("| `")?.split('`').next());
    let lines: Vec<&str> = lines.collect();
    let missing: Vec<_> = lines.iter().filter(|line| !sources.contains(**line)).collect();
    assert!(lines.len() > 5 && missing.is_empty(), "{missing:?}");
}

#[test]
fn every_metric_that_a_page_names_exists() {
    let known: Vec<&str> = descriptions().map(|(name, _)| name).collect();
    let monitoring = ["deploy/prometheus/alerts.yml", "deploy/prometheus/alerts.test.yml", "deploy/grafana/crema.json"];
    let others = ["config/prometheus.yml", "Makefile"].into_iter().chain(monitoring).map(Page::read);
    for Page { path, text } in all_pages().into_iter().chain(others) {
        let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
        for word in words.filter(|word| word.starts_with("crema_")) {
            let name = word.trim_end_matches("_bucket");
            assert!(known.contains(&name), "{path} names {word}, which is no metric");
        }
    }
}

/// Without `.` and `..`.
fn plain(path: &Path) -> PathBuf {
    let mut plain = PathBuf::new();
    for part in path.components() {
        match part {
            Component::ParentDir => _ = plain.pop(),
            Component::CurDir => {}
            part => plain.push(part),
        }
    }
    plain
}

/// To files, and to headings in them. Pages under `docs` are a book: their links do not lead out of it.
#[test]
fn links_lead_somewhere() {
    let pages = all_pages();
    let mut wrong = Vec::new();
    for page in &pages {
        let here = Path::new(&page.path);
        for target in page.links().iter().filter(|target| !target.starts_with("http")) {
            let (to, anchor) = target.split_once('#').unwrap_or((target, ""));
            let to = if to.is_empty() { here.to_owned() } else { plain(&here.with_file_name("").join(to)) };
            let leaves = here.starts_with("docs") && !to.starts_with("docs");
            let other = pages.iter().find(|page| Path::new(&page.path) == to);
            let is_heading = anchor.is_empty()
                || other.is_some_and(|page| page.anchors().iter().filter(|known| *known == anchor).count() == 1);
            if leaves || !top().join(&to).exists() || !is_heading {
                wrong.push(format!("{} links to {target}", page.path));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_page_stands_in_the_table_of_contents_once() {
    let contents = Page::read("docs/SUMMARY.md");
    let mut listed: Vec<String> = contents.links().iter().map(|target| format!("docs/{target}")).collect();
    let mut there: Vec<String> = pages().into_iter().map(|page| page.path).filter(|path| path != "README.md").collect();
    listed.sort_unstable();
    there.sort_unstable();
    assert_eq!(listed, there, "left: docs/SUMMARY.md; right: docs");
}

#[test]
fn files_that_pages_name_are_there() {
    let pages = pages();
    let of = |page: &Page| named_files(page).into_iter().map(|path| (page.path.clone(), path)).collect::<Vec<_>>();
    let named: BTreeSet<(String, PathBuf)> = pages.iter().flat_map(of).collect();
    let missing: Vec<_> = named.iter().filter(|(_, path)| !top().join(path).exists()).collect();
    assert!(named.len() > 10 && missing.is_empty(), "{missing:?}");
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
