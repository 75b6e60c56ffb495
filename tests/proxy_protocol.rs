//! The PROXY protocol: where a listener expects it, clients are who it says; where it does not, nobody gets in with it.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use common::redis::{free_port, loopback};
use common::tls::{Authority, Tunnel, client_side};
use common::{AT_LAST, Client, Crema, Redis, eventually, int, ok};

const VERSION_1: &[u8] = b"PROXY TCP4 203.0.113.7 192.0.2.1 4711 6379\r\n";
/// From 203.0.113.8, port 4712, with a name that the load balancer adds.
const VERSION_2: &[u8] =
    b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x13\xcb\0\x71\x08\xc0\0\x02\x01\x12\x68\x18\xeb\x02\0\x04name";
/// It looks whether somebody is there.
const LOCAL: &[u8] = b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0";
const UNKNOWN: &[u8] = b"PROXY UNKNOWN\r\n";

/// A crema that expects headers at the second address, and none at its own.
fn behind_balancer() -> (Redis, Crema, SocketAddr) {
    let redis = Redis::start();
    let addr = loopback(free_port());
    let crema = Crema::over(redis.addr()).also_on(&format!("tcp://{addr}?proxy=on")).start();
    (redis, crema, addr)
}

/// A session behind this header.
fn passed_on(addr: SocketAddr, header: &[u8]) -> Client {
    let mut client = Client::connect(addr);
    client.send(header);
    client
}

/// What comes back until the connection ends.
fn answer(addr: SocketAddr, bytes: &[u8]) -> String {
    let mut stream = TcpStream::connect(addr).expect("it listens");
    stream.set_read_timeout(Some(AT_LAST)).expect("a timeout");
    stream.write_all(bytes).expect("it is open");
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).expect("closed in order, and in time");
    String::from_utf8_lossy(&answer).into_owned()
}

#[test]
fn clients_are_where_the_header_says() {
    let (_redis, crema, addr) = behind_balancer();
    if crema.is_direct() {
        return;
    }
    let mut admin = crema.client();
    for (header, from) in [(VERSION_1, "203.0.113.7:4711"), (VERSION_2, "203.0.113.8:4712")] {
        let mut client = passed_on(addr, header);
        assert_eq!(client.cmd(&["SET", "k", "v"]), ok());
        assert_eq!(admin.cmd(&["CLIENT", "KILL", "ADDR", from]), int(1));
        eventually("it is closed", || client.try_cmd(&["PING"]).is_err());
        let told = format!("client closed: CLIENT KILL client={from}");
        eventually("its address is told", || crema.has_logged(&told));
    }
    for header in [LOCAL, UNKNOWN] {
        let mut client = passed_on(addr, header);
        assert_eq!(client.cmd(&["SET", "k", "v"]), ok());
        let own = client.stream().local_addr().expect("it is open").to_string();
        assert_eq!(admin.cmd(&["CLIENT", "KILL", "ADDR", &own]), int(1));
    }
    // Whatever way it is cut, and with commands right behind it.
    let mut client = Client::connect(addr);
    for byte in VERSION_2 {
        client.send(&[*byte]);
    }
    assert_eq!(client.cmd(&["SET", "k", "v"]), ok());
    let mut client = passed_on(addr, &[VERSION_1, &common::pack(&["SET", "k", "w"])].concat());
    assert_eq!(client.value(), ok());
}

#[test]
fn who_comes_without_a_header_where_one_is_expected_is_refused() {
    let (_redis, crema, addr) = behind_balancer();
    if crema.is_direct() {
        return;
    }
    let expected = "-ERR Protocol error: expected a PROXY protocol header\r\n";
    assert_eq!(answer(addr, b"*1\r\n$4\r\nPING\r\n"), expected);
    eventually("it is told", || crema.has_logged("it does not begin with a PROXY protocol header"));
    assert_eq!(answer(addr, b"PROXY TCP4 nowhere\r\n"), expected);
    eventually("it is told", || crema.has_logged("its PROXY protocol header is malformed"));
    assert_eq!(answer(addr, b"\r\n\r\n\0\r\nQUIT\n\x21\x11\xff\xff"), expected);
    eventually("it is told", || crema.has_logged("its PROXY protocol header is too long"));
    eventually("each is counted", || crema.count("crema_proxy_headers_refused_total", &[]) == 3);
    // Who only looks whether somebody listens, as load balancers do, is no trouble.
    drop(TcpStream::connect(addr).expect("it listens"));
    let half = std::thread::spawn(move || answer(addr, b"PROXY TC"));
    assert_eq!(half.join().expect("it does not panic"), expected);
    eventually("it is told", || crema.has_logged("its PROXY protocol header took too long"));
    assert_eq!(crema.count("crema_proxy_headers_refused_total", &[]), 4);
    assert_eq!(passed_on(addr, VERSION_1).cmd(&["SET", "k", "v"]), ok());
}

/// Some health checks leave by a reset. It is no trouble, with a header expected, with TLS, and with both.
#[test]
fn who_only_looks_may_leave_by_a_reset() {
    let authority = Authority::new();
    let own = authority.issue("server", &["127.0.0.1"]);
    let redis = Redis::start();
    let [expects, secure, both] = std::array::from_fn(|_| loopback(free_port()));
    let crema = Crema::over(redis.addr())
        .flag("--tls-cert", own.cert.display())
        .flag("--tls-key", own.key.display())
        .also_on(&format!("tcp://{expects}?proxy=on,tls://{secure},tls://{both}?proxy=on"))
        .log("crema::server=debug")
        .start();
    if crema.is_direct() {
        return;
    }
    for (already, addr) in [expects, secure, both].into_iter().enumerate() {
        let stream = TcpStream::connect(addr).expect("it listens");
        eventually("it is there", || crema.count("crema_sessions", &[]) > 0);
        socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO)).expect("it is open");
        drop(stream);
        eventually("it is told", || crema.log().matches("a client has left without a word").count() == already + 1);
    }
    assert_eq!(crema.count("crema_proxy_headers_refused_total", &[]), 0);
    assert_eq!(crema.count("crema_tls_handshakes_failed_total", &[]), 0);
}

/// What one sends that is no header is not read for as long as it sends: others are served meanwhile.
#[test]
fn who_sends_rubbish_without_end_holds_up_nobody() {
    let (_redis, crema, addr) = behind_balancer();
    if crema.is_direct() {
        return;
    }
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let rubbish = vec![b'x'; 1 << 16];
                while !over.load(Ordering::Relaxed) {
                    let mut stream = TcpStream::connect(addr).expect("it listens");
                    let mut goes_on = true;
                    while goes_on && !over.load(Ordering::Relaxed) {
                        goes_on = stream.write_all(&rubbish).is_ok();
                    }
                }
            });
        }
        eventually("some are refused", || crema.count("crema_proxy_headers_refused_total", &[]) > 100);
        let served = (0..200).all(|_| crema.client().try_cmd(&["SET", "k", "v"]).is_ok_and(|reply| reply == ok()));
        over.store(true, Ordering::Relaxed);
        assert!(served);
    });
}

#[test]
fn who_comes_with_a_header_where_none_is_expected_is_refused() {
    let (_redis, crema, addr) = behind_balancer();
    if crema.is_direct() {
        return;
    }
    let unexpected = "-ERR Protocol error: unexpected PROXY protocol header\r\n";
    for header in [VERSION_1, VERSION_2, LOCAL, UNKNOWN] {
        let whole = [header, &common::pack(&["SET", "k", "v"])].concat();
        assert_eq!(answer(crema.addr(), &whole), unexpected);
        assert_eq!(answer(addr, &[header, &whole].concat()), unexpected, "a second one");
    }
    eventually("it is told", || crema.has_logged("its address in `listen` does not say ?proxy=on"));
    assert_eq!(crema.count("crema_proxy_headers_refused_total", &[]), 8);
    assert_eq!(crema.client().cmd(&["EXISTS", "k"]), int(0), "and what stands behind is not carried out");
    // What only begins like one is a command.
    let mut client = crema.client();
    client.send(b"P");
    client.send(b"ING\r\n");
    assert_eq!(client.value().text(), "PONG");
    let mut client = crema.client();
    client.send(b"\r\n\r\nPING\r\n");
    assert_eq!(client.value().text(), "PONG");
}

#[test]
fn the_header_comes_before_the_handshake() {
    let authority = Authority::new();
    let own = authority.issue("server", &["127.0.0.1"]);
    let redis = Redis::start();
    let (expects, plain) = (loopback(free_port()), loopback(free_port()));
    let crema = Crema::over(redis.addr())
        .flag("--tls-cert", own.cert.display())
        .flag("--tls-key", own.key.display())
        .also_on(&format!("tls://{expects}?proxy=on,tls://{plain}"))
        .start();
    if crema.is_direct() {
        return;
    }
    let through = |first: &'static [u8], addr: SocketAddr| {
        let tunnel = Tunnel::behind(first, addr, client_side(&authority.ca(), None));
        (Client::connect(tunnel.addr()), tunnel)
    };
    for (header, from) in [(VERSION_1, "203.0.113.7:4711"), (VERSION_2, "203.0.113.8:4712")] {
        let (mut client, _tunnel) = through(header, expects);
        assert_eq!(client.cmd(&["SET", "k", "v"]), ok());
        assert_eq!(crema.client().cmd(&["CLIENT", "KILL", "ADDR", from]), int(1));
        let (mut refused, _tunnel) = through(header, plain);
        assert!(refused.try_cmd(&["PING"]).is_err());
    }
    let (mut refused, _tunnel) = through(b"", expects);
    assert!(refused.try_cmd(&["PING"]).is_err());
    eventually("each is counted", || crema.count("crema_proxy_headers_refused_total", &[]) == 3);
    assert_eq!(crema.count("crema_tls_handshakes_failed_total", &[]), 0);
}
