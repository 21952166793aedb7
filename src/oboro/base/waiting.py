"""How threads wait for each other while other programs want the processors."""

import os
import time
from collections.abc import MutableMapping
from pathlib import Path

SPINS = "GOMP_SPINCOUNT"  # of the OpenMP that torch brings along on Linux, which reads it when it is loaded
CHOSEN = (SPINS, "OMP_WAIT_POLICY")
LOOKS, BETWEEN = 5, 0.01  # seconds


def wait_without_spinning(
    environment: MutableMapping[str, str] = os.environ, running: int | None = None, cores: int | None = None
) -> bool:
    """Let threads sleep instead of spin where other programs hold all processors when a command starts, and nobody has
    chosen otherwise. Before torch is imported. Says whether it did.

    Threads that spin are done sooner on an idle machine; on a busy one they take the processors from the threads that
    they wait for: docs/performance.md has the numbers. ``running`` is how many other threads want to run.
    """
    if any(name in environment for name in CHOSEN):
        return False
    if (others_running() if running is None else running) < (cores or os.cpu_count() or 1):
        return False
    environment[SPINS] = "0"
    return True


def others_running(loadavg: Path = Path("/proc/loadavg")) -> int:
    """How many threads of the machine run or wait for a processor, this one aside: the least of some looks, 0 where the
    system does not say."""
    seen = []
    for _ in range(LOOKS):
        try:
            seen.append(int(loadavg.read_text().split()[3].split("/")[0]) - 1)
        except (OSError, ValueError, IndexError):
            return 0
        time.sleep(BETWEEN)
    return max(min(seen), 0)
