"""A step of the first run while other programs want the processors: load 4 beside it."""

import os
import subprocess
import sys
import time

from rows.first_run import steps
from rows.row import Contender, Row, Seconds

row = Row("32 images of the first run, alone and beside 4 processes that compute", 10)
BURN = "while True: sum(range(10**6))"


@row.contender
def alone() -> Contender:
    return steps(32)


@row.contender
def beside_four() -> Contender:
    step = steps(32)

    def call() -> Seconds:
        others = [subprocess.Popen([sys.executable, "-c", BURN], env=os.environ) for _ in range(4)]
        try:
            time.sleep(0.5)  # until they compute
            start = time.perf_counter()
            step()
            return Seconds(time.perf_counter() - start)
        finally:
            for other in others:
                other.kill()
                other.wait()

    return call
