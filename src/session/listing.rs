//! `CREMA HOTKEYS`, `BIGKEYS`, `CLIENTS` and `SLOWLOG`: what admins are told of keys and clients, as Redis would tell it.
//!
//! The fields are those of the admin port's JSON.

use serde_json::Value;
use tracing::{debug, info};

use super::Session;
use crate::proxy::ListingKind;
use crate::resp::{Request, Resp, encode};

impl Session {
    /// Tells an admin what it asks for.
    pub(super) async fn list(&self, what: ListingKind, request: Request<'_>, reply: &mut Vec<u8>) {
        let by = match self.must_be_admin() {
            Ok(by) => by,
            Err(refusal) => return encode::error(reply, &refusal),
        };
        let listings = &self.worker.shared.listings;
        let argument = (request.argc() > 2).then(|| request.arg(2));
        if what == ListingKind::SlowLog && argument.is_some_and(|argument| argument.eq_ignore_ascii_case(b"RESET")) {
            listings.reset_slow_commands();
            info!("the slow commands are forgotten, by {by}");
            return encode::simple(reply, "OK");
        }
        let count = argument.map(|count| std::str::from_utf8(count).unwrap_or_default());
        let Some(count) = ListingKind::count(count).filter(|_| request.argc() <= 3) else {
            return encode::error(
                reply,
                &format!("ERR crema: the count is 1 to {}. Try CREMA HELP.", ListingKind::MOST),
            );
        };
        debug!("{} are listed for {by}", what.as_str());
        tell(&listings.list(what, count).await, self.caller.resp, reply);
    }
}

/// Appends it as a reply.
fn tell(value: &Value, resp: Resp, out: &mut Vec<u8>) {
    match value {
        Value::Null => encode::null(out, resp),
        Value::Bool(is) => encode::boolean(out, *is, resp),
        Value::Number(number) => match (number.as_i64(), resp) {
            (Some(whole), _) => encode::integer(out, whole),
            (None, Resp::V2) => encode::bulk(out, number.to_string().as_bytes()),
            (None, Resp::V3) => out.extend_from_slice(format!(",{number}\r\n").as_bytes()),
        },
        Value::String(text) => encode::bulk(out, text.as_bytes()),
        Value::Array(all) => {
            encode::array_header(out, all.len());
            for one in all {
                tell(one, resp, out);
            }
        }
        Value::Object(fields) => {
            encode::map_header(out, fields.len(), resp);
            for (name, value) in fields {
                encode::bulk(out, name.as_bytes());
                tell(value, resp, out);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn json_is_told_in_both_versions() {
        let told = |resp| {
            let mut out = Vec::new();
            tell(&json!({ "keys": [{ "key": "a", "share": 0.5, "n": 3, "of": null }], "ok": true }), resp, &mut out);
            String::from_utf8(out).expect("text").replace("\r\n", " ")
        };
        assert_eq!(told(Resp::V2), "*4 $4 keys *1 *8 $3 key $1 a $1 n :3 $2 of $-1 $5 share $3 0.5 $2 ok :1 ");
        assert_eq!(told(Resp::V3), "%2 $4 keys *1 %4 $3 key $1 a $1 n :3 $2 of _ $5 share ,0.5 $2 ok #t ");
    }
}
