"""python sample.py"""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning import Fabric
from omegaconf import DictConfig, OmegaConf
from PIL import Image
from rich.console import Console
from rich.progress import track
from torch import Tensor

from oboro import compatibility
from oboro.checkpoint import build_task, load_checkpoint
from oboro.cli.device import resolve_precision
from oboro.cli.run import task_function
from oboro.cli.train import quiet
from oboro.data import to_uint8
from oboro.denoiser import Cond
from oboro.errors import UserError
from oboro.posthoc import posthoc
from oboro.report.pictures import columns_for, grid_image
from oboro.task import Diffusion


def start(config: DictConfig, devices: int, precision: str) -> Fabric:
    """The device, or devices, and the precision that ``config`` asks for; ``precision`` is that of training."""
    quiet()
    chosen = resolve_precision(str(config.precision or precision), config.accelerator)
    fabric = Fabric(accelerator=config.accelerator, devices=devices, precision=chosen)
    fabric.launch()
    return fabric


def open_task(config: DictConfig, path: str | Path, fabric: Fabric) -> tuple[dict[str, Any], Diffusion]:
    """The checkpoint, and its task with the sampler and guidance of ``config``, on the device."""
    checkpoint = load_checkpoint(path)
    parts = {key: OmegaConf.to_container(config[key], resolve=True) for key in ("sampler", "guidance")}
    task = build_task(checkpoint, **parts)
    compatibility.check(task)
    if config.profile is not None and config.profile not in task.ema.profiles:
        raise UserError(f"there is no average {config.profile}; choose profile={'|'.join(task.ema.profiles)}.")
    if config.profile is not None and config.ema_std is not None:
        raise UserError("profile and ema_std both choose an average; give one of them.")
    task.to(fabric.device)
    task.ema.start(task.denoiser)
    if config.ema_std is not None:
        snapshots = Path(path).expanduser().resolve().parent.parent / "snapshots"
        weights = posthoc(snapshots, config.ema_std, checkpoint["global_step"])
        task.ema.add(average(config), weights, task.denoiser)
    return checkpoint, task


def average(config: DictConfig) -> str | None:
    """The name of the averaged weights that ``config`` chooses; None is the first profile."""
    return config.profile if config.ema_std is None else f"std={config.ema_std:g}"


def trained_precision(path: str | Path) -> str:
    """The precision that the checkpoint was trained in."""
    return load_checkpoint(path)["config"]["trainer"]["precision"]


def conditions(task: Diffusion, label: Any, ids: list[int]) -> Cond:
    """The condition of samples ``ids``: the given classes in turn, or every class in turn."""
    if label is None:
        return task.conditioner.for_samples(ids, None)
    classes = [label] if isinstance(label, int) else list(label)
    count = task.conditioner.num_classes
    if not classes or not all(isinstance(c, int) and 0 <= c < count for c in classes):
        has = f"has classes 0 to {count - 1}" if count else "was trained without labels"
        raise UserError(f"label={label} cannot be drawn: the model {has}; change label=... or leave it out.")
    return {"label": torch.tensor([classes[i % len(classes)] for i in ids])}


@task_function
def sample(config: DictConfig) -> None:
    """Write ``images/000000.png`` …, ``grid.png`` and, with ``npz=true``, ``samples.npz`` to ``output_dir``."""
    if config.n < 1 or config.chunk < 1:
        raise UserError(f"n={config.n} with chunk={config.chunk} draws nothing; set both to 1 or more.")
    fabric = start(config, 1, trained_precision(config.checkpoint))
    checkpoint, task = open_task(config, config.checkpoint, fabric)
    data, folder = checkpoint["config"]["data"], Path(config.output_dir)
    label = OmegaConf.to_container(config.label) if OmegaConf.is_list(config.label) else config.label
    cond = conditions(task, label, list(range(config.n)))
    size = data["resolution"]
    shape = (data["channels"], *((size, size) if isinstance(size, int) else size))
    (folder / "images").mkdir(parents=True, exist_ok=True)
    drawn: list[Tensor] = []
    chunk = min(config.chunk, config.n)
    with task.averaged(average(config)):
        for first in track(range(0, config.n, chunk), "sampling", console=Console(stderr=True)):
            ids = list(range(first, min(first + chunk, config.n)))
            # Every chunk has the same shape: from n = chunk on, sample i does not change with n, to the last bit.
            padded = [*ids, *[ids[-1]] * (chunk - len(ids))]
            part = {k: v[padded] for k, v in cond.items()}
            with fabric.autocast():
                images = to_uint8(task.generate(padded, config.seed, part, shape)[: len(ids)]).cpu()
            for i, image in zip(ids, images, strict=True):
                pixels = image.permute(1, 2, 0).numpy()
                Image.fromarray(pixels[..., 0] if len(image) == 1 else pixels).save(folder / f"images/{i:06d}.png")
            drawn.append(images)
    images = torch.cat(drawn)
    grid_image(images, columns_for(config.n, task.conditioner.num_classes if label is None else 0)).save(
        folder / "grid.png"
    )
    if config.npz:
        labels = {"labels": cond["label"].numpy()} if "label" in cond else {}
        np.savez(folder / "samples.npz", images=images.permute(0, 2, 3, 1).numpy(), **labels)
    print(f"{config.n} images in {folder / 'images'}, all together in {folder / 'grid.png'}")
