// BullMQ at work: every job is done once, whatever became of its first attempts. Usage: bullmq.js PORT PROTOCOL COUNT
// Where the variable TAG is set, all its keys have that.
'use strict';

const assert = require('node:assert/strict');
const { Queue, QueueEvents, Worker, FlowProducer } = require('bullmq');

const [port, protocol, count] = process.argv.slice(2).map(Number);
const connection = { port, protocol, maxRetriesPerRequest: null };
const shared = { connection, prefix: process.env.TAG || 'bull' };

async function main() {
  const queue = new Queue('work', shared);
  const events = new QueueEvents('work', shared);
  await events.waitUntilReady();
  const done = new Map();
  const heard = new Map();
  const add = (map, key) => map.set(key, (map.get(key) || 0) + 1);
  const all = new Promise((resolve) => {
    events.on('completed', ({ jobId }) => {
      add(heard, jobId);
      if (heard.size === count) resolve();
    });
  });

  // Every seventh fails at first, every eleventh is late, every thirteenth is urgent.
  const jobs = Array.from({ length: count }, (_, n) => ({
    name: 'job',
    data: { n, text: 'x'.repeat(n % 500) },
    opts: { attempts: 3, backoff: 10, delay: n % 11 ? 0 : 50, priority: n % 13 ? 0 : 1, removeOnComplete: false },
  }));
  const work = async (job) => {
    if (job.data.n % 7 === 0 && job.attemptsMade === 0) throw new Error('not yet');
    await job.updateProgress(50);
    add(done, job.data.n);
    return job.data.n * 2;
  };
  const workers = [0, 1, 2].map(() => new Worker('work', work, { ...shared, concurrency: 20 }));
  for (let at = 0; at < count; at += 100) await queue.addBulk(jobs.slice(at, at + 100));
  await all;
  const counts = await queue.getJobCounts('completed', 'failed', 'wait', 'active', 'delayed', 'prioritized');
  assert.deepEqual(counts, { completed: count, failed: 0, wait: 0, active: 0, delayed: 0, prioritized: 0 });
  assert.equal(done.size, count, 'jobs are missing');
  assert.ok([...done.values()].every((times) => times === 1), 'a job was done twice');
  assert.ok([...heard.values()].every((times) => times === 1), 'a job was reported twice');
  const results = await queue.getCompleted(0, -1);
  assert.ok(results.every((job) => job.returnvalue === job.data.n * 2), 'a result is wrong');

  // A parent waits for its children and is given what they returned.
  const flow = new FlowProducer(shared);
  const children = Array.from({ length: 50 }, (_, n) => ({ name: 'child', queueName: 'children', data: { n } }));
  const parentsWork = async (job) => Object.values(await job.getChildrenValues()).reduce((a, b) => a + b, 0);
  workers.push(new Worker('children', async (job) => job.data.n, { ...shared, concurrency: 5 }));
  workers.push(new Worker('parents', parentsWork, shared));
  const parents = new QueueEvents('parents', shared);
  await parents.waitUntilReady();
  const { job } = await flow.add({ name: 'sum', queueName: 'parents', data: {}, children });
  assert.equal(await job.waitUntilFinished(parents, 60_000), 1225);

  // One that is stopped and started again goes on where it was.
  await queue.pause();
  const late = await queue.add('job', { n: count + 1, text: '' });
  assert.equal(await late.getState(), 'waiting');
  await queue.resume();
  assert.equal(await late.waitUntilFinished(events, 60_000), (count + 1) * 2);

  await Promise.all([...workers, queue, events, parents, flow].map((each) => each.close()));
  console.log(`${count} jobs done, none lost, none twice`);
  process.exit(0);
}

main().catch((error) => {
  console.error(error);
  process.exit(1);
});
