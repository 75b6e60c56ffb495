// The breadth of node-redis: the same calls to a Redis and through crema, and what comes back compared. Usage:
// node_redis_api.js PORT PROTOCOL DIRECT, the last being the port of a Redis like the one behind crema.
'use strict';

const assert = require('node:assert/strict');
const { createClient, createClientPool, defineScript, RESP_TYPES, WatchError } = require('redis');

const [port, RESP, direct] = process.argv.slice(2).map(Number);
const scripts = {
  both: defineScript({
    SCRIPT: 'return {redis.call("incr", KEYS[1]), redis.call("incr", KEYS[2])}',
    NUMBER_OF_KEYS: 2,
    parseCommand: (parser, one, other) => parser.pushKeys([one, other]),
    transformReply: (reply) => reply,
  }),
};
const options = (to, more = {}) => ({ socket: { port: to }, RESP, scripts, unstableResp3: true, ...more });
const connect = (to, more) => createClient(options(to, more)).connect();

const geo = { longitude: 15, latitude: 37 };
// Made one after the other, at both; reads once more, so that they may come from memory.
const CALLS = [
  (r) => r.set('s', 'value'), (r) => r.get('s'), (r) => r.getRange('s', 0, 2), (r) => r.strLen('s'), (r) => r.append('s', '!'), (r) => r.getSet('s', '10'),
  (r) => r.incr('s'), (r) => r.incrBy('s', 5), (r) => r.decr('s'), (r) => r.incrByFloat('s', 0.5), (r) => r.setNX('s', 'x'), (r) => r.getDel('t'),
  (r) => r.set('t', 'v', { expiration: { type: 'EX', value: 100 } }), (r) => r.set('t', 'w', { GET: true, condition: 'XX' }), (r) => r.persist('t'),
  (r) => r.mSet({ a: '1', b: '2' }), (r) => r.mGet(['a', 'b', 'none']), (r) => r.mSetNX({ a: '1', c: '2' }), (r) => r.setRange('a', 2, 'x'), (r) => r.lcs('a', 'b'),
  (r) => r.type('s'), (r) => r.exists(['s', 'none']), (r) => r.copy('a', 'd', { REPLACE: true }), (r) => r.rename('d', 'e'), (r) => r.expire('a', 100),
  (r) => r.del(['e', 'none']), (r) => r.unlink('none'), (r) => r.touch(['a']), (r) => r.objectEncoding('a'), (r) => r.pTTL('b'), (r) => r.expireTime('b'),
  (r) => r.setBit('bits', 7, 1), (r) => r.getBit('bits', 7), (r) => r.bitCount('bits'), (r) => r.bitPos('bits', 1), (r) => r.bitOp('NOT', 'bits2', 'bits'),
  (r) => r.hSet('h', { f: '1', g: 'two' }), (r) => r.hGet('h', 'f'), (r) => r.hmGet('h', ['f', 'none']), (r) => r.hGetAll('h'), (r) => r.hKeys('h'),
  (r) => r.hVals('h'), (r) => r.hLen('h'), (r) => r.hExists('h', 'f'), (r) => r.hIncrBy('h', 'f', 4), (r) => r.hIncrByFloat('h', 'f', 0.25),
  (r) => r.hDel('h', ['g', 'none']), (r) => r.hScan('h', '0'), (r) => r.hSetNX('h', 'f', 'x'), (r) => r.hStrLen('h', 'f'), (r) => r.hGetAll('none'),
  (r) => r.rPush('l', ['a', 'b', 'c', 'a']), (r) => r.lPush('l', 'z'), (r) => r.lRange('l', 0, -1), (r) => r.lLen('l'), (r) => r.lIndex('l', 1),
  (r) => r.lPos('l', 'a'), (r) => r.lPosCount('l', 'a', 0), (r) => r.lInsert('l', 'BEFORE', 'b', 'x'), (r) => r.lSet('l', 0, 'y'), (r) => r.lRem('l', 1, 'a'),
  (r) => r.lTrim('l', 0, 3), (r) => r.lPop('l'), (r) => r.rPopCount('l', 2), (r) => r.lMove('l', 'm', 'LEFT', 'RIGHT'), (r) => r.lmPop(['none', 'm'], 'LEFT'),
  (r) => r.sort('l', { ALPHA: true, DIRECTION: 'DESC' }), (r) => r.sAdd('i', ['1', '2', '3']), (r) => r.sAdd('j', ['2', '3', '4']), (r) => r.sMembers('i'),
  (r) => r.sCard('i'), (r) => r.sIsMember('i', '1'), (r) => r.smIsMember('i', ['1', '9']), (r) => r.sInter(['i', 'j']), (r) => r.sUnion(['i', 'j']),
  (r) => r.sDiff(['i', 'j']), (r) => r.sInterCard(['i', 'j']), (r) => r.sUnionStore('k', ['i', 'j']), (r) => r.sMove('i', 'j', '1'), (r) => r.sScan('i', '0'),
  (r) => r.zAdd('z', [{ score: 1, value: 'a' }, { score: 2, value: 'b' }, { score: 3.5, value: 'c' }]), (r) => r.zAddIncr('z', { score: 1, value: 'b' }),
  (r) => r.zIncrBy('z', 0.5, 'c'), (r) => r.zScore('z', 'a'), (r) => r.zmScore('z', ['a', 'none']), (r) => r.zCard('z'), (r) => r.zCount('z', 1, 5),
  (r) => r.zRank('z', 'b'), (r) => r.zRevRank('z', 'b'), (r) => r.zRange('z', 0, -1), (r) => r.zRangeWithScores('z', 0, -1), (r) => r.zRangeByScore('z', 0, 9),
  (r) => r.zRange('z', 1, 9, { BY: 'SCORE', LIMIT: { offset: 0, count: 2 } }), (r) => r.zRangeByLex('z', '-', '+'), (r) => r.zScan('z', '0'),
  (r) => r.zAdd('y', { score: 5, value: 'd' }), (r) => r.zUnionWithScores(['z', 'y']), (r) => r.zInter(['z', 'y']), (r) => r.zDiff(['z', 'y']),
  (r) => r.zUnionStore('x', ['z', 'y']), (r) => r.zRangeStore('x', 'z', 0, 1), (r) => r.zPopMin('z'), (r) => r.zPopMaxCount('z', 2), (r) => r.zRem('y', 'd'),
  (r) => r.pfAdd('p', ['a', 'b']), (r) => r.pfCount('p'), (r) => r.pfMerge('q', ['p']), (r) => r.geoAdd('g', { longitude: 13.361389, latitude: 38.115556, member: 'Palermo' }),
  (r) => r.geoPos('g', ['Palermo', 'none']), (r) => r.geoHash('g', 'Palermo'), (r) => r.geoSearchWith('g', geo, { radius: 200, unit: 'km' }, ['WITHDIST', 'WITHCOORD']),
  (r) => r.xAdd('st', '1-1', { f: 'v' }), (r) => r.xAdd('st', '2-1', { f: 'x' }), (r) => r.xLen('st'), (r) => r.xRange('st', '-', '+'), (r) => r.xRevRange('st', '+', '-'),
  (r) => r.xRead({ key: 'st', id: '0' }, { COUNT: 1 }), (r) => r.xInfoStream('st'), (r) => r.xGroupCreate('st', 'grp', '0'),
  (r) => r.xReadGroup('grp', 'c', { key: 'st', id: '>' }, { COUNT: 1 }), (r) => r.xPending('st', 'grp'), (r) => r.xClaim('st', 'grp', 'd', 0, '1-1'),
  (r) => r.xAutoClaim('st', 'grp', 'c', 0, '0'), (r) => r.xAck('st', 'grp', '1-1'), (r) => r.xInfoGroups('st'), (r) => r.xGroupDestroy('st', 'grp'),
  (r) => r.xDel('st', '1-1'), (r) => r.xTrim('st', 'MAXLEN', 0), (r) => r.both('one', 'two'), (r) => r.both('one', 'two'),
  (r) => r.eval('return {KEYS[1], ARGV[1], {1.5, true, false}}', { keys: ['k'], arguments: ['v'] }), (r) => r.evalRo('return redis.call("get", KEYS[1])', { keys: ['one'] }),
  (r) => r.scriptLoad('return 1'), (r) => r.scriptExists('00'), (r) => r.functionList(), (r) => r.select(3), (r) => r.set('s', 'three'), (r) => r.get('s'),
  (r) => r.select(0), (r) => r.get('s'), (r) => r.move('s', 4), (r) => r.swapDb(0, 3), (r) => r.get('s'), (r) => r.swapDb(0, 3), (r) => r.dbSize(), (r) => r.keys('st'),
  (r) => r.scan('0', { MATCH: 'st', COUNT: 1000 }), (r) => r.clientGetName(), (r) => r.clientSetName('me'), (r) => r.clientGetName(), (r) => r.configGet('maxmemory'),
  (r) => r.aclWhoAmI(), (r) => r.aclCat(), (r) => r.commandCount(), (r) => r.echo('hello'), (r) => r.ping(), (r) => r.wait(0, 1), (r) => r.publish('nobody', 'hears'),
  (r) => r.pubSubNumPat(), (r) => r.lPush('a', 'x'), (r) => r.hGet('a', 'f'), (r) => r.incr('h'), (r) => r.sendCommand(['NOSUCH', 'a']), (r) => r.sendCommand(['GET']),
  (r) => r.xAdd('st', '1-1', { f: 'v' }), (r) => r.evalSha('00'), (r) => r.setRange('a', -1, 'x'), (r) => r.flushDb(), (r) => r.get('a'), (r) => r.dbSize(),
];

async function calls(one, other) {
  const outcome = (r, call) => call(r).then((value) => ({ value }), (error) => ({ error: error.message }));
  for (const call of CALLS) {
    const reads = /r\.(get|mGet|strLen|h(Get|mGet|Keys|Vals|Len)|l(Range|Index|Len|Pos)|s(Members|Card)|z(Score|mScore|Range|Card|Rank)|x(Range|Len)|exists|type|bitC|geo(Pos|Hash))\b/.test(call);
    for (let n = 0; n < (reads ? 3 : 1); n++) assert.deepEqual(await outcome(other, call), await outcome(one, call), `${call}`);
  }
}

async function transactions(r) {
  const pool = createClientPool(options(port), { minimum: 1, maximum: 8 });
  await pool.connect();
  await r.set('counter', '0');
  let failed = 0;
  const add = async () => {
    for (;;) {
      try {
        return await pool.execute(async (own) => {
          await own.watch('counter');
          const n = Number(await own.get('counter'));
          await own.multi().set('counter', String(n + 1)).exec();
        });
      } catch (error) {
        if (!(error instanceof WatchError)) throw error;
        failed++;
      }
    }
  };
  await Promise.all(Array.from({ length: 100 }, add));
  assert.equal(await r.get('counter'), '100', `after ${failed} that had to be done again`);
  const mixed = await r.multi().set('m', 'x').lPush('m', '1').get('m').exec().catch((error) => error.replies.map(String));
  assert.equal(mixed[2], 'x');
  await pool.close();
}

async function messages(r) {
  const sub = await connect(port);
  const heard = [];
  let done;
  const all = new Promise((resolve) => (done = resolve));
  const hear = (text, channel) => heard.push(`${channel} ${text}`) === 60 && done();
  await sub.subscribe(['news', 'other'], hear);
  await sub.pSubscribe('new?', hear);
  await sub.sSubscribe('shard', hear);
  for (let n = 0; n < 20; n++) {
    assert.equal(await r.publish('news', String(n)), 2);
    assert.equal(await r.sPublish('shard', String(n)), 1);
  }
  await all;
  assert.deepEqual(heard, Array.from({ length: 20 }, (_, n) => [`news ${n}`, `news ${n}`, `shard ${n}`]).flat());
  await sub.unsubscribe(['news', 'other']);
  await sub.pUnsubscribe('new?');
  await sub.sUnsubscribe('shard');
  sub.destroy();
}

async function waiting(r) {
  const others = await Promise.all(Array.from({ length: 10 }, () => connect(port)));
  const got = Promise.all(others.map((other) => other.blPop('queue', 10)));
  for (let n = 0; n < 10; n++) await r.rPush('queue', String(n));
  assert.deepEqual((await got).map(({ element }) => Number(element)).sort(), Array.from({ length: 10 }, (_, n) => n));
  assert.equal(await others[0].brPop('queue', 0.01), null);
  await r.xGroupCreate('jobs', 'crew', '0', { MKSTREAM: true });
  const seen = [];
  const consume = async (own, name) => {
    for (;;) {
      const read = await own.xReadGroup('crew', name, { key: 'jobs', id: '>' }, { COUNT: 7, BLOCK: 300 });
      if (!read) break;
      // In RESP3 the library passes on what it got.
      const entries = Array.isArray(read) ? read[0].messages.map(({ id, message }) => [id, ['n', message.n]]) : read.jobs;
      for (const [id, [, n]] of entries) {
        seen.push(Number(n));
        assert.equal(await own.xAck('jobs', 'crew', id), 1);
      }
    }
  };
  const consumers = others.slice(0, 3).map((own, n) => consume(own, `c${n}`));
  for (let n = 0; n < 200; n++) await r.xAdd('jobs', '*', { n: String(n) });
  await Promise.all(consumers);
  assert.deepEqual(seen.sort((a, b) => a - b), Array.from({ length: 200 }, (_, n) => n));
  others.forEach((other) => other.destroy());
}

async function scans(r) {
  const gather = async (pages) => {
    const found = [];
    for await (const page of pages) found.push(...[page].flat());
    return found;
  };
  await r.mSet(Object.fromEntries(Array.from({ length: 1_000 }, (_, n) => [`p:${n}`, String(n)])));
  await r.hSet('big:hash', Object.fromEntries(Array.from({ length: 1_000 }, (_, n) => [`f${n}`, String(n)])));
  await r.sAdd('big:set', Array.from({ length: 1_000 }, (_, n) => `m${n}`));
  assert.equal(new Set(await gather(r.scanIterator({ MATCH: 'p:*', COUNT: 100 }))).size, 1_000);
  assert.equal((await gather(r.hScanIterator('big:hash', { COUNT: 50 }))).length, 1_000);
  assert.equal(new Set(await gather(r.sScanIterator('big:set'))).size, 1_000);
  const buffers = r.withTypeMapping({ [RESP_TYPES.BLOB_STRING]: Buffer });
  const bytes = Buffer.from([0, 13, 10, 255, 36, 45]);
  await r.set('binary', bytes);
  for (let n = 0; n < 3; n++) assert.ok((await buffers.get('binary')).equals(bytes));
}

/// The library's own cache, which needs RESP3: what it keeps has to go when somebody else writes.
async function tracking(r) {
  if (RESP !== 3) return;
  const own = await connect(port, { clientSideCache: { ttl: 0, maxEntries: 0, evictPolicy: 'LRU' } });
  await r.set('tracked', '0');
  for (let n = 0; n < 20; n++) {
    assert.equal(await own.get('tracked'), String(n));
    await r.set('tracked', String(n + 1));
    // Its news is on its way, on another connection than the answer to SET.
    for (let tries = 0; (await own.get('tracked')) !== String(n + 1); tries++) {
      assert.ok(tries < 1_000, 'an old value stays');
      await new Promise((resolve) => setTimeout(resolve, 1));
    }
  }
  own.destroy();
}

async function main() {
  setTimeout(() => main.fail(new Error('not done after two minutes')), 120_000);
  const [one, other] = [await connect(direct), await connect(port)];
  await other.flushAll();
  await calls(one, other);
  for (const part of [transactions, messages, waiting, scans, tracking]) await part(other);
  console.log('ok');
  process.exit(0);
}

main.fail = (error) => {
  console.error(error);
  process.exit(1);
};
main().catch(main.fail);
