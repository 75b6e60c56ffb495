// BullMQ in an outage: a worker, and a queue that it works on. Usage: bullmq.js PORT
const { Queue, Worker } = require('bullmq');
const { counts, isOver, say, sleep, tried } = require('./say.js');

const connection = { port: Number(process.argv[2]), db: 3 };
const queue = new Queue('outage', { connection });
const worker = new Worker('outage', async (job) => job.data.n * 2, { connection });
queue.on('error', () => {});
worker.on('error', () => {});

async function result(job, patience) {
  for (let tries = 0; tries < patience * 20; tries++) {
    if (await job.isCompleted()) return (await queue.getJob(job.id)).returnvalue;
    await sleep(50);
  }
  throw new Error('the job is not done');
}

async function lives() {
  for (let tries = 0; tries < 4; tries++) {
    try {
      return (await result(await queue.add('double', { n: 21 }), 15)) === 42;
    } catch (error) {
      console.error(error);
    }
  }
  return false;
}

async function main() {
  await result(await queue.add('double', { n: 1 }), 60);
  for (let n = 2; !isOver(); n++) {
    await tried(() => queue.add('double', { n }));
    await sleep(50);
  }
  counts.alive = await lives();
  say();
}

main();
