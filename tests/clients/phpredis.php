<?php
// A program as people write them with phpredis. Usage: phpredis.php PORT PROTOCOL smoke|cluster
// `cluster` is a client of clusters. The library speaks RESP2 alone.
ini_set('assert.exception', '1');
ini_set('zend.assertions', '1');

function same($wanted, $got)
{
    if ($wanted !== $got) {
        throw new Exception(var_export($wanted, true) . ' was wanted, and not ' . var_export($got, true));
    }
}

[, $port, , $what] = $argv;
if ($what === 'cluster') {
    $r = new RedisCluster(null, ["127.0.0.1:$port"], 5, 5);
} else {
    $r = new Redis();
    $r->connect('127.0.0.1', (int) $port, 5);
}
for ($n = 0; $n < 200; $n++) {
    same(true, $r->set("key:$n", $n));
}
for ($n = 0; $n < 200; $n++) {
    same((string) $n, $r->get("key:$n"));
}
same(true, $r->mset(['{t}a' => 1, '{t}b' => 2]));
same(['1', '2', false], $r->mget(['{t}a', '{t}b', '{t}none']));
same(['0', '1', false], $r->mget(['key:0', 'key:1', 'none']));
same([2, '2'], $r->multi()->incr('{t}a')->get('{t}b')->exec());
same(1, $r->eval("return redis.call('incr', KEYS[1])", ['by:script'], 1));
same(1, $r->rPush('l', 'x'));
same(['l', 'x'], $r->blPop(['l'], 1));
same(2, $r->hSet('h', 'f', '1') + $r->hSet('h', 'g', '2'));
same(['f' => '1', 'g' => '2'], $r->hGetAll('h'));
same(3, $r->del('key:0', 'key:1', 'key:2'));
echo "ok\n";
