//! Where settings come from: flags, then `CREMA_` variables, then the file. Text until [`super`] reads it.
//!
//! Remembers for every value where it stood, so that a refusal can point there. Gives no value a meaning and knows no default.
//! A little long, for each kind of table in the file has its own way to point there.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::fmt;
use std::fs;
use std::ops::Range;
use std::path::PathBuf;
use std::str::FromStr;

use clap::{Args, Command, FromArgMatches};
use serde::de::{Deserializer, Error as _, SeqAccess, Visitor};
use serde::{Deserialize, de};
use toml::Spanned;
use toml::de::{DeString, DeTable, DeValue};

use super::error::{ConfigError, Place, Problem, nearest};
use super::flags::{Flags, OriginSettings, RuleSettings, Settings, TierSettings, UserSettings};
use super::units::WORD_END;

const PREFIX: &str = "CREMA_";
pub(super) const FILE_VARIABLE: &str = "CREMA_CONFIG";

/// A value as it was written, and where in the file if it stands there. `Debug` hides it: it may hold a password.
#[derive(Clone, Default)]
pub(super) struct Given {
    text: String,
    span: Range<usize>,
}

/// The name of a setting and its place in [`Settings`]; made by `key!`.
#[derive(Clone, Copy)]
pub(super) struct Key {
    pub(super) name: &'static str,
    pub(super) field: fn(&Settings) -> &Option<Given>,
}

/// `key!(l1_size)`, `key!(channel.publish)`: the name and the field cannot differ.
macro_rules! key {
    ($field:ident) => {
        $crate::config::raw::Key { name: stringify!($field), field: |settings| &settings.$field }
    };
    ($table:ident.$field:ident) => {
        $crate::config::raw::Key {
            name: concat!(stringify!($table), ".", stringify!($field)),
            field: |settings| &settings.$table.$field,
        }
    };
}
pub(super) use key;

/// All sources of settings, the strongest first.
pub(super) struct Layers {
    flags: Settings,
    variables: Settings,
    file: Settings,
    source: SettingsFile,
    /// What was found wrong so far.
    wrong: RefCell<Vec<ConfigError>>,
    /// What was read, in that order.
    found: RefCell<Vec<Found>>,
}

/// A setting as it is in effect, and who gave it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) name: String,
    pub(super) value: String,
    pub(super) origin: String,
}

/// The file of settings, kept to turn positions into lines. Empty where there is none.
#[derive(Default)]
struct SettingsFile {
    path: PathBuf,
    text: String,
}

impl Layers {
    /// Reads the file that `flags` or `variables` name, if any.
    pub(super) fn collect(flags: Flags, mut variables: BTreeMap<String, String>) -> Result<Self, ConfigError> {
        // An empty variable is an unset one: that is what compose files and manifests make of a missing value.
        variables.retain(|name, value| name.starts_with(PREFIX) && !value.trim().is_empty());
        let path = flags.config.or_else(|| variables.remove(FILE_VARIABLE).map(PathBuf::from));
        let source = match path {
            None => SettingsFile::default(),
            Some(path) => match fs::read(&path) {
                Ok(bytes) => SettingsFile::read(path, bytes)?,
                Err(source) => return Err(ConfigError::Unreadable { path, source }),
            },
        };
        let mut wrong = Vec::new();
        let file = source.parse(&mut wrong);
        let variables = read_variables(&variables).unwrap_or_else(|error| {
            wrong.push(error);
            Settings::default()
        });
        Ok(Self { flags: flags.settings, variables, file, source, wrong: wrong.into(), found: RefCell::default() })
    }

    /// What is wrong is told with all else that is.
    pub(super) fn note(&self, error: ConfigError) {
        self.wrong.borrow_mut().push(error);
    }

    /// Fails with all that was noted.
    pub(super) fn verdict(&self) -> Result<(), ConfigError> {
        let mut wrong = self.wrong.take();
        match wrong.len() {
            0 => Ok(()),
            1 => Err(wrong.remove(0)),
            _ => Err(ConfigError::Several(wrong)),
        }
    }

    /// What is in effect, and who gave it: rules, tiers and origins last.
    pub(super) fn found(&self, rules: &[String], tiers: &[String], origins: &[String]) -> Vec<Found> {
        let mut found = self.found.take();
        let at = |start| self.source.place(start, "").to_string();
        for (rule, value) in self.file.rule.iter().zip(rules) {
            found.push(Found { name: "rule".to_owned(), value: value.clone(), origin: at(rule.span().start) });
        }
        for (tier, value) in self.file.tier.iter().zip(tiers) {
            found.push(Found { name: "tier".to_owned(), value: value.clone(), origin: at(tier.span().start) });
        }
        for (settings, value) in self.file.origin.iter().zip(origins) {
            found.push(Found { name: "origin".to_owned(), value: value.clone(), origin: at(settings.span().start) });
        }
        found
    }

    /// What the strongest source gives for `key`, else `default`, read by `parse`.
    pub(super) fn read<T>(
        &self,
        key: Key,
        default: &str,
        parse: impl Fn(&str) -> Result<T, Problem>,
    ) -> Result<T, ConfigError> {
        let given = self.find(key);
        let text = given.as_ref().map_or(default, |(given, _)| given.text.trim());
        let origin = match &given {
            None => "default".to_owned(),
            Some((_, Place::File { path, line, .. })) => format!("{}:{line}", path.display()),
            Some((_, place)) => place.to_string(),
        };
        self.found.borrow_mut().push(Found { name: key.name.to_owned(), value: text.to_owned(), origin });
        match parse(text) {
            Ok(value) => Ok(value),
            // Its default stands in, so that whatever else is wrong is found as well.
            Err(problem) => {
                let refused = self.refuse(&[key], problem);
                match parse(default) {
                    Ok(value) if given.is_some() => {
                        self.note(refused);
                        Ok(value)
                    }
                    _ => Err(refused),
                }
            }
        }
    }

    /// Whether some source gives `key` another value than `usual`.
    pub(super) fn gives_other(&self, key: Key, usual: &str) -> bool {
        self.find(key).is_some_and(|(given, _)| given.text() != usual)
    }

    /// Puts `problem` where the first of `keys` that anybody set was set.
    pub(super) fn refuse(&self, keys: &[Key], problem: Problem) -> ConfigError {
        let place = keys.iter().find_map(|key| self.find(*key)).map(|(_, place)| place);
        let place = place.unwrap_or_else(|| Place::Default(keys.first().map_or("", |key| key.name).to_owned()));
        ConfigError::Invalid { place, problem }
    }

    /// The rules of the file, in its order.
    pub(super) fn rules(&self) -> &[Spanned<RuleSettings>] {
        &self.file.rule
    }

    /// Puts `problem` on `rule`, or on its `given` value for `key`.
    pub(super) fn refuse_rule(
        &self,
        rule: &Spanned<RuleSettings>,
        at: Option<(&str, &Given)>,
        problem: Problem,
    ) -> ConfigError {
        let (span, key) = match at {
            Some((key, given)) => (given.span.start, format!("rule.{key}")),
            None => (rule.span().start, "rule".to_owned()),
        };
        ConfigError::Invalid { place: self.source.place(span, &key), problem }
    }

    /// The tiers of the file, in its order.
    pub(super) fn tiers(&self) -> &[Spanned<TierSettings>] {
        &self.file.tier
    }

    /// Puts `problem` on `tier`, or on its `given` value for `key`.
    pub(super) fn refuse_tier(
        &self,
        tier: &Spanned<TierSettings>,
        at: Option<(&str, &Given)>,
        problem: Problem,
    ) -> ConfigError {
        let (span, key) = match at {
            Some((key, given)) => (given.span.start, format!("tier.{key}")),
            None => (tier.span().start, "tier".to_owned()),
        };
        ConfigError::Invalid { place: self.source.place(span, &key), problem }
    }

    /// The origins of the file, in its order.
    pub(super) fn origins(&self) -> &[Spanned<OriginSettings>] {
        &self.file.origin
    }

    /// Puts `problem` on `origin`, or on its `given` value for `key`.
    pub(super) fn refuse_origin(
        &self,
        origin: &Spanned<OriginSettings>,
        at: Option<(&str, &Given)>,
        problem: Problem,
    ) -> ConfigError {
        let (span, key) = match at {
            Some((key, given)) => (given.span.start, format!("origin.{key}")),
            None => (origin.span().start, "origin".to_owned()),
        };
        ConfigError::Invalid { place: self.source.place(span, &key), problem }
    }

    /// The users of the file, in its order.
    pub(super) fn users(&self) -> &[Spanned<UserSettings>] {
        &self.file.user
    }

    /// Puts `problem` on `user`.
    pub(super) fn refuse_user(&self, user: &Spanned<UserSettings>, problem: Problem) -> ConfigError {
        ConfigError::Invalid { place: self.source.place(user.span().start, "user"), problem }
    }

    fn find(&self, key: Key) -> Option<(&Given, Place)> {
        let Key { name, field } = key;
        if let Some(given) = field(&self.flags) {
            return Some((given, Place::Flag(flag(name))));
        }
        if let Some(given) = field(&self.variables) {
            return Some((given, Place::Variable(variable(&flag(name)))));
        }
        field(&self.file).as_ref().map(|given| (given, self.source.place(given.span.start, name)))
    }
}

impl SettingsFile {
    fn read(path: PathBuf, bytes: Vec<u8>) -> Result<Self, ConfigError> {
        match String::from_utf8(bytes) {
            Ok(text) => Ok(Self { path, text }),
            Err(error) => {
                let good = error.utf8_error().valid_up_to();
                let text = String::from_utf8_lossy(&error.as_bytes()[..good]).into_owned();
                let problem = Problem::new("what stands here is not UTF-8", "save the file in UTF-8");
                Err(ConfigError::Invalid { place: Self { path, text }.place(good, ""), problem })
            }
        }
    }

    /// What the file gives. Each entry that cannot stand there is noted in `wrong` and left out, so that all of them are told.
    fn parse(&self, wrong: &mut Vec<ConfigError>) -> Settings {
        let mut table = match DeTable::parse(&self.text) {
            Ok(table) => table,
            Err(error) => {
                wrong.push(self.refusal(&error));
                return Settings::default();
            }
        };
        loop {
            match Settings::deserialize(toml::Deserializer::from(table.clone())) {
                Ok(settings) => return settings,
                Err(error) => {
                    wrong.push(self.refusal(&error));
                    if !error.span().is_some_and(|span| leave_out(table.get_mut(), &span)) {
                        return Settings::default();
                    }
                }
            }
        }
    }

    fn refusal(&self, error: &toml::de::Error) -> ConfigError {
        let start = error.span().map_or(0, |span| span.start);
        ConfigError::Invalid { place: self.place(start, ""), problem: explain(error.message()) }
    }

    fn place(&self, offset: usize, key: &str) -> Place {
        let before = self.text.get(..offset).unwrap_or(&self.text);
        let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
        Place::File {
            path: self.path.clone(),
            line: before.matches('\n').count() + 1,
            column: before[line_start..].chars().count() + 1,
            key: key.to_owned(),
        }
    }
}

/// Takes the entry out of `table`, or out of one in it, whose key or value stands at `span`. False: there is none.
fn leave_out(table: &mut DeTable<'_>, span: &Range<usize>) -> bool {
    let stands_at =
        |(key, value): &(&Spanned<DeString<'_>>, &Spanned<DeValue<'_>>)| key.span() == *span || value.span() == *span;
    let whole = table.iter().find(stands_at).map(|(key, _)| key.get_ref().clone());
    if whole.is_none() && table.iter_mut().any(|(_, value)| leave_out_of(value.get_mut(), span)) {
        return true;
    }
    // Where it is an element of a list, the list goes.
    let around = || table.iter().find(|(_, value)| value.span().contains(&span.start));
    let entry = whole.or_else(|| around().map(|(key, _)| key.get_ref().clone()));
    entry.is_some_and(|key| table.remove(&*key).is_some())
}

fn leave_out_of(value: &mut DeValue<'_>, span: &Range<usize>) -> bool {
    match value {
        DeValue::Table(table) => leave_out(table, span),
        DeValue::Array(list) => list.iter_mut().any(|value| leave_out_of(value.get_mut(), span)),
        _ => false,
    }
}

/// Rewords what the parser says where more help can be given.
fn explain(message: &str) -> Problem {
    if message.starts_with("unknown field") {
        // "unknown field `a`, expected one of `b`, `c`": serde quotes the culprit first, then all that is known.
        let mut quoted = message.split('`').skip(1).step_by(2);
        let culprit = quoted.next().unwrap_or_default();
        return Problem::unknown("key", culprit, &quoted.collect::<Vec<_>>());
    }
    if message.ends_with("expected a sequence") {
        return Problem::new(
            "a table stands where a list of tables belongs",
            "write `[[rule]]`, `[[user]]` or `[[origin]]`, in two pairs of brackets",
        );
    }
    if let Some((found, expected)) =
        message.strip_prefix("invalid type: ").and_then(|rest| rest.split_once(", expected "))
    {
        // The value itself stands behind the word, and may be a password.
        let word = found.split(['`', '"']).next().unwrap_or_default().trim();
        let what = match word {
            "floating point" => "a number with a fraction",
            "integer" => "a number",
            "string" => "a text",
            "boolean" => "true or false",
            "sequence" => "a list",
            "map" => "a table",
            other => other,
        };
        return Problem::new(format!("{what} cannot stand here"), format!("write {expected}"));
    }
    Problem::new(message.replace('\n', ", "), "")
}

/// Reads the variables as flags of the same names, so that they need no list of their own. A `CREMA_` variable that is nearly a
/// setting is refused; others are left alone, for Kubernetes makes some from the names of services (`CREMA_PORT`).
fn read_variables(variables: &BTreeMap<String, String>) -> Result<Settings, ConfigError> {
    let command = Settings::augment_args(Command::new("variables").no_binary_name(true).disable_help_flag(true));
    let flags: Vec<String> =
        command.get_arguments().filter_map(|argument| argument.get_long()).map(str::to_owned).collect();
    let names: Vec<String> = flags.iter().map(|flag| variable(flag)).collect();

    let known: Vec<&str> = names.iter().map(String::as_str).chain([FILE_VARIABLE]).collect();
    for name in variables.keys().filter(|name| !known.contains(&name.as_str())) {
        let bare: Vec<&str> = known.iter().map(|known| &known[PREFIX.len()..]).collect();
        if nearest(&name[PREFIX.len()..], &bare).is_some() {
            let problem = Problem::unknown("variable", name, &known);
            return Err(ConfigError::Invalid { place: Place::Variable(name.clone()), problem });
        }
    }

    let set = flags.iter().zip(&names).filter_map(|(flag, name)| Some(format!("--{flag}={}", variables.get(name)?)));
    let matches = command.clone().try_get_matches_from(set);
    let settings = matches.and_then(|matches| Settings::from_arg_matches(&matches));
    Ok(settings.expect("every setting takes any text once, and each variable was passed once"))
}

/// `l1_size` is `--l1-size`, `channel.publish` is `--channel-publish`.
fn flag(name: &str) -> String {
    format!("--{}", name.replace(['_', '.'], "-"))
}

/// `--l1-size` and `l1-size` are `CREMA_L1_SIZE`.
fn variable(flag: &str) -> String {
    format!("{PREFIX}{}", flag.trim_start_matches('-').replace('-', "_").to_ascii_uppercase())
}

impl Given {
    pub(super) fn text(&self) -> &str {
        self.text.trim()
    }

    /// As it was written, white space at its ends included: a password.
    pub(super) fn raw(&self) -> &str {
        &self.text
    }
}

impl FromStr for Given {
    type Err = Infallible;

    fn from_str(text: &str) -> Result<Self, Infallible> {
        Ok(Self { text: text.to_owned(), span: 0..0 })
    }
}

impl fmt::Debug for Given {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Given(***)")
    }
}

impl<'de> Deserialize<'de> for Given {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let scalar = Spanned::<Scalar>::deserialize(deserializer)?;
        Ok(Self { span: scalar.span(), text: scalar.into_inner().0 })
    }
}

/// Reads one text, or a list of texts as if they stood in one, separated by commas.
pub(super) fn comma_separated<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Given>, D::Error> {
    let list = Spanned::<List>::deserialize(deserializer)?;
    Ok(Some(Given { span: list.span(), text: list.into_inner().0 }))
}

/// Reads a command: one text, or a list of its words, each of which then ends with [`WORD_END`].
pub(super) fn words<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Given>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged, expecting = "a text in quotes, or a list of them")]
    enum Words {
        Line(String),
        List(Vec<String>),
    }
    let words = Spanned::<Words>::deserialize(deserializer)?;
    let span = words.span();
    let text = match words.into_inner() {
        Words::Line(line) => line,
        Words::List(list) => list.into_iter().flat_map(|word| [word, WORD_END.to_string()]).collect(),
    };
    Ok(Some(Given { text, span }))
}

/// A TOML string, whole number or boolean, as text.
struct Scalar(String);

struct ScalarVisitor;

impl<'de> Deserialize<'de> for Scalar {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ScalarVisitor).map(Scalar)
    }
}

impl Visitor<'_> for ScalarVisitor {
    type Value = String;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a text in quotes, a whole number, true or false")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<String, E> {
        Ok(text.to_owned())
    }

    fn visit_i64<E: de::Error>(self, number: i64) -> Result<String, E> {
        Ok(number.to_string())
    }

    fn visit_bool<E: de::Error>(self, switch: bool) -> Result<String, E> {
        Ok(switch.to_string())
    }
}

/// A TOML string, or an array of strings without commas in them, as one text.
struct List(String);

struct ListVisitor;

impl<'de> Deserialize<'de> for List {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ListVisitor).map(List)
    }
}

impl<'de> Visitor<'de> for ListVisitor {
    type Value = String;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a text in quotes, or a list of them")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<String, E> {
        Ok(text.to_owned())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<String, A::Error> {
        let mut all: Vec<String> = Vec::new();
        while let Some(item) = items.next_element::<String>()? {
            if item.contains(',') {
                return Err(A::Error::custom("a comma stands within one text of the list"));
            }
            all.push(item);
        }
        Ok(all.join(","))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(text: &str) -> SettingsFile {
        SettingsFile { path: "crema.toml".into(), text: text.to_owned() }
    }

    fn refusal(text: &str) -> String {
        let mut wrong = Vec::new();
        source(text).parse(&mut wrong);
        assert_eq!(wrong.len(), 1, "{text}: {wrong:?}");
        wrong[0].to_string()
    }

    #[test]
    fn all_that_cannot_stand_in_a_file_is_told_at_once() {
        let text = "prommote = 1\nlisten = [1, 2]\nadmin = \"off\"\nthreads = 1.5\n[channel]\nnam = \"x\"\nname = \"c\"\n\
            [[rule]]\nmatch = \"a\"\n[[rule]]\nttl = 1\nmatch = \"b\"\nclas = 2\n";
        let mut wrong = Vec::new();
        let settings = source(text).parse(&mut wrong);
        let mut lines: Vec<_> = wrong.iter().map(ToString::to_string).collect();
        lines.sort();
        let at: Vec<_> = lines.iter().map(|line| line.split(": ").next().unwrap_or_default()).collect();
        let places = ["11:1", "13:1", "1:1", "2:11", "4:11", "6:1"].map(|place| format!("crema.toml:{place}"));
        assert_eq!(at, places, "{lines:#?}");
        assert_eq!(settings.admin.map(|given| given.text), Some("off".into()), "what is right stays");
        assert_eq!((settings.rule.len(), settings.channel.name.map(|given| given.text)), (2, Some("c".into())));
    }

    #[test]
    fn names_flags_and_variables_after_the_key() {
        let key = key!(channel.audit_stream);
        assert_eq!(key.name, "channel.audit_stream");
        assert_eq!(flag(key.name), "--channel-audit-stream");
        assert_eq!(variable(&flag(key.name)), "CREMA_CHANNEL_AUDIT_STREAM");
    }

    #[test]
    fn finds_the_line_and_the_column_in_characters() {
        let source = source("a = 1\n# é\né = \"x\" y\n");
        let place = source.place(source.text.find('y').expect("is there"), "key");
        assert_eq!(place.to_string(), "crema.toml:3:9: key");
        assert_eq!(source.place(0, "").to_string(), "crema.toml:1:1");
        assert_eq!(source.place(999, "").to_string(), "crema.toml:4:1");
    }

    #[test]
    fn refuses_unknown_keys_with_the_nearest_one() {
        let far = refusal("promote = 1\n\nport = 6379\n");
        assert!(far.starts_with("crema.toml:3:1: unknown key `port`; write one of listen, upstream, "), "{far}");
        assert_eq!(refusal("l1-size = 0"), "crema.toml:1:1: unknown key `l1-size`; did you mean `l1_size`?");
        assert_eq!(refusal("[channel]\nnam = \"x\""), "crema.toml:2:1: unknown key `nam`; did you mean `name`?");
        let far = refusal("[[rule]]\nttl = \"x\"");
        assert_eq!(far, "crema.toml:2:1: unknown key `ttl`; write one of match, class, promote, max_value");
    }

    #[test]
    fn refuses_wrong_kinds_of_value() {
        let kinds = "write a text in quotes, a whole number, true or false";
        let float = refusal("threads = 1.5");
        assert!(float.starts_with("crema.toml:1:11: ") && float.contains(kinds), "{float}");
        assert!(refusal("upstream = [\"redis://:hunter2@h\"]").contains(kinds));
        let table = refusal("channel = true");
        assert!(table.starts_with("crema.toml:1:11: ") && table.ends_with("write a table, `[channel]`"), "{table}");
        assert!(refusal("\n[rule]\nmatch = \"x\"").contains("[[rule]]"));
        assert!(refusal("listen = [1]").starts_with("crema.toml:1:11: "));
        assert!(refusal("listen = [\"a,b\"]").contains("comma"));
        assert!(refusal("promote = 1\npromote = 2").starts_with("crema.toml:2:1: duplicate key"));
        assert!(refusal("promote = ").starts_with("crema.toml:1:1"));
        assert!(float.contains("a number with a fraction cannot stand here"), "{float}");
    }

    #[test]
    fn a_file_that_is_not_utf_8_is_refused_at_its_line() {
        let error = SettingsFile::read("crema.toml".into(), b"promote = 1\nlisten = \"\xff\"".to_vec())
            .err()
            .expect("no UTF-8");
        assert_eq!(error.to_string(), "crema.toml:2:11: what stands here is not UTF-8; save the file in UTF-8");
    }

    #[test]
    fn syntax_errors_show_no_value() {
        for text in
            ["upstream = \"redis://:hunter2@h", "upstream = redis://:hunter2@h", "upstream = 'redis://:hunter2@h' x"]
        {
            let refusal = refusal(text);
            assert!(!refusal.contains("hunter2"), "{refusal}");
        }
    }

    #[test]
    fn debug_shows_no_value() {
        let settings = source("upstream = \"redis://:hunter2@h\"").parse(&mut Vec::new());
        let debug = format!("{settings:?}");
        assert!(!debug.contains("hunter2"), "{debug}");
    }
}
