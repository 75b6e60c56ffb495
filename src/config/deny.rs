//! Commands that clients may not use: for all (`deny`), and at one address (`listen`, with `?deny=`).

use super::error::Problem;
use crate::command::{Categories, DenialMistake, Denied};

/// What is denied at each address, in their order.
pub(super) type DeniedAt = Vec<Denied>;

/// What is denied, and where.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DenyLists {
    /// To all clients.
    pub(super) everywhere: Denied,
    /// To those of each address besides.
    pub(super) at: DeniedAt,
}

impl DenyLists {
    /// What clients of the address with this number, from 0, may not use.
    pub fn at(&self, number: usize) -> Denied {
        let all = self.everywhere.clone();
        self.at.get(number).map_or_else(|| all.clone(), |own| all.clone().and(own)).and_replicas()
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
    let mut denied = Denied::default();
    for option in own {
        denied = denied.and(&words(option["deny=".len()..].split('+'))?);
    }
    let rest = if others.is_empty() { address.to_owned() } else { format!("{address}?{}", others.join("&")) };
    Ok((rest, denied))
}

fn words<'a>(words: impl Iterator<Item = &'a str>) -> Result<Denied, Problem> {
    let mut denied = Denied::default();
    let words: Vec<&str> = words.map(str::trim).filter(|word| !word.is_empty()).collect();
    if words.is_empty() {
        return Err(Problem::new("nothing is named that is denied", "name commands and categories, or leave it out"));
    }
    for word in words {
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
        for wrong in ["127.0.0.1:1?deny=flushal", "127.0.0.1:1?deny=", "127.0.0.1:1?deny=keys&deny=+"] {
            assert!(take_option(wrong).is_err(), "{wrong}");
        }
        for wrong in ["", " ", ","] {
            assert!(denied(wrong).is_err(), "{wrong}");
        }
        assert_eq!(denied("none"), Ok(Denied::default()));
    }

    #[test]
    fn what_is_denied_at_one_address_is_not_at_its_twin() {
        let lists =
            DenyLists { everywhere: Denied::default(), at: vec![Denied::default(), denied("keys").expect("a name")] };
        assert!(lists.at(0).is_empty() && lists.at(2).is_empty());
        assert_eq!(lists.at(1), denied("keys,sync,psync").expect("names"));
    }
}
