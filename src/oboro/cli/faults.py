"""What happens to a run from outside, in one line with the remedy: no memory, a process that was killed."""

import re
from collections.abc import Iterator
from contextlib import contextmanager

from lightning import Trainer

from oboro.base.distributed import RankFailed
from oboro.base.errors import OwnFault, UserError, first_line, is_out_of_memory
from oboro.base.memory import usage
from oboro.data import DataModule

WORKER = re.compile(r"DataLoader worker \(pid(?:\(s\))? ([\d, ]+)\)")
IN_WORKER = re.compile(r"Caught \w+ in DataLoader worker process \d+\.")


@contextmanager
def explained(trainer: Trainer, data: DataModule) -> Iterator[None]:
    """Faults of training in the block, as ``OwnFault``: each rank names its own, and others may have none."""
    try:
        yield
    except Exception as error:
        message = sentence(error, trainer, data)
        if message is None:
            raise
        raise OwnFault(message if trainer.world_size == 1 else f"rank {trainer.global_rank}: {message}") from error


def sentence(error: Exception, trainer: Trainer, data: DataModule) -> str | None:
    """None for an error that needs no such words."""
    text = str(error)
    if IN_WORKER.search(text):  # with the traceback of the worker; its last line is the error
        kind, _, own = text.strip().splitlines()[-1].partition(": ")
        return own if kind.endswith(UserError.__name__) else None
    if isinstance(error, UserError | RankFailed):
        return None
    if lost := WORKER.search(text):
        return (
            f"the data loader's process {lost[1]} was killed, by the system where memory ran out; set data.num_workers "
            f"to less than {data.num_workers}, 0 needs none, and go on with resume={trainer.default_root_dir}"
        )
    return advice(error, trainer, data) if is_out_of_memory(error) else None


def advice(error: Exception, trainer: Trainer, data: DataModule) -> str:
    """Numbers of a step that does not fit into memory, and the least change that halves it."""
    parts, whole = trainer.world_size * trainer.accumulate_grad_batches, data.batch_size
    micro = max(whole // parts, 1)
    more = next((k for k in range(2, micro + 1) if micro % k == 0), None)
    remedy = (
        f"set trainer.accumulate_grad_batches={trainer.accumulate_grad_batches * more}, which keeps the batch"
        if more
        else "choose a smaller model, or trainer.precision=bf16-mixed"
    )
    return (
        f"memory ran out in step {trainer.global_step + 1} ({first_line(error)}): data.batch_size={whole} is {micro} "
        f"samples at once on each device, and {usage(trainer.strategy.root_device)}; {remedy}"
    )
