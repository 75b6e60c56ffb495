//! A managed service, played by a real server: what its documentation refuses is refused, under TLS, behind one address.
//!
//! What a service refuses stands in a file of its own beside this one, with the pages where that was read.

use std::path::{Path, PathBuf};

use serde::Deserialize;

use common::tls::{Authority, Tunnel};
use common::{Client, Link, Redis, bulk, eventually, ok};

const PASSWORD: &str = "first-token";

/// What is known of a service.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Profile {
    /// As its makers call it.
    pub(crate) service: String,
    /// Of `docs/services`.
    pub(crate) page: String,
    pub(crate) server: ServerKind,
    /// Whom clients log in as; the user `default`, who gives a password alone, where none is named.
    pub(crate) user: Option<String>,
    /// How long a password lasts, where it is a token.
    pub(crate) token: Option<String>,
    /// Commands that it does not know.
    lacks: Vec<String>,
    /// Commands and subcommands that no user may use.
    refuses: Vec<String>,
    /// How changes can be heard of.
    pub(crate) coherence: String,
    /// What crema needs on its own account and is refused, by its metric's labels.
    pub(crate) goes_without: Vec<String>,
    /// Pages of its documentation.
    pub(crate) read_at: Vec<String>,
    /// What stands on none of them, and what is assumed for it.
    pub(crate) not_found: Vec<String>,
}

/// Which server is nearest to it.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub(crate) enum ServerKind {
    Redis,
    Valkey,
}

impl Profile {
    pub(crate) fn directory() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/profiles")
    }

    pub(crate) fn read(name: &str) -> Profile {
        let path = Self::directory().join(name).with_extension("toml");
        let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        toml::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
    }

    /// A server that does what the service does; none where it is not installed.
    fn server(&self) -> Option<Redis> {
        // Who operates the service goes on knowing what its clients do not.
        // Servers that follow another call by name what they need for it.
        let (kept, lacks): (Vec<&String>, Vec<&String>) =
            self.lacks.iter().partition(|name| ["psync", "sync"].contains(&name.as_str()));
        let hidden_names: Vec<String> = lacks.iter().map(|name| hidden(name)).collect();
        let renamed = lacks.iter().zip(&hidden_names).flat_map(|(name, hidden)| ["--rename-command", name, hidden]);
        let own = ["--masteruser", "operator", "--masterauth", "operator", "--requirepass", PASSWORD];
        let args: Vec<&str> = own.into_iter().chain(renamed).collect();
        let server = match self.server {
            ServerKind::Redis => Redis::with(&args),
            ServerKind::Valkey => Redis::valkey_with(&args)?,
        };
        let mut client = server.client();
        let acl = if self.lacks.iter().any(|name| name == "acl") { hidden("acl") } else { "acl".to_owned() };
        assert_eq!(client.cmd(&[&acl, "SETUSER", "operator", "on", ">operator", "~*", "&*", "+@all"]), ok());
        let user = self.user.as_deref().unwrap_or("default");
        let password = format!(">{PASSWORD}");
        let mut operator = operator(&server);
        assert_eq!(operator.cmd(&[&acl, "SETUSER", user, "on", &password, "~*", "&*", "+@all"]), ok());
        for name in kept.into_iter().chain(&self.refuses) {
            let told = operator.cmd(&[&acl, "SETUSER", user, &format!("-{name}")]);
            let unknown = told.text().contains("Unknown command"); // here it is refused in any case
            assert!(told == ok() || unknown, "{}: {name}: {told:?}", self.service);
        }
        Some(server)
    }
}

fn token(number: u64) -> String {
    if number == 0 { PASSWORD.to_owned() } else { format!("token-{number}") }
}

fn hidden(name: &str) -> String {
    format!("operator-{name}")
}

fn operator(server: &Redis) -> Client {
    let mut client = Client::connect(server.addr());
    assert_eq!(client.cmd(&["AUTH", "operator", "operator"]), ok());
    client
}

/// Two servers, of which one answers at the service's address, under TLS.
pub(crate) struct Service {
    pub(crate) profile: Profile,
    primary: Redis,
    standby: Redis,
    link: Link,
    front: Tunnel,
    authority: Authority,
}

impl Service {
    /// None where the server is not installed that plays it.
    pub(crate) fn start(name: &str) -> Option<Service> {
        let profile = Profile::read(name);
        let (Some(primary), Some(standby)) = (profile.server(), profile.server()) else {
            assert!(std::env::var_os("CI").is_none(), "no Valkey here; `make test` installs one");
            eprintln!("skipped: no Valkey here; `make test` installs one");
            return None;
        };
        let authority = Authority::new();
        let link = Link::to(primary.addr());
        let front = Tunnel::out_to(link.addr(), &authority.issue("service", &["localhost"]));
        Some(Service { profile, primary, standby, link, front, authority })
    }

    /// What its console shows, and the authority that signs its certificates.
    pub(crate) fn url(&self) -> String {
        let (user, port) = (self.profile.user.as_deref().unwrap_or_default(), self.front.addr().port());
        format!("rediss://{user}:{PASSWORD}@localhost:{port}?ca={}", self.authority.ca().display())
    }

    pub(crate) fn address(&self) -> std::net::SocketAddr {
        self.front.addr()
    }

    /// The same where the password stands elsewhere.
    pub(crate) fn url_without_password(&self) -> String {
        self.url().replace(PASSWORD, "")
    }

    /// The next token lets in from here on, and the one before the last no more.
    pub(crate) fn rotate(&self, number: u64) -> String {
        let user = self.profile.user.as_deref().unwrap_or("default");
        let change = |rule: String| assert_eq!(operator(&self.primary).cmd(&["ACL", "SETUSER", user, &rule]), ok());
        change(format!(">{}", token(number)));
        if let Some(last) = number.checked_sub(2) {
            change(format!("<{}", token(last)));
        }
        token(number)
    }

    /// How often connections have logged in, or tried to in vain.
    pub(crate) fn logins(&self) -> (u64, u64) {
        let stats = operator(&self.primary).cmd(&["INFO", "commandstats"]).text();
        let line = stats.lines().find_map(|line| line.strip_prefix("cmdstat_auth:")).unwrap_or_default().to_owned();
        let number = |name: &str| {
            let found = line.split(',').find_map(|field| field.strip_prefix(name));
            found.map_or(0, |number| number.parse().expect("a number"))
        };
        (number("calls="), number("failed_calls="))
    }

    /// What a client says first.
    pub(crate) fn log_in(&self, client: Client) -> Client {
        self.try_log_in(client).expect("the service knows the password")
    }

    pub(crate) fn try_log_in(&self, mut client: Client) -> Option<Client> {
        let login = match &self.profile.user {
            Some(user) => client.try_cmd(&["AUTH", user, PASSWORD]),
            None => client.try_cmd(&["AUTH", PASSWORD]),
        };
        login.is_ok_and(|answer| answer == ok()).then_some(client)
    }

    /// A client of the service itself, past crema.
    pub(crate) fn client(&self) -> Client {
        self.log_in(Client::connect(self.primary.addr()))
    }

    /// One of its other server, which is in no connection with the first yet.
    pub(crate) fn twin(&self, version: u8) -> Client {
        let client = self.log_in(Client::connect(self.standby.addr()));
        if version == 3 { resp3(client) } else { client }
    }

    fn replicate(&self, server: &Redis, words: &[&str]) {
        let lacks = self.profile.lacks.iter().any(|name| name == "replicaof");
        let command = if lacks { hidden("replicaof") } else { "replicaof".to_owned() };
        let words: Vec<&str> = std::iter::once(&*command).chain(words.iter().copied()).collect();
        assert_eq!(operator(server).cmd(&words), ok());
    }

    /// The standby follows the primary.
    pub(crate) fn pair(&self) {
        let port = self.primary.port().to_string();
        self.replicate(&self.standby, &["127.0.0.1", &port]);
        eventually("the standby is in step", || {
            operator(&self.standby).cmd(&["ROLE"]).items().get(3) == Some(&bulk("connected"))
        });
    }

    /// The standby takes over behind the same address; connections to the former primary end.
    pub(crate) fn fail_over(&self) {
        self.replicate(&self.standby, &["NO", "ONE"]);
        self.link.turn_to(self.standby.addr());
        self.link.cut();
        let port = self.standby.port().to_string();
        self.replicate(&self.primary, &["127.0.0.1", &port]);
    }
}

/// Goes over to RESP3.
pub(crate) fn resp3(mut client: Client) -> Client {
    client.send_cmd(&["HELLO", "3"]);
    client.reply();
    client
}
