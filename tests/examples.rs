//! What the README and the pages under `docs` show, done as it stands there: commands against a real Redis with crema in front, crema's own
//! command lines, blocks of settings, the page on TLS from certificates to the first hit. What cannot be run here (`docker`,
//! `systemctl`) is held against the files and targets that it names.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;

use tempfile::TempDir;

use common::page::{Example, Lesson, Page, pages, shell};
use common::redis::{free_port, loopback};
use common::tls::{Authority, path};
use common::top;
use common::{Crema, Redis, eventually, is_installed};

/// A directory with the files that pages name, and the program where they call it.
struct Workshop {
    directory: TempDir,
}

impl Workshop {
    fn new() -> Workshop {
        let directory = tempfile::tempdir().expect("a directory");
        let at = |name: &str| directory.path().join(name);
        let authority = Authority::new();
        let own = authority.issue("own", &["127.0.0.1"]);
        for (from, to) in [(authority.ca(), "ca.pem"), (own.cert, "cert.pem"), (own.key, "key.pem")] {
            fs::copy(from, at(to)).expect("our own directory");
        }
        for copy in ["clients.pem", "origin-ca.pem"] {
            fs::copy(at("ca.pem"), at(copy)).expect("our own directory");
        }
        for (name, text) in [("token", "a-token\n"), ("password.txt", "secret\n"), ("crema.toml", "")] {
            fs::write(at(name), text).expect("our own directory");
        }
        fs::create_dir_all(at("target/release")).expect("our own directory");
        for name in ["crema", "target/release/crema"] {
            symlink(env!("CARGO_BIN_EXE_crema"), at(name)).expect("our own directory");
        }
        for name in ["config", "deploy"] {
            symlink(top().join(name), at(name)).expect("our own directory");
        }
        // The programs that print tokens.
        for program in ["gcloud", "az", "elasticache-token"] {
            fs::write(at(program), "#!/bin/sh\necho a-token\n").expect("our own directory");
            fs::set_permissions(at(program), fs::Permissions::from_mode(0o755)).expect("our own file");
        }
        Workshop { directory }
    }

    fn path(&self) -> &Path {
        self.directory.path()
    }

    /// With paths of this directory in place of the system's.
    fn here(&self, text: &str) -> String {
        let here = self.path().display().to_string();
        text.replace("/etc/crema", &here).replace("/usr/local/bin", &here)
    }

    /// What is written wrong in the settings, or nothing.
    fn complaint(&self, settings: &str) -> Option<String> {
        let file = self.path().join("crema.toml");
        fs::write(&file, self.here(settings)).expect("our own directory");
        let mut crema = Command::new(env!("CARGO_BIN_EXE_crema"));
        crema.env_clear().env("PATH", self.path()).arg("--check").arg("--config").arg(&file);
        let output = crema.output().expect("the program");
        (!output.status.success()).then(|| String::from_utf8_lossy(&output.stderr).into_owned())
    }

    /// Runs a command line of crema's own as far as it does not serve.
    fn check(&self, example: &Example) -> Result<(), String> {
        let command = self.here(&example.command).replace("HOST", "127.0.0.1");
        let checks = command.contains("--check") || command.contains("--hash-password");
        let command = if checks { command } else { format!("{command} --check") };
        let path = format!("PATH={}:$PATH", self.path().display());
        let output = shell(&format!("set -o pipefail; {path}; {command}"), self.path());
        let said = String::from_utf8_lossy(&output.stdout);
        // A hash differs each time: it is shown with an end that stands for anything.
        let shown = example.shown.iter().all(|line| said.contains(line.split('…').next().unwrap_or_default()));
        let error = String::from_utf8_lossy(&output.stderr);
        if output.status.success() && shown { Ok(()) } else { Err(format!("{command}\n{said}{error}")) }
    }
}

#[test]
fn each_block_of_settings_is_good() {
    let workshop = Workshop::new();
    let mut blocks = 0;
    for page in pages() {
        let mut above = String::new();
        for block in page.blocks().iter().filter(|block| block.kind == "toml") {
            // What is said for the whole file stands above what follows it on the page.
            let complaint = workshop.complaint(&block.text);
            if complaint.is_some()
                && let Some(complaint) = workshop.complaint(&format!("{above}{}", block.text))
            {
                panic!("{}:{}: {complaint}\n{}", page.path, block.line, block.text);
            }
            above.push_str(block.text.split("\n[").next().unwrap_or_default());
            above.push('\n');
            blocks += 1;
        }
    }
    assert!(blocks > 20, "{blocks} blocks of settings");
}

/// The pages whose examples stand on servers of their own: `way_over.rs` has the first.
const ELSEWHERE: [&str; 2] = ["docs/from-multi-tier-cache.md", "docs/tls.md"];

#[test]
fn each_command_does_what_is_shown() {
    if std::env::vars_os().any(|(name, _)| name == "CREMA_TEST_DIRECT" || name == "CREMA_TEST_TLS") {
        return; // they say the addresses of a crema without TLS
    }
    let workshop = Workshop::new();
    let mut commands = 0;
    for page in pages().iter().filter(|page| !ELSEWHERE.contains(&page.path.as_str())) {
        for lesson in page.lessons() {
            run(page, &lesson, &workshop);
            commands += lesson.examples.len();
        }
    }
    assert!(commands > 25, "{commands} commands");
}

fn run(page: &Page, lesson: &Lesson, workshop: &Workshop) {
    let (asking, others): (Vec<_>, Vec<_>) = lesson.examples.iter().partition(|example| example.asks_a_server());
    for example in others {
        if let Err(why) = stands(&example.command, example, workshop) {
            panic!("{}:{}: {why}", page.path, example.line);
        }
    }
    if asking.is_empty() {
        return;
    }
    let has_password = asking.iter().any(|example| example.command.contains("-a PASSWORD"));
    let redis = if has_password { Redis::with(&["--requirepass", "PASSWORD"]) } else { Redis::start() };
    let file = workshop.path().join("lesson.toml");
    fs::write(&file, &lesson.settings).expect("our own directory");
    let credentials = if has_password { ":PASSWORD@" } else { "" };
    let url = format!("redis://{credentials}{}", redis.addr());
    let crema = Crema::over(redis.addr()).url(url).flag("--config", file.display()).start();
    crema.await_channel();
    for example in asking {
        example.run(&crema, &redis, workshop.path(), false);
    }
}

/// Whether what is no question to a server can be done, or names what is there.
fn stands(command: &str, example: &Example, workshop: &Workshop) -> Result<(), String> {
    let words: Vec<&str> = command.split_whitespace().collect();
    let named = |path: &str| if top().join(path).exists() { Ok(()) } else { Err(format!("there is no {path}")) };
    match words[..] {
        ["sudo", ..] => stands(&command["sudo ".len()..], example, workshop),
        ["crema", "healthcheck"] => named("src/app/probe.rs"), // which process.rs tries
        ["crema" | "target/release/crema", ..] => workshop.check(example),
        _ if command.contains("| crema ") => workshop.check(example),
        ["make", ref rest @ ..] => is_made(rest),
        ["cargo", ref rest @ ..] => is_cargos(rest),
        ["docker", "build", "-t", "crema", "."] => named("Dockerfile"),
        ["docker", "run", ..] => {
            let (_, arguments) = command.split_once(" crema ").ok_or("what does it run?")?;
            let command = format!("crema {arguments}");
            workshop.check(&Example { line: example.line, command, shown: Vec::new() })
        }
        ["docker", "compose", "-f", file, "up"] | ["kubectl", "apply", "-f", file] | ["systemd-sysusers", file] => {
            named(file)
        }
        ["install", ..] => {
            let command = workshop.here(command).replace("-g crema ", "").replace("/etc/systemd", "systemd");
            let output = shell(&command, workshop.path());
            let complaint = String::from_utf8_lossy(&output.stderr);
            if output.status.success() { Ok(()) } else { Err(format!("{command}\n{complaint}")) }
        }
        ["systemctl", "daemon-reload"] => Ok(()),
        ["apt", "install", "./target/dist/*_amd64.deb"] => is_made(&["dist"]),
        ["systemctl", "enable" | "reload" | "restart" | "start" | "stop", .., unit] => {
            let unit = if unit.contains('.') { unit.to_owned() } else { format!("{unit}.service") };
            named(&format!("deploy/systemd/{unit}"))
        }
        _ => Err(format!("nobody here knows how to try {command}")),
    }
}

/// Targets of the Makefile, and variables that it has.
fn is_made(words: &[&str]) -> Result<(), String> {
    let makefile = Page::read("Makefile").text;
    let targets = makefile.lines().find_map(|line| line.strip_prefix(".PHONY: ")).expect("targets");
    for word in words {
        let known = match word.split_once('=') {
            Some((name, _)) => {
                makefile.contains(&format!("$({name})")) || makefile.contains(&format!("$(if $({name})"))
            }
            None => targets.split(' ').any(|target| target == *word),
        };
        if !known {
            return Err(format!("the Makefile does not know {word}"));
        }
    }
    Ok(())
}

/// What Cargo has, and this project.
fn is_cargos(words: &[&str]) -> Result<(), String> {
    let manifest = Page::read("Cargo.toml").text;
    let has = |name: &str| {
        manifest.contains(&format!("name = \"{name}\"")) || top().join(format!("tests/{name}.rs")).exists()
    };
    match words {
        ["build", "--release"] | ["test", "--lib"] | ["clean" | "deny"] => Ok(()),
        ["bench", "--bench", name, ..] | ["test", "--test", name, ..] if has(name) => Ok(()),
        _ => Err(format!("is there a cargo {}?", words.join(" "))),
    }
}

/// Commands and flags within the text.
#[test]
fn what_the_text_calls_is_there() {
    let help = Command::new(env!("CARGO_BIN_EXE_crema")).arg("--help").output().expect("the program");
    let help = String::from_utf8_lossy(&help.stdout).into_owned();
    let knows = |flag: &str| help.split_whitespace().any(|word| word.trim_end_matches(',') == flag);
    let mut calls = 0;
    for page in pages() {
        for span in page.spans() {
            let words: Vec<&str> = span.split_whitespace().collect();
            let judged = match words[..] {
                // A service's own.
                [first, ..] if first.starts_with("--") && page.path.contains("/services/") => continue,
                ["make", ref rest @ ..] if !rest.is_empty() => is_made(rest),
                ["cargo", ref rest @ ..] => is_cargos(rest),
                ["crema", ref rest @ ..] | ref rest if rest.first().is_some_and(|word| word.starts_with("--")) => {
                    let unknown = rest.iter().find(|word| word.starts_with("--") && !knows(word));
                    unknown.map_or(Ok(()), |flag| Err(format!("crema has no {flag}")))
                }
                _ => continue,
            };
            if let Err(why) = judged {
                panic!("{}: `{span}`: {why}", page.path);
            }
            calls += 1;
        }
    }
    assert!(calls > 20, "{calls} calls");
}

/// Text without its indentation, and without comments.
fn squeezed(text: &str) -> String {
    let line = |line: &str| line.split(" # ").next().unwrap_or_default().trim().to_owned();
    text.lines().map(line).filter(|line| !line.is_empty() && !line.starts_with('#')).collect::<Vec<_>>().join("\n")
}

/// Whether the lines stand in the text in this order, others between them.
fn is_excerpt(of: &str, lines: &str) -> bool {
    let mut rest = of.lines();
    lines.lines().all(|line| rest.any(|other| other == line))
}

/// Files for others' programs are shown in part; whole they are under `deploy`, and `deploy.rs` tries them.
#[test]
fn what_is_shown_of_files_stands_in_them() {
    let files: Vec<String> = texts("deploy").iter().map(|text| squeezed(text)).collect();
    let mut blocks = 0;
    for page in pages() {
        for block in page.blocks().iter().filter(|block| ["yaml", "ini"].contains(&block.kind.as_str())) {
            let shown = squeezed(&block.text);
            assert!(files.iter().any(|file| is_excerpt(file, &shown)), "{}:{} is in no file", page.path, block.line);
            blocks += 1;
        }
    }
    assert!(blocks >= 6, "{blocks} blocks");
}

/// Whether a line of the log is one of crema's, by any four words that stand next to each other.
fn is_logged(line: &str, sources: &str) -> bool {
    let words: Vec<&str> = line.split(' ').collect();
    words.windows(4).any(|words| sources.contains(&words.join(" ")))
}

/// What files hold, under a directory of the project.
fn texts(directory: &str) -> Vec<String> {
    let (mut texts, mut open) = (Vec::new(), vec![top().join(directory)]);
    while let Some(path) = open.pop() {
        if path.is_dir() {
            open.extend(fs::read_dir(&path).expect("a directory").map(|entry| entry.expect("an entry").path()));
        } else {
            texts.push(fs::read_to_string(&path).expect("text"));
        }
    }
    texts
}

/// No block is of a kind that nobody looks at.
#[test]
fn each_block_is_of_a_kind_that_is_tried() {
    let sources = texts("src").concat();
    for page in pages() {
        for block in page.blocks() {
            let is_tried = ["toml", "console", "yaml", "ini", "sh"].contains(&block.kind.as_str());
            let is_acl = block.kind == "text" && block.text.starts_with("ACL SETUSER ");
            let is_log = block.kind == "text" && block.text.lines().all(|line| is_logged(line, &sources));
            assert!(is_tried || is_acl || is_log, "{}:{}: {}", page.path, block.line, block.kind);
        }
    }
}

/// Users that pages make, on a server that is asked as those would be.
#[test]
fn users_that_pages_make_can_be_made() {
    let mut users = 0;
    for page in pages() {
        for block in page.blocks().iter().filter(|block| block.text.starts_with("ACL SETUSER ")) {
            let sentinel = tempfile::tempdir().expect("a directory");
            let file = sentinel.path().join("sentinel.conf");
            fs::write(&file, "sentinel monitor main 127.0.0.1 6379 1\n").expect("our own directory");
            let port = free_port().to_string();
            let mut server = Command::new("redis-server");
            server.arg(&file).args(["--sentinel", "--port", &port, "--bind", "127.0.0.1"]);
            let mut server = server.stdout(std::process::Stdio::null()).spawn().expect("redis-server is installed");
            let ask = |command: &str| shell(&format!("redis-cli -p {port} {command}"), sentinel.path());
            eventually("it answers", || ask("ping").status.success());
            let output = ask(&block.text.trim().replace('>', "\\>").replace('|', "\\|"));
            server.kill().and_then(|()| server.wait()).expect("our own child");
            assert_eq!(String::from_utf8_lossy(&output.stdout), "OK\n", "{}:{}", page.path, block.line);
            users += 1;
        }
    }
    assert!(users > 0);
}

/// From certificates to the first hit: its commands one after the other, with its settings, all in one directory.
#[test]
fn the_page_on_tls_is_gone_through() {
    if !is_installed("openssl") {
        return;
    }
    let workshop = Workshop::new();
    let page = Page::read("docs/tls.md");
    for own in ["ca.pem", "cert.pem", "key.pem", "clients.pem"] {
        fs::remove_file(workshop.path().join(own)).expect("it is there");
    }
    let redis = Redis::start();
    redis.client().cmd(&["ACL", "SETUSER", "readonly", "on", ">secret", "+@all", "~*", "&*"]);
    redis.client().cmd(&["SET", "k", "v"]);
    // Each crema has the settings of all that came before.
    let (mut settings, mut crema, mut asked) = (String::new(), None, 0);
    let addr = loopback(free_port());
    for block in page.blocks() {
        match block.kind.as_str() {
            "sh" => {
                let output = shell(&format!("set -e\n{}", block.text), workshop.path());
                assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            }
            "toml" if !block.text.contains("upstream = ") => {
                settings = format!("{}{settings}", block.text.split("[[user]]").next().unwrap_or_default());
                if let Some((_, user)) = block.text.split_once("[[user]]") {
                    settings.extend(["[[user]]", user]);
                }
                crema = None;
            }
            "console" => {
                for example in block.examples() {
                    if !example.command.starts_with("redis-cli") {
                        workshop.check(&example).unwrap_or_else(|why| panic!("{}: {why}", example.line));
                        continue;
                    }
                    crema.get_or_insert_with(|| {
                        let file = workshop.path().join("crema.toml");
                        fs::write(&file, workshop.here(&settings)).expect("our own directory");
                        Crema::over(redis.addr()).flag("--config", path(&file)).also_under_tls(addr).start()
                    });
                    let command = example.command.replace("-h cache.internal -p 6390", &format!("-p {}", addr.port()));
                    let output = shell(&command, workshop.path());
                    assert_eq!(String::from_utf8_lossy(&output.stdout), "v\n", "{command}");
                    asked += 1;
                }
            }
            _ => {}
        }
    }
    assert_eq!(asked, 2);
}
