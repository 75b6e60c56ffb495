//! An application with the crate multi-tier-cache, as a test drives it: one command a line on standard input, one answer a
//! line on standard output. The server is that of `REDIS_URL`.

use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use multi_tier_cache::{Bytes, CacheManager, CacheStrategy, InvalidationConfig, L1Cache, L2Cache, MokaCacheConfig};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, stdin, stdout};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let url = std::env::var("REDIS_URL")?;
    let l1 = Arc::new(L1Cache::new(MokaCacheConfig::default())?);
    let l2 = Arc::new(L2Cache::new().await?);
    let config = InvalidationConfig { enable_audit_stream: false, ..InvalidationConfig::default() };
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
