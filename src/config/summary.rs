//! The settings in effect, for a person: in a few lines, as the log begins, and one by one with who gave each, as `--check` prints
//! them.
//!
//! Never shows a password. Not meant to be read back; [`Config`] writes nothing that [`super::load`] reads.

use std::fmt::{self, Display};
use std::time::Duration;

use super::raw::Found;
use super::units::{show_duration, show_size};
use super::{Auth, ClientNames, Config, L1Mode, UpstreamDown};

/// Every setting, its value and who gave it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sources(Vec<Found>);

impl Sources {
    pub(super) fn new(mut found: Vec<Found>, config: &Config) -> Self {
        for Found { name, value, .. } in &mut found {
            match name.as_str() {
                "upstream" => *value = config.upstream.to_string(), // as it was given it may hold a password
                "sentinel_password" | "admin_token" if value != "none" => "***".clone_into(value),
                "listen" if value.contains("[::]:") => value.push_str(" ([::] is IPv6 alone: for IPv4 add 0.0.0.0)"),
                "upstream_password_command" => {
                    value.replace(super::units::WORD_END, " ").trim_end().clone_into(value);
                }
                "threads" if value == "auto" => *value = format!("auto: {}", config.threads),
                _ => {}
            }
        }
        Self(found)
    }
}

impl Sources {
    /// The names of what the others give otherwise, with what it was and is.
    pub(super) fn differences(&self, others: &Self) -> Vec<(String, String)> {
        let (before, after) = (self.by_name(), others.by_name());
        let mut names: Vec<&str> = before.iter().map(|(name, _)| *name).collect();
        names.extend(after.iter().map(|(name, _)| *name).filter(|name| !before.iter().any(|(known, _)| known == name)));
        let value =
            |of: &[(&str, String)], name| of.iter().find(|(known, _)| *known == name).map(|(_, value)| value.clone());
        let shown = |value: Option<String>| value.unwrap_or_else(|| "none".to_owned());
        let differs = names.into_iter().filter_map(|name| {
            let (old, new) = (value(&before, name), value(&after, name));
            (old != new).then(|| (name.to_owned(), format!("{} -> {}", shown(old), shown(new))))
        });
        differs.collect()
    }

    /// The same with what the others give of those that are `wanted`.
    pub(super) fn adopting(&self, others: &Self, wanted: impl Fn(&str) -> bool) -> Self {
        let kept = self.0.iter().filter(|found| !wanted(&found.name));
        Self(kept.chain(others.0.iter().filter(|found| wanted(&found.name))).cloned().collect())
    }

    /// Each name once, with all its values.
    fn by_name(&self) -> Vec<(&str, String)> {
        let mut all: Vec<(&str, String)> = Vec::new();
        for Found { name, value, .. } in &self.0 {
            match all.iter_mut().find(|(known, _)| known == name) {
                Some((_, values)) => {
                    values.push_str("; ");
                    values.push_str(value);
                }
                None => all.push((name, value.clone())),
            }
        }
        all
    }
}

impl Display for Sources {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let width =
            self.0.iter().map(|found| found.value.chars().count()).filter(|&width| width < 40).max().unwrap_or(0);
        for Found { name, value, origin } in &self.0 {
            writeln!(f, "  {name:<20} {value:<width$}  {origin}")?;
        }
        Ok(())
    }
}

impl Display for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let listen: Vec<String> = self.listen.iter().map(ToString::to_string).collect();
        line(f, "listen", listen.join(", "))?;
        line(f, "upstream", &self.upstream)?;
        line(f, "admin", self.admin.map_or_else(|| "off".to_owned(), |address| format!("http://{address}")))?;
        line(f, "threads", self.threads)?;
        line(f, "cache", self.cache())?;
        line(f, "clients", self.clients())?;
        line(f, "connections", self.connections())?;
        line(f, "channel", self.listening())
    }
}

impl Config {
    fn cache(&self) -> String {
        if self.l1_size == 0 {
            return "none".to_owned();
        }
        let rules = match self.rules.len() {
            0 => String::new(),
            1 => ", 1 rule".to_owned(),
            many => format!(", {many} rules"),
        };
        let promote = match self.promote {
            0 => "no key promoted".to_owned(),
            1 => "every key read promoted".to_owned(),
            reads => format!("promoted at 1 read in {reads}"),
        };
        let (size, value) = (show_size(self.l1_size), show_size(self.max_value));
        let (stale, coherence) = (show_duration(self.max_staleness), self.coherence.as_str());
        let mode = match self.mode {
            L1Mode::Cache => "",
            L1Mode::Observe => " (ANSWERS NOTHING: mode observe)",
            L1Mode::Pass => " (NOT USED: mode pass)",
        };
        format!("{size}{mode}, replies to {value}, {promote}, at most {stale} stale by {coherence}{rules}")
    }

    fn clients(&self) -> String {
        let idle = or_never(self.idle_timeout);
        let (unread, drain) = (show_size(self.output_limit), show_duration(self.drain_timeout));
        let names = match self.client_names {
            ClientNames::Upstream => "upstream",
            ClientNames::Virtual => "virtual",
        };
        let auth = match &self.auth {
            Auth::Upstream => "let in by the upstream".to_owned(),
            Auth::Own(users) => format!("let in by crema: {} of its own", users.len()),
            Auth::Open => "let in WITHOUT A PASSWORD".to_owned(),
        };
        let most = self.max_clients;
        format!("{most}, {auth}, closed when idle: {idle}, unread to {unread}, drained in {drain}, names {names}")
    }

    fn connections(&self) -> String {
        let (connect, response) = (show_duration(self.connect_timeout), or_never(self.response_timeout));
        let (most, window) = (self.max_upstream, show_size(self.lane_window));
        let down = match self.upstream_down {
            UpstreamDown::Close => "closed",
            UpstreamDown::Loading => "told -LOADING",
            UpstreamDown::Error => "told -ERR",
        };
        format!(
            "{most}, connected in {connect}, given up after: {response}, {window} under way on each, clients {down} without"
        )
    }

    fn listening(&self) -> String {
        let read = self.channel.stream.as_ref().map(|stream| format!("the stream {stream}"));
        if !self.channel.enabled {
            return read.unwrap_or_else(|| "off".to_owned());
        }
        let read = read.map(|read| format!(", and {read}")).unwrap_or_default();
        let publish = if self.channel.publish { ", publishing" } else { "" };
        let audit = self.channel.audit_stream.as_ref().map(|stream| format!(", kept in {stream}")).unwrap_or_default();
        format!("{}{publish}{audit}{read}", self.channel.name)
    }
}

fn line(f: &mut fmt::Formatter<'_>, name: &str, value: impl Display) -> fmt::Result {
    writeln!(f, "  {name:<12} {value}")
}

fn or_never(length: Option<Duration>) -> String {
    length.map_or_else(|| "never".to_owned(), show_duration)
}
