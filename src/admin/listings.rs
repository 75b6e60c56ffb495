//! What admins are told of keys and clients, as JSON, to whoever shows the token: `GET /api/hotkeys`, `/api/bigkeys`, `/api/clients`,
//! `/api/slowlog`, each with `?n=`; and `POST /api/slowlog/reset`.

use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{self, HeaderValue};
use hyper::{Method, Request, Response, StatusCode};
use tracing::{debug, info, warn};

use super::orders::{admit, told};
use super::{Source, answer};
use crate::proxy::ListingKind;

/// Where they are told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ListingPath {
    /// To be read.
    Read(ListingKind),
    /// Slow commands are forgotten.
    Reset,
}

impl ListingPath {
    pub(super) const ALL: [Self; 5] = [
        Self::Read(ListingKind::HotKeys),
        Self::Read(ListingKind::BigKeys),
        Self::Read(ListingKind::Clients),
        Self::Read(ListingKind::SlowLog),
        Self::Reset,
    ];

    pub(super) const fn path(self) -> &'static str {
        match self {
            Self::Read(ListingKind::HotKeys) => "/api/hotkeys",
            Self::Read(ListingKind::BigKeys) => "/api/bigkeys",
            Self::Read(ListingKind::Clients) => "/api/clients",
            Self::Read(ListingKind::SlowLog) => "/api/slowlog",
            Self::Reset => "/api/slowlog/reset",
        }
    }

    pub(super) fn of(path: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|listing| listing.path() == path)
    }

    /// Answers the client at `peer`.
    pub(super) async fn tell<B>(self, request: &Request<B>, source: &dyn Source, peer: &str) -> Response<Full<Bytes>> {
        let (method, name) = if self == Self::Reset { (Method::POST, "POST") } else { (Method::GET, "GET") };
        if *request.method() != method {
            let mut response = told(StatusCode::METHOD_NOT_ALLOWED, format!("this is asked for by {name}"));
            response.headers_mut().insert(header::ALLOW, HeaderValue::from_static(name));
            return response;
        }
        let shown = request.headers().get(header::AUTHORIZATION);
        if let Err((status, why)) = admit(source.token(), shown, source.control()).await {
            warn!(client = peer, "{} was refused at the admin port: {why}", self.path());
            return told(status, why);
        }
        let Some(count) = count(request.uri().query()) else {
            return told(StatusCode::BAD_REQUEST, format!("the count is 1 to {}: ?n=10", ListingKind::MOST));
        };
        let Self::Read(what) = self else {
            source.listings().reset_slow_commands();
            info!("the slow commands are forgotten, by the admin port's client {peer}");
            return answer(StatusCode::OK, "application/json", "{}\n");
        };
        debug!(client = peer, "{} are listed at the admin port", what.as_str());
        let mut body = source.listings().list(what, count).await.to_string();
        body.push('\n');
        answer(StatusCode::OK, "application/json", body)
    }
}

/// How many are to be told of; none where that is no number that may be.
fn count(query: Option<&str>) -> Option<usize> {
    let given = query.into_iter().flat_map(|query| query.split('&')).find_map(|pair| pair.strip_prefix("n="));
    ListingKind::count(given)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_count_is_a_number_that_may_be() {
        let usual = Some(ListingKind::USUAL);
        assert_eq!((count(None), count(Some("x=1")), count(Some("x=1&n=7"))), (usual, usual, Some(7)));
        for bad in ["n=0", "n=", "n=1001", "n=-1", "n=all"] {
            assert_eq!(count(Some(bad)), None, "{bad}");
        }
    }

    #[test]
    fn every_listing_has_a_path() {
        for listing in ListingPath::ALL {
            assert_eq!(ListingPath::of(listing.path()), Some(listing));
            if let ListingPath::Read(what) = listing {
                assert_eq!(listing.path(), format!("/api/{}", what.as_str()));
            }
        }
    }
}
