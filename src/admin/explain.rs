//! What would become of a command, as a client is told by `CREMA EXPLAIN`: asked on a connection within the process that acts for the user of
//! `upstream`. Who may ask is decided by `orders`, whose `POST /api/explain` this is.

use std::collections::BTreeMap;
use std::io;
use std::time::Duration;

use redis::{RedisResult, Value};
use tokio::io::AsyncWriteExt;
use tokio::net::UnixStream;
use tokio::time::timeout;

/// It waits for Redis where there are tiers and origins.
const PATIENCE: Duration = Duration::from_secs(5);

/// What crema knows of the command on this line, which is written as in redis-cli; else why it is told nothing.
pub(super) async fn explain(line: &[u8], inside: io::Result<UnixStream>) -> Result<BTreeMap<String, String>, String> {
    if line.is_empty() || line.iter().any(|byte| matches!(byte, b'\r' | b'\n' | 0)) {
        return Err("the body is one line: a command with its arguments".to_owned());
    }
    let asked = async {
        let mut client = inside?;
        client.write_all(&[b"CREMA EXPLAIN ", line, b"\r\n"].concat()).await?;
        #[allow(clippy::default_trait_access, reason = "redis does not export the type's name")]
        redis::parse_redis_value_async(&mut Default::default(), &mut client).await?.extract_error()
    };
    let told: RedisResult<Value> = match timeout(PATIENCE, asked).await {
        Ok(told) => told,
        Err(_) => return Err("crema has not answered in time".to_owned()),
    };
    let fields = told.and_then(|told| Ok(redis::from_redis_value(told)?));
    fields.map_err(|why| why.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::AsyncReadExt;

    async fn told(line: &[u8], answer: &[u8]) -> Result<BTreeMap<String, String>, String> {
        let (ours, mut theirs) = UnixStream::pair().expect("a pair");
        theirs.write_all(answer).await.expect("there is room");
        let told = explain(line, Ok(ours)).await;
        let mut asked = Vec::new();
        let _ = theirs.read_to_end(&mut asked).await; // what is closed with the answer unread is reset
        assert!(told.is_err() || asked == b"CREMA EXPLAIN GET 'a b'\r\n", "{}", asked.escape_ascii());
        told
    }

    #[tokio::test]
    async fn fields_are_told_by_name_and_errors_as_they_are() {
        let fields = told(b"GET 'a b'", b"*4\r\n$5\r\nclass\r\n$6\r\nstring\r\n$4\r\nkeys\r\n$3\r\na b\r\n").await;
        let fields = fields.expect("fields");
        assert_eq!((&*fields["class"], &*fields["keys"]), ("string", "a b"));
        let error = told(b"GET 'a b'", b"-ERR max number of clients reached\r\n").await.expect_err("an error");
        assert!(error.contains("max number of clients"), "{error}");
        for bad in [&b""[..], b"GET k\r\nFLUSHALL", b"GET k\nx"] {
            assert!(told(bad, b"+OK\r\n").await.expect_err("no line").contains("one line"));
        }
        assert!(explain(b"GET k", Err(io::ErrorKind::NotFound.into())).await.is_err());
    }
}
