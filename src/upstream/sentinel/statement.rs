//! What a Sentinel says of the master that it watches, in one exchange; and of the others that it knows.
//!
//! Reads replies of RESP2, without I/O. The order of the questions matters: the vote is asked for first, under the address that the
//! Sentinel watched at the last exchange, and the address last. Where a failover ended in between, the addresses differ, and the
//! vote counts for nothing. (sentinel.c, `sentinelCommand`: `SENTINEL IS-MASTER-DOWN-BY-ADDR` of an address that is not watched shows
//! no vote.)

use std::collections::HashMap;

use redis_protocol::resp2::decode::decode;
use redis_protocol::resp2::types::OwnedFrame;

use crate::config::Endpoint;

/// What a Sentinel calls itself to others, as `SENTINEL MYID` says and `SENTINEL SENTINELS` lists.
pub(crate) type SentinelId = Box<str>;

/// See the module's head.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Statement {
    /// Where it sends clients.
    pub(crate) named: Endpoint,
    /// Which server it watches: another than it names while it brings the rest in line behind the one that it has promoted.
    pub(crate) watched: Endpoint,
    /// The number of the failover that made that the master.
    pub(crate) number: u64,
    /// It is at work on a failover.
    pub(crate) fails_over: bool,
    /// Other Sentinels that it knows.
    pub(crate) others: usize,
    /// For whom it voted last; none where that could not be seen this time.
    pub(crate) vote: Option<Vote>,
}

impl Statement {
    /// Whether it may be about to make another server the master.
    pub(crate) fn threatens(&self) -> bool {
        self.fails_over && self.named == self.watched
    }
}

/// For whom a Sentinel voted last.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Vote {
    /// Of the election; 0: of none yet.
    pub(crate) number: u64,
    /// None where the Sentinel has forgotten it, or nobody was voted for.
    pub(crate) leader: Option<SentinelId>,
}

/// Why an exchange says nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum NoStatement {
    /// It watches no master of this name.
    UnknownName,
    /// It refuses a question, with this reply.
    Refused(Box<str>),
    /// Not what a Sentinel says.
    Unreadable,
}

/// The questions of one exchange about the master `name`, which the Sentinel watched at `watched` when it was asked last. The number 0
/// asks for no vote, and so casts none; a name that is no Sentinel's has the last one shown.
pub(crate) fn questions(name: &str, watched: Option<&Endpoint>) -> [Vec<Vec<u8>>; 3] {
    let words = |words: &[&str]| words.iter().map(|word| word.as_bytes().to_vec()).collect();
    let (host, port) = match watched {
        Some(Endpoint::Tcp { host, port }) => (host.as_str(), port.to_string()),
        _ => ("127.0.0.1", "1".to_owned()), // nothing is known yet, and what is answered will not count
    };
    [
        words(&["SENTINEL", "IS-MASTER-DOWN-BY-ADDR", host, &port, "0", "crema"]),
        words(&["SENTINEL", "GET-MASTER-ADDR-BY-NAME", name]),
        words(&["SENTINEL", "MASTER", name]),
    ]
}

/// What the replies to these [`questions`] say.
pub(crate) fn statement(watched: Option<&Endpoint>, replies: [&[u8]; 3]) -> Result<Statement, NoStatement> {
    let [vote, named, master] = replies;
    let master = named_values(&read(master)?).ok_or(NoStatement::Unreadable)?;
    let named = match read(named)? {
        OwnedFrame::Array(address) => address_of(&address).ok_or(NoStatement::Unreadable)?,
        OwnedFrame::Null => return Err(NoStatement::UnknownName),
        _ => return Err(NoStatement::Unreadable),
    };
    let text = |field: &str| master.get(field).map(String::as_str).ok_or(NoStatement::Unreadable);
    let number = |field: &str| text(field)?.parse::<u64>().map_err(|_| NoStatement::Unreadable);
    let port = u16::try_from(number("port")?).map_err(|_| NoStatement::Unreadable)?;
    let now_watched = Endpoint::Tcp { host: text("ip")?.to_owned(), port };
    let vote = read(vote)?;
    Ok(Statement {
        named,
        number: number("config-epoch")?,
        fails_over: text("flags")?.split(',').any(|flag| flag == "failover_in_progress"),
        others: usize::try_from(number("num-other-sentinels")?).unwrap_or(usize::MAX),
        vote: if watched == Some(&now_watched) { Some(vote_of(&vote)?) } else { None },
        watched: now_watched,
    })
}

/// The other Sentinels that one lists, and where they are.
pub(crate) fn sentinels(reply: &[u8]) -> Result<Vec<(SentinelId, Endpoint)>, NoStatement> {
    let known = |entry: &HashMap<String, String>| Some((entry.get("runid")?.as_str().into(), place(entry)?));
    Ok(entries(reply)?.iter().filter_map(known).filter(|(id, _): &(SentinelId, _)| !id.is_empty()).collect())
}

/// The replicas that a Sentinel lists.
pub(crate) fn replicas(reply: &[u8]) -> Result<Vec<Endpoint>, NoStatement> {
    Ok(entries(reply)?.iter().filter_map(place).collect())
}

/// What a Sentinel calls itself, where it says so.
pub(crate) fn my_id(reply: &[u8]) -> Option<SentinelId> {
    text(&read(reply).ok()?).map(String::into_boxed_str)
}

fn entries(reply: &[u8]) -> Result<Vec<HashMap<String, String>>, NoStatement> {
    match read(reply)? {
        OwnedFrame::Array(entries) => Ok(entries.iter().filter_map(named_values).collect()),
        _ => Err(NoStatement::Unreadable),
    }
}

fn place(entry: &HashMap<String, String>) -> Option<Endpoint> {
    let port = entry.get("port")?.parse().ok().filter(|port| *port != 0)?;
    let host = entry.get("ip").filter(|host| !host.is_empty())?;
    Some(Endpoint::Tcp { host: host.clone(), port })
}

fn address_of(address: &[OwnedFrame]) -> Option<Endpoint> {
    let [host, port] = address else { return None };
    let port = text(port)?.parse().ok().filter(|port| *port != 0)?;
    Some(Endpoint::Tcp { host: text(host).filter(|host| !host.is_empty())?, port })
}

fn vote_of(reply: &OwnedFrame) -> Result<Vote, NoStatement> {
    let OwnedFrame::Array(parts) = reply else { return Err(NoStatement::Unreadable) };
    let [_, leader, OwnedFrame::Integer(number)] = &parts[..] else { return Err(NoStatement::Unreadable) };
    let leader = text(leader).filter(|leader| !leader.is_empty() && leader != "*").map(String::into_boxed_str);
    Ok(Vote { number: u64::try_from(*number).map_err(|_| NoStatement::Unreadable)?, leader })
}

fn read(reply: &[u8]) -> Result<OwnedFrame, NoStatement> {
    match decode(reply) {
        Ok(Some((OwnedFrame::Error(said), _))) if said.contains("No such master") => Err(NoStatement::UnknownName),
        Ok(Some((OwnedFrame::Error(said), _))) => Err(NoStatement::Refused(said.into())),
        Ok(Some((frame, _))) => Ok(frame),
        _ => Err(NoStatement::Unreadable),
    }
}

fn named_values(frame: &OwnedFrame) -> Option<HashMap<String, String>> {
    let OwnedFrame::Array(parts) = frame else { return None };
    parts.chunks_exact(2).map(|pair| Some((text(&pair[0])?, text(&pair[1])?))).collect()
}

fn text(frame: &OwnedFrame) -> Option<String> {
    match frame {
        OwnedFrame::BulkString(data) | OwnedFrame::SimpleString(data) => {
            Some(String::from_utf8_lossy(data).into_owned())
        }
        OwnedFrame::Integer(number) => Some(number.to_string()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resp::encode;

    fn at(port: u16) -> Endpoint {
        Endpoint::Tcp { host: "10.0.0.1".to_owned(), port }
    }

    fn bulks(words: &[&str]) -> Vec<u8> {
        let mut out = Vec::new();
        encode::array_header(&mut out, words.len());
        for word in words {
            encode::bulk(&mut out, word.as_bytes());
        }
        out
    }

    fn master(port: &str, flags: &str) -> Vec<u8> {
        bulks(&[
            "name",
            "m",
            "ip",
            "10.0.0.1",
            "port",
            port,
            "flags",
            flags,
            "config-epoch",
            "7",
            "num-other-sentinels",
            "2",
        ])
    }

    const VOTE: &[u8] = b"*3\r\n:0\r\n$3\r\nabc\r\n:8\r\n";
    const NONE: &[u8] = b"*3\r\n:0\r\n$1\r\n*\r\n:0\r\n";

    #[test]
    fn an_exchange_is_read() {
        let (named, before) = (bulks(&["10.0.0.1", "6379"]), at(6379));
        let said = statement(Some(&before), [VOTE, &named, &master("6379", "master")]).expect("all is there");
        let vote = Some(Vote { number: 8, leader: Some("abc".into()) });
        let (fails_over, others) = (false, 2);
        assert_eq!(said, Statement { named: at(6379), watched: at(6379), number: 7, fails_over, others, vote });
        let said = statement(Some(&before), [NONE, &named, &master("6379", "master")]).expect("all is there");
        assert_eq!(said.vote, Some(Vote { number: 0, leader: None }));
    }

    #[test]
    fn a_vote_that_was_asked_for_under_a_former_address_is_none() {
        let named = bulks(&["10.0.0.1", "6380"]);
        for before in [Some(at(6379)), None] {
            let said = statement(before.as_ref(), [NONE, &named, &master("6380", "master")]).expect("all is there");
            assert_eq!(said.vote, None);
        }
    }

    #[test]
    fn a_failover_threatens_until_its_new_master_is_named() {
        let flags = "master,failover_in_progress";
        for (named, threatens) in [("6379", true), ("6380", false)] {
            let named = bulks(&["10.0.0.1", named]);
            let said = statement(Some(&at(6379)), [VOTE, &named, &master("6379", flags)]).expect("all is there");
            assert_eq!(said.threatens(), threatens);
        }
    }

    #[test]
    fn what_says_nothing_says_why() {
        let (named, known) = (bulks(&["10.0.0.1", "6379"]), master("6379", "master"));
        let unknown = b"-ERR No such master with that name\r\n";
        let refused = b"-NOPERM no\r\n";
        let nothing = |replies| statement(None, replies).expect_err("something is missing");
        assert_eq!(nothing([NONE, b"*-1\r\n", unknown]), NoStatement::UnknownName);
        assert_eq!(nothing([NONE, b"*-1\r\n", &known]), NoStatement::UnknownName);
        assert_eq!(nothing([refused, &named, &known]), NoStatement::Refused("NOPERM no".into()));
        assert_eq!(nothing([NONE, b"+OK\r\n", &known]), NoStatement::Unreadable);
        assert_eq!(nothing([NONE, &named, &bulks(&["ip", "10.0.0.1"])]), NoStatement::Unreadable);
    }

    #[test]
    fn lists_are_read_and_what_has_no_place_in_them_is_left_out() {
        let entry = |fields: &[&str]| String::from_utf8(bulks(fields)).expect("text");
        let list = format!(
            "*3\r\n{}{}{}",
            entry(&["ip", "10.0.0.1", "port", "26379", "runid", "a"]),
            entry(&["ip", "10.0.0.1", "port", "0", "runid", "b"]),
            entry(&["ip", "10.0.0.1", "port", "26381", "runid", ""]),
        );
        assert_eq!(sentinels(list.as_bytes()), Ok(vec![("a".into(), at(26379))]));
        assert_eq!(replicas(list.as_bytes()), Ok(vec![at(26379), at(26381)]));
        assert_eq!(my_id(b"$3\r\nabc\r\n"), Some("abc".into()));
        assert_eq!(my_id(b"-ERR Unknown sentinel subcommand\r\n"), None);
    }

    #[test]
    fn the_vote_is_asked_for_first_and_none_is_cast() {
        let words = |watched| questions("m", watched).map(|words| String::from_utf8(words.join(&b' ')).expect("text"));
        let [vote, named, master] = words(Some(&at(6379)));
        assert_eq!(vote, "SENTINEL IS-MASTER-DOWN-BY-ADDR 10.0.0.1 6379 0 crema");
        assert_eq!(named, "SENTINEL GET-MASTER-ADDR-BY-NAME m");
        assert_eq!(master, "SENTINEL MASTER m");
    }
}
