// The breadth of ioredis: the same calls to a Redis and through crema, and what comes back compared. Usage: ioredis_api.js PORT
// PROTOCOL DIRECT, the last being the port of a Redis like the one behind crema.
'use strict';

const assert = require('node:assert/strict');
const { Redis } = require('ioredis');

const [port, protocol, direct] = process.argv.slice(2).map(Number);
const connect = (to, more = {}) => new Redis({ port: to, protocol, ...more });

// A call a line. Each is made three times in a row where it reads, so that the later ones may come from memory.
const CALLS = `
  set s value; get s; getrange s 0 2; strlen s; append s !; getset s 10; incr s; incrby s 5; decr s; decrby s 2; incrbyfloat s 0.5
  setnx s x; setex t 100 v; psetex t 100000 v; getdel t; getex s EX 100; persist s; mset a 1 b 2; mget a b none; msetnx a 1 c 3; setrange a 2 x
  set a 5 XX GET KEEPTTL; lcs a b; substr a 0 0; type s; exists s a none; touch a b; object ENCODING a; copy a d REPLACE; rename d e; renamenx e a
  expire a 100 NX; pexpire a 100000; expireat a 4000000000; pexpireat a 4000000000000; expiretime a; pexpiretime a; del e; unlink none
  setbit bits 7 1; getbit bits 7; bitcount bits; bitcount bits 0 0 BYTE; bitpos bits 1; bitop NOT bits2 bits; bitfield bits INCRBY u8 0 10 GET u4 0
  bitfield_ro bits GET u8 0; hset h f 1 g two; hset h n 1; hget h f; hmget h f none; hgetall h; hkeys h; hvals h; hlen h; hstrlen h g; hexists h f
  hsetnx h f x; hincrby h f 4; hincrbyfloat h f 0.25; hdel h g none; hscan h 0; hgetall none; hmset h x 1 y 2; rpush l a b c a; lpush l z; lrange l 0 -1
  llen l; lindex l 1; lpos l a; lpos l a COUNT 0; linsert l BEFORE b x; lset l 0 y; lrem l 1 a; ltrim l 0 3; lpushx none x; rpushx l q; lpop l
  rpop l 2; lmove l m LEFT RIGHT; rpoplpush l m; lmpop 2 none m LEFT; sort l ALPHA DESC; sort_ro l ALPHA; sadd i 1 2 3; sadd j 2 3 4; smembers i
  scard i; sismember i 1; smismember i 1 9; sinter i j; sunion i j; sdiff i j; sintercard 2 i j; sinterstore k i j; sunionstore k i j; sdiffstore k i j
  smove i j 1; srem j 9; sscan i 0; zadd z 1 a 2 b 3.5 c; zadd z GT CH 9 a; zadd z INCR 1 b; zincrby z 0.5 c; zscore z a; zmscore z a none; zcard z
  zcount z 1 5; zlexcount z - +; zrank z b; zrevrank z b; zrange z 0 -1; zrange z 0 -1 WITHSCORES; zrange z 0 -1 REV; zrange z 1 9 BYSCORE LIMIT 0 2
  zrangebyscore z 0 9 WITHSCORES; zrevrangebyscore z 9 0; zrangebylex z - +; zrevrangebylex z + -; zrevrange z 0 1 WITHSCORES; zscan z 0
  zadd y 1 a 5 d; zunion 2 z y WITHSCORES; zinter 2 z y; zdiff 2 z y WITHSCORES; zunionstore x 2 z y WEIGHTS 1 2; zinterstore x 2 z y
  zdiffstore x 2 z y; zintercard 2 z y; zrangestore x z 0 1; zpopmin z; zpopmax z 2; zmpop 1 y MIN; zrem y d; zremrangebyrank y 0 0
  zremrangebyscore y 0 9; zremrangebylex y - +; zrandmember none; pfadd p a b c; pfcount p; pfadd q c d; pfmerge p q; pfcount p q
  geoadd g 13.361389 38.115556 Palermo 15.087269 37.502669 Catania; geopos g Palermo none; geodist g Palermo Catania km; geohash g Palermo
  geosearch g FROMLONLAT 15 37 BYRADIUS 200 km ASC WITHDIST WITHCOORD; geosearchstore h2 g FROMMEMBER Palermo BYRADIUS 10 km
  georadius g 15 37 200 km ASC; georadiusbymember g Palermo 200 km WITHDIST; xadd st 1-1 f v; xadd st 1-2 f w; xadd st MAXLEN 10 2-1 f x; xlen st
  xrange st - +; xrange st 1-2 + COUNT 1; xrevrange st + -; xread COUNT 2 STREAMS st 0; xdel st 1-1; xtrim st MAXLEN 2; xinfo STREAM st
  xgroup CREATE st grp 0; xgroup CREATECONSUMER st grp c2; xreadgroup GROUP grp c1 COUNT 1 STREAMS st >; xpending st grp; xack st grp 1-2
  xreadgroup GROUP grp c1 STREAMS st >; xclaim st grp c2 0 2-1; xautoclaim st grp c1 0 0; xinfo GROUPS st; xsetid st 9-9; xgroup DESTROY st grp
  keys st; dbsize; scan 0 MATCH st COUNT 1000; select 3; set s three; get s; select 0; get s; move s 4; swapdb 0 3; get s; swapdb 0 3
  eval return{KEYS[1],ARGV[1]} 1 k v; eval_ro return{1,2,{3}} 0; script LOAD return{1}; script EXISTS 00; evalsha 00 0; function LIST
  client GETNAME; client SETNAME me; client GETNAME; config GET maxmemory; command COUNT; command GETKEYS GET k; acl WHOAMI; acl CAT; echo hello
  ping; ping hello; wait 0 0; publish nobody hears; pubsub NUMPAT; memory USAGE none; object HELP; latency RESET; slowlog RESET; readonly; lolwut VERSION 9
  lpush a x; hget a f; incr h; xadd st 1-1 f v; get; nosuch a b; evalsha 00 0; setrange a -1 x; zadd z nan a; expire a x; flushdb; get a; dbsize
`;

async function calls(one, other) {
  const lines = CALLS.split(/[;\n]/).map((line) => line.trim()).filter(Boolean);
  const outcome = (r, [name, ...args]) => r.call(name, ...args).then((value) => ({ value }), (error) => ({ error: error.message }));
  for (const line of lines) {
    const words = line.split(' ');
    const want = await outcome(one, words);
    assert.deepEqual(await outcome(other, words), want, line);
    if (/^(get|mget|strlen|h(get|mget|getall|keys|vals|len)|l(range|index|len)|s(members|card|ismember)|z(score|range|card)|x(range|len)|exists|type|bit(count|pos)|geo(pos|dist))$/.test(words[0])) {
      for (let n = 0; n < 2; n++) assert.deepEqual(await outcome(other, words), await outcome(one, words), `${line}, again`);
    }
  }
  return lines.length;
}

async function pipelines(r) {
  const long = r.pipeline();
  for (let n = 0; n < 2_000; n++) long.set(`p:${n}`, n).get(`p:${n}`);
  const replies = await long.exec();
  assert.ok(replies.every(([error, value], n) => !error && value === (n % 2 ? String((n - 1) / 2) : 'OK')));
  const mixed = await r.pipeline().set('k', 'v').incr('k').lpush('k', 1).get('k').exec();
  assert.deepEqual(mixed.map(([error]) => error?.name ?? null), [null, 'ReplyError', 'ReplyError', null]);
  await r.multi({ pipeline: false });
  assert.equal(await r.get('k'), 'QUEUED');
  assert.deepEqual(await r.exec(), [[null, 'v']]);
  assert.deepEqual(await r.multi([['set', 'm', '1'], ['incr', 'm']]).exec(), [[null, 'OK'], [null, 2]]);
  await assert.rejects(r.multi().set('m').exec(), /EXECABORT|wrong number/);
  const auto = connect(port, { enableAutoPipelining: true });
  const values = await Promise.all(Array.from({ length: 500 }, (_, n) => auto.get(`p:${n}`)));
  assert.deepEqual(values, Array.from({ length: 500 }, (_, n) => String(n)));
  auto.disconnect();
}

async function scripts(r) {
  r.defineCommand('both', { numberOfKeys: 2, lua: 'return {redis.call("incr", KEYS[1]), redis.call("incr", KEYS[2]), ARGV[1]}' });
  r.defineCommand('look', { numberOfKeys: 1, readOnly: true, lua: 'return redis.call("get", KEYS[1])' });
  for (let n = 1; n < 20; n++) assert.deepEqual(await r.both('one', 'two', 'x'), [n, n, 'x']);
  assert.equal(await r.look('one'), '19');
  await r.script('FLUSH');
  assert.deepEqual(await r.both('one', 'two', 'x'), [20, 20, 'x']);
  assert.deepEqual(await r.pipeline().both('one', 'two', 'y').get('one').exec(), [[null, [21, 21, 'y']], [null, '21']]);
}

async function messages(r) {
  const sub = connect(port);
  const heard = [];
  const all = new Promise((resolve) => {
    const hear = (...words) => heard.push(words.join(' ')) === 40 && resolve();
    sub.on('message', hear);
    sub.on('pmessage', hear);
  });
  await sub.subscribe('news', 'other');
  await sub.psubscribe('new?');
  for (let n = 0; n < 20; n++) assert.equal(await r.publish('news', n), 2);
  await all;
  assert.deepEqual(heard, Array.from({ length: 20 }, (_, n) => [`news ${n}`, `new? news ${n}`]).flat());
  assert.equal(await sub.unsubscribe('news'), 2);
  await sub.punsubscribe('new?');
  await sub.unsubscribe('other');
  assert.equal(await sub.get('none'), null); // an ordinary connection again
  sub.disconnect();
}

async function waiting(r) {
  const others = Array.from({ length: 10 }, () => connect(port));
  const got = Promise.all(others.map((other) => other.blpop('queue', 10)));
  for (let n = 0; n < 10; n++) await r.rpush('queue', n);
  assert.deepEqual((await got).map(([, n]) => Number(n)).sort(), Array.from({ length: 10 }, (_, n) => n));
  assert.equal(await others[0].brpop('queue', 0.01), null);
  const read = others[1].xread('BLOCK', 10_000, 'STREAMS', 'feed', '$');
  const moved = others[2].blmove('from', 'to', 'LEFT', 'RIGHT', 10);
  const popped = others[3].bzpopmin('scores', 10);
  const id = await others[4].client('ID');
  const never = others[4].blpop('never', 0);
  // What wakes them is said again until it does: that they wait already cannot be seen from here.
  const until = async (promise, wake) => {
    let done = false;
    promise.then(() => (done = true));
    while (!done) {
      await wake();
      await new Promise((resolve) => setTimeout(resolve, 5));
    }
    return promise;
  };
  assert.equal((await until(read, () => r.xadd('feed', '*', 'f', 'v')))[0][0], 'feed');
  assert.equal(await until(moved, () => r.rpush('from', 'x')), 'x');
  assert.equal((await until(popped, () => r.zadd('scores', 1, 'm')))[1], 'm');
  assert.equal(await until(never, () => r.client('UNBLOCK', id)), null);
  others.forEach((other) => other.disconnect());
}

async function groups(r) {
  await r.xgroup('CREATE', 'jobs', 'crew', '0', 'MKSTREAM');
  for (let n = 0; n < 200; n++) await r.xadd('jobs', '*', 'n', n);
  const seen = [];
  const consume = async (name) => {
    const own = connect(port);
    for (;;) {
      const read = await own.xreadgroup('GROUP', 'crew', name, 'COUNT', 7, 'STREAMS', 'jobs', '>');
      if (!read) break;
      for (const [id, [, n]] of read[0][1]) {
        seen.push(Number(n));
        assert.equal(await own.xack('jobs', 'crew', id), 1);
      }
    }
    own.disconnect();
  };
  await Promise.all(['a', 'b', 'c'].map(consume));
  assert.deepEqual(seen.sort((a, b) => a - b), Array.from({ length: 200 }, (_, n) => n));
  assert.equal((await r.xpending('jobs', 'crew'))[0], 0);
}

async function scans(r) {
  const gather = async (stream) => {
    const found = [];
    for await (const keys of stream) found.push(...keys);
    return found;
  };
  await r.hset('big:hash', Object.fromEntries(Array.from({ length: 1_000 }, (_, n) => [`f${n}`, n])));
  await r.sadd('big:set', Array.from({ length: 1_000 }, (_, n) => `m${n}`));
  await r.zadd('big:zset', ...Array.from({ length: 1_000 }, (_, n) => [n, `m${n}`]).flat());
  assert.equal(new Set(await gather(r.scanStream({ match: 'p:*', count: 100 }))).size, 2_000);
  assert.equal(new Set(await gather(r.scanStream({ match: 'big:*', type: 'hash' }))).size, 1);
  assert.equal((await gather(r.hscanStream('big:hash', { count: 50 }))).length, 2_000);
  assert.equal(new Set(await gather(r.sscanStream('big:set'))).size, 1_000);
  assert.equal((await gather(r.zscanStream('big:zset', { match: 'm9*' }))).length, 2 * 111);
}

async function clients(r) {
  const named = connect(port, { connectionName: 'named', db: 5, keyPrefix: 'own:' });
  await named.set('k', 'v');
  assert.equal(await named.client('GETNAME'), 'named');
  await r.select(5);
  assert.equal(await r.get('own:k'), 'v');
  await r.select(0);
  // Ready before its copy monitors: ioredis fails where a line comes together with the answer to MONITOR.
  const watched = r.duplicate();
  await watched.ping();
  const monitor = await watched.monitor();
  const line = new Promise((resolve) => monitor.on('monitor', (_, args) => args[1] === 'for:monitor' && resolve(args)));
  await r.set('for:monitor', 'v');
  assert.deepEqual(await line, ['set', 'for:monitor', 'v']);
  monitor.disconnect();
  watched.disconnect();
  named.disconnect();
  const text = await r.getBuffer('k');
  assert.ok(Buffer.isBuffer(text));
  assert.match(await r.info('server'), /redis_version/);
}

async function main() {
  setTimeout(() => main.fail(new Error('not done after two minutes')), 120_000);
  const [one, other] = [connect(direct), connect(port)];
  await other.flushall();
  const made = await calls(one, other);
  assert.ok(made > 200, `${made} calls`);
  for (const part of [pipelines, scripts, messages, waiting, groups, scans, clients]) await part(other);
  console.log('ok');
  process.exit(0);
}

main.fail = (error) => {
  console.error(error);
  process.exit(1);
};
main().catch(main.fail);
