// BullMQ at work, for `queue.rs`: reads lines `PART QUEUE PORT COUNT`, does that, and answers with the seconds that it took.
'use strict';

const readline = require('node:readline');
const { setTimeout: sleep } = require('node:timers/promises');
const { Queue, Worker } = require('bullmq');
const Redis = require('ioredis');

const BATCH = 100;

async function add(queue, _, count) {
  const job = (_, n) => ({ name: 'job', data: { n, text: 'x'.repeat(100) } });
  const jobs = Array.from({ length: count }, job);
  const began = performance.now();
  for (let at = 0; at < count; at += BATCH) await queue.addBulk(jobs.slice(at, at + BATCH));
  return performance.now() - began;
}

// A job reads what it needs and writes what it found, over the connection that the worker has. Between the two it is busy
// elsewhere, or not.
const work = (elsewhere) => async (queue, redis, count) => {
  const job = async ({ data: { n, text } }) => {
    await redis.get(`key:${n % 10_000}`);
    if (elsewhere) await sleep(elsewhere);
    await redis.set(`done:${n % 10_000}`, text);
  };
  const worker = new Worker(queue.name, job, { connection: redis, concurrency: 10, autorun: false });
  await worker.waitUntilReady();
  let left = count;
  const all = new Promise((resolve, reject) => {
    worker.on('completed', () => --left || resolve());
    worker.on('failed', (_, error) => reject(error));
  });
  const began = performance.now();
  worker.run();
  await all;
  const took = performance.now() - began;
  worker.on('error', () => {}); // from here on it is of connections that it closes itself
  await worker.close();
  return took;
};

async function clean(queue) {
  await queue.obliterate({ force: true });
  return 0;
}

const parts = { add, work: work(0), longer: work(5), clean };

async function main() {
  for await (const line of readline.createInterface({ input: process.stdin })) {
    const [part, name, port, count] = line.split(' ');
    const late = setTimeout(() => {
      console.error(`${line}: not done after ten minutes`);
      process.exit(1);
    }, 600_000);
    const redis = new Redis({ port: Number(port), maxRetriesPerRequest: null });
    const queue = new Queue(name, { connection: redis });
    await queue.waitUntilReady();
    const took = await parts[part](queue, redis, Number(count));
    console.log(took / 1000);
    await queue.close();
    await redis.quit();
    clearTimeout(late);
  }
}

main().catch((error) => {
  console.error(error);
  process.exit(1);
});
