"""How fast, beside peers on the same work: docs/performance.md has the table that this made.

    python benchmarks/speed.py                          # all rows
    python benchmarks/speed.py ema sampler --rounds 30  # some

A row is a file of ``benchmarks/rows``: a ``Row`` and a function for each contender, which prepares its work and gives
what is to be timed. Contenders take turns, one call each in a round, so that what else happens on the machine hits all;
the first round is not counted. Printed are medians and quartiles, and of each contender the median over rounds of its
ratio to the first one, or to that of the same work, above 1 if it is faster. Where a row knows its operations, their
rate stands beside what a convolution reaches on this machine in the same precision. Run it on a machine that does
nothing else.
"""

import argparse
import json
import platform
import statistics
import sys
import time
from importlib import import_module
from pathlib import Path

import torch
from rows.row import Contender, Row, Seconds

ROWS = Path(__file__).with_name("rows")


def ceiling(dtype: torch.dtype) -> float:
    """Operations a second of a 3×3 convolution of 128 channels at 32×32, batch 16, the best of ten."""
    x, w = torch.randn(16, 128, 32, 32, dtype=dtype), torch.randn(128, 128, 3, 3, dtype=dtype)
    x = x.to(memory_format=torch.channels_last)
    operations, times = 2 * 16 * 32 * 32 * 128 * 128 * 9, []
    for _ in range(12):
        start = time.perf_counter()
        torch.nn.functional.conv2d(x, w, padding=1)
        times.append(time.perf_counter() - start)
    return operations / min(times[2:])


def timed(contenders: dict[str, Contender], rounds: int) -> dict[str, list[float]]:
    """Seconds of each call, by contender."""
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for k in range(rounds + 1):
        for name, call in contenders.items():
            start = time.perf_counter()
            known = call()
            seconds = time.perf_counter() - start
            if k:
                times[name].append(known if isinstance(known, Seconds) else seconds)
    return times


def lines(row: Row, times: dict[str, list[float]]) -> list[dict]:
    """What is printed of a row, for each contender."""
    first, made = next(iter(times)), []
    for name, seconds in times.items():
        low, median, high = statistics.quantiles(seconds, n=4) if len(seconds) > 1 else seconds * 3
        peer = times[row.against.get(name, first)]
        ratio = statistics.median(a / b for a, b in zip(peer, seconds, strict=True))
        line = {"contender": name, "ms": 1e3 * median, "from": 1e3 * low, "to": 1e3 * high, "ratio": ratio}
        if row.operations:
            line |= {"GFLOP/s": row.operations / median / 1e9, "ceiling": ceiling(row.dtype) / 1e9}
        made.append(line)
    return made


def main() -> None:
    names = sorted(path.stem for path in ROWS.glob("*.py") if path.stem not in ("__init__", "row"))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rows", nargs="*", choices=[*names, []], help="all by default")
    parser.add_argument("--rounds", type=int, help="calls of each contender; a row has its own number")
    arguments = parser.parse_args()
    threads = torch.get_num_threads()
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {platform.processor() or platform.machine()}")
    for name in arguments.rows or names:
        row: Row = import_module(f"rows.{name}").row
        print(f"\n{name}: {row.title}")
        if reason := row.missing():
            print(f"  left out: {reason}")
            continue
        torch.manual_seed(0)
        torch.set_num_threads(row.threads or threads)
        times = timed(row.prepared(), arguments.rounds or row.rounds)
        for line in lines(row, times):
            shown = {key: value if isinstance(value, str) else float(f"{value:.3g}") for key, value in line.items()}
            print(f"  {json.dumps(shown)}", flush=True)


if __name__ == "__main__":
    sys.path.insert(0, str(ROWS.parent))
    main()
