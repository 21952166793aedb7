"""The step of ``python train.py``."""

import torch

from oboro.base.seeding import generator
from rows.row import Contender, Row, bf16, composed

FORWARD = 0.147e9  # operations of an image
row = Row("32 images of the first run, 0.72 M parameters, bfloat16 where the processor has it", 30, 96 * FORWARD)
row.dtype = torch.bfloat16 if bf16() else torch.float32


def steps(batch: int, *overrides: str) -> Contender:
    """Seconds for 32 images, in batches of ``batch``."""
    parts = composed(f"data.batch_size={batch}", *overrides)
    task, data = parts["task"].train(), parts["data"]
    data.prepare_data()
    data.setup()
    parameters = list(task.denoiser.parameters())
    optimizer, batches, numbers = task.optimizer.build(parameters), iter(data.train_dataloader()), iter(range(10**9))
    task.ema.start(task.denoiser)

    def step() -> None:
        g = generator(0, "train", next(numbers))
        taken = data.on_after_batch_transfer(next(batches), 0)
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16()):
            loss = task.loss(task.denoiser, taken["x"], task.conditioner(taken, g), g).mean()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        task.ema.update(task.denoiser)

    return step


@row.contender
def adamw() -> Contender:
    return steps(32, "optimizer=adamw_fast")


@row.contender
def muon() -> Contender:
    return steps(32, "optimizer=muon")
