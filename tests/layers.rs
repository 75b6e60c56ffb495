//! The layer rule of ARCHITECTURE.md, checked: imports run downward only, `resp` and `command` do no I/O, every source
//! file says in its head what it is for, none grows long without saying why, no more than two files need each other in a
//! ring, no function is long that is no table, and the name of a type stands for one type.
//!
//! Reads the sources as text: comments, strings and test code are set aside, and of what is left the paths that begin
//! with `crate`, `super`, `std` or `tokio` are followed.

#[path = "layers/rings.rs"]
mod rings;
#[path = "layers/text.rs"]
mod text;

use std::collections::{BTreeMap, HashSet};
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use text::{Token, end_of_item, follow, tokens, without_tests};

/// The modules from top to bottom. One may use those of the rows below it, never those beside or above it.
const LAYERS: &[&[&str]] = &[
    &["main", "lib"],
    &["app"],
    &["server", "admin"],
    &["session"],
    &["proxy"],
    &["tier", "origin"],
    &["invalidation"],
    &["curve"], // made of what L1 is made of
    &["cache", "upstream"],
    &["metrics", "log"], // metrics count by the class that a command's row names
    &["beyond"],         // by key patterns from the settings
    &["config"],         // settings may name commands
    &["command"],
    &["clock", "control", "error", "net"],
    &["resp"],
];

/// Modules of pure data and bytes.
const WITHOUT_IO: &[&str] = &["resp", "command"];

/// Non-test lines beyond which a file's head has to say why it is long, with that word.
const LONG: usize = 500;

/// Lines beyond which a function is long.
const LONG_FUNCTION: usize = 60;

/// Functions that are one table from the first line to the last.
const TABLES: &[&str] = &["read"]; // of config: a row a setting

#[test]
fn imports_run_downward_only() {
    let broken: String = sources().iter().flat_map(Source::forbidden_edges).collect();
    assert!(broken.is_empty(), "\n{broken}");
}

#[test]
fn bytes_and_data_do_no_io() {
    let broken: String = sources().iter().flat_map(Source::io).collect();
    assert!(broken.is_empty(), "\n{broken}");
}

#[test]
fn every_file_says_what_it_is_for_and_why_it_is_long() {
    let broken: String = sources().iter().filter_map(Source::head_fault).collect();
    assert!(broken.is_empty(), "\n{broken}");
}

#[test]
fn no_more_than_two_files_need_each_other() {
    let sources = sources();
    let large = rings::rings(&sources).into_iter().filter(|ring| ring.files.len() > 2);
    let broken: Vec<_> = large.map(|ring| ring.to_string()).collect();
    assert!(broken.is_empty(), "\n{}", broken.join("\n"));
}

#[test]
fn no_function_is_long_but_for_tables() {
    let broken: String = sources().iter().flat_map(Source::long_functions).collect();
    assert!(broken.is_empty(), "\n{broken}");
}

#[test]
fn the_name_of_a_type_stands_for_one_type() {
    let mut places = BTreeMap::<String, Vec<String>>::new();
    for source in sources() {
        for (line, name) in source.types() {
            places.entry(name).or_default().push(format!("{}:{line}", source.name));
        }
    }
    let shared = places.into_iter().filter(|(_, places)| places.len() > 1);
    let broken: Vec<_> = shared.map(|(name, places)| format!("{name}: {}", places.join(", "))).collect();
    assert!(broken.is_empty(), "\n{}", broken.join("\n"));
}

/// One file under `src`.
struct Source {
    /// As shown in a complaint: `src/cache/key.rs`.
    name: String,
    /// Where its items live: `["cache", "key"]`, `["cache"]` for its `mod.rs`, nothing for the crate's root.
    module: Vec<String>,
    /// The module of the first row of which it is a part.
    layer: String,
    text: String,
    /// Without comments, strings and test code.
    tokens: Vec<Token>,
    /// Lines that test code takes up.
    test_lines: usize,
}

fn sources() -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    rust_files(&root, &mut files);
    assert!(!files.is_empty(), "no sources under {}", root.display());
    let read = |path: PathBuf| {
        let name = path.strip_prefix(&root).expect("it was found there").to_string_lossy().into_owned();
        Source::new(&name, fs::read_to_string(&path).expect("sources are UTF-8"))
    };
    let all: Vec<Source> = files.into_iter().map(read).collect();
    let tests: HashSet<String> = all.iter().flat_map(Source::test_files).collect();
    all.into_iter().filter(|source| !tests.contains(&source.module.join("::"))).collect()
}

fn rust_files(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).expect("a folder of sources can be read") {
        let path = entry.expect("a folder of sources can be read").path();
        if path.is_dir() {
            rust_files(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

impl Source {
    /// `name` is the path below `src`.
    fn new(name: &str, text: String) -> Self {
        let mut module: Vec<String> = name.trim_end_matches(".rs").split('/').map(str::to_owned).collect();
        let layer = module[0].clone();
        let leaf = module.last().expect("split yields at least one part");
        if leaf == "mod" || (module.len() == 1 && matches!(leaf.as_str(), "lib" | "main")) {
            module.pop();
        }
        let (tokens, test_lines) = without_tests(&tokens(&text));
        Self { name: format!("src/{name}"), module, layer, text, tokens, test_lines }
    }

    /// The modules below this one that are there for tests alone.
    fn test_files(&self) -> Vec<String> {
        let all = tokens(&self.text);
        let text = |at: usize| all.get(at).map_or("", |token| token.text.as_str());
        let marks = (0..all.len()).filter(|&at| text(at) == "cfg" && text(at + 2) == "test" && text(at + 5) == "mod");
        let named = marks.filter(|&at| text(at + 7) == ";").map(|at| text(at + 6).to_owned());
        named.map(|name| [self.module.as_slice(), &[name]].concat().join("::")).collect()
    }

    fn forbidden_edges(&self) -> Vec<String> {
        let Some(from) = row(&self.layer) else {
            return vec![format!("{}: `{}` has no row in tests/layers.rs\n", self.name, self.layer)];
        };
        let forbidden = |target: &str| {
            if target == self.layer {
                return None;
            }
            match row(target) {
                Some(to) if to > from => None,
                Some(to) if to == from => Some("which stands beside it"),
                Some(_) => Some("which stands above it"),
                None => Some("which is no module of the layer rule"),
            }
        };
        self.own_paths()
            .filter_map(|(line, target)| {
                let why = forbidden(&target)?;
                Some(format!("{}:{line}: `{}` uses `{target}`, {why}\n", self.name, self.layer))
            })
            .collect()
    }

    fn io(&self) -> Vec<String> {
        if !WITHOUT_IO.contains(&self.layer.as_str()) {
            return Vec::new();
        }
        self.paths()
            .filter(|(_, _, path)| path[0] == "tokio" || path.starts_with(&["std".to_owned(), "net".to_owned()]))
            .map(|(line, _, path)| format!("{}:{line}: {} in a module without I/O\n", self.name, path.join("::")))
            .collect()
    }

    fn head_fault(&self) -> Option<String> {
        let head: Vec<&str> = self.text.lines().take_while(|line| line.starts_with("//!")).collect();
        if head.is_empty() {
            return Some(format!("{}: begins without a `//!` head\n", self.name));
        }
        let lines = self.text.lines().count() - self.test_lines;
        let explained = head.iter().any(|line| line.split(|c: char| !c.is_alphabetic()).any(|word| word == "long"));
        (lines > LONG && !explained)
            .then(|| format!("{}: {lines} lines, and no word in its head on why it is so long\n", self.name))
    }

    /// Functions of more lines than [`LONG_FUNCTION`].
    fn long_functions(&self) -> Vec<String> {
        let text = |at: usize| self.tokens.get(at).map_or("", |token| token.text.as_str());
        let begins = (0..self.tokens.len()).filter(|&at| text(at) == "fn" && !matches!(text(at + 1), "(" | ""));
        let long = begins.filter_map(|at| {
            let end = &self.tokens[end_of_item(&self.tokens, at) - 1];
            let lines = end.line - self.tokens[at].line + 1;
            (lines > LONG_FUNCTION && !TABLES.contains(&text(at + 1)))
                .then(|| format!("{}:{}: fn {} has {lines} lines\n", self.name, self.tokens[at].line, text(at + 1)))
        });
        long.collect()
    }

    /// The types that the file defines, with their lines.
    fn types(&self) -> Vec<(usize, String)> {
        let text = |at: usize| self.tokens.get(at).map_or("", |token| token.text.as_str());
        let (mut found, mut braces) = (Vec::new(), 0_usize);
        for (at, token) in self.tokens.iter().enumerate() {
            match token.text.as_str() {
                "{" => braces += 1,
                "}" => braces = braces.saturating_sub(1),
                "struct" | "enum" | "trait" => found.push((token.line, text(at + 1).to_owned())),
                "type" if braces == 0 => found.push((token.line, text(at + 1).to_owned())), // else of a trait
                _ => {}
            }
        }
        found
    }

    /// Top-level modules of this crate that the file names, with the line.
    fn own_paths(&self) -> impl Iterator<Item = (usize, String)> {
        self.paths().filter_map(|(line, inline, path)| {
            let ups = path.iter().take_while(|part| *part == "super").count();
            let depth = self.module.len() + inline;
            let rest = match path[0].as_str() {
                "crate" => &path[1..],
                "super" if ups >= depth => &path[ups..],
                _ => return None,
            };
            // A path that ends at the root, or takes all of it, hides what it uses.
            let target = rest.first().map_or("the crate's root", String::as_str);
            Some((line, target.to_owned()))
        })
    }

    /// Every path, with its line and the number of inline modules around it; trees in braces are followed to the end.
    fn paths(&self) -> impl Iterator<Item = (usize, usize, Vec<String>)> {
        let mut found = Vec::new();
        let mut modules = Vec::new(); // the depth of braces at which each inline module around us opened
        let mut braces = 0_usize;
        let text = |at: usize| self.tokens.get(at).map_or("", |token| token.text.as_str());
        for (at, token) in self.tokens.iter().enumerate() {
            match token.text.as_str() {
                "{" => braces += 1,
                "}" => {
                    braces = braces.saturating_sub(1);
                    modules.pop_if(|opened| *opened == braces);
                }
                "mod" if text(at + 2) == "{" => modules.push(braces),
                "crate" | "super" | "std" | "tokio" if text(at + 1) == "::" && text(at.wrapping_sub(1)) != "::" => {
                    let mut ends = Vec::new();
                    follow(&self.tokens, at, &mut Vec::new(), &mut ends);
                    found.extend(ends.into_iter().map(|path| (token.line, modules.len(), path)));
                }
                _ => {}
            }
        }
        found.into_iter()
    }
}

fn row(module: &str) -> Option<usize> {
    LAYERS.iter().position(|row| row.contains(&module))
}

/// The checks themselves, tried on sources that break a rule and on sources that only seem to.
mod the_checks {
    use super::*;

    fn edges(name: &str, text: &str) -> Vec<String> {
        let mut targets: Vec<_> = Source::new(name, text.to_owned()).own_paths().map(|(_, target)| target).collect();
        targets.dedup();
        targets
    }

    fn complaints(name: &str, text: &str) -> String {
        Source::new(name, text.to_owned()).forbidden_edges().concat()
    }

    #[test]
    fn an_edge_is_seen_however_it_is_written() {
        for text in [
            "use crate::session;",
            "use crate::session::Session;",
            "use crate::{session};",
            "use crate::{\n    session::{self, Session},\n};",
            "pub use crate :: session as other;",
            "fn f() -> crate::session::Session { todo }",
            "fn f(x: &crate::session::Session<'_>) {}",
            "macro_rules! m { () => { $crate::session::f() } }",
            "use super::session;",
            "mod inner { use super::super::session; }",
            "mod inner { mod deeper {} use super::super::session; }",
            "const C: char = '\"'; use crate::session; const D: char = '\"';",
            "fn f<'a>(x: &'a str) { g('a', crate::session::X) }",
            "const S: &[u8] = b\"//\"; use crate::session;",
            "const S: &str = r#\" \" /* \"#; use crate::session;",
            "#[cfg(test)] mod tests { fn f() { if x { } } } use crate::session;",
            "#[cfg(test)] use other::{a, b}; use crate::session;",
            "#[cfg(not(test))] use crate::session;",
        ] {
            assert_eq!(edges("cache/mod.rs", text), ["session"], "{text}");
        }
        assert_eq!(edges("cache/key.rs", "use super::super::session;"), ["session"]);
        assert_eq!(edges("lib.rs", "use crate::{app, resp::{Resp, encode}};"), ["app", "resp"]);
    }

    #[test]
    fn what_is_no_edge_is_not_taken_for_one() {
        for text in [
            "// use crate::session;",
            "//! [`crate::session`]",
            "/* /* nested */ use crate::session; */",
            "const S: &str = \"use crate::session;\";",
            "const S: &str = \"\\\" use crate::session;\";",
            "const S: &str = r##\"\"# use crate::session;\"##;",
            "#[cfg(test)]\nmod tests {\n    use crate::session;\n    fn f() { '}' }\n}",
            "#[cfg(test)]\n#[allow(unused)]\nfn f(a: [u8; 3]) -> crate::session::X { x }",
            "#[cfg(test)]\nuse crate::session;",
            "pub(crate) fn f() {}",
            "use self::session::X;",
            "mod inner { use super::session; }",
            "use other::crate_::session;",
        ] {
            assert_eq!(edges("cache/mod.rs", text), [""; 0], "{text}");
        }
        assert_eq!(edges("cache/key.rs", "use super::session;"), [""; 0]);
    }

    #[test]
    fn only_downward_is_allowed() {
        assert_eq!(complaints("cache/mod.rs", "use crate::{cache::Key, command::Spec, resp};"), "");
        assert_eq!(complaints("main.rs", "use crate::app;"), "");
        assert!(complaints("cache/mod.rs", "\nuse crate::upstream;").contains("src/cache/mod.rs:2: `cache` uses"));
        assert!(complaints("cache/mod.rs", "use crate::upstream;").contains("beside"));
        assert!(complaints("upstream/lane.rs", "use crate::cache::Store;").contains("beside"));
        assert!(complaints("cache/mod.rs", "use crate::session;").contains("above"));
        assert!(complaints("resp/mod.rs", "use crate::error;").contains("above"));
        assert!(complaints("cache/mod.rs", "use crate::helper;").contains("no module"));
        assert!(complaints("cache/mod.rs", "use crate::*;").contains("no module"));
        assert!(complaints("helper.rs", "").contains("no row"));
    }

    #[test]
    fn io_is_seen_where_there_must_be_none() {
        for text in ["use tokio::net::TcpStream;", "use std::{fmt, net::TcpStream};", "fn f(x: std::net::IpAddr) {}"] {
            assert_eq!(Source::new("resp/mod.rs", text.to_owned()).io().len(), 1, "{text}");
            assert_eq!(Source::new("upstream/mod.rs", text.to_owned()).io().len(), 0, "{text}");
        }
        assert_eq!(Source::new("resp/mod.rs", "use std::fmt; // tokio::net".to_owned()).io().len(), 0);
    }

    #[test]
    fn heads_and_lengths_are_looked_at() {
        let fault = |text: &str| Source::new("cache/mod.rs", text.to_owned()).head_fault();
        let body = |lines: usize| {
            (0..lines).fold(String::new(), |mut text, n| {
                writeln!(text, "const C{n}: u8 = 0;").expect("a string grows");
                text
            })
        };
        assert!(fault("use std::fmt;\n").is_some());
        assert!(fault("/// Not a head.\nuse std::fmt;\n").is_some());
        assert!(fault("//! Short.\n").is_none());
        assert!(fault(&format!("//! Plain.\n{}", body(LONG - 1))).is_none());
        assert!(fault(&format!("//! Plain.\n{}", body(LONG))).is_some());
        assert!(fault(&format!("//! It goes along.\n{}", body(LONG))).is_some());
        assert!(fault(&format!("//! It is long, for it is one table.\n{}", body(LONG))).is_none());
        assert!(fault(&format!("//! Plain.\n#[cfg(test)]\nmod tests {{\n{}}}\n", body(2 * LONG))).is_none());
    }

    #[test]
    fn every_module_has_one_row() {
        let mut seen = HashSet::new();
        for module in LAYERS.iter().copied().flatten() {
            assert!(seen.insert(module), "{module} stands in two rows");
        }
    }
}
