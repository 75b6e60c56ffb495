//! An upstream that says what nobody asked for: whoever waits on that connection is told, and nobody gets another's reply.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::Duration;

use common::{AT_LAST, Client, Crema};

/// A server that answers every command with OK, but for GET: that it reports, and answers when and as it is told. Ends with
/// the process.
fn upstream() -> (SocketAddr, Receiver<SyncSender<&'static [u8]>>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a loopback port");
    let address = listener.local_addr().expect("a bound listener");
    let (asked, asks) = sync_channel(8);
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let asked = asked.clone();
            std::thread::spawn(move || answer(stream, &asked));
        }
    });
    (address, asks)
}

fn answer(mut stream: TcpStream, asked: &SyncSender<SyncSender<&'static [u8]>>) {
    let mut buffer = [0; 4096];
    while let Ok(read @ 1..) = stream.read(&mut buffer) {
        let text = String::from_utf8_lossy(&buffer[..read]).to_uppercase();
        // Every command begins with the number of its arguments, and none of these tests' arguments do.
        for command in text.split('*').skip(1) {
            let reply = if command.contains("GET\r\n$6\r\nSHARED") {
                let (tell, told) = sync_channel(8);
                let _ = asked.send(tell);
                told.recv().unwrap_or(b"-ERR nobody told\r\n")
            } else {
                b"+OK\r\n"
            };
            if stream.write_all(reply).is_err() {
                return;
            }
        }
    }
}

#[test]
fn a_push_on_a_lane_strands_nobody_who_joined_a_read() {
    let (address, asks) = upstream();
    let crema = Crema::over(address).flag("--threads", 1).flag("--max-staleness", "60s").without_waiting().start();
    if crema.is_direct() {
        return;
    }
    let mut clients: Vec<Client> = (0..3).map(|_| crema.client()).collect();
    for client in &mut clients {
        client.send_cmd(&["GET", "shared"]);
    }
    let tell = asks.recv_timeout(AT_LAST).expect("the read is sent");
    common::eventually("the others have joined it", || crema.waiting() == 3);
    tell.send(b">2\r\n+not\r\n+asked\r\n").expect("the server waits");
    // The same again is the answer to the second try.
    if let Ok(tell) = asks.recv_timeout(Duration::from_secs(5)) {
        tell.send(b"$1\r\nv\r\n").expect("the server waits");
    }
    for (n, client) in clients.iter_mut().enumerate() {
        client.patience(AT_LAST);
        let answer = client.try_value();
        assert!(
            answer.as_ref().is_ok_and(|answer| answer.text() == "v" || answer.is_error()),
            "client {n}: {answer:?}"
        );
    }
}
