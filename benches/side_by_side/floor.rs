//! The floor under every server of this kind: reads requests, and answers each with a constant.

use std::net::Ipv4Addr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::LocalSet;

use super::load::VALUE;

/// Serves for ever. Takes every `*` for the beginning of a request, which is true of what the loads send.
pub(crate) fn serve(port: u16) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    LocalSet::new().block_on(&runtime, async {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await.expect("the port is free");
        loop {
            let (stream, _) = listener.accept().await.expect("clients come");
            tokio::task::spawn_local(answer(stream));
        }
    });
}

#[expect(clippy::naive_bytecount, reason = "the compiler makes it a vector loop, and this is not what is measured")]
async fn answer(mut stream: TcpStream) {
    let _ = stream.set_nodelay(true);
    let reply = [format!("${VALUE}\r\n").as_bytes(), &[b'x'; VALUE], b"\r\n"].concat();
    let replies = reply.repeat(256);
    let mut requests = vec![0; 16 << 10];
    while let Ok(n @ 1..) = stream.read(&mut requests).await {
        let mut count = requests[..n].iter().filter(|&&byte| byte == b'*').count();
        while count > 0 {
            let some = count.min(256);
            if stream.write_all(&replies[..some * reply.len()]).await.is_err() {
                return;
            }
            count -= some;
        }
    }
}
