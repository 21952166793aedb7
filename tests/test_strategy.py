"""FSDP2 on two processes, held against DDP on two and against one: the same run, with 1/2 of the state on each."""

import os
import socket
import time
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch.distributed.tensor import DTensor

import oboro.strategy  # noqa: F401
import runs
from oboro.base import distributed, shards

LIMIT = 240  # seconds, of both processes together: a hang is a failure and no wait
ALL = (
    *("data.batch_size=8", "data.validation=24", "trainer.val_check_interval=2", "trainer.gradient_clip_val=0.05"),
    *("trainer.accumulate_grad_batches=2", "model.dropout=0.3", "loss/weighting=learned_log_variance", "task.noise=global"),
)
CASES = {  # name: the run
    "unet": ALL,
}


class Losses(runs.lightning.Callback):
    def __init__(self):
        self.losses = []

    def on_train_batch_end(self, trainer, task, outputs, batch, batch_idx):
        self.losses.append(distributed.mean(outputs["loss"]).item())


def trained(strategy: str, overrides: tuple[str, ...], folder: Path, steps: int = 4, resume: str | None = None):
    """What two processes see of a run: numbers, whole weights, and samples of the averaged ones."""
    losses = Losses()
    trainer, task, data = runs.built(
        *overrides, callbacks=[losses], accelerator="cpu", max_steps=steps, devices=2, strategy=strategy
    )
    trainer.fit(task, data, ckpt_path=resume, weights_only=True)
    file = folder / f"{strategy}-{steps}{'-resumed' if resume else ''}.ckpt"
    with task.averaged():
        trainer.save_checkpoint(file)  # holds the raw weights
    with task.averaged():
        cond = task.conditioner.for_samples([0, 1], None)
        # As many passes as one likes, on one rank alone.
        samples = task.generate([0, 1], 0, cond, data.modality.shape) if distributed.rank() == 0 else None
    validation = {name: v.item() for name, v in trainer.callback_metrics.items() if name.startswith("val/")}
    held = sum(shards.local(p).numel() for p in task.parameters()), sum(p.numel() for p in task.parameters())
    return {"losses": losses.losses, "val": validation, "samples": samples, "held": held, "file": str(file)}


def on_ranks(rank: int, world: int, port: int, folder: Path) -> None:
    """What each process runs; Lightning takes the place in the group from the environment."""
    torch.set_num_threads(1)
    place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": world, "RANK": rank, "LOCAL_RANK": rank}
    os.environ.update({name: str(value) for name, value in place.items()}, NODE_RANK="0", GROUP_RANK="0")
    seen = {}
    for name, overrides in CASES.items():
        for strategy in ("ddp", "fsdp2"):
            t=time.time()
            (folder / name).mkdir(exist_ok=True)
            seen[name, strategy] = trained(strategy, overrides, folder / name)
            print(name, strategy, time.time()-t, seen[name,strategy]["losses"], seen[name,strategy]["val"], seen[name,strategy]["held"])
    torch.save(seen, folder / f"{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.slow
def test_a(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    mp.spawn(on_ranks, (2, port, tmp_path), 2)
    a = torch.load(tmp_path / "0.pt", weights_only=False)
    for name in CASES:
        d, f = (torch.load(a[name, s]["file"]) for s in ("ddp", "fsdp2"))
        for k, v in d["state_dict"].items():
            print(k, (v.double() - f["state_dict"][k].double()).abs().max().item())
