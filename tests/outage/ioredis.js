// ioredis in an outage. Usage: ioredis.js PORT
const Redis = require('ioredis');
const { loops, say } = require('./say.js');

const r = new Redis(Number(process.argv[2]));
r.on('error', () => {});
loops('ioredis', (key, value) => r.set(key, value), (key) => r.get(key)).then(say);
