"""The step of ``python train.py``."""

import torch

from rows.row import Contender, Row, bf16, composed, trained

FORWARD = 0.147e9  # operations of an image
row = Row("32 images of the first run, 0.72 M parameters, bfloat16 where the processor has it", 30, 96 * FORWARD)
row.dtype = torch.bfloat16 if bf16() else torch.float32


def steps(batch: int, *overrides: str) -> Contender:
    """Seconds for 32 images, in batches of ``batch``."""
    parts = composed(f"data.batch_size={batch}", *overrides)
    data = parts["data"]
    data.prepare_data()
    data.setup()
    batches = (data.on_after_batch_transfer(taken, 0) for taken in data.train_dataloader())
    return trained(parts["task"], batches, row.dtype)


@row.contender
def adamw() -> Contender:
    return steps(32, "optimizer=adamw_fast")


@row.contender
def muon() -> Contender:
    return steps(32, "optimizer=muon")
