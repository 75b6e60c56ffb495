//! Pages of documentation: which there are, what they are made of, and their examples, run as they stand.
//!
//! Knows Markdown as these pages have it: headings with `#`, fenced blocks at the margin, links as `[text](target)`.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use super::{AT_LAST, Crema, Redis, is_installed, top};

/// A page, by its path from the top.
#[derive(Debug)]
pub struct Page {
    pub path: String,
    pub text: String,
}

/// What stands between two fences.
#[derive(Debug)]
pub struct Block {
    /// That of its first line.
    pub line: usize,
    /// `toml`, `console` and so on.
    pub kind: String,
    pub text: String,
    /// Whether a new chapter begins between it and the block before.
    pub begins_chapter: bool,
}

/// A command of a page, and what is shown of its output.
#[derive(Debug)]
pub struct Example {
    pub line: usize,
    pub command: String,
    pub shown: Vec<String>,
}

/// What a page has one do after another, with these settings.
#[derive(Debug, Default)]
pub struct Lesson {
    pub settings: String,
    pub examples: Vec<Example>,
}

/// The README and all pages under `docs`, but for the table of contents.
pub fn pages() -> Vec<Page> {
    let mut paths = vec!["README.md".to_owned()];
    let mut open = vec!["docs".to_owned()];
    while let Some(directory) = open.pop() {
        for entry in fs::read_dir(top().join(&directory)).expect("a directory") {
            let entry = entry.expect("an entry");
            let path = format!("{directory}/{}", entry.file_name().to_string_lossy());
            if entry.path().is_dir() {
                open.push(path);
            } else if path.to_lowercase().ends_with(".md") && path != "docs/SUMMARY.md" {
                paths.push(path);
            }
        }
    }
    paths.sort();
    paths.iter().map(|path| Page::read(path)).collect()
}

impl Page {
    pub fn read(path: &str) -> Page {
        let text = fs::read_to_string(top().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"));
        Page { path: path.to_owned(), text }
    }

    pub fn blocks(&self) -> Vec<Block> {
        let (mut blocks, mut open, mut begins_chapter) = (Vec::<Block>::new(), false, true);
        for (number, line) in self.text.lines().enumerate() {
            match line.strip_prefix("```") {
                Some(kind) if !open => {
                    let kind = kind.to_owned();
                    blocks.push(Block { line: number + 2, kind, text: String::new(), begins_chapter });
                    (open, begins_chapter) = (true, false);
                }
                Some(_) => open = false,
                None if open => blocks.last_mut().expect("one is open").text.extend([line, "\n"]),
                None => begins_chapter |= line.starts_with("## "),
            }
        }
        assert!(!open, "{}: a block does not end", self.path);
        blocks
    }

    /// What is no block.
    pub fn prose(&self) -> String {
        let mut open = false;
        let outside = self.text.lines().filter(|line| {
            let is_fence = line.starts_with("```");
            open ^= is_fence;
            !open && !is_fence
        });
        outside.collect::<Vec<_>>().join("\n")
    }

    /// Code within the prose, lines joined.
    pub fn spans(&self) -> Vec<String> {
        self.prose().split('`').skip(1).step_by(2).map(|span| span.replace('\n', " ")).collect()
    }

    /// Where links lead.
    pub fn links(&self) -> Vec<String> {
        self.prose().split("](").skip(1).filter_map(|rest| rest.split(')').next()).map(str::to_owned).collect()
    }

    /// What may stand behind a `#`, made of the headings as the web pages make it.
    pub fn anchors(&self) -> Vec<String> {
        let prose = self.prose();
        let headings = prose
            .lines()
            .filter_map(|line| line.trim_start_matches('#').strip_prefix(' ').filter(|_| line.starts_with('#')));
        headings.map(anchor).collect()
    }

    /// Settings hold until the next, and at most to the end of the chapter.
    pub fn lessons(&self) -> Vec<Lesson> {
        let mut lessons = vec![Lesson::default()];
        for block in self.blocks() {
            let is_new = block.begins_chapter
                || block.kind == "toml" && lessons.last().is_some_and(|lesson| !lesson.examples.is_empty());
            if is_new {
                lessons.push(Lesson::default());
            }
            let lesson = lessons.last_mut().expect("there is one");
            match block.kind.as_str() {
                "toml" => lesson.settings.push_str(&block.text),
                "console" => lesson.examples.extend(block.examples()),
                _ => {}
            }
        }
        lessons.retain(|lesson| !lesson.examples.is_empty());
        lessons
    }
}

impl Block {
    /// The commands of a block of kind `console`.
    pub fn examples(&self) -> Vec<Example> {
        let mut examples: Vec<Example> = Vec::new();
        for (number, line) in self.text.lines().enumerate() {
            match line.strip_prefix("$ ") {
                Some(command) => {
                    let line = self.line + number;
                    examples.push(Example { line, command: command.to_owned(), shown: Vec::new() });
                }
                None => examples.last_mut().expect("a command comes first").shown.push(line.to_owned()),
            }
        }
        examples
    }
}

impl Example {
    /// Whether it asks crema or the Redis behind it, at the ports that they have unless set otherwise.
    pub fn asks_a_server(&self) -> bool {
        let is_named = |with: &str| self.command.contains(with);
        is_named("redis-cli") && !is_named(" -h ") || is_named("http://127.0.0.1:9380")
    }

    /// Runs it with these in place of those that it names, until what it shows is there. What shows nothing must succeed, and
    /// say nothing where `silent`.
    pub fn run(&self, crema: &Crema, redis: &Redis, directory: &Path, silent: bool) {
        let [one, other] = [crema.addr().port(), redis.port()].map(|port| format!("redis-cli -p {port}"));
        let mut command = self.command.replace("redis-cli -p 6380", &one).replace("redis-cli -p 6379", &other);
        if command == self.command {
            command = command.replace("redis-cli", &other);
        }
        command = command.replace("127.0.0.1:9380", &format!("127.0.0.1:{}", crema.admin_port()));
        let page = self
            .command
            .strip_prefix("curl -s http://127.0.0.1:9380")
            .map(|rest| rest.split_once(' ').unwrap_or((rest, "")));
        if page.is_none() && command.starts_with("curl ") && !is_installed("curl") {
            return;
        }
        let begun = Instant::now();
        loop {
            if let Some((path, rest)) = page {
                // Not every machine has a curl.
                fs::write(directory.join("page"), crema.admin(path).expect("it answers").1).expect("a file of its own");
                command = format!("cat {} {rest}", directory.join("page").display());
            }
            let output = shell(&command, directory);
            let text = String::from_utf8_lossy(&output.stdout);
            let said: Vec<&str> = text.lines().collect();
            let succeeds = self.shown.is_empty() && !silent && output.status.success();
            let fits = succeeds || is_shown(&said, &self.shown);
            if fits && !said.iter().any(|line| is_unexpected(line, &self.shown)) {
                return;
            }
            let late = begun.elapsed() > AT_LAST || !only_reads(&self.command);
            let complaint = String::from_utf8_lossy(&output.stderr);
            assert!(!late, "line {}: {}\nsaid:\n{text}\n{complaint}", self.line, self.command);
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

pub fn shell(command: &str, directory: &Path) -> Output {
    Command::new("bash").args(["-c", command]).current_dir(directory).output().expect("bash")
}

/// As GitHub and mdBook make it of a heading.
fn anchor(heading: &str) -> String {
    let kept = heading.chars().filter(|char| char.is_alphanumeric() || [' ', '-', '_'].contains(char));
    kept.map(|char| if char == ' ' { '-' } else { char.to_ascii_lowercase() }).collect()
}

/// Whether this is what is shown, in which a line of `...` stands for any lines. On a terminal redis-cli has `(error)` before an error,
/// elsewhere an empty line behind it.
pub fn is_shown(said: &[&str], shown: &[String]) -> bool {
    match shown.split_first() {
        None => said.is_empty(),
        Some((any, rest)) if any == "..." => (0..=said.len()).any(|at| is_shown(&said[at..], rest)),
        Some((line, rest)) => match line.strip_prefix("(error) ") {
            Some(error) => said.strip_prefix(&[error, ""]).is_some_and(|said| is_shown(said, rest)),
            None => said.first().is_some_and(|first| first == line) && is_shown(&said[1..], rest),
        },
    }
}

/// What only reads may be asked again, for what it waits for happens soon. After a `sleep` it has happened.
pub fn only_reads(command: &str) -> bool {
    let is_read = || [" get ", " mget ", " explain ", " xrevrange "].iter().any(|word| command.contains(word));
    !command.contains("sleep ") && (command.starts_with("curl ") || is_read())
}

/// An error of Redis's or crema's that is not shown as one.
pub fn is_unexpected(line: &str, shown: &[String]) -> bool {
    let word = line.split(' ').next().unwrap_or_default();
    let is_shown = || shown.iter().any(|shown| shown.trim_start_matches("(error) ") == line);
    ["ERR", "NOPERM", "NOAUTH", "NOGROUP", "WRONGTYPE"].contains(&word) && !is_shown()
}

/// Names of files that pages give, where they stand.
pub fn named_files(page: &Page) -> BTreeSet<PathBuf> {
    let own = ["docs/", "tests/", "src/", "deploy/", "config/", "benches/", ".ci/"];
    let is_path = |span: &String| own.iter().any(|top| span.starts_with(top)) && !span.contains([' ', '*', '{']);
    page.spans().into_iter().filter(is_path).map(PathBuf::from).collect()
}
