// A program as people write them with node-redis. Usage: node_redis.js PORT PROTOCOL smoke|cluster|connections COUNT
// Where the variable CA names a file of authorities, it speaks TLS. Where CLUSTER is set there is a cluster behind: scripts name
// their keys.
'use strict';

const assert = require('node:assert/strict');
const { readFileSync } = require('node:fs');
const { createClient, createCluster, RESP_TYPES, WatchError } = require('redis');

const [port, RESP] = process.argv.slice(2, 4).map(Number);
const tls = process.env.CA ? { tls: true, ca: readFileSync(process.env.CA) } : {};
const connect = (more = {}) => createClient({ socket: { port, ...tls }, RESP, ...more }).connect();

async function smoke() {
  const r = await connect();
  await r.flushAll();
  assert.equal(await r.set('k', 'v'), 'OK');
  for (let n = 0; n < 50; n++) assert.equal(await r.get('k'), 'v');
  assert.equal(await r.get('none'), null);
  assert.equal(await r.incrBy('n', 5), 5);
  assert.deepEqual(await r.mGet(['k', 'n', 'none']), ['v', '5', null]);
  // What is not awaited goes out as one pipeline.
  const many = await Promise.all(Array.from({ length: 500 }, (_, n) => r.set(`bulk:${n}`, n).then(() => r.get(`bulk:${n}`))));
  assert.deepEqual(many, Array.from({ length: 500 }, (_, n) => String(n)));
  assert.deepEqual(await r.multi().set('a', 1).incr('a').get('a').exec(), ['OK', 2, '2']);
  const other = await connect({ database: 3, name: 'named' });
  assert.equal(await other.get('k'), null);
  assert.equal(await other.clientGetName(), 'named');
  await other.select(0);
  await r.watch('a');
  await other.set('a', 9);
  await assert.rejects(r.multi().set('a', 10).exec(), WatchError);
  await r.hSet('h', { f: '1', g: '2' });
  assert.deepEqual({ ...(await r.hGetAll('h')) }, { f: '1', g: '2' });
  await r.zAdd('z', { score: 1.5, value: 'x' });
  assert.deepEqual(await r.zRangeWithScores('z', 0, -1), [{ score: 1.5, value: 'x' }]);
  await r.xAdd('x', '1-1', { f: 'v' });
  const [entry] = await r.xRange('x', '-', '+');
  assert.equal(entry.id, '1-1');
  await r.rPush('l', ['1', '2']);
  assert.equal((await r.blPop('l', 1)).element, '1');
  assert.equal(await r.get('by:script'), null);
  const key = process.env.CLUSTER ? 'KEYS[1]' : "'by' .. ':script'";
  await r.eval(`return redis.call('set', ${key}, ARGV[1])`, { keys: ['by:script'], arguments: ['v'] });
  assert.equal(await r.get('by:script'), 'v');
  const value = Buffer.alloc(1_300_000, 'a\r\n$-1\r\n');
  await r.set('big', value);
  const buffers = r.withTypeMapping({ [RESP_TYPES.BLOB_STRING]: Buffer });
  assert.ok((await buffers.get('big')).equals(value));
  await assert.rejects(r.lPush('k', '1'), /WRONGTYPE/);

  const sub = await connect();
  const heard = [];
  let done;
  const all = new Promise((resolve) => (done = resolve));
  await sub.subscribe('news', (text) => heard.push(text) === 20 && done());
  for (let n = 0; n < 20; n++) assert.equal(await r.publish('news', String(n)), 1);
  await all;
  assert.deepEqual(heard, Array.from({ length: 20 }, (_, n) => String(n)));

  const found = [];
  for await (const keys of r.scanIterator({ MATCH: 'bulk:*', COUNT: 50 })) found.push(...keys);
  assert.equal(new Set(found).size, 500);
  console.log('ok');
  process.exit(0);
}

// As a client of clusters.
async function cluster() {
  const connected = () => createCluster({ rootNodes: [{ url: `redis://127.0.0.1:${port}` }], RESP }).connect();
  const r = await connected();
  await Promise.all(r.masters.map(async (node) => (await r.nodeClient(node)).flushAll()));
  const numbers = Array.from({ length: 200 }, (_, n) => n);
  await Promise.all(numbers.map((n) => r.set(`key:${n}`, n)));
  assert.deepEqual(await Promise.all(numbers.map((n) => r.get(`key:${n}`))), numbers.map(String));
  assert.equal(await r.mSet([['{t}a', '1'], ['{t}b', '2']]), 'OK');
  assert.deepEqual(await r.mGet(['{t}a', '{t}b', '{t}none']), ['1', '2', null]);
  assert.deepEqual(await r.multi().incr('{t}a').get('{t}b').exec(), [2, '2']);
  assert.equal(await r.eval("return redis.call('incr', KEYS[1])", { keys: ['by:script'] }), 1);
  await r.rPush('l', '1');
  assert.equal((await r.blPop('l', 1)).element, '1');
  await assert.rejects(r.lPush('key:1', '1'), /WRONGTYPE/);
  const sub = await connected();
  const heard = new Promise((done) => sub.subscribe('news', done));
  for (;;) {
    await r.publish('news', 'text');
    if ((await Promise.race([heard, new Promise((done) => setTimeout(done, 20))])) === 'text') break;
  }
  console.log('ok');
  process.exit(0);
}

async function connections(count) {
  for (let n = 0; n < count; n++) {
    const r = await connect();
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
