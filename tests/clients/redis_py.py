"""A program as people write them with redis-py. Usage: redis_py.py PORT PROTOCOL smoke|cluster|connections COUNT

Where the variable CA names a file of authorities, it speaks TLS. Where CLUSTER is set there is a cluster behind: scripts name
their keys.

`smoke` uses a bit of everything and says ok; `cluster` does so as a client of clusters, and with valkey-py too. `connections` opens that many default connections, uses each, says
ready, and keeps them open until its input ends.
"""

import os
import sys
import threading

import redis
import valkey

CA = os.environ.get("CA")
TLS = {"ssl": True, "ssl_ca_certs": CA} if CA else {}


def smoke(port, protocol):
    r = redis.Redis(port=port, **TLS, protocol=protocol, decode_responses=True)
    r.flushall()
    assert r.ping()
    assert r.set("k", "v") and r.get("k") == "v" and r.get("none") is None
    assert [r.get("k") for _ in range(50)] == ["v"] * 50
    assert r.set("k", "w", px=60_000, get=True) == "v"
    assert 0 < r.pttl("k") <= 60_000
    assert r.incr("n", 5) == 5 and r.mget("k", "n", "none") == ["w", "5", None]

    with r.pipeline(transaction=True) as p:
        assert p.set("a", 1).incr("a").get("a").execute() == [True, 2, "2"]
    with r.pipeline(transaction=False) as p:
        for n in range(500):
            p.set(f"bulk:{n}", n)
        for n in range(500):
            p.get(f"bulk:{n}")
        assert p.execute()[500:] == [str(n) for n in range(500)]

    def double(p):
        a = int(p.get("a"))
        p.multi()
        p.set("a", a * 2)

    r.transaction(double, "a")
    assert r.get("a") == "4"

    assert r.hset("h", mapping={"f": "1", "g": "2"}) == 2 and r.hgetall("h") == {"f": "1", "g": "2"}
    assert r.zadd("z", {"x": 1.5, "y": 2}) == 2
    assert [tuple(pair) for pair in r.zrange("z", 0, -1, withscores=True)] == [("x", 1.5), ("y", 2.0)]
    assert r.sadd("s", "m") == 1 and r.smembers("s") == {"m"}
    assert r.rpush("l", 1, 2, 3) == 3 and r.lrange("l", 0, -1) == ["1", "2", "3"]
    assert r.blpop("l", timeout=1) in (("l", "1"), ["l", "1"])
    assert r.xadd("x", {"f": "v"}, id="1-1") == "1-1"
    assert [entry for entry, _ in r.xrange("x")] == ["1-1"]
    assert r.geoadd("geo", (13.361389, 38.115556, "Palermo")) == 1
    assert sorted(r.scan_iter(match="bulk:*", count=50)) == sorted(f"bulk:{n}" for n in range(500))

    key = "KEYS[1]" if "CLUSTER" in os.environ else "'by' .. ':script'"
    script = r.register_script(f"return redis.call('set', {key}, ARGV[1])")
    assert r.get("by:script") is None
    assert script(keys=["by:script"], args=["v"]) == "OK" and r.get("by:script") == "v"
    try:
        r.lpush("k", 1)
        raise SystemExit("no WRONGTYPE")
    except redis.ResponseError as e:
        assert "WRONGTYPE" in str(e)

    binary = redis.Redis(port=port, **TLS, protocol=protocol)
    value = bytes(range(256)) * 5_000
    assert binary.set(b"\0\r\n\xff", value) and binary.get(b"\0\r\n\xff") == value

    heard = []
    pubsub = r.pubsub()
    pubsub.subscribe(news=lambda message: heard.append(message["data"]))
    pubsub.get_message(timeout=1)
    thread = pubsub.run_in_thread(sleep_time=0.01)
    for n in range(20):
        assert r.publish("news", n) == 1
    done = threading.Event()
    for _ in range(200):
        if len(heard) == 20 or done.wait(0.01):
            break
    thread.stop()
    thread.join()
    assert heard == [str(n) for n in range(20)], heard

    with r.lock("a-lock", timeout=5):
        assert r.get("a-lock")
    other = redis.Redis(port=port, **TLS, db=3, protocol=protocol, decode_responses=True, client_name="named")
    assert other.get("k") is None and other.client_getname() == "named"
    assert r.info()["redis_version"] and r.dbsize() > 500
    print("ok", flush=True)


def cluster(port, protocol):
    for library, client in [(redis, redis.RedisCluster), (valkey, valkey.ValkeyCluster)]:
        r = client(host="127.0.0.1", port=port, protocol=protocol, decode_responses=True)
        r.flushall()
        for n in range(200):
            assert r.set(f"key:{n}", n)
        assert [r.get(f"key:{n}") for n in range(200)] == [str(n) for n in range(200)]
        assert r.mset({"{t}a": 1, "{t}b": 2}) and r.mget("{t}a", "{t}b", "{t}none") == ["1", "2", None]
        assert r.mget_nonatomic([f"key:{n}" for n in range(50)]) == [str(n) for n in range(50)]
        with r.pipeline() as p:
            for n in range(200):
                p.incr(f"key:{n}")
            assert p.execute() == [n + 1 for n in range(200)]
        assert r.dbsize() == 202 and sorted(r.scan_iter(match="key:*", count=50)) == sorted(f"key:{n}" for n in range(200))
        assert r.eval("return redis.call('incr', KEYS[1])", 1, "by:script") == 1
        assert r.rpush("l", 1) == 1 and r.blpop("l", timeout=1) in (("l", "1"), ["l", "1"])
        pubsub = r.pubsub()
        pubsub.subscribe("news")
        assert pubsub.get_message(timeout=5)["type"] == "subscribe"
        r.publish("news", "text")
        assert pubsub.get_message(timeout=5)["data"] == "text"
        pubsub.close()
        try:
            r.lpush("key:1", 1)
            raise SystemExit("no WRONGTYPE")
        except library.ResponseError as e:
            assert "WRONGTYPE" in str(e)
        r.close()
    print("ok", flush=True)


def connections(port, protocol, count):
    clients = [redis.Redis(port=port, **TLS, protocol=protocol, decode_responses=True) for _ in range(count)]
    for n, r in enumerate(clients):
        assert r.set(f"key:{n % 10}", "v") and r.get(f"key:{n % 10}") == "v"
    print("ready", flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    port, protocol = int(sys.argv[1]), int(sys.argv[2])
    if sys.argv[3] == "smoke":
        smoke(port, protocol)
    elif sys.argv[3] == "cluster":
        cluster(port, protocol)
    else:
        connections(port, protocol, int(sys.argv[4]))
