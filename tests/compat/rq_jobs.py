"""RQ at work: every job is done once. Usage: rq_jobs.py PORT PROTOCOL COUNT

Two workers that run jobs in their own process, and one that forks for each, share two queues; the jobs count themselves in
a list in the same Redis.
"""

import multiprocessing
import sys

import redis
from rq import Queue, Retry, SimpleWorker, Worker
from rq.job import JobStatus

PORT, PROTOCOL, COUNT = (int(argument) for argument in sys.argv[1:4])


def connect():
    return redis.Redis(port=PORT, protocol=PROTOCOL)


def work(n):
    r = connect()
    if n % 50 == 0 and r.incr(f"tries:{n}") == 1:
        raise ValueError("not yet")
    r.rpush("done", n)
    return n * 2


def serve(kind, queues):
    r = connect()
    kind([Queue(name, connection=r) for name in queues], connection=r).work(burst=True, with_scheduler=False, logging_level="ERROR")


def main():
    r = connect()
    forked = COUNT // 10
    plain, slow = Queue("plain", connection=r), Queue("slow", connection=r)
    jobs = []
    for n in range(COUNT):
        queue = slow if n < forked else plain
        jobs.append(queue.enqueue(work, n, retry=Retry(max=2), result_ttl=3600))
    workers = [(SimpleWorker, ["plain"]), (SimpleWorker, ["plain"]), (Worker, ["slow"])]
    started = [multiprocessing.Process(target=serve, args=each) for each in workers]
    for process in started:
        process.start()
    for process in started:
        process.join()
        assert process.exitcode == 0, f"a worker ended with {process.exitcode}"
    done = [int(n) for n in r.lrange("done", 0, -1)]
    assert sorted(done) == list(range(COUNT)), f"{len(done)} jobs done, {len(set(done))} different"
    for n, job in enumerate(jobs):
        assert job.get_status(refresh=True) == JobStatus.FINISHED, f"job {n} is {job.get_status()}"
        assert job.return_value() == n * 2, f"job {n} returned {job.return_value()}"
    assert len(plain) == len(slow) == 0 and plain.failed_job_registry.count == 0
    # A job that depends on others, and one that was put off and taken back.
    first = plain.enqueue(work, COUNT + 1)
    second = plain.enqueue(work, COUNT + 2, depends_on=first)
    third = plain.enqueue(work, COUNT + 3)
    third.cancel()
    serve(SimpleWorker, ["plain"])
    assert second.get_status(refresh=True) == JobStatus.FINISHED and third.get_status(refresh=True) == JobStatus.CANCELED
    print(f"{COUNT} jobs done, none lost, none twice")


if __name__ == "__main__":
    # Jobs are found by the name of their module.
    import rq_jobs

    sys.exit(rq_jobs.main())
