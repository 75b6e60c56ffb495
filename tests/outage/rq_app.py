"""RQ in an outage: a worker, and a program that asks it for jobs. Usage: rq_app.py PORT [worker]"""

import subprocess
import sys
import time

import redis
from rq import Queue, SimpleWorker

import say


def double(n):
    return n * 2


def queue():
    return Queue("outage", connection=redis.Redis(port=say.PORT, db=2))


def main():
    worker = subprocess.Popen([sys.executable, __file__, sys.argv[1], "worker"], stdin=subprocess.DEVNULL, stdout=sys.stderr)
    try:
        counts, jobs, n = say.Counts(), queue(), 1
        assert result(jobs.enqueue(double, 1), 60) == 2
        while not counts.over():
            n += 1
            counts.tried(None, lambda: jobs.enqueue(double, n))
            counts.ready()
            time.sleep(0.05)
        counts.say(alive=lives(worker, jobs))
    finally:
        worker.kill()
        worker.wait()


def result(job, patience):
    for _ in range(patience * 20):
        if job.get_status(refresh=True) == "finished":
            return job.return_value()
        time.sleep(0.05)
    raise TimeoutError("the job is not done")


def lives(worker, jobs):
    """Whether the worker does what it is asked for now."""
    for _ in range(4):
        try:
            return worker.poll() is None and result(jobs.enqueue(double, 21), 15) == 42
        except Exception as error:
            print(repr(error), file=sys.stderr)
    return False


if __name__ == "__main__":
    # Jobs are found by the name of their module.
    import rq_app

    if sys.argv[2:] == ["worker"]:
        SimpleWorker([rq_app.queue()], connection=redis.Redis(port=say.PORT, db=2)).work(logging_level="WARNING")
    else:
        rq_app.main()
