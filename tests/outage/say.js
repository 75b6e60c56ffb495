// What the programs in JavaScript have in common: they say `ready`, work until their input ends, and then say what they saw.
const counts = { done: 0, failed: 0, wrong: 0, alive: true, errors: {} };
let over = false;
process.stdin.on('end', () => { over = true; }).resume();
let told = false;

const sleep = (ms) => new Promise((done) => setTimeout(done, ms));

async function tried(call) {
  try {
    const answer = await call();
    counts.done++;
    if (!told) {
      console.log('ready');
      told = true;
    }
    return { answer };
  } catch (error) {
    counts.failed++;
    const text = `${error.name}: ${error.message}`.slice(0, 90);
    counts.errors[text] = (counts.errors[text] || 0) + 1;
    return null;
  }
}

// Ten loops at once, each with a key of its own: a read must show the last write that was acknowledged, or one tried after it.
// One that works beside its like has its own (TWIN).
// They keep no step with each other, or what fails in an outage would be all of them or none, as it happens to come.
async function loops(name, set, get) {
  const loop = async (key) => {
    let acked = 0;
    for (let at = 1; !over; at++) {
      if (await tried(() => set(key, String(at)))) acked = at;
      const read = await tried(() => get(key));
      if (read && !(Number(read.answer) >= acked && Number(read.answer) <= at)) counts.wrong++;
      await sleep(5 + 10 * Math.random());
    }
  };
  await Promise.all(Array.from({ length: 10 }, (_, n) => loop(`${name}${process.env.TWIN ?? ''}:${n}`)));
}

function say() {
  console.log(JSON.stringify(counts));
  process.exit(0);
}

module.exports = { counts, isOver: () => over, loops, say, sleep, tried };
