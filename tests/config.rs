//! Settings as a user meets them: precedence, refusals that point at the culprit, the shipped file, and `crema --check`.

use std::collections::BTreeMap;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use clap::{CommandFactory, Parser};
use crema::config::{
    self, Auth, ClientNames, Coherence, Config, Endpoint, Flags, Listen, LogFormat, Password, Promote, Secret,
    UpstreamDown, UpstreamPassword,
};
use tempfile::TempDir;

const MIB: u64 = 1 << 20;

/// A directory with a `crema.toml` of this text.
fn file(text: &str) -> (TempDir, PathBuf) {
    let directory = tempfile::tempdir().expect("a temporary directory can be made");
    let path = directory.path().join("crema.toml");
    fs::write(&path, text).expect("the directory is ours");
    (directory, path)
}

fn flags(arguments: &[&str]) -> Flags {
    Flags::try_parse_from([&["crema"], arguments].concat()).unwrap_or_else(|error| panic!("{error}"))
}

fn variables(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

/// Reads all three sources, with the directory of the file left out of what is said.
fn load(arguments: &[&str], pairs: &[(&str, &str)], text: &str) -> Result<Config, String> {
    let (directory, path) = file(text);
    let mut flags = flags(arguments);
    flags.config = Some(path);
    let prefix = format!("{}/", directory.path().display());
    config::load_with(flags, variables(pairs)).map_err(|error| error.to_string().replace(&prefix, ""))
}

fn from_file(text: &str) -> Result<Config, String> {
    load(&[], &[], text)
}

fn address(text: &str) -> SocketAddr {
    text.parse().expect("an address")
}

fn shipped() -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("config/crema.toml")).expect("the file is shipped")
}

#[test]
fn nothing_set_gives_the_documented_defaults() {
    let config = config::load_with(Flags::default(), BTreeMap::new()).expect("the defaults are good");
    assert_eq!(config.listen, [Listen::plain(address("127.0.0.1:6380"))]);
    assert_eq!(config.upstream.node, Endpoint::Tcp { host: "127.0.0.1".to_owned(), port: 6379 });
    assert_eq!((config.upstream.user.as_deref(), config.upstream.db, config.upstream.tls.clone()), (None, 0, None));
    assert_eq!(config.admin, Some(address("127.0.0.1:9380")));
    assert!((1..=256).contains(&config.threads.get()));
    assert_eq!((config.promote, config.l1_size, config.max_value), (10, 256 * MIB, MIB));
    assert_eq!(config.max_staleness, Duration::from_millis(500));
    assert_eq!(config.acl_recheck, Duration::from_secs(5));
    assert_eq!((config.max_clients, config.max_upstream), (10_000, 1_000));
    assert_eq!((config.idle_timeout, config.drain_timeout), (None, Duration::from_secs(10)));
    assert_eq!(config.drain_delay, Duration::ZERO);
    assert_eq!((config.output_limit, config.lane_window), (64 * MIB, 64 * MIB));
    assert_eq!(
        (config.connect_timeout, config.response_timeout),
        (Duration::from_secs(5), Some(Duration::from_secs(30)))
    );
    assert_eq!((config.client_names, config.log_format), (ClientNames::Virtual, LogFormat::Text));
    assert_eq!(config.upstream_down, UpstreamDown::Close);
    assert!(config.rules.is_empty());
    assert_eq!((config.auth.clone(), config.coherence.clone()), (Auth::Upstream, Coherence::Auto));
    assert_eq!(config.channel.name, "cache:invalidate");
    assert_eq!(
        (config.channel.enabled, config.channel.publish, config.channel.audit_stream.as_deref()),
        (true, false, None)
    );
    assert_eq!((config.channel.audit_length, config.channel.stream.as_deref()), (Some(10_000), None));
    assert_eq!(config, Config::default());
}

#[test]
fn flags_win_over_variables_and_these_over_the_file() {
    let text = "promote = 1\nl1_size = \"1MiB\"\nmax_clients = 1\n";
    let pairs = [("CREMA_PROMOTE", "2"), ("CREMA_L1_SIZE", "2MiB")];
    let config = load(&["--promote", "3"], &pairs, text).expect("all are good");
    assert_eq!((config.promote, config.l1_size, config.max_clients), (3, 2 * MIB, 1));
    assert_eq!(config.acl_recheck, Duration::from_secs(5));
}

#[test]
fn a_stronger_source_hides_a_wrong_value_of_a_weaker_one() {
    let config = load(&["--promote=3"], &[("CREMA_PROMOTE", "often")], "promote = \"x\"").expect("the flag counts");
    assert_eq!(config.promote, 3);
}

#[test]
fn the_file_may_be_named_by_a_variable() {
    let (_directory, path) = file("promote = 7");
    let named = variables(&[("CREMA_CONFIG", path.to_str().expect("is UTF-8"))]);
    assert_eq!(config::load_with(Flags::default(), named).expect("is good").promote, 7);
}

#[test]
fn empty_and_foreign_variables_are_left_alone() {
    let pairs = [
        ("CREMA_PROMOTE", ""),
        ("CREMA_UPSTREAM", " "),
        ("CREMA_CONFIG", ""),
        ("CREMA_PORT", "tcp://10.0.0.1:6380"),
        ("CREMA_SERVICE_HOST", "10.0.0.1"),
        ("PROMOTE", "5"),
    ];
    assert_eq!(config::load_with(Flags::default(), variables(&pairs)).expect("none counts"), Config::default());
}

#[test]
fn a_misspelt_variable_is_refused() {
    let error = load(&[], &[("CREMA_MAX_STALENES", "1s")], "").expect_err("no setting");
    assert!(error.contains("unknown variable `CREMA_MAX_STALENES`; did you mean `CREMA_MAX_STALENESS`?"), "{error}");
    let error = load(&[], &[("CREMA_CONFG", "x.toml")], "").expect_err("no setting");
    assert!(error.ends_with("did you mean `CREMA_CONFIG`?"), "{error}");
    load(&[], &[("CREMA_CONFIG", "not read")], "").expect("the flag --config wins");
}

#[test]
fn the_shipped_file_has_every_key_at_its_default() {
    let text = shipped();
    assert_eq!(from_file(&text).expect("the shipped file is good"), Config::default());

    let table: toml::Table = text.parse().expect("is TOML");
    let mut keys: Vec<String> = Vec::new();
    for (key, value) in &table {
        match value.as_table() {
            Some(inner) => keys.extend(inner.keys().map(|name| format!("{key}-{name}"))),
            None => keys.push(key.clone()),
        }
    }
    let mut in_file: Vec<String> = keys.iter().map(|key| key.replace('_', "-")).collect();
    let modes = ["config", "check", "hash-password", "help", "version"];
    let command = Flags::command();
    let flags = command.get_arguments().filter_map(|argument| argument.get_long()).filter(|flag| !modes.contains(flag));
    let mut in_flags: Vec<String> = flags.map(str::to_owned).collect();
    in_file.sort();
    in_flags.sort();
    assert_eq!(in_file, in_flags);
}

#[test]
fn the_help_and_the_shipped_file_tell_the_same_defaults() {
    let table: toml::Table = shipped().parse().expect("is TOML");
    let command = Flags::command();
    for argument in command.get_arguments() {
        let (Some(flag), Some(help)) = (argument.get_long(), argument.get_help()) else { continue };
        let key = flag.replace('-', "_");
        let value = match key.strip_prefix("channel_") {
            Some(name) => table["channel"].get(name),
            None => table.get(&key),
        };
        let Some(value) = value else { continue };
        let value = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        assert!(help.to_string().ends_with(&format!("[default: {value}]")), "--{flag}: {help}");
    }
}

#[test]
fn the_rule_of_the_shipped_file_is_good_when_uncommented() {
    let text = shipped();
    let (_, rule) = text.split_once("# [[rule]]").expect("an example of a rule");
    let rule = rule.split("# --- ").next().expect("a part of it");
    let lines = rule.lines().filter_map(|line| line.strip_prefix("# ")).filter(|line| line.contains(" = "));
    let config =
        from_file(&format!("[[rule]]\n{}", lines.collect::<Vec<_>>().join("\n"))).expect("the example is good");
    let [rule] = &config.rules[..] else { panic!("one rule: {:?}", config.rules) };
    assert!(rule.pattern.matches(b"session:1") && !rule.pattern.matches(b"user:1"));
    assert_eq!(rule.ceiling, Some(Duration::from_secs(300)));
    assert_eq!((rule.promote, rule.max_value), (Some(Promote::OneIn(1)), Some(64 << 10)));
}

#[test]
fn the_tier_of_the_shipped_file_is_good_when_uncommented() {
    let text = shipped();
    let (_, tier) = text.split_once("# [[tier]]").expect("an example of a tier");
    let tier = tier.split("# ---").next().unwrap_or_default();
    let lines = tier.lines().filter_map(|line| line.strip_prefix("# ")).filter(|line| line.contains(" = "));
    let config =
        from_file(&format!("[[tier]]\n{}", lines.collect::<Vec<_>>().join("\n"))).expect("the example is good");
    let [tier] = &config.tiers[..] else { panic!("one tier: {:?}", config.tiers) };
    assert!(tier.pattern.matches(b"page:1") && tier.server.to_string() == "redis://cold:6379");
    let plain = from_file("[[tier]]\nmatch = \"page:*\"\nurl = \"memcached://cold\"").expect("the least there can be");
    let plain = &plain.tiers[0];
    assert_eq!((plain.max_stay, plain.max_value, plain.copy_up), (tier.max_stay, tier.max_value, tier.copy_up));
    assert_eq!((plain.timeout, plain.flush, plain.name.as_str()), (tier.timeout, tier.flush, "l3"));
}

#[test]
fn a_tier_that_cannot_be_is_refused_where_it_stands() {
    let page = "[[tier]]\nmatch = \"page:*\"\n";
    for (text, at) in [
        ("[[tier]]\nurl = \"redis://a\"".to_owned(), "crema.toml:1:1: tier: a tier names no keys"),
        (page.to_owned(), "crema.toml:1:1: tier: a tier is nowhere"),
        (format!("{page}url = \"http://a\""), "crema.toml:3:7: tier.url: "),
        (format!("{page}url = \"redis://a\"\nttl_scale = 0"), "crema.toml:4:13: tier.ttl_scale: "),
        (format!("{page}url = \"redis://a\"\nname = \"a b\""), "crema.toml:4:8: tier.name: "),
        (
            format!("{page}url = \"redis://a\"\nname = \"x\"\n{page}url = \"redis://b\"\nname = \"x\""),
            "crema.toml:5:1: tier: an earlier",
        ),
    ] {
        let refused = from_file(&text).expect_err(&text);
        assert!(refused.starts_with(at), "{refused}");
    }
}

#[test]
fn every_setting_names_its_flag_its_variable_and_its_line() {
    let any_text = [
        "admin-users",
        "admin-token",
        "channel-name",
        "channel-audit-stream",
        "channel-stream",
        "sentinel-user",
        "sentinel-password",
    ];
    let wrong = |flag: &str| if any_text.contains(&flag) { " " } else { "nonsense" };
    let command = Flags::command();
    let modes = ["config", "check", "hash-password", "help", "version"];
    for flag in command.get_arguments().filter_map(|argument| argument.get_long()).filter(|flag| !modes.contains(flag))
    {
        let value = wrong(flag);
        let by_flag = load(&[&format!("--{flag}={value}")], &[], "").expect_err(flag);
        assert!(by_flag.starts_with(&format!("--{flag}: ")), "{by_flag}");

        let variable = format!("CREMA_{}", flag.replace('-', "_").to_uppercase());
        if value != " " {
            let by_variable = load(&[], &[(&variable, value)], "").expect_err(flag);
            assert!(by_variable.starts_with(&format!("{variable}: ")), "{by_variable}");
        }

        let key = flag.replace('-', "_");
        let (text, place) = match key.strip_prefix("channel_") {
            Some(name) => (
                format!("[channel]\n{name} = \"{value}\""),
                format!("crema.toml:2:{}: channel.{name}: ", name.len() + 4),
            ),
            None => (format!("# a note\n{key} = \"{value}\""), format!("crema.toml:2:{}: {key}: ", key.len() + 4)),
        };
        let by_file = from_file(&text).expect_err(flag);
        assert!(by_file.starts_with(&place), "{by_file}");
        assert!(by_file.contains("; "), "says what would be right: {by_file}");
    }
}

#[test]
fn bounds_hold() {
    let good = [
        "max_staleness = \"20ms\"",
        "max_staleness = \"1m\"",
        "l1_size = 0",
        "l1_size = 1048576",
        "l1_size = \"1MiB\"",
        "threads = 1\nmax_upstream = 3",
        "threads = 1024\nmax_upstream = 1026",
        "threads = \"auto\"",
        "promote = 0",
        "promote = \"never\"",
        "admin = \"off\"",
        "max_clients = 1",
        "idle_timeout = 0",
        "idle_timeout = \"300s\"",
        "response_timeout = 0",
        "drain_timeout = 0",
        "listen = \"127.0.0.1:9380\"\nadmin = \"off\"",
        "listen = [\"127.0.0.1:0\", \"[::1]:0\", \"/run/crema.sock\"]\nadmin = \"127.0.0.1:0\"",
        "client_names = \"virtual\"",
        "upstream_down = \"close\"",
        "upstream_down = \"loading\"",
        "upstream_down = \"error\"",
        "log_format = \"json\"",
        "channel = { publish = true, audit_stream = \"cache:invalidations\" }",
        "channel = { audit_length = \"off\", stream = \"cache:invalidations\" }",
    ];
    for text in good {
        from_file(text).unwrap_or_else(|error| panic!("{text}: {error}"));
    }
    let bad = [
        ("max_staleness = \"19ms\"", "write 20ms to 1m"),
        ("max_staleness = \"61s\"", "write 20ms to 1m"),
        ("max_staleness = 0", "write 20ms to 1m"),
        ("max_staleness = 500", "write 500ms"),
        ("l1_size = 1", "write 1MiB to 16TiB"),
        ("upstream_down = \"refuse\"", "close, loading, error"),
        ("l1_size = -1", "write for example 64MiB"),
        ("threads = 0", "1 to 1024"),
        ("threads = 1025", "1 to 1024"),
        ("promote = -1", "never"),
        ("max_clients = 0", "write 1 to 1000000"),
        ("idle_timeout = \"1ms\"", "write 1s to"),
        ("max_value = 0", "write 1 to 512MiB"),
        ("listen = \"\"", "write an IP address"),
        ("listen = []", "write an IP address"),
        ("listen = \"127.0.0.1:1,127.0.0.1:1\"", "cannot be bound together"),
        ("channel = { enabled = 1 }", "write true or false"),
        ("log_format = \"jsn\"", "did you mean `json`?"),
    ];
    for (text, reason) in bad {
        let error = from_file(text).expect_err(text);
        assert!(error.starts_with("crema.toml:1:") && error.contains(reason), "{text}: {error}");
    }
}

#[test]
fn contradictions_are_refused_where_they_were_made() {
    let bad = [
        (
            "admin = \"127.0.0.1:6380\"",
            "crema.toml:1:9: admin: clients at 127.0.0.1:6380 and admin at 127.0.0.1:6380 share an address",
        ),
        ("\nlisten = \"0.0.0.0:9380\"", "crema.toml:2:10: listen: clients at 0.0.0.0:9380 and admin"),
        ("listen = \"0.0.0.0:6379\"", "crema.toml:1:10: listen: the upstream is crema itself"),
        ("upstream = \"redis://localhost:6380\"", "crema.toml:1:12: upstream: the upstream is crema itself"),
        (
            "l1_size = \"1MiB\"\nmax_value = \"2MiB\"",
            "crema.toml:2:13: max_value: a reply of 2MiB would not fit in 1MiB",
        ),
        (
            "threads = 8\nmax_upstream = 9",
            "crema.toml:2:16: max_upstream: 9 upstream connections are too few for 8 threads",
        ),
        ("threads = 1000", "crema.toml:1:11: threads: 1000 upstream connections are too few"),
        ("broadcast_prefixes = [\"a:\"]", "crema.toml:1:22: broadcast_prefixes: prefixes mean nothing to auto"),
        (
            "broadcast_prefixes = [\"a:b\", \"a:\"]",
            "crema.toml:1:22: broadcast_prefixes: the prefix `a:b` begins with `a:`",
        ),
        (
            "read_from = \"replica\"",
            "crema.toml:1:13: read_from: the upstream is a single server, of which crema knows no replicas",
        ),
        ("auth = \"own\"", "crema.toml:1:8: auth: nobody could log in"),
        (
            "[[user]]\nname = \"a\"\npassword = \"b\"",
            "auth (by default): users of crema's own stand in the file, and nobody is asked for them",
        ),
        ("[channel]\nenabled = false\npublish = true", "crema.toml:3:11: channel.publish: "),
        (
            "coherence = \"channel\"\n[channel]\nenabled = false",
            "crema.toml:3:11: channel.enabled: a channel that is not enabled cannot keep memory coherent",
        ),
        (
            "coherence = \"channel\"\nbroadcast_prefixes = [\"a:\"]",
            "crema.toml:2:22: broadcast_prefixes: prefixes mean nothing to channel",
        ),
        ("[channel]\naudit_stream = \"log\"", "crema.toml:2:16: channel.audit_stream: "),
        (
            "deny = [\"KEYS\", \"FLUSHAL\"]",
            "crema.toml:1:8: deny: there is no command `FLUSHAL`; write a command as Redis",
        ),
        ("listen = \"127.0.0.1:1?deny=flushal\"", "crema.toml:1:10: listen: there is no command `flushal`"),
        ("deny = \"@danger\"", "crema.toml:1:8: deny: unknown category `danger`; write one of keyspace, read"),
        ("deny = \"config|sett\"", "crema.toml:1:8: deny: there is no command `config|sett`"),
        ("deny = \"hello\"", "crema.toml:1:8: deny: `hello` cannot be denied: Redis allows it to everybody"),
    ];
    for (text, expected) in bad {
        let error = from_file(text).expect_err(text);
        assert!(error.starts_with(expected), "{text}: {error}");
    }
    let mixed =
        load(&["--listen", "127.0.0.1:7000"], &[("CREMA_ADMIN", "127.0.0.1:7000")], "").expect_err("one address");
    assert!(mixed.starts_with("CREMA_ADMIN: "), "{mixed}");
    let several =
        from_file("max_value = \"300MiB\"\nmax_upstream = 3\nthreads = 8\nauth = \"own\"").expect_err("three");
    for (line, key) in several.lines().zip([":1:13: max_value: ", ":2:16: max_upstream: ", ":4:8: auth: "]) {
        assert!(line.contains(key), "{several}");
    }
    assert_eq!(several.lines().count(), 3, "{several}");
}

#[test]
fn a_stay_ends_only_where_something_says_so_and_with_the_channel_always() {
    let ceiling = |text: &str| from_file(text).expect(text).ceiling.map(|ceiling| ceiling.as_secs());
    assert_eq!(ceiling(""), None);
    assert_eq!(ceiling("class = \"long-term\""), Some(10_800));
    assert_eq!(ceiling("coherence = \"channel\""), Some(300));
    assert_eq!(ceiling("coherence = \"channel\"\nclass = \"90s\""), Some(90));
    let error = from_file("class = \"longterm\"").expect_err("misspelt");
    assert_eq!(error, "crema.toml:1:9: class: unknown class `longterm`; did you mean `long-term`?");
}

#[test]
fn users_of_cremas_own_are_read_and_their_passwords_kept() {
    let config = from_file(
        r#"
        auth = "own"
        [[user]]
        name = "default"
        password = " with blanks "
        [[user]]
        name = "alice"
        password = "hunter2"
        upstream_user = "app"
        upstream_password = "hunter3"
    "#,
    )
    .expect("good");
    let Auth::Own(users) = &config.auth else { panic!("{:?}", config.auth) };
    assert_eq!(users[0].name, "default");
    assert_eq!(users[0].password, Some(Password::Plain(Secret::new(" with blanks "))));
    assert_eq!(users[0].upstream, None);
    let (name, password) = users[1].upstream.as_ref().expect("mapped");
    assert_eq!((name.as_str(), password), ("app", &UpstreamPassword::Fixed(Secret::new("hunter3"))));
    let shown = format!("{config:?}{config}");
    assert!(!shown.contains("hunter"), "{shown}");
    assert_eq!(from_file("auth = \"open\"").expect("good").auth, Auth::Open);
}

#[test]
fn users_that_anybody_could_be_are_refused() {
    for (user, reason) in [
        ("password = \"x\"", "a user lacks its name"),
        ("name = \"\"\npassword = \"x\"", "a user's name is empty"),
        ("name = \"a\"", "a user lacks its password"),
        ("name = \"a\"\npassword = \"\"", "an empty password"),
        ("name = \"a\"\npassword = \"x\"\npassword_file = \"/x\"", "a user's password is given twice"),
        ("name = \"a\"\npassword_file = \"/no/such/file\"", "password_file /no/such/file: No such file"),
        ("name = \"a\"\npassword_hash = \"$2b$12$abc\"", "password_hash is no hash by argon2 or scrypt"),
        ("name = \"a\"\npassword = \"x\"\nupstream_user = \"b\"", "upstream_user has no password"),
        ("name = \"a\"\npassword = \"x\"\n[[user]]\nname = \"a\"\npassword = \"y\"", "there is a user `a` already"),
    ] {
        let error = from_file(&format!("auth = \"own\"\n[[user]]\n{user}")).expect_err(user);
        assert!(error.contains(&format!(": user: {reason}")), "{user}: {error}");
    }
}

#[test]
fn certificates_name_users_only_where_they_are_asked_for_and_users_are_cremas_own() {
    let cases = [
        ("auth = \"upstream\"\n", "crema has users of its own only with auth = \"own\""),
        ("auth = \"open\"\n", "crema has users of its own only with auth = \"own\""),
        ("auth = \"own\"\n[[user]]\nname = \"a\"\n", "clients are not asked for certificates"),
    ];
    for (settings, reason) in cases {
        let error = from_file(&format!("tls_client_user = \"cn\"\n{settings}")).expect_err(settings);
        assert!(error.contains("crema.toml:1:19: tls_client_user: ") && error.contains(reason), "{error}");
    }
    let error = from_file("tls_client_user = \"dn\"").expect_err("no such field");
    assert!(error.contains("unknown field of certificates `dn`"), "{error}");
}

#[test]
fn the_origin_of_the_shipped_file_is_good_when_uncommented() {
    let text = shipped();
    let (_, origin) = text.split_once("# [[origin]]").expect("an example of an origin");
    let origin = origin.split("# --- ").next().expect("a part of it");
    let is_usual = |line: &&str| {
        line.contains(" = ")
            && !["ca", "cert", "key", "sni", "verify"].contains(&line.split(' ').next().expect("a word"))
    };
    let lines = origin.lines().filter_map(|line| line.strip_prefix("# ")).filter(is_usual);
    let text = format!("[[origin]]\n{}", lines.collect::<Vec<_>>().join("\n"));
    let config = from_file(&text).expect("the example is good");
    let [origin] = &config.origins[..] else { panic!("one origin: {:?}", config.origins) };
    let url = origin.url.url(&origin.pattern, b"page:a/b").expect("a good key");
    assert_eq!(url, "http://127.0.0.1:8080/render/a%2Fb");
    let bare =
        from_file("[[origin]]\nmatch = \"page:*\"\nurl = \"http://127.0.0.1:8080/render/{1}\"").expect("defaults");
    let headers = origin.headers.clone();
    assert_eq!(config::OriginRule { headers, ..bare.origins[0].clone() }, *origin, "the example has the defaults");
}

#[test]
fn origins_that_mean_nothing_are_refused() {
    let good = "[[origin]]\nmatch = \"a:*\"\nurl = \"http://h/{1}\"\n";
    for (more, says) in [
        ("ttl = \"0\"", "crema.toml:4:7: origin.ttl: "),
        ("load_timeout = 5", "crema.toml:4:16: origin.load_timeout: `5` has no unit"),
        ("negative = \"1ms\"", "crema.toml:4:12: origin.negative: "),
        ("max_concurrent = 0", "crema.toml:4:18: origin.max_concurrent: "),
        ("respect = \"yes, please\"", "crema.toml:4:11: origin.respect: "),
        ("headers = [\"hunter2\"]", "crema.toml:4:11: origin.headers: a header has no : behind its name"),
        ("ca = \"x\"", "crema.toml:4:6: origin.ca: it is of use under https:// alone"),
        ("tll = \"1s\"", "crema.toml:4:1: unknown key `tll`; did you mean `ttl`?"),
        ("[[origin]]\nmatch = \"a:*\"\nurl = \"http://h/{1}\"", "crema.toml:4:1: origin: an earlier origin matches"),
        ("[[origin]]\nmatch = \"b:*\"", "crema.toml:4:1: origin: an origin has no url"),
        ("[[origin]]\nurl = \"http://h/{1}\"", "crema.toml:4:1: origin: an origin names no keys"),
        ("[[origin]]\nmatch = \"b:*\"\nurl = \"http://h/{2}\"", "crema.toml:6:7: origin.url: `{2}` stands for no *"),
    ] {
        let error = from_file(&format!("{good}{more}\n")).expect_err(more);
        assert!(error.starts_with(says) && !error.contains("hunter2"), "{more}: {error}");
    }
}

#[test]
fn rules_are_read_in_order() {
    let text = r#"
        [[rule]]
        match = "session:*"
        class = "real-time"

        [[rule]]
        match = "[^a]?*"
        class = "90s"
        promote = "never"

        [[rule]]
        match = "big:*"
        promote = 100
        max_value = "4MiB"
    "#;
    let config = from_file(text).expect("all are good");
    let patterns: Vec<String> = config.rules.iter().map(|rule| rule.pattern.to_string()).collect();
    assert_eq!(patterns, ["session:*", "[^a]?*", "big:*"]);
    let ceilings: Vec<Option<u64>> =
        config.rules.iter().map(|rule| rule.ceiling.map(|ceiling| ceiling.as_secs())).collect();
    assert_eq!(ceilings, [Some(10), Some(90), None]);
    let rates: Vec<Option<Promote>> = config.rules.iter().map(|rule| rule.promote).collect();
    assert_eq!(rates, [None, Some(Promote::Never), Some(Promote::OneIn(100))]);
    assert_eq!(config.rules[2].max_value, Some(4 * MIB));
}

#[test]
fn rules_that_mean_nothing_are_refused() {
    let bad = [
        ("[[rule]]\nclass = \"90s\"", "crema.toml:1:1: rule: a rule names no keys"),
        ("[[rule]]\nmatch = \"\"\nclass = \"90s\"", "crema.toml:1:1: rule: a rule names no keys"),
        ("\n[[rule]]\nmatch = \"a*\"", "crema.toml:2:1: rule: a rule says nothing of its keys"),
        (
            "[[rule]]\nmatch = \"a*\"\nclass = \"realtime\"",
            "crema.toml:3:9: rule.class: unknown class `realtime`; did you mean `real-time`?",
        ),
        ("[[rule]]\nmatch = \"a*\"\nclass = 90", "crema.toml:3:9: rule.class: `90` has no unit"),
        ("[[rule]]\nmatch = \"a*\"\npromote = \"often\"", "crema.toml:3:11: rule.promote: "),
        (
            "[[rule]]\nmatch = \"a*\"\nmax_value = \"1GiB\"",
            "crema.toml:3:13: rule.max_value: `1GiB` is too large; write 1 to 256MiB",
        ),
        (
            "[[rule]]\nmatch = \"a*\"\npromote = 1\n[[rule]]\nmatch = \"a*\"\npromote = 2",
            "crema.toml:4:1: rule: an earlier rule",
        ),
        (
            "[[rule]]\nmatch = \"a[bc\"\npromote = 1",
            "crema.toml:2:9: rule.match: the pattern `a[bc` has a [ without its ]; close it, or write",
        ),
        ("[[rule]]\nmatches = \"a*\"", "crema.toml:2:1: unknown key `matches`; did you mean `match`?"),
        ("[rule]\nmatch = \"a*\"", "crema.toml:1:1: a table stands where a list of tables belongs; write `[[rule]]`"),
    ];
    for (text, expected) in bad {
        let error = from_file(text).expect_err(text);
        assert!(error.starts_with(expected), "{text}: {error}");
    }
}

#[test]
fn no_password_is_ever_shown() {
    let url = "redis://app:hunter2@10.0.0.1:6379/1";
    let given = flags(&["--upstream", url]);
    assert!(!format!("{given:?}").contains("hunter2"));
    let config = config::load_with(given, BTreeMap::new()).expect("is good");
    assert_eq!(config.upstream.password.as_ref().map(Secret::expose), Some("hunter2"));
    for shown in [config.to_string(), format!("{config:?}"), config.upstream.to_string()] {
        assert!(shown.contains("***") && !shown.contains("hunter2"), "{shown}");
    }
    let texts = [
        "upstream = \"redis://app:hunter2@10.0.0.1:6379/x\"",
        "upstream = \"redis://app:hunter2@10.0.0.1:port\"",
        "upstream = \"rediss://app:hunter2@10.0.0.1?verify=maybe\"",
        "upstream = \"rediss://app:hunter2@10.0.0.1?ca=/nonexistent\"",
        "upstream = \"app:hunter2@10.0.0.1\"",
        "upstream = [\"redis://app:hunter2@10.0.0.1\"]",
        "upstream = \"redis://app:hunter2@10.0.0.1",
        "upstream = redis://app:hunter2@10.0.0.1",
        "upstrem = \"redis://app:hunter2@10.0.0.1\"",
    ];
    for text in texts {
        let error = from_file(text).expect_err(text);
        assert!(error.starts_with("crema.toml:1:") && !error.contains("hunter2"), "{error}");
    }
}

#[test]
fn a_missing_file_is_named() {
    let error =
        config::load_with(flags(&["--config", "/nonexistent/crema.toml"]), BTreeMap::new()).expect_err("no such file");
    assert!(error.to_string().starts_with("/nonexistent/crema.toml: No such file"), "{error}");
}

/// Runs the program with these arguments and variables and no other.
fn crema(arguments: &[&str], pairs: &[(&str, &str)]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_crema"))
        .args(arguments)
        .env_clear()
        .envs(pairs.iter().copied())
        .output()
        .expect("the program starts")
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).expect("is UTF-8")
}

#[test]
fn check_tells_what_is_in_effect() {
    let (_directory, path) =
        file("listen = [\"0.0.0.0:7000\", \"/run/crema.sock\"]\n[[rule]]\nmatch = \"a*\"\nclass = \"90s\"\n");
    let path = path.to_str().expect("is UTF-8");
    let output =
        crema(&["--check", "--config", path, "--promote", "1"], &[("CREMA_UPSTREAM", "redis://:hunter2@redis/2")]);
    let shown = text(&output.stdout);
    assert_eq!((output.status.code(), text(&output.stderr)), (Some(0), ""));
    assert!(shown.starts_with("configuration is valid\n"), "{shown}");
    let line = |name: &str| {
        let words = |line: &str| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
        shown.lines().map(words).find(|words| words.first().is_some_and(|first| first == name)).unwrap_or_default()
    };
    assert_eq!(line("listen"), ["listen", "0.0.0.0:7000,/run/crema.sock", &format!("{path}:1")]);
    assert_eq!(line("upstream"), ["upstream", "redis://:***@redis:6379/2", "CREMA_UPSTREAM"]);
    assert_eq!(line("promote"), ["promote", "1", "--promote"]);
    assert_eq!(line("acl_recheck"), ["acl_recheck", "5s", "default"]);
    assert_eq!(line("log_format"), ["log_format", "text", "default"]);
    assert_eq!(line("rule"), ["rule", "a*,", "class", "90s", &format!("{path}:2:1")]);
    assert!(!shown.contains("hunter2"), "{shown}");
    let six = crema(&["--check", "--listen", "[::]:7000"], &[]);
    assert!(text(&six.stdout).contains("IPv6 alone"));
}

#[test]
fn all_that_is_wrong_is_told_at_once() {
    let (_directory, path) = file("l1_size = \"1parsec\"\n[[rule]]\nmatch = \"a*\"\nclass = \"never\"\n");
    let path = path.to_str().expect("is UTF-8");
    let output = crema(&["--check", "--config", path, "--promote", "-1"], &[("CREMA_THREADS", "none")]);
    let said = text(&output.stderr);
    for part in [":1:11: l1_size: ", ":4:9: rule.class: ", "crema: --promote: ", "crema: CREMA_THREADS: "] {
        assert!(said.contains(part), "{part} in {said}");
    }
    assert_eq!((output.status.code(), said.lines().count()), (Some(2), 4), "{said}");
}

#[test]
fn check_refuses_on_standard_error_with_code_2() {
    let (_directory, path) = file("promote = 1\nmax_stalenes = \"1s\"\n");
    let path = path.to_str().expect("is UTF-8");
    refused(
        &["--config", path, "--check"],
        &[],
        "crema.toml:2:1: unknown key `max_stalenes`; did you mean `max_staleness`?",
    );
    refused(&["--check", "--l1-size", "1parsec"], &[], "crema: --l1-size: `1parsec` is not a size");
    refused(&["--check"], &[("CREMA_THREADS", "none")], "crema: CREMA_THREADS: `none` is not a possible number");
    refused(&["--check"], &[("RUST_LOG", "crema=loudly")], "crema: RUST_LOG: ");
    refused(
        &["--check"],
        &[("RUST_LOG", "verbose")],
        "crema: RUST_LOG: `verbose` is no level; write one of off, error",
    );
    refused(&["--check", "--l1-siz", "1MiB"], &[], "--l1-size");
    refused(&["--promote", "-1"], &[], "crema: --promote: `-1` is not a rate of promotion; write N to promote");
    refused(&["--listen", "nowhere"], &[], "crema: --listen: `nowhere` is not an address");
}

fn refused(arguments: &[&str], pairs: &[(&str, &str)], reason: &str) {
    let output = crema(arguments, pairs);
    let shown = text(&output.stderr);
    assert_eq!((output.status.code(), text(&output.stdout)), (Some(2), ""), "{shown}");
    assert!(shown.contains(reason), "{shown}");
}

#[test]
fn help_and_version_go_to_standard_output() {
    let help = crema(&["--help"], &[]);
    assert_eq!(help.status.code(), Some(0));
    for part in ["--l1-size <SIZE>", "CREMA_L1_SIZE", "[default: 500ms]"] {
        assert!(text(&help.stdout).contains(part), "{part}");
    }
    let version = crema(&["--version"], &[]);
    assert_eq!(text(&version.stdout), concat!("crema ", env!("CARGO_PKG_VERSION"), "\n"));
}
