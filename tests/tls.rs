//! TLS on both sides, against a Redis that speaks it: what is carried is the same, what must be refused is refused, and what is
//! said about it names the way out.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use common::redis::loopback;
use common::tls::{Authority, Issued, client_side, path, secure_crema, secure_redis, through};
use common::{AT_LAST, Crema, Redis, bulk, eventually, ok};
use tokio_rustls::rustls::ClientConnection;
use tokio_rustls::rustls::pki_types::ServerName;

#[test]
fn hits_misses_writes_and_large_values_pass_through_tls_on_both_sides() {
    let authority = Authority::new();
    let own = authority.issue("server", &["127.0.0.1", "localhost"]);
    let (redis, tls) = secure_redis(&authority, &own, &[]);
    let url = format!("rediss://localhost:{}/?ca={}", tls.port(), path(&authority.ca()));
    let (crema, addr) = secure_crema(&url, &own, &[]);
    let (mut client, _tunnel) = through(addr, &authority.ca(), None);
    assert_eq!(client.cmd(&["SET", "k", "v"]), ok());
    eventually("hits are answered", || {
        assert_eq!(client.cmd(&["GET", "k"]), bulk("v"));
        crema.count("crema_requests_total", &[("outcome", "hit")]) > 0
    });
    let large = "x".repeat(5 << 20);
    assert_eq!(client.cmd(&["SET", "large", &large]), ok());
    assert_eq!(client.cmd(&["GET", "large"]), bulk(&large));
    assert_eq!(redis.client().cmd(&["STRLEN", "large"]), common::int(5 << 20));
    // Many requests in one record, and one request in many.
    let requests: Vec<u8> = (0..2_000).flat_map(|n| common::pack(&["SET", &format!("k{n}"), "v"])).collect();
    client.send(&requests);
    (0..2_000).for_each(|_| assert_eq!(client.value(), ok()));
    for byte in common::pack(&["GET", "k1999"]) {
        client.send(&[byte]);
    }
    assert_eq!(client.value(), bulk("v"));
    let expires = crema.metric("crema_tls_certificate_expires_seconds", &[]);
    assert!(expires > 4e9, "{expires}"); // rcgen's certificates end in the year 4096
}

#[test]
fn a_plain_listener_stands_beside_one_under_tls() {
    let authority = Authority::new();
    let own = authority.issue("server", &["127.0.0.1"]);
    let redis = Redis::start();
    let (crema, addr) = secure_crema(&format!("redis://{}", redis.addr()), &own, &[]);
    let (mut secure, _tunnel) = through(addr, &authority.ca(), None);
    assert_eq!(secure.cmd(&["SET", "k", "v"]), ok());
    assert_eq!(crema.client().cmd(&["GET", "k"]), bulk("v"));
}

/// A server that answers whatever it is sent with an error in plain text. (Redis does where a line ends in it.)
fn refusing() -> SocketAddr {
    let listener = TcpListener::bind(loopback(0)).expect("a loopback port");
    let addr = listener.local_addr().expect("a bound listener");
    std::thread::spawn(move || {
        for mut client in listener.incoming().map_while(Result::ok) {
            let _ = client.read(&mut [0; 1024]);
            let _ = client.write_all(b"-ERR unknown command\r\n");
        }
    });
    addr
}

/// What crema says of an upstream that it cannot trust, or that does not trust it.
#[test]
fn an_upstream_that_is_not_right_is_told_with_the_way_out() {
    let (authority, stranger) = (Authority::new(), Authority::new());
    let own = authority.issue("server", &["127.0.0.1"]);
    let other = authority.issue("other", &["elsewhere.example"]);
    let old = authority.issue_expired("old", &["127.0.0.1"]);
    let foreign = stranger.issue("foreign", &["127.0.0.1"]);
    let (ca, strange) = (path(&authority.ca()), path(&stranger.ca()));
    let (_redis, tls) = secure_redis(&authority, &own, &[]);
    let plain = refusing();
    let (_named, at_other) = secure_redis(&authority, &other, &[]);
    let (_old, at_old) = secure_redis(&authority, &old, &[]);
    let (_strict, at_strict) = secure_redis(&authority, &own, &["--tls-auth-clients", "yes"]);
    let cases = [
        (tls, format!("?ca={strange}"), "no authority that is known here signed the server's certificate"),
        (at_other, format!("?ca={ca}"), "the server's certificate is for another name"),
        (at_old, format!("?ca={ca}"), "the server's certificate has expired"),
        (at_strict, format!("?ca={ca}"), "?cert=FILE&key=FILE"),
        (
            at_strict,
            format!("?ca={ca}&cert={}&key={}", path(&foreign.cert), path(&foreign.key)),
            "the server refused the handshake",
        ),
        (plain, format!("?ca={ca}"), "the server does not speak TLS there"),
    ];
    for (at, options, said) in cases {
        let crema = Crema::over(at).url(format!("rediss://{at}{options}")).without_waiting().start();
        eventually(said, || crema.has_logged(said));
    }
    let good = [
        (at_other, format!("?ca={ca}&sni=elsewhere.example")),
        (at_other, format!("?ca={ca}&verify=chain")),
        (at_old, "?verify=no".to_owned()),
        (at_strict, format!("?ca={ca}&cert={}&key={}", path(&own.cert), path(&own.key))),
    ];
    for (at, options) in good {
        let crema = Crema::over(at).url(format!("rediss://{at}{options}")).start();
        assert_eq!(crema.client().cmd(&["SET", "k", "v"]), ok(), "{options}");
        assert_eq!(crema.has_logged("whoever sits between"), options.contains("verify=no"), "{options}");
    }
}

/// As without TLS: who takes a connection and says nothing is there, also where that nothing is a handshake.
#[test]
fn an_upstream_that_stands_still_in_a_handshake_is_not_away() {
    let authority = Authority::new();
    let own = authority.issue("server", &["127.0.0.1"]);
    let (redis, tls) = secure_redis(&authority, &own, &[]);
    let url = format!("rediss://{tls}?ca={}", path(&authority.ca()));
    let crema = Crema::over(tls).url(url).flag("--connect-timeout", "200ms").start();
    let mut client = crema.client();
    assert_eq!(client.cmd(&["SET", "k", "v"]), ok());
    let frozen = redis.freeze();
    client.send_cmd(&["SET", "k", "w"]);
    assert!(client.is_silent_for(Duration::from_millis(1500)), "it is not closed either");
    drop(frozen);
    assert_eq!(client.value(), ok());
    assert!(!crema.has_logged("the upstream is away"));
}

#[test]
fn clients_show_certificates_where_they_must() {
    let (authority, stranger) = (Authority::new(), Authority::new());
    let own = authority.issue("server", &["127.0.0.1"]);
    let (known, foreign) = (authority.issue("known", &["client"]), stranger.issue("foreign", &["client"]));
    let old = authority.issue_expired("old", &["client"]);
    let redis = Redis::start();
    let demand = |whether: &str| {
        let more = [("--tls-client-ca", path(&authority.ca())), ("--tls-client-auth", whether.to_owned())];
        secure_crema(&format!("redis://{}", redis.addr()), &own, &more)
    };
    let served = |addr, own| {
        let (mut client, _tunnel) = through(addr, &authority.ca(), own);
        client.try_cmd(&["PING"]).is_ok()
    };
    // The last: of a stranger, or of one whose time is over.
    for (whether, without, bad) in [("required", false, false), ("optional", true, false), ("none", true, true)] {
        let (crema, addr) = demand(whether);
        assert!(served(addr, Some(&known)), "{whether}");
        assert_eq!(served(addr, None), without, "{whether}");
        assert_eq!(served(addr, Some(&foreign)), bad, "{whether}");
        assert_eq!(served(addr, Some(&old)), bad, "{whether}");
        let failed = 3 - u64::from(without) - 2 * u64::from(bad);
        eventually("each failure is counted", || crema.count("crema_tls_handshakes_failed_total", &[]) == failed);
    }
}

/// As in Redis 8.6 and Valkey 9 with `tls-auth-clients-user CN`.
#[test]
fn a_certificate_names_a_user_and_one_that_names_nobody_leaves_the_password() {
    let (authority, stranger) = (Authority::new(), Authority::new());
    let own = authority.issue("server", &["127.0.0.1"]);
    let named = |of: &Authority, name: &str| of.issue(name, &["client"]);
    let redis = Redis::start();
    redis.client().cmd(&["ACL", "SETUSER", "readonly", "on", ">inner", "~*", "+@read", "+@connection", "+acl|whoami"]);
    let mut file = tempfile::NamedTempFile::new().expect("a file of our own");
    let settings = "auth = \"own\"\ntls_client_auth = \"optional\"\ntls_client_user = \"cn\"\n\
        [[user]]\nname = \"app\"\n[[user]]\nname = \"reports\"\npassword = \"for-reports\"\n\
        upstream_user = \"readonly\"\nupstream_password = \"inner\"\n";
    file.write_all(settings.as_bytes()).expect("written");
    let more = [("--tls-client-ca", path(&authority.ca())), ("--config", path(file.path()))];
    let (crema, addr) = secure_crema(&format!("redis://{}", redis.addr()), &own, &more);
    let come = |own: Option<&Issued>| through(addr, &authority.ca(), own);
    let refused = "NOAUTH Authentication required.";

    let (mut app, _tunnel) = come(Some(&named(&authority, "app")));
    assert_eq!(app.cmd(&["SET", "k", "v"]), ok());
    let (mut reports, _tunnel) = come(Some(&named(&authority, "reports")));
    assert_eq!(reports.cmd(&["ACL", "WHOAMI"]), bulk("readonly"));
    assert_eq!(reports.cmd(&["GET", "k"]), bulk("v"));
    assert!(reports.cmd(&["SET", "k", "w"]).is_error());
    // Redis forgets at RESET who somebody is, however it was proved.
    reports.cmd(&["RESET"]);
    assert_eq!(reports.cmd(&["GET", "k"]).text(), refused);
    assert_eq!(reports.cmd(&["AUTH", "reports", "for-reports"]), ok());

    // Nobody's name, no certificate, and the name of one without a password, where none was shown.
    let (mut nobody, _tunnel) = come(Some(&named(&authority, "nobody")));
    assert_eq!(nobody.cmd(&["GET", "k"]).text(), refused);
    eventually("it is told", || crema.has_logged("a client's certificate names `nobody`, who is no [[user]]"));
    assert_eq!(nobody.cmd(&["AUTH", "reports", "for-reports"]), ok());
    let (mut without, _tunnel) = come(None);
    assert_eq!(without.cmd(&["GET", "k"]).text(), refused);
    assert!(without.cmd(&["AUTH", "app", ""]).text().starts_with("WRONGPASS "));
    assert_eq!(crema.client().cmd(&["GET", "k"]).text(), refused, "without TLS");
    // Whose authority nobody believes does not come in at all.
    let (mut foreign, _tunnel) = come(Some(&named(&stranger, "app")));
    assert!(foreign.try_cmd(&["GET", "k"]).is_err());
}

#[test]
fn who_does_not_shake_hands_is_closed() {
    let authority = Authority::new();
    let own = authority.issue("server", &["127.0.0.1"]);
    let redis = Redis::start();
    let (crema, addr) = secure_crema(&format!("redis://{}", redis.addr()), &own, &[]);
    let mut plain = TcpStream::connect(addr).expect("it listens");
    plain.set_read_timeout(Some(AT_LAST)).expect("a timeout");
    plain.write_all(b"PING\r\n").expect("written");
    let _ = plain.read_to_end(&mut Vec::new()); // an alert, and the end
    eventually("it is told why", || crema.has_logged("it does not speak TLS"));
    let mut silent = TcpStream::connect(addr).expect("it listens");
    silent.set_read_timeout(Some(AT_LAST)).expect("a timeout");
    silent.write_all(&[22, 3, 1]).expect("the beginning of a handshake");
    assert_eq!(silent.read(&mut [0; 16]).expect("closed, not silent for ever"), 0);
    eventually("it is told why", || crema.has_logged("its TLS handshake took too long"));
    let (mut client, _tunnel) = through(addr, &authority.ca(), None);
    assert_eq!(client.cmd(&["SET", "k", "v"]), ok());
}

/// As many handshakes as may be under way are, and do not go on: the next waits until one of them is over, not for ever.
#[test]
fn so_many_handshakes_are_under_way_at_once_and_the_next_waits() {
    const SEATS: usize = 512;
    common::lift_open_files();
    let authority = Authority::new();
    let own = authority.issue("server", &["127.0.0.1"]);
    let redis = Redis::start();
    let (crema, addr) = secure_crema(&format!("redis://{}", redis.addr()), &own, &[]);
    let config = client_side(&authority.ca(), None);
    let halves = |count: usize, share: usize| -> Vec<TcpStream> {
        let half = |_| {
            let mut hello = Vec::new();
            let name = ServerName::try_from("127.0.0.1").expect("an address");
            let mut session = ClientConnection::new(Arc::clone(&config), name).expect("sound");
            session.write_tls(&mut hello).expect("into memory");
            let mut half = TcpStream::connect(addr).expect("it listens");
            half.set_read_timeout(Some(AT_LAST)).expect("a timeout");
            half.write_all(&hello[..hello.len() / share]).expect("the beginning of a handshake");
            half
        };
        (0..count).map(half).collect()
    };
    // Those who have said half of what they want keep nobody out.
    let _silent = halves(SEATS, 2);
    eventually("all are there", || crema.count("crema_sessions", &[]) >= SEATS as u64);
    let (mut client, _tunnel) = through(addr, &authority.ca(), None);
    assert_eq!(client.cmd(&["SET", "k", "u"]), ok());
    let mut taken = halves(SEATS, 1);
    // Each is answered when it has its seat.
    for half in &mut taken {
        assert_eq!(half.read(&mut [0; 1]).expect("a server's first message"), 1);
    }
    let (mut client, _tunnel) = through(addr, &authority.ca(), None);
    client.send_cmd(&["SET", "k", "v"]);
    assert!(client.is_silent_for(Duration::from_millis(300)), "there is no room");
    taken.pop();
    assert_eq!(client.value(), ok());
    assert_eq!(crema.client().cmd(&["GET", "k"]), bulk("v"), "without TLS nobody waits");
    // The others take too long, and so there is room again.
    taken.extend(halves(1, 1));
    let (mut client, _tunnel) = through(addr, &authority.ca(), None);
    assert_eq!(client.cmd(&["GET", "k"]), bulk("v"));
    eventually("it is logged", || crema.has_logged("its TLS handshake took too long"));
}

#[test]
fn certificates_are_exchanged_without_a_restart_and_a_bad_file_changes_nothing() {
    let (authority, successor) = (Authority::new(), Authority::new());
    let own = authority.issue("server", &["127.0.0.1"]);
    let redis = Redis::start();
    let (crema, addr) = secure_crema(&format!("redis://{}", redis.addr()), &own, &[]);
    let (mut before, _tunnel) = through(addr, &authority.ca(), None);
    assert_eq!(before.cmd(&["SET", "k", "v"]), ok());
    std::fs::write(&own.cert, "not a certificate").expect("our own directory");
    eventually("the bad file is told", || {
        let (mut client, _tunnel) = through(addr, &authority.ca(), None);
        assert_eq!(client.cmd(&["GET", "k"]), bulk("v"));
        crema.has_logged("certificates were read anew and cannot be used")
    });
    let new = successor.issue("server", &["127.0.0.1"]);
    std::fs::copy(&new.key, &own.key).expect("our own directory");
    std::fs::copy(&new.cert, &own.cert).expect("our own directory");
    eventually("the new one is shown", || {
        let (mut client, _tunnel) = through(addr, &successor.ca(), None);
        client.try_cmd(&["GET", "k"]).is_ok_and(|value| value == bulk("v"))
    });
    assert_eq!(before.cmd(&["GET", "k"]), bulk("v"), "who was there stays");
}

#[test]
fn sighup_has_certificates_read_anew_and_a_bad_file_changes_nothing() {
    let authority = Authority::new();
    let own = authority.issue_until(2098, "server", &["127.0.0.1"]);
    let redis = Redis::start();
    let (crema, addr) = secure_crema(&format!("redis://{}", redis.addr()), &own, &[]);
    let expires = || crema.count("crema_tls_certificate_expires_seconds", &[]);
    let hang_up = || crema.signal(rustix::process::Signal::HUP);
    assert_eq!(expires(), 4_070_908_800); // 2099-01-01
    hang_up();
    eventually("unchanged ones are read too", || crema.has_logged("certificates were read anew; new"));
    std::fs::write(&own.cert, "not a certificate").expect("our own directory");
    hang_up();
    eventually("the bad file is told", || crema.has_logged("certificates were read anew and cannot be used"));
    assert_eq!(expires(), 4_070_908_800);
    let (mut client, _tunnel) = through(addr, &authority.ca(), None);
    assert_eq!(client.cmd(&["SET", "k", "v"]), ok());
    authority.issue_until(2099, "server", &["127.0.0.1"]);
    hang_up();
    eventually("the metric follows", || expires() == 4_102_444_800); // 2100-01-01
    let (mut client, _tunnel) = through(addr, &authority.ca(), None);
    assert_eq!(client.cmd(&["GET", "k"]), bulk("v"));
}

#[test]
fn redis_cli_is_served_under_tls() {
    let authority = Authority::new();
    let own = authority.issue("server", &["127.0.0.1"]);
    let redis = Redis::start();
    let (_crema, addr) = secure_crema(&format!("redis://{}", redis.addr()), &own, &[]);
    let cli = |words: &[&str]| {
        let port = addr.port().to_string();
        let mut command = Command::new("redis-cli");
        command.args(["-p", &port, "--tls", "--cacert"]).arg(authority.ca()).args(words);
        let output = command.output().expect("redis-cli is there");
        String::from_utf8(output.stdout).expect("text").trim().to_owned()
    };
    assert_eq!(cli(&["SET", "k", "v"]), "OK");
    assert_eq!(cli(&["GET", "k"]), "v");
}
