//! Commands that clients may not use: for all (`deny`), and at one address (`listen`, with `?deny=`).

use super::error::Problem;
use super::listen::Listen;
use crate::command::{Categories, DenialMistake, Denied};

/// What is denied at some addresses.
pub(super) type DeniedAt = Vec<(Listen, Denied)>;

/// What is denied, and where.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DenyLists {
    /// To all clients.
    pub(super) everywhere: Denied,
    /// To those of an address besides.
    pub(super) at: DeniedAt,
}

impl DenyLists {
    /// What clients of `listen` may not use.
    pub fn at(&self, listen: &Listen) -> Denied {
        let own = self.at.iter().filter(|(at, _)| at == listen);
        own.fold(self.everywhere.clone(), |all, (_, denied)| all.and(denied))
    }
}

/// Commands and categories with commas between them, or `none`.
pub(super) fn denied(text: &str) -> Result<Denied, Problem> {
    if text == "none" { Ok(Denied::default()) } else { words(text.split(',')) }
}

/// Takes `deny=` out of the options of an address; there its words are joined by `+`.
pub(super) fn take_option(text: &str) -> Result<(String, Denied), Problem> {
    let Some((address, options)) = text.split_once('?') else { return Ok((text.to_owned(), Denied::default())) };
    let (own, others): (Vec<&str>, Vec<&str>) = options.split('&').partition(|option| option.starts_with("deny="));
    let denied = words(own.iter().flat_map(|option| option["deny=".len()..].split('+')))?;
    let rest = if others.is_empty() { address.to_owned() } else { format!("{address}?{}", others.join("&")) };
    Ok((rest, denied))
}

fn words<'a>(words: impl Iterator<Item = &'a str>) -> Result<Denied, Problem> {
    let mut denied = Denied::default();
    for word in words.map(str::trim).filter(|word| !word.is_empty()) {
        denied.deny(word).map_err(|mistake| match mistake {
            DenialMistake::Category => Problem::unknown("category", word.trim_start_matches('@'), Categories::names()),
            DenialMistake::Command => {
                let right =
                    "write a command as Redis names it, a subcommand as `config|set`, a category as `@dangerous`";
                Problem::new(format!("there is no command `{word}`"), right)
            }
            DenialMistake::Allowed => {
                Problem::new(format!("`{word}` cannot be denied: Redis allows it to everybody"), "leave it out")
            }
        })?;
    }
    Ok(denied)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_option_of_an_address_is_taken_out() {
        for (text, rest, words) in [
            ("127.0.0.1:1", "127.0.0.1:1", "none"),
            ("127.0.0.1:1?proxy=on", "127.0.0.1:1?proxy=on", "none"),
            ("127.0.0.1:1?deny=keys", "127.0.0.1:1", "keys"),
            ("127.0.0.1:1?deny=keys+@admin&proxy=on", "127.0.0.1:1?proxy=on", "keys,@admin"),
            ("/run/s?deny=config|set&deny=keys", "/run/s", "config|set,keys"),
        ] {
            let expected = (rest.to_owned(), denied(words).expect(words));
            assert_eq!(take_option(text), Ok(expected), "{text}");
        }
        assert!(take_option("127.0.0.1:1?deny=flushal").is_err());
    }
}
