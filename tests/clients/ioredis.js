// A program as people write them with ioredis. Usage: ioredis.js PORT PROTOCOL smoke|cluster|connections COUNT
// Where the variable CA names a file of authorities, it speaks TLS.
'use strict';

const assert = require('node:assert/strict');
const { readFileSync } = require('node:fs');
const { Cluster, Redis } = require('ioredis');

const [port, protocol] = process.argv.slice(2, 4).map(Number);
const tls = process.env.CA && { ca: readFileSync(process.env.CA) };
const connect = (more = {}) => new Redis({ port, protocol, ...(tls && { tls }), ...more });

async function smoke() {
  const r = connect();
  await r.flushall();
  assert.equal(await r.set('k', 'v'), 'OK');
  for (let n = 0; n < 50; n++) assert.equal(await r.get('k'), 'v');
  assert.equal(await r.get('none'), null);
  assert.equal(await r.incrby('n', 5), 5);
  assert.deepEqual(await r.mget('k', 'n', 'none'), ['v', '5', null]);
  // What is not awaited goes out as one pipeline.
  const many = await Promise.all(Array.from({ length: 500 }, (_, n) => r.set(`bulk:${n}`, n).then(() => r.get(`bulk:${n}`))));
  assert.deepEqual(many, Array.from({ length: 500 }, (_, n) => String(n)));
  assert.deepEqual(await r.pipeline().set('a', 1).incr('a').get('a').exec(), [[null, 'OK'], [null, 2], [null, '2']]);
  assert.deepEqual(await r.multi().incr('a').get('a').exec(), [[null, 3], [null, '3']]);
  await r.watch('a');
  await connect({ lazyConnect: false }).set('a', 9);
  assert.equal(await r.multi().set('a', 10).exec(), null);
  await r.hset('h', { f: '1', g: '2' });
  assert.deepEqual({ ...(await r.hgetall('h')) }, { f: '1', g: '2' });
  await r.zadd('z', 1.5, 'x');
  assert.equal(Number(await r.zscore('z', 'x')), 1.5);
  await r.xadd('x', '1-1', 'f', 'v');
  assert.deepEqual(await r.xrange('x', '-', '+'), [['1-1', ['f', 'v']]]);
  await r.rpush('l', 1, 2);
  assert.deepEqual(await r.blpop('l', 1), ['l', '1']);
  r.defineCommand('put', { numberOfKeys: 1, lua: "return redis.call('set', KEYS[1], ARGV[1])" });
  assert.equal(await r.get('by:script'), null);
  await r.put('by:script', 'v');
  assert.equal(await r.get('by:script'), 'v');
  const value = Buffer.alloc(1_300_000, 'a\r\n$-1\r\n');
  await r.set('big', value);
  assert.ok((await r.getBuffer('big')).equals(value));
  await assert.rejects(r.lpush('k', 1), /WRONGTYPE/);

  const sub = connect();
  const heard = [];
  const all = new Promise((done) => sub.on('message', (_, text) => heard.push(text) === 20 && done()));
  await sub.subscribe('news');
  for (let n = 0; n < 20; n++) assert.equal(await r.publish('news', n), 1);
  await all;
  assert.deepEqual(heard, Array.from({ length: 20 }, (_, n) => String(n)));

  const found = [];
  for await (const keys of r.scanStream({ match: 'bulk:*', count: 50 })) found.push(...keys);
  assert.equal(new Set(found).size, 500);
  const other = connect({ db: 3, connectionName: 'named' });
  assert.equal(await other.get('k'), null);
  assert.equal(await other.client('GETNAME'), 'named');
  console.log('ok');
  process.exit(0);
}

// As a client of clusters.
async function cluster() {
  const r = new Cluster([{ host: '127.0.0.1', port }], { redisOptions: { protocol } });
  await r.flushall();
  const numbers = Array.from({ length: 200 }, (_, n) => n);
  await Promise.all(numbers.map((n) => r.set(`key:${n}`, n)));
  assert.deepEqual(await Promise.all(numbers.map((n) => r.get(`key:${n}`))), numbers.map(String));
  assert.equal(await r.mset('{t}a', 1, '{t}b', 2), 'OK');
  assert.deepEqual(await r.mget('{t}a', '{t}b', '{t}none'), ['1', '2', null]);
  assert.deepEqual(await r.pipeline().incr('{t}a').get('{t}b').exec(), [[null, 2], [null, '2']]);
  assert.deepEqual(await r.multi().incr('{t}a').get('{t}b').exec(), [[null, 3], [null, '2']]);
  assert.equal(await r.eval("return redis.call('incr', KEYS[1])", 1, 'by:script'), 1);
  await r.rpush('l', 1);
  assert.deepEqual(await r.blpop('l', 1), ['l', '1']);
  await assert.rejects(r.lpush('key:1', 1), /WRONGTYPE/);
  const found = [];
  for (const node of r.nodes('master')) {
    for await (const keys of node.scanStream({ match: 'key:*', count: 50 })) found.push(...keys);
  }
  assert.equal(new Set(found).size, 200);
  const sub = new Cluster([{ host: '127.0.0.1', port }], { redisOptions: { protocol } });
  const heard = new Promise((done) => sub.on('message', (_, text) => done(text)));
  await sub.subscribe('news');
  await r.publish('news', 'text');
  assert.equal(await heard, 'text');
  console.log('ok');
  process.exit(0);
}

async function connections(count) {
  for (let n = 0; n < count; n++) {
    const r = connect();
    await r.set(`key:${n % 10}`, 'v');
    assert.equal(await r.get(`key:${n % 10}`), 'v');
  }
  console.log('ready');
  process.stdin.resume();
  process.stdin.on('end', () => process.exit(0));
}

const work = { smoke, cluster, connections }[process.argv[4]](Number(process.argv[5]));
work.catch((e) => {
  console.error(e);
  process.exit(1);
});
