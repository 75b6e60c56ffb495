"""A cluster behind, as programs with redis-py see it. Usage: redis_py_cluster.py PORT PROTOCOL plain|cluster

`plain` uses `redis.Redis`, `cluster` uses `redis.RedisCluster`. Says ok.
"""

import sys

import redis


def main(port, protocol, kind):
    if kind == "cluster":
        r = redis.RedisCluster(host="127.0.0.1", port=port, protocol=protocol, decode_responses=True)
        nodes = r.get_nodes()
        assert len(nodes) == 1 and nodes[0].port == port and nodes[0].host == "127.0.0.1", nodes
    else:
        r = redis.Redis(host="127.0.0.1", port=port, protocol=protocol, decode_responses=True)
    r.flushall()
    assert r.ping()
    keys = [f"k{n}" for n in range(300)]
    for n, key in enumerate(keys):
        assert r.set(key, n)
    assert [r.get(key) for key in keys] == [str(n) for n in range(300)]
    assert r.dbsize() == 300
    assert sorted(r.keys("*")) == sorted(keys)
    assert sorted(set(r.scan_iter(match="k*", count=20))) == sorted(keys)
    if kind == "plain":
        assert r.mget(keys) == [str(n) for n in range(300)]
        assert r.mset({key: "x" for key in keys}) and r.exists(*keys) == 300
        assert r.delete(*keys[:200]) == 200 and r.unlink(*keys[200:250]) == 50
        with r.pipeline(transaction=False) as p:
            p.mset({"a": 1, "b": 2, "c": 3}).mget("a", "b", "c", "none").delete("a", "b").mget("a", "b", "c")
            assert p.execute() == [True, ["1", "2", "3", None], 2, [None, None, "3"]]
    else:
        assert r.mget_nonatomic(keys) == [str(n) for n in range(300)]
        assert r.mset_nonatomic({key: "x" for key in keys}) and r.exists(*keys) == 300
        assert r.delete(*keys) == 300
        assert r.cluster_keyslot("foo") == 12182
        with r.pipeline() as p:
            p.set("a", 1)
            p.set("b", 2)
            p.get("a")
            assert p.execute() == [True, True, "1"]
    assert r.set("{t}a", 2)
    script = r.register_script("return redis.call('get', KEYS[1])")
    assert script(keys=["{t}a"]) == "2"
    assert r.hset("h", mapping={"f": "1"}) == 1 and r.hgetall("h") == {"f": "1"}
    assert r.flushall() and r.dbsize() == 0
    r.close()
    print("ok")


main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3])
