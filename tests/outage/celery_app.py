"""Celery in an outage: a worker, and a program that asks it for tasks. Usage: celery_app.py PORT"""

import os
import subprocess
import sys
import time

from celery import Celery

import say

if len(sys.argv) > 1 and sys.argv[1].isdigit():
    os.environ["OUTAGE_PORT"] = sys.argv[1]
URL = f"redis://127.0.0.1:{os.environ['OUTAGE_PORT']}/1"
app = Celery("celery_app", broker=URL, backend=URL)
app.conf.update(broker_connection_retry_on_startup=True)


@app.task
def double(n):
    return n * 2


def main():
    command = [sys.executable, "-m", "celery", "-A", "celery_app", "worker", "--concurrency", "1", "--pool", "solo", "--loglevel", "WARNING"]
    worker = subprocess.Popen(command, cwd=os.path.dirname(os.path.abspath(__file__)), stdin=subprocess.DEVNULL, stdout=sys.stderr)
    try:
        counts = say.Counts()
        assert double.delay(1).get(timeout=60) == 2
        n = 1
        while not counts.over():
            n += 1
            counts.tried(None, lambda: double.delay(n))
            counts.ready()
            time.sleep(0.05)
        counts.say(alive=lives(worker))
    finally:
        worker.kill()
        worker.wait()


def lives(worker):
    """Whether the worker does what it is asked for now."""
    for _ in range(4):
        try:
            return worker.poll() is None and double.delay(21).get(timeout=15) == 42
        except Exception as error:
            print(repr(error), file=sys.stderr)
    return False


if __name__ == "__main__":
    main()
