"""redis-py in an outage. Usage: redis_py.py PORT"""

import os
import time

import redis

from say import PORT, Counts

counts, at = Counts(), 0
key = "redis-py" + os.environ.get("TWIN", "")  # one that works beside its like has its own
r = redis.Redis(port=PORT)
while not counts.over():
    at += 1
    if counts.tried(at, lambda: r.set(key, at)):
        counts.wrote(at)
    value = counts.tried(None, lambda: (r.get(key),))
    if value:
        counts.saw(value[0])
    counts.ready()
    time.sleep(0.01)
counts.say()
