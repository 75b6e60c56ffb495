//! The URL of an origin, `http://host/path/{1}?of={key}`, and the request that a key makes of it.
//!
//! A key comes from a client and may be made of anything. Whatever it is, the request goes to the host of the rule, below the path
//! that stands before the first placeholder: what a placeholder stands for is percent-encoded, and a key is refused that a server
//! might read as another path than the one it stands in, however often it decodes: dot segments, empty segments,
//! control characters. Pure text.

use std::fmt;
use std::path::PathBuf;

use super::error::Problem;
use super::glob::Glob;
use super::url::{Endpoint, SOCKET_PATH_BYTES, read_address_or};

/// Longer requests are not made, in bytes: servers refuse them.
const LONGEST: usize = 8 << 10;

/// A key that means something else still when it was decoded so often is refused.
const MOST_DECODINGS: usize = 4;

/// See the module's head.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UrlTemplate {
    source: String,
    endpoint: Endpoint,
    tls: bool,
    /// What is asked for as host: `example.org:8080`.
    authority: String,
    path: Vec<Piece>,
    query: Option<Vec<Piece>>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Piece {
    Text(String),
    Key,
    /// What this star stands for, counted from 0.
    Star(usize),
}

/// Why there is no request for a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UnfitKey {
    /// It does not fit the pattern.
    OtherPattern,
    /// It has a control character.
    Control,
    /// It would make a segment `.` or `..`, or one that some server reads so.
    Dots,
    /// It would leave a segment empty.
    Empty,
    /// The request would be longer than servers take.
    Long,
}

impl fmt::Display for UnfitKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::OtherPattern => "the key does not fit the pattern",
            Self::Control => "the key has a control character",
            Self::Dots => "the key would lead to another path",
            Self::Empty => "the key leaves a part of the path empty",
            Self::Long => "the key makes too long a URL",
        })
    }
}

impl UrlTemplate {
    /// Reads the URL of an origin for keys of this pattern.
    pub(super) fn read(text: &str, pattern: &Glob) -> Result<Self, Problem> {
        let Some((scheme, rest)) = text.split_once("://") else { return Err(no_url()) };
        let (endpoint, authority, tls, location) = match scheme.to_ascii_lowercase().as_str() {
            "http" => tcp(rest, 80, false)?,
            "https" => tcp(rest, 443, true)?,
            "unix" => unix(rest)?,
            _ => return Err(no_url()),
        };
        if location.contains('#') {
            return Err(Problem::new("no server is sent what stands behind #", "leave it out of the URL"));
        }
        let (path, query) = match location.split_once('?') {
            Some((path, query)) => (path, Some(query)),
            None => (location, None),
        };
        let path = pieces(if path.is_empty() { "/" } else { path }, pattern)?;
        let query = query.map(|query| pieces(query, pattern)).transpose()?;
        if text_of(&path).split('/').any(is_dots) {
            return Err(Problem::new("the path of the URL has a segment of dots", "write the path itself"));
        }
        let template = Self { source: text.to_owned(), endpoint, tls, authority, path, query };
        if !pattern.is_literal() && !template.pieces().any(|piece| !matches!(piece, Piece::Text(_))) {
            let right = "write {key}, or {1} for what the first * stands for";
            return Err(Problem::new("all keys have the same URL", right));
        }
        Ok(template)
    }

    /// Where it leads.
    pub fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// Whether under TLS.
    pub fn is_tls(&self) -> bool {
        self.tls
    }

    /// The absolute URL for `key`, which `pattern` fits.
    pub fn url(&self, pattern: &Glob, key: &[u8]) -> Result<String, UnfitKey> {
        if key.len() > LONGEST {
            return Err(UnfitKey::Long);
        }
        let stars = pattern.captures(key).ok_or(UnfitKey::OtherPattern)?;
        let value = |piece: &Piece| match piece {
            Piece::Key => key.to_vec(),
            Piece::Star(at) => stars.get(*at).map(|star| star.to_vec()).unwrap_or_default(),
            Piece::Text(_) => Vec::new(),
        };
        if self.pieces().any(|piece| value(piece).iter().any(u8::is_ascii_control)) {
            return Err(UnfitKey::Control);
        }
        check_segments(&self.path, value)?;
        let mut url = format!("{}://{}", if self.tls { "https" } else { "http" }, self.authority);
        write_pieces(&mut url, &self.path, value);
        if let Some(query) = &self.query {
            url.push('?');
            write_pieces(&mut url, query, value);
        }
        if url.len() > LONGEST { Err(UnfitKey::Long) } else { Ok(url) }
    }

    fn pieces(&self) -> impl Iterator<Item = &Piece> {
        self.path.iter().chain(self.query.iter().flatten())
    }
}

impl fmt::Display for UrlTemplate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.source)
    }
}

fn no_url() -> Problem {
    Problem::new(
        "not the URL of an origin",
        "write http://host/path/{1}, https://host/path/{1} or unix:///path/to.sock:/path/{1}",
    )
}

/// Endpoint, authority, whether there is TLS, and what stands behind.
type Location<'a> = (Endpoint, String, bool, &'a str);

fn tcp(rest: &str, port: u16, tls: bool) -> Result<Location<'_>, Problem> {
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (authority, location) = rest.split_at(end);
    if authority.contains('@') {
        let right = "write headers = [\"Authorization: ..\"]";
        return Err(Problem::new("an origin's URL holds no user or password", right));
    }
    let good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | ':' | '[' | ']');
    if authority.is_empty() || !authority.chars().all(good) {
        let right = "write a host name or an address; placeholders stand in the path or behind ?";
        return Err(Problem::new("the URL names no possible host", right));
    }
    let wrong =
        |_| Problem::new("the URL names no possible host", "write a host name or an address, and a port if any");
    let endpoint = read_address_or(authority, port).map_err(wrong)?;
    Ok((endpoint, authority.to_owned(), tls, location))
}

fn unix(rest: &str) -> Result<Location<'_>, Problem> {
    let (path, location) = rest.split_once(":/").map_or((rest, "/"), |(path, _)| (path, &rest[path.len() + 1..]));
    if !path.starts_with('/') || path.len() < 2 || path.len() > SOCKET_PATH_BYTES || path.contains(['{', '?', '#']) {
        return Err(Problem::new("the URL names no possible socket", "write unix:///path/to.sock:/path/{1}"));
    }
    Ok((Endpoint::Unix(PathBuf::from(path)), "localhost".to_owned(), false, location))
}

/// Text and placeholders.
fn pieces(text: &str, pattern: &Glob) -> Result<Vec<Piece>, Problem> {
    let (mut pieces, mut rest) = (Vec::new(), text);
    while let Some((before, after)) = rest.split_once('{') {
        let Some((name, behind)) = after.split_once('}') else {
            return Err(Problem::new("a { of the URL has no }", "write {key} or {1}; %7B for a { itself"));
        };
        push_text(&mut pieces, before)?;
        pieces.push(placeholder(name, pattern)?);
        rest = behind;
    }
    push_text(&mut pieces, rest)?;
    Ok(pieces)
}

fn placeholder(name: &str, pattern: &Glob) -> Result<Piece, Problem> {
    if name == "key" {
        return Ok(Piece::Key);
    }
    let stars = pattern.stars();
    match name.parse::<usize>() {
        Ok(number) if (1..=stars).contains(&number) => Ok(Piece::Star(number - 1)),
        Ok(_) => Err(Problem::new(
            format!("`{{{name}}}` stands for no * of the pattern"),
            format!("the pattern has {stars}"),
        )),
        Err(_) => Err(Problem::new(format!("unknown placeholder `{{{name}}}`"), "write {key}, {1}, {2} ..")),
    }
}

fn push_text(pieces: &mut Vec<Piece>, text: &str) -> Result<(), Problem> {
    let good = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~/?:@!$&'()*+,;=%".contains(&byte);
    if !text.bytes().all(good) {
        return Err(Problem::new("a character cannot stand in a URL as it is", "write it percent-encoded"));
    }
    let mut codes = text.split('%').skip(1);
    if codes.any(|code| !code.as_bytes().get(..2).is_some_and(|hex| hex.iter().all(u8::is_ascii_hexdigit))) {
        return Err(Problem::new("a % of the URL is followed by no hexadecimal number", "write %25 for a % itself"));
    }
    if !text.is_empty() {
        pieces.push(Piece::Text(text.to_owned()));
    }
    Ok(())
}

/// The text of a path, with a letter in place of each placeholder.
fn text_of(path: &[Piece]) -> String {
    let text = |piece: &Piece| if let Piece::Text(text) = piece { text.clone() } else { "x".to_owned() };
    path.iter().map(text).collect()
}

fn is_dots(segment: &str) -> bool {
    matches!(decode(segment.as_bytes()).as_slice(), b"." | b"..")
}

/// Whether every segment stays one, and is none of dots, however often it is decoded.
fn check_segments(path: &[Piece], value: impl Fn(&Piece) -> Vec<u8>) -> Result<(), UnfitKey> {
    let mut segments: Vec<(Vec<u8>, bool)> = vec![(Vec::new(), false)]; // as it is meant, and whether the key has part in it
    for piece in path {
        let Piece::Text(text) = piece else {
            let (segment, keyed) = segments.last_mut().expect("it begins with one");
            segment.extend(value(piece));
            *keyed = true;
            continue;
        };
        for (n, part) in text.split('/').enumerate() {
            if n > 0 {
                segments.push((Vec::new(), false));
            }
            segments.last_mut().expect("it begins with one").0.extend(decode(part.as_bytes()));
        }
    }
    let last = segments.len() - 1;
    for (at, (segment, _)) in segments.into_iter().enumerate().filter(|(_, (_, keyed))| *keyed) {
        check_segment(segment, at == last)?;
    }
    Ok(())
}

fn check_segment(segment: Vec<u8>, is_last: bool) -> Result<(), UnfitKey> {
    let mut read = segment;
    for _ in 0..=MOST_DECODINGS {
        let mut parts = read.split(|byte| b"/\\".contains(byte)).peekable();
        while let Some(part) = parts.next() {
            // What stands behind ; is a parameter to some, who drop it; and behind ? and # there is no path.
            match part.split(|byte| b";?#".contains(byte)).next() {
                Some(b"." | b"..") => return Err(UnfitKey::Dots),
                None | Some(b"") if !is_last || parts.peek().is_some() => return Err(UnfitKey::Empty),
                _ => {}
            }
        }
        if has_long_forms(&read) {
            return Err(UnfitKey::Dots);
        }
        if read.iter().any(u8::is_ascii_control) {
            return Err(UnfitKey::Control);
        }
        let decoded = decode(&read);
        if decoded == read {
            return Ok(());
        }
        read = decoded;
    }
    Err(UnfitKey::Dots)
}

/// Whether something is written longer than it need be, in UTF-8 that is none or as `%u002e`: to some that is a dot or a slash.
fn has_long_forms(text: &[u8]) -> bool {
    let leads = |pair: &[u8]| {
        matches!(pair, [0xE0, 0x80..=0x9F] | [0xF0, 0x80..=0x8F] | [0xF8, 0x80..=0x87] | [0xFC, 0x80..=0x83])
    };
    let by_number = |six: &[u8]| matches!(six, [b'%', b'u' | b'U', hex @ ..] if hex.iter().all(u8::is_ascii_hexdigit));
    text.iter().any(|byte| matches!(byte, 0xC0 | 0xC1)) || text.windows(2).any(leads) || text.windows(6).any(by_number)
}

fn write_pieces(out: &mut String, pieces: &[Piece], value: impl Fn(&Piece) -> Vec<u8>) {
    use std::fmt::Write as _;
    for piece in pieces {
        if let Piece::Text(text) = piece {
            out.push_str(text);
            continue;
        }
        for byte in value(piece) {
            if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
                out.push(char::from(byte));
            } else {
                _ = write!(out, "%{byte:02X}");
            }
        }
    }
}

/// `%2e` is `.`; what is no code stays as it is.
fn decode(text: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((&first, after)) = rest.split_first() {
        let code = (first == b'%').then(|| after.get(..2)).flatten();
        let code = code.and_then(|hex| std::str::from_utf8(hex).ok()).filter(|hex| !hex.starts_with('+'));
        if let Some(byte) = code.and_then(|hex| u8::from_str_radix(hex, 16).ok()) {
            out.push(byte);
            rest = &after[2..];
        } else {
            out.push(first);
            rest = after;
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use rand::rngs::StdRng;
    use rand::{Rng, SeedableRng};

    use super::*;

    fn template(url: &str, pattern: &str) -> (UrlTemplate, Glob) {
        let pattern = Glob::new(pattern);
        (UrlTemplate::read(url, &pattern).unwrap_or_else(|problem| panic!("{url}: {problem}")), pattern)
    }

    fn made(url: &str, pattern: &str, key: &[u8]) -> Result<String, UnfitKey> {
        let (template, pattern) = template(url, pattern);
        template.url(&pattern, key)
    }

    #[test]
    fn makes_the_url_of_a_key() {
        let url = |url, pattern, key: &str| made(url, pattern, key.as_bytes()).expect("a good key");
        assert_eq!(url("http://h:8080/render/{1}", "page:*", "page:7"), "http://h:8080/render/7");
        assert_eq!(url("https://h/{2}/{1}?k={key}", "*:*", "a b:c/d"), "https://h/c%2Fd/a%20b?k=a%20b%3Ac%2Fd");
        assert_eq!(url("unix:///run/app.sock:/v1/{key}", "*", "é"), "http://localhost/v1/%C3%A9");
        assert_eq!(url("http://[::1]:81/{1}.json", "u:*", "u:.."), "http://[::1]:81/...json");
        assert_eq!(url("http://h", "config", "config"), "http://h/");
        assert_eq!(url("http://h/p?{key}", "*", "a&b=c#d?"), "http://h/p?a%26b%3Dc%23d%3F");
        assert_eq!(url("http://h/page/{1}", "page:*", "page:"), "http://h/page/");
    }

    #[test]
    fn refuses_keys_that_a_server_might_read_as_another_path() {
        let url = "http://h/a/{1}/z";
        let again = [b"%".as_slice(), &b"25".repeat(LONGEST / 4)].concat();
        let refused: [(&[u8], UnfitKey); 30] = [
            (b"..?x", UnfitKey::Dots),
            (b"..#x", UnfitKey::Dots),
            (b"..%3fx", UnfitKey::Dots),
            (b"%2e%2e%23", UnfitKey::Dots),
            (b"\xe0\x80\xae", UnfitKey::Dots),
            (b"\xf0\x80\x80\xae", UnfitKey::Dots),
            (b"%e0%80%ae", UnfitKey::Dots),
            (b"%u002e%u002e", UnfitKey::Dots),
            (b"%25u002e", UnfitKey::Dots),
            (b"x//y", UnfitKey::Empty),
            (b"x%2f%2fy", UnfitKey::Empty),
            (b"/x", UnfitKey::Empty),
            (b"x/", UnfitKey::Empty),
            (&again, UnfitKey::Dots),
            (b"..", UnfitKey::Dots),
            (b".", UnfitKey::Dots),
            (b"%2e%2E", UnfitKey::Dots),
            (b"%252e.", UnfitKey::Dots),
            (b"x/../..", UnfitKey::Dots),
            (b"x%2f..", UnfitKey::Dots),
            (b"..\\x", UnfitKey::Dots),
            (b"..;x", UnfitKey::Dots),
            (b"..;/x", UnfitKey::Dots),
            (b"", UnfitKey::Empty),
            (b"x\0", UnfitKey::Control),
            (b"x\r\nHost: evil", UnfitKey::Control),
            (b"x%00", UnfitKey::Control),
            (b"x%250d%250a", UnfitKey::Control),
            (b"\x7f", UnfitKey::Control),
            (&[b'x'; LONGEST], UnfitKey::Long),
        ];
        for (star, why) in refused {
            let key = [b"k:", star].concat();
            assert_eq!(made(url, "k:*", &key), Err(why), "{}", String::from_utf8_lossy(&key));
        }
        assert_eq!(made("http://h/.{1}", "k:*", b"k:."), Err(UnfitKey::Dots), "together with what stands beside it");
        assert_eq!(made("http://h/{1}{2}", "*:*", b".:."), Err(UnfitKey::Dots));
        assert_eq!(made(url, "k:*", b"other"), Err(UnfitKey::OtherPattern));
        let endless = [b"k:%".as_slice(), &b"25".repeat(1 << 19)].concat();
        assert_eq!(made(url, "k:*", &endless), Err(UnfitKey::Long), "at once, for it is not even looked at");
        for good in ["100%", "50%25", "a?b", "é", "a%20b", "x;y", "100%up"] {
            assert!(made(url, "k:*", format!("k:{good}").as_bytes()).is_ok(), "{good}");
        }
    }

    #[test]
    fn refuses_urls_that_cannot_be_meant() {
        let pattern = Glob::new("page:*");
        for (url, says) in [
            ("h/render", "not the URL"),
            ("ftp://h/{1}", "not the URL"),
            ("http:///x/{1}", "no possible host"),
            ("http://{1}/x", "no possible host"),
            ("http://user:pw@h/{1}", "no user or password"),
            ("http://h:0/{1}", ""),
            ("http://h/{1}#x", "#"),
            ("http://h/{2}", "stands for no *"),
            ("http://h/{0}", "stands for no *"),
            ("http://h/{id}", "unknown placeholder"),
            ("http://h/{1", "has no }"),
            ("http://h/../{1}", "dots"),
            ("http://h/%2e%2e/{1}", "dots"),
            ("http://h/a b/{1}", "cannot stand"),
            ("http://h/%zz/{1}", "hexadecimal"),
            ("http://h/render", "the same URL"),
            ("unix://run/x:/{1}", "no possible socket"),
        ] {
            let problem = UrlTemplate::read(url, &pattern).expect_err(url).to_string();
            assert!(problem.contains(says), "{url}: {problem}");
        }
    }

    /// A key of what has led servers astray before.
    fn hostile(dice: &mut StdRng) -> Vec<u8> {
        const PARTS: [&[u8]; 33] = [
            b"\xe0\x80\xae",
            b"%u002e",
            b"%c0%ae",
            b"%3f",
            b"%2523",
            b".",
            b"..",
            b"...",
            b"%2e",
            b"%2E%2e",
            b"%252e",
            b"/",
            b"//",
            b"\\",
            b"%2f",
            b"%5c",
            b"?",
            b"#",
            b"@",
            b"\r\n",
            b"\0",
            b"%00",
            b"%0d%0a",
            b"\xff\xfe",
            b"\xc0\xae",
            b":",
            b"evil.example",
            b"http://evil/",
            b";",
            b"&",
            b" ",
            b"{1}",
            b"a",
        ];
        let count = dice.random_range(0..7);
        let mut key = b"p:".to_vec();
        for _ in 0..count {
            if dice.random_bool(0.9) {
                key.extend_from_slice(PARTS[dice.random_range(0..PARTS.len())]);
            } else {
                key.push(dice.random());
            }
        }
        if dice.random_bool(0.5) {
            key.insert(dice.random_range(2..=key.len()), b':');
        }
        key
    }

    /// As a careless server reads it: decoded again and again, cut at what ends a path, dots resolved.
    fn read_carelessly(path: &str) -> Vec<Vec<Vec<u8>>> {
        let mut all = Vec::new();
        let mut text = path.as_bytes().to_vec();
        for _ in 0..7 {
            let mut stack: Vec<Vec<u8>> = Vec::new();
            let path = text.split(|byte| b"?#".contains(byte)).next().unwrap_or_default();
            for part in path.split(|byte| b"/\\".contains(byte)).filter(|part| !part.is_empty()) {
                match part.split(|&byte| byte == b';').next().unwrap_or_default() {
                    b"." => {}
                    b".." => _ = stack.pop(),
                    part => stack.push(part.to_vec()),
                }
            }
            all.push(stack);
            text = decode_carelessly(&text);
        }
        all
    }

    /// Takes long forms for what they stand for.
    fn decode_carelessly(text: &[u8]) -> Vec<u8> {
        let mut text = decode(text);
        for long in [b"\xc0\xae".as_slice(), b"\xe0\x80\xae", b"%u002e"] {
            while let Some(at) = text.windows(long.len()).position(|part| part == long) {
                text.splice(at..at + long.len(), *b".");
            }
        }
        text
    }

    #[test]
    fn no_key_leads_to_another_host_or_path() {
        let mut dice = StdRng::seed_from_u64(7);
        let templates = [
            template("http://h:8080/base/of/{1}/tail", "p:*"),
            template("http://h:8080/base/of/{key}", "p:*"),
            template("http://h:8080/base/of/{1}{2}?q={2}", "p:*:*"),
            template("http://h:8080/base/of/x{2}/{1}", "p:*:*"),
        ];
        let mut made = 0;
        for _ in 0..100_000 {
            let key = hostile(&mut dice);
            for (template, pattern) in &templates {
                let Ok(url) = template.url(pattern, &key) else { continue };
                made += 1;
                let uri: hyper::Uri = url.parse().unwrap_or_else(|error| panic!("{url}: {error}"));
                assert_eq!(uri.authority().map(hyper::http::uri::Authority::as_str), Some("h:8080"), "{url}");
                assert_eq!(uri.scheme_str(), Some("http"));
                assert!(uri.path().starts_with("/base/of/"), "{url}");
                assert!(url.bytes().all(|byte| byte.is_ascii_graphic()) && !url.contains(['#', '@', '\\']), "{url}");
                assert_eq!(url.matches('?').count(), usize::from(template.query.is_some()), "{url}");
                for path in read_carelessly(uri.path()) {
                    let under = path.get(..2).map(<[Vec<u8>]>::concat);
                    assert_eq!(under.as_deref(), Some(&b"baseof"[..]), "{url}");
                }
            }
        }
        assert!(made > 50_000, "only {made} of the keys made a request");
    }
}
