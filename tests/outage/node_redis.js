// node-redis in an outage. Usage: node_redis.js PORT
const { createClient } = require('redis');
const { loops, say } = require('./say.js');

const r = createClient({ socket: { port: Number(process.argv[2]) } });
r.on('error', () => {});
r.connect().then(() => loops('node-redis', (key, value) => r.set(key, value), (key) => r.get(key))).then(say);
