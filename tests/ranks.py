"""Several processes of one test, which find their places as Lightning's ranks do: in the environment."""

import os
import socket
import time
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

LIMIT = 280.0  # seconds, of all processes together: a hang is a failure and no wait


def on_ranks(world: int, f: Callable[..., None], *arguments: Any) -> None:
    """``f(rank, *arguments)`` in each of ``world`` processes; ``f`` is a function of a module."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    processes = mp.spawn(_on_rank, (world, port, f, arguments), world, join=False)
    share = max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1))  # on processors that are shared, as many times later
    end = time.monotonic() + LIMIT * share
    try:
        while not processes.join(timeout=1):
            assert time.monotonic() < end, f"the ranks wait for each other, or had a share of 1 / {share:.1f}"
    finally:
        for process in processes.processes:
            process.kill()


def _on_rank(rank: int, world: int, port: int, f: Callable[..., None], arguments: tuple) -> None:
    torch.set_num_threads(1)
    place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": world, "RANK": rank, "LOCAL_RANK": rank}
    os.environ.update({name: str(value) for name, value in place.items()}, NODE_RANK="0", GROUP_RANK="0")
    f(rank, *arguments)
    if dist.is_initialized():
        dist.destroy_process_group()
