//! Micro-benchmarks of what every request pays: reading it, and finding its reply's end.
//!
//! `cargo bench --bench micro [-- NAME]`; each figure is the time of one call on bytes in the processor's cache. A
//! group is a function: add one, and its name to the list that follows.

use std::hint::black_box;

use crema::resp::{Limits, Parsed, Parser, Request, Split, Splitter, encode, to_resp2};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};

criterion_main!(benches);
criterion_group!(benches, parser, splitter, downgrade);

/// Requests as clients send them.
fn parser(c: &mut Criterion) {
    let value = vec![b'x'; 4096];
    let many: Vec<&[u8]> =
        std::iter::once(&b"MGET"[..]).chain(std::iter::repeat_n(&b"key:000000000001"[..], 100)).collect();
    let requests: [(&str, Vec<u8>); 5] = [
        ("get", command(&[b"GET", b"key:000000000001"])),
        ("set_100", command(&[b"SET", b"key:000000000001", &value[..100]])),
        ("set_4096", command(&[b"SET", b"key:000000000001", &value])),
        ("mget_100", command(&many)),
        ("get_inline", b"GET key:000000000001\r\n".to_vec()),
    ];
    let limits = Limits::authenticated();

    let mut group = c.benchmark_group("parser");
    for (name, bytes) in &requests {
        group.bench_function(*name, |b| {
            let mut parser = Parser::new();
            b.iter(|| {
                let buf = black_box(&bytes[..]);
                let parsed = parser.parse(buf, &limits).expect("a valid request");
                black_box(parser.request(buf).arg(1));
                parsed
            });
        });
    }

    let pipeline = requests[0].1.repeat(100);
    group.throughput(Throughput::Elements(100));
    group.bench_function("get_pipeline_100", |b| {
        let mut parser = Parser::new();
        b.iter(|| {
            let mut rest = black_box(&pipeline[..]);
            while let Ok(Parsed::Request { consumed }) = parser.parse(rest, &limits) {
                black_box(parser.request(rest).arg(1));
                rest = &rest[consumed..];
            }
        });
    });

    group.throughput(Throughput::Elements(1));
    group.bench_function("get_in_two_pieces", |b| {
        let mut parser = Parser::new();
        let bytes = &requests[0].1;
        b.iter(|| {
            let _ = black_box(parser.parse(black_box(&bytes[..20]), &limits));
            parser.parse(black_box(&bytes[..]), &limits)
        });
    });
    group.bench_function("rebuild_get", |b| {
        let mut spans = Vec::new();
        b.iter(|| Request::parse_canonical(black_box(&requests[0].1), &mut spans).map(Request::argc));
    });
    group.finish();
}

/// Replies as Redis sends them, each whole in the buffer unless the name says otherwise.
fn splitter(c: &mut Criterion) {
    let stream =
        format!("*10\r\n{}", "*2\r\n$15\r\n1526985054069-0\r\n*2\r\n$5\r\nfield\r\n$5\r\nvalue\r\n".repeat(10));
    let replies: [(&str, Vec<u8>); 7] = [
        ("ok", b"+OK\r\n".to_vec()),
        ("integer", b":12345\r\n".to_vec()),
        ("null", b"_\r\n".to_vec()),
        ("bulk_100", bulk(100)),
        ("bulk_64k", bulk(64 << 10)),
        ("mget_100", [b"*100\r\n".to_vec(), bulk(100).repeat(100)].concat()),
        ("xrange_10", stream.into_bytes()),
    ];

    let mut group = c.benchmark_group("splitter");
    for (name, bytes) in &replies {
        group.bench_function(*name, |b| {
            let mut splitter = Splitter::default();
            b.iter(|| splitter.split(black_box(&bytes[..])));
        });
    }

    let pipeline = bulk(100).repeat(100);
    group.throughput(Throughput::Elements(100));
    group.bench_function("bulk_pipeline_100", |b| {
        let mut splitter = Splitter::default();
        b.iter(|| {
            let mut rest = black_box(&pipeline[..]);
            while let Ok(Split::End(length)) = splitter.split(rest) {
                rest = &rest[length..];
            }
        });
    });

    let large = bulk(1 << 20);
    group.throughput(Throughput::Bytes(large.len() as u64));
    group.bench_function("bulk_1m_in_16k_pieces", |b| {
        let mut splitter = Splitter::default();
        b.iter(|| {
            for piece in black_box(&large[..]).chunks(16 << 10) {
                let _ = black_box(splitter.split(piece));
            }
        });
    });
    group.finish();
}

/// RESP3 replies turned into RESP2.
fn downgrade(c: &mut Criterion) {
    let map = format!("%10\r\n{}", "$5\r\nfield\r\n$5\r\nvalue\r\n".repeat(10));
    let mut group = c.benchmark_group("downgrade");
    for (name, reply) in [("bulk_100", bulk(100)), ("null", b"_\r\n".to_vec()), ("hgetall_10", map.into_bytes())] {
        group.bench_function(name, |b| {
            let mut out = Vec::new();
            b.iter(|| {
                out.clear();
                to_resp2(black_box(&reply), &mut out)
            });
        });
    }
    group.finish();
}

fn command(args: &[&[u8]]) -> Vec<u8> {
    let mut out = Vec::new();
    encode::command(&mut out, args);
    out
}

fn bulk(length: usize) -> Vec<u8> {
    let mut out = Vec::new();
    encode::bulk(&mut out, &vec![b'x'; length]);
    out
}
