"""Celery at work: every task is done once, and its result is read. Usage: celery_jobs.py PORT PROTOCOL COUNT

The broker and the store of results are the same Redis. The worker is a process of its own, which gets its settings by the
environment. Where the variable TAG is set, all keys have that.
"""

import os
import subprocess
import sys

import redis
from celery import Celery, chord, group

if __name__ == "__main__":
    os.environ["JOBS_PORT"], os.environ["JOBS_PROTOCOL"] = sys.argv[1:3]
PORT, PROTOCOL = os.environ["JOBS_PORT"], os.environ["JOBS_PROTOCOL"]
URL = f"redis://127.0.0.1:{PORT}/0"
# Celery has no setting for the protocol: it takes what redis-py does unless told.
redis.utils.DEFAULT_RESP_VERSION = redis.connection.DEFAULT_RESP_VERSION = int(PROTOCOL)

app = Celery("celery_jobs", broker=URL, backend=URL)
TAG = os.environ.get("TAG", "")
if TAG:
    app.conf.update(broker_transport_options={"global_keyprefix": TAG}, result_backend_transport_options={"global_keyprefix": TAG})
app.conf.update(task_acks_late=True, worker_prefetch_multiplier=4, broker_connection_retry_on_startup=True)


@app.task(bind=True, max_retries=3)
def work(self, n):
    r = redis.Redis(port=int(PORT), protocol=int(PROTOCOL))
    if n % 50 == 0 and self.request.retries == 0:
        raise self.retry(countdown=0.05)
    r.rpush(f"{TAG}done", n)
    return n * 2


@app.task
def total(numbers):
    return sum(numbers)


def main(count):
    worker = subprocess.Popen(
        [sys.executable, "-m", "celery", "-A", "celery_jobs", "worker", "--concurrency", "4", "--loglevel", "ERROR", "--without-mingle"],
        cwd=os.path.dirname(os.path.abspath(__file__)),
        stdout=sys.stderr,
    )
    try:
        results = group(work.s(n) for n in range(count)).apply_async()
        assert results.get(timeout=300) == [n * 2 for n in range(count)], "a result is wrong"
        r = redis.Redis(port=int(PORT), protocol=int(PROTOCOL))
        done = [int(n) for n in r.lrange(f"{TAG}done", 0, -1)]
        assert sorted(done) == list(range(count)), f"{len(done)} tasks done, {len(set(done))} different"
        sum_of_all = chord(work.s(n) for n in range(count, count + 20))(total.s())
        assert sum_of_all.get(timeout=60) == sum(2 * n for n in range(count, count + 20)), "a chord's sum is wrong"
        assert r.llen(f"{TAG}celery") == 0, "tasks are left in the queue"
    finally:
        worker.terminate()
        worker.wait(30)
    print(f"{count} tasks done, none lost, none twice")


if __name__ == "__main__":
    import celery_jobs

    celery_jobs.main(int(sys.argv[3]))
