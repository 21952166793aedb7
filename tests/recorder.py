"""Callbacks that tests add to a run by name, ``+callbacks.recorder._target_=recorder.Recorder``."""

import json
from pathlib import Path
from typing import Any

import torch
from lightning import Callback, Trainer

from oboro.modality import from_uint8
from oboro.task import Autoencoder, Diffusion, Task


class Recorder(Callback):
    """``folder/rank<r>.pt``: at each batch the image numbers, the times, the noise and which units dropout kept; the
    weights at the end."""

    def __init__(self, folder: str):
        self.folder = Path(folder)
        self.record: dict[str, Any] = {"index": [], "t": [], "eps": [], "kept": []}

    def on_train_start(self, trainer: Trainer, task: Diffusion) -> None:
        task.denoiser.register_forward_pre_hook(self._door)
        for layer in task.modules():
            if isinstance(layer, torch.nn.Dropout):
                layer.register_forward_hook(self._dropped)
                break

    def on_train_batch_start(self, trainer: Trainer, task: Diffusion, batch: dict, batch_idx: int) -> None:
        self._x = batch["x"]
        self.record["index"].append(batch["index"])

    def _door(self, denoiser: torch.nn.Module, inputs: tuple) -> None:
        if denoiser.training:
            x_t, t, _ = inputs
            alpha, sigma = (c[:, None, None, None] for c in denoiser.schedule(t))
            self.record["t"].append(t)
            self.record["eps"].append((x_t - alpha * self._x) / sigma)

    def _dropped(self, layer: torch.nn.Module, inputs: tuple, output: torch.Tensor) -> None:
        if layer.training:
            self.record["kept"].append(output != 0)

    def on_train_end(self, trainer: Trainer, task: Diffusion) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        record = {**self.record, "weights": task.state_dict(), "averages": task.ema.state_dict(task.denoiser)}
        torch.save(record, self.folder / f"rank{trainer.global_rank}.pt")


class Latents(Callback):
    """``folder/rank<r>.pt`` at the end: weights, averages, what was logged, and the latents of the first 500 training
    images by the averaged weights."""

    def __init__(self, folder: str):
        self.folder = Path(folder)

    def on_train_end(self, trainer: Trainer, task: Autoencoder) -> None:
        images = from_uint8(trainer.datamodule.train.samples[torch.arange(500)])
        with torch.no_grad(), task.averaged():
            z = task.learned.encode(images)
        record = {
            "weights": task.state_dict(),
            "averages": task.ema.state_dict(task.learned),
            "logged": dict(trainer.callback_metrics),
            "z": z,
        }
        self.folder.mkdir(parents=True, exist_ok=True)
        torch.save(record, self.folder / f"rank{trainer.global_rank}.pt")


class PowerCut(Callback):
    """Ends the run in the middle of the batch after ``step`` optimizer steps and ``batches`` micro-batches."""

    def __init__(self, step: int, batches: int = 0):
        self.step, self.batches = step, batches

    def on_train_batch_start(self, trainer: Trainer, task: Task, batch: dict, batch_idx: int) -> None:
        done = trainer.fit_loop.epoch_loop.batch_progress.current.processed
        if trainer.global_step == self.step and done % trainer.accumulate_grad_batches == self.batches:
            raise ConnectionAbortedError("the power is gone")


class Rates(Callback):
    """``folder/rates.json``: the learning rate of each step."""

    def __init__(self, folder: str):
        self.file, self.rates = Path(folder) / "rates.json", []

    def on_before_optimizer_step(self, trainer: Trainer, task: Task, optimizer: torch.optim.Optimizer) -> None:
        self.rates.append(optimizer.param_groups[0]["lr"])
        self.file.write_text(json.dumps(self.rates))


class Stop(Callback):
    """Ends the run, as early stopping does, after the step ``step``."""

    def __init__(self, step: int):
        self.step = step

    def on_train_batch_end(self, trainer: Trainer, task: Task, *_: Any) -> None:
        if trainer.global_step >= self.step:
            trainer.should_stop = True
