//! An application with the crate multi-tier-cache, as a test drives it: one command a line on standard input, one answer a
//! line on standard output. The server is that of `REDIS_URL`. It keeps an audit stream, and hears what is in it as well.

use std::error::Error;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use multi_tier_cache::{
    Bytes, CacheManager, CacheStrategy, InvalidationConfig, InvalidationMessage, InvalidationPublisher, L1Cache,
    L2Cache, MokaCacheConfig, ReliableStreamSubscriber,
};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, stdin, stdout};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let url = std::env::var("REDIS_URL")?;
    let l1 = Arc::new(L1Cache::new(MokaCacheConfig::default())?);
    let l2 = Arc::new(L2Cache::new().await?);
    let config = InvalidationConfig { enable_audit_stream: true, ..InvalidationConfig::default() };
    let connection = redis::aio::ConnectionManager::new(redis::Client::open(url.as_str())?).await?;
    let publisher = InvalidationPublisher::new(connection, config.clone());
    // What it hears of the stream: how much, and the last of it.
    let (count, last) = (Arc::new(AtomicU64::new(0)), Arc::new(Mutex::new(String::new())));
    let of_stream = InvalidationConfig { channel: config.audit_stream.clone(), ..config.clone() };
    let reliable = ReliableStreamSubscriber::new(&url, of_stream, "application")?;
    let (counted, shown) = (Arc::clone(&count), Arc::clone(&last));
    reliable.start(move |message| {
        *shown.lock().expect("nobody panics with it") = format!("{message:?}");
        counted.fetch_add(1, Ordering::SeqCst);
        async { Ok(()) }
    });
    let cache = CacheManager::new_with_invalidation(l1, l2, &url, config).await?;
    let mut lines = BufReader::new(stdin()).lines();
    while let Some(line) = lines.next_line().await? {
        let words: Vec<&str> = line.split(' ').collect();
        let value = |text: &str| Bytes::from(text.to_owned());
        let answer = match words[..] {
            ["set", key, text] => {
                cache.set_with_strategy(key, value(text), CacheStrategy::MediumTerm).await?;
                "done".to_owned()
            }
            ["get", key] => match cache.get(key).await? {
                Some(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
                None => "nothing".to_owned(),
            },
            ["remove", key] => {
                cache.invalidate(key).await?;
                "done".to_owned()
            }
            ["pattern", pattern] => {
                cache.invalidate_pattern(pattern).await?;
                "done".to_owned()
            }
            ["update", key, text] => {
                cache.update_cache(key, value(text), Some(Duration::from_secs(60))).await?;
                "done".to_owned()
            }
            ["bulk", ..] => {
                let keys = words[1..].iter().map(ToString::to_string).collect();
                publisher.publish(&InvalidationMessage::remove_bulk(keys)).await?;
                "done".to_owned()
            }
            ["stream"] => {
                let shown = last.lock().expect("nobody panics with it");
                format!("{} {shown}", count.load(Ordering::SeqCst))
            }
            ["heard"] => {
                let stats = cache.invalidation_stats().ok_or("no statistics")?;
                let (removes, bulks) = (stats.removes_received, stats.bulk_removes_received);
                format!("{removes} {bulks} {} {}", stats.patterns_received, stats.processing_errors)
            }
            _ => return Err(format!("no command: {line}").into()),
        };
        stdout().write_all(format!("{answer}\n").as_bytes()).await?;
        stdout().flush().await?;
    }
    Ok(())
}
