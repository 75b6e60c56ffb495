"""What the programs in Python have in common: they say `ready`, work until their input ends, and then say what they saw."""

import collections
import json
import select
import sys

PORT = int(sys.argv[1]) if sys.argv[1:] and sys.argv[1].isdigit() else 0


class Counts:
    def __init__(self):
        self.done, self.failed, self.wrong, self.errors = 0, 0, 0, collections.Counter()
        self.acked, self.attempted, self.told = 0, 0, False

    def over(self):
        """Whether the input has ended."""
        return bool(select.select([sys.stdin], [], [], 0)[0])

    def ready(self):
        if not self.told and self.done:
            print("ready", flush=True)
            self.told = True

    def tried(self, writes, call):
        if writes is not None:
            self.attempted = writes
        try:
            answer = call()
            self.done += 1
            return answer
        except Exception as error:
            self.failed += 1
            self.errors[f"{type(error).__name__}: {error}"[:90]] += 1
            return None

    def wrote(self, n):
        self.acked = n

    def saw(self, value):
        """A read must show the last write that was acknowledged, or one tried after it."""
        try:
            self.wrong += not self.acked <= int(value) <= self.attempted
        except (TypeError, ValueError):
            self.wrong += 1

    def say(self, alive=True):
        said = {"done": self.done, "failed": self.failed, "wrong": self.wrong, "alive": alive, "errors": self.errors}
        print(json.dumps(said), flush=True)
