//! What an origin's response means for the key: a status, and how long it may be kept (`Cache-Control`, RFC 9111).
//!
//! Pure; `client` reads the response.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use hyper::header::{AGE, CACHE_CONTROL, HeaderMap, HeaderValue};
use hyper::{StatusCode, header};

/// What asking an origin came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Fetched {
    /// It has a value, which may stay for so long; `None`: as long as the settings say. Zero: not at all.
    Value {
        /// The body.
        value: Bytes,
        /// As the origin says.
        stays: Option<Duration>,
    },
    /// It says that there is none.
    Missing,
    /// It has not answered, or with an error.
    Failed(Arc<str>),
}

/// What a status means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum ResponseKind {
    Value,
    Missing,
    Failed(String),
}

/// 200 is a value, 404 says that there is none, and whatever else is an error: nobody is followed elsewhere.
pub(super) fn kind_of(status: StatusCode, headers: &HeaderMap) -> ResponseKind {
    match status {
        StatusCode::OK if is_encoded(headers) => {
            ResponseKind::Failed("the origin encodes its value, and was not asked to".to_owned())
        }
        StatusCode::OK => ResponseKind::Value,
        StatusCode::NOT_FOUND => ResponseKind::Missing,
        other => ResponseKind::Failed(format!("the origin says {}", other.as_u16())),
    }
}

/// `identity` is no encoding.
fn is_encoded(headers: &HeaderMap) -> bool {
    let names = |value: &HeaderValue| value.as_bytes().trim_ascii().eq_ignore_ascii_case(b"identity");
    headers.get_all(header::CONTENT_ENCODING).iter().any(|value| !names(value))
}

/// For how long the response may be kept, where it says.
pub(super) fn stays(headers: &HeaderMap) -> Option<Duration> {
    let (mut max_age, mut shared) = (None, None);
    let lines = headers.get_all(CACHE_CONTROL).iter().filter_map(|value| value.to_str().ok());
    for directive in lines.flat_map(|line| line.split(',')) {
        let (name, value) = directive.split_once('=').unwrap_or((directive, ""));
        let seconds = || value.trim().trim_matches('"').parse::<u64>().ok();
        match name.trim().to_ascii_lowercase().as_str() {
            "no-store" | "no-cache" | "private" => return Some(Duration::ZERO),
            "max-age" => max_age = Some(seconds().unwrap_or(0)), // one that cannot be read is over (RFC 9111, 4.2.1)
            "s-maxage" => shared = Some(seconds().unwrap_or(0)),
            _ => {}
        }
    }
    let age = headers.get(AGE).and_then(|age| age.to_str().ok()?.trim().parse::<u64>().ok()).unwrap_or(0);
    let stays = shared.or(max_age)?.min(LONGEST);
    Some(Duration::from_secs(stays.saturating_sub(age)))
}

/// A year, in seconds.
const LONGEST: u64 = 365 * 24 * 3600;

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(lines: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in lines {
            map.append(*name, value.parse().expect("a value"));
        }
        map
    }

    #[test]
    fn only_a_whole_value_is_one() {
        let none = HeaderMap::new();
        assert_eq!(kind_of(StatusCode::OK, &none), ResponseKind::Value);
        assert_eq!(kind_of(StatusCode::NOT_FOUND, &none), ResponseKind::Missing);
        for status in [201, 204, 206, 301, 302, 304, 307, 401, 403, 410, 429, 500, 503] {
            let status = StatusCode::from_u16(status).expect("a status");
            assert!(matches!(kind_of(status, &none), ResponseKind::Failed(_)), "{status}");
        }
        for encodings in [&[("content-encoding", "gzip")][..], &[("content-encoding", "identity, br")]] {
            assert!(matches!(kind_of(StatusCode::OK, &headers(encodings)), ResponseKind::Failed(_)));
        }
        assert_eq!(kind_of(StatusCode::OK, &headers(&[("content-encoding", "Identity")])), ResponseKind::Value);
    }

    #[test]
    fn cache_control_says_how_long_it_stays() {
        let of = |lines: &[(&'static str, &'static str)]| stays(&headers(lines)).map(|stays| stays.as_secs());
        let cc = "cache-control";
        assert_eq!(of(&[]), None);
        assert_eq!(of(&[(cc, "public")]), None);
        assert_eq!(of(&[(cc, "public, max-age=60")]), Some(60));
        assert_eq!(of(&[(cc, "Max-Age = \"60\"")]), Some(60));
        assert_eq!(of(&[(cc, "max-age=60, s-maxage=5")]), Some(5));
        assert_eq!(of(&[(cc, "s-maxage=5"), (cc, "max-age=60")]), Some(5));
        assert_eq!(of(&[(cc, "max-age=60"), ("age", "50")]), Some(10));
        assert_eq!(of(&[(cc, "max-age=60"), ("age", "70")]), Some(0));
        assert_eq!(of(&[(cc, "max-age=60, no-store")]), Some(0));
        assert_eq!(of(&[(cc, "private")]), Some(0));
        assert_eq!(of(&[(cc, "max-age=soon")]), Some(0));
        assert_eq!(of(&[(cc, "max-age=99999999999999")]), Some(LONGEST));
    }
}
