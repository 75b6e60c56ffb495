//! What can be ordered at the admin port, by whoever shows the token: `POST /api/mode`, `POST /api/reload`; and `POST /api/explain`,
//! which changes nothing.
//!
//! Without a token in the settings everything here is refused. A token comes in a header that no page of another site can send.

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Body;
use hyper::header::{self, HeaderValue};
use hyper::{Method, Request, Response, StatusCode};
use ring::{hmac, rand};
use serde::Serialize;
use tokio::sync::Semaphore;
use tracing::warn;

use super::explain::explain;
use super::{Source, answer};
use crate::config::{AdminToken, L1Mode};
use crate::control::Control;
use crate::proxy::{Order, OrderReport, UndoneOrder};

/// The largest body of an order, in bytes.
const MAX_BODY: usize = 1024;

/// Where orders are taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum OrderPath {
    Mode,
    Reload,
    Explain,
}

/// What came of an order.
#[derive(Debug, Serialize)]
#[serde(untagged)]
enum OrderOutcome {
    Done { changed: Vec<String>, restart: Vec<String> },
    Refused { error: String },
}

impl OrderPath {
    pub(super) const ALL: [Self; 3] = [Self::Mode, Self::Reload, Self::Explain];

    pub(super) const fn path(self) -> &'static str {
        match self {
            Self::Mode => "/api/mode",
            Self::Reload => "/api/reload",
            Self::Explain => "/api/explain",
        }
    }

    pub(super) fn of(path: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|desk| desk.path() == path)
    }

    /// Takes an order of the client at `peer`, and answers when it was carried out.
    pub(super) async fn take<B: Body<Error: std::error::Error + Send + Sync + 'static>>(
        self,
        request: Request<B>,
        source: &dyn Source,
        peer: &str,
    ) -> Response<Full<Bytes>> {
        if request.method() != Method::POST {
            let mut response = told(StatusCode::METHOD_NOT_ALLOWED, "orders are given by POST".to_owned());
            response.headers_mut().insert(header::ALLOW, HeaderValue::from_static("POST"));
            return response;
        }
        if let Err(refusal) =
            admit(source.token(), request.headers().get(header::AUTHORIZATION), source.control()).await
        {
            warn!(client = peer, "an order at the admin port was refused: {}", refusal.1);
            return told(refusal.0, refusal.1);
        }
        let Ok(body) = Limited::new(request.into_body(), MAX_BODY).collect().await else {
            return told(StatusCode::PAYLOAD_TOO_LARGE, "the body of an order is small".to_owned());
        };
        let body = body.to_bytes();
        let order = match self.order(body.trim_ascii()) {
            Ok(Some(order)) => order,
            Ok(None) => {
                return match explain(body.trim_ascii(), source.inside()).await {
                    Ok(fields) => json(StatusCode::OK, &fields),
                    Err(why) => told(StatusCode::BAD_REQUEST, why),
                };
            }
            Err(why) => return told(StatusCode::BAD_REQUEST, why),
        };
        match source.orders().give(order, format!("the admin port's client {peer}")).await {
            Ok(OrderReport { changed, restart }) => json(StatusCode::OK, &OrderOutcome::Done { changed, restart }),
            Err(why @ UndoneOrder::Refused(_)) => told(StatusCode::CONFLICT, why.to_string()),
            Err(UndoneOrder::Late) => told(StatusCode::GATEWAY_TIMEOUT, UndoneOrder::Late.to_string()),
        }
    }

    /// What is to be done, if anything is.
    fn order(self, body: &[u8]) -> Result<Option<Order>, String> {
        match self {
            Self::Explain => Ok(None),
            Self::Reload => Ok(Some(Order::Reload)),
            Self::Mode => {
                let mode = std::str::from_utf8(body).ok().and_then(L1Mode::named);
                let mode = mode.ok_or_else(|| format!("the body is a mode: {}", L1Mode::LABELS.join(", ")))?;
                Ok(Some(Order::Mode(mode)))
            }
        }
    }
}

/// Whether who shows this may give orders; else what it is told.
pub(super) async fn admit(
    token: Option<AdminToken>,
    shown: Option<&HeaderValue>,
    control: &Control,
) -> Result<(), (StatusCode, String)> {
    let Some(token) = token else {
        let why = "no admin_token is set, so nothing can be changed here".to_owned();
        return Err((StatusCode::FORBIDDEN, why));
    };
    // Who shows nothing has nothing read.
    if let Some(shown) = shown.and_then(|shown| shown.as_bytes().strip_prefix(b"Bearer ")) {
        let token = read(token, control).await.map_err(|why| (StatusCode::FORBIDDEN, why))?;
        if is_same(&token, shown) {
            return Ok(());
        }
    }
    Err((StatusCode::UNAUTHORIZED, "show the token: Authorization: Bearer TOKEN".to_owned()))
}

/// The token as it is now. A file is read where that holds up nobody, by one client at a time, for nobody knows yet who they are.
async fn read(token: AdminToken, control: &Control) -> Result<Vec<u8>, String> {
    static TURN: Semaphore = Semaphore::const_new(1);
    if matches!(token, AdminToken::Fixed(_)) {
        return token.read();
    }
    let turn = TURN.acquire().await.map_err(|closed| closed.to_string())?;
    let reading = control.spawn_blocking(move || {
        let read = token.read();
        drop(turn);
        read
    });
    reading.await.unwrap_or_else(|_| Err("crema ends".to_owned()))
}

/// Whether the two are the same, in a time that tells nothing of where they differ.
fn is_same(token: &[u8], shown: &[u8]) -> bool {
    let Ok(key) = hmac::Key::generate(hmac::HMAC_SHA256, &rand::SystemRandom::new()) else { return false };
    hmac::verify(&key, shown, hmac::sign(&key, token).as_ref()).is_ok()
}

pub(super) fn told(status: StatusCode, why: String) -> Response<Full<Bytes>> {
    json(status, &OrderOutcome::Refused { error: why })
}

fn json(status: StatusCode, outcome: &impl Serialize) -> Response<Full<Bytes>> {
    let mut body = serde_json::to_string(outcome).expect("strings always serialize");
    body.push('\n');
    answer(status, "application/json", body)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Secret;

    #[tokio::test]
    async fn only_the_token_admits() {
        let control = Control::here();
        let token = AdminToken::Fixed(Secret::new("right"));
        let shown = |text: &'static str| Some(HeaderValue::from_static(text));
        assert_eq!(admit(Some(token.clone()), shown("Bearer right").as_ref(), &control).await, Ok(()));
        for wrong in [None, shown("right"), shown("Bearer wrong"), shown("Bearer "), shown("Basic right")] {
            let refusal = admit(Some(token.clone()), wrong.as_ref(), &control).await.expect_err("it is not the token");
            assert_eq!(refusal.0, StatusCode::UNAUTHORIZED);
        }
        let refusal = admit(None, shown("Bearer ").as_ref(), &control).await;
        assert_eq!(refusal.expect_err("there is none").0, StatusCode::FORBIDDEN);
    }

    #[tokio::test]
    async fn a_token_in_a_file_is_read_each_time_and_is_never_empty() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("token");
        let token = AdminToken::File(path.clone());
        let shown = HeaderValue::from_static("Bearer one");
        let control = Control::here();
        let status = async || admit(Some(token.clone()), Some(&shown), &control).await.map_err(|refusal| refusal.0);
        assert_eq!(status().await, Err(StatusCode::FORBIDDEN), "there is no file");
        for (text, expected) in
            [("one\n", Ok(())), ("two", Err(StatusCode::UNAUTHORIZED)), (" \n", Err(StatusCode::FORBIDDEN))]
        {
            std::fs::write(&path, text).expect("our own directory");
            assert_eq!(status().await, expected, "{text}");
        }
    }

    #[test]
    fn an_order_names_a_mode() {
        assert_eq!(OrderPath::Mode.order(b"Pass"), Ok(Some(Order::Mode(L1Mode::Pass))));
        assert!(OrderPath::Mode.order(b"off").is_err() && OrderPath::Mode.order(b"\xff").is_err());
    }
}
