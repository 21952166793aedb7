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

from oboro.callbacks.sample_grid import columns_for, grid_image
from oboro.cli.checkpoint import build_task, load_checkpoint
from oboro.cli.device import resolve_precision
from oboro.cli.run import task_function
from oboro.cli.train import quiet
from oboro.data import to_uint8
from oboro.denoiser import Cond
from oboro.errors import UserError
from oboro.task import Diffusion


def start(config: DictConfig, devices: int) -> tuple[dict[str, Any], Diffusion, Fabric]:
    """The checkpoint, its task with the sampler and guidance of ``config``, and the device it was put on."""
    quiet()
    checkpoint = load_checkpoint(config.checkpoint)
    parts = {key: OmegaConf.to_container(config[key], resolve=True) for key in ("sampler", "guidance")}
    task = build_task(checkpoint, **parts)
    if config.profile is not None and config.profile not in task.ema.profiles:
        raise UserError(f"there is no average {config.profile}; choose profile={'|'.join(task.ema.profiles)}.")
    precision = resolve_precision(
        str(config.precision or checkpoint["config"]["trainer"]["precision"]), config.accelerator
    )
    fabric = Fabric(accelerator=config.accelerator, devices=devices, precision=precision)
    fabric.launch()
    task.to(fabric.device)
    task.ema.start(task.denoiser)
    return checkpoint, task, fabric


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
    checkpoint, task, fabric = start(config, devices=1)
    data, folder = checkpoint["config"]["data"], Path(config.output_dir)
    label = OmegaConf.to_container(config.label) if OmegaConf.is_list(config.label) else config.label
    cond = conditions(task, label, list(range(config.n)))
    size = data["resolution"]
    shape = (data["channels"], *((size, size) if isinstance(size, int) else size))
    (folder / "images").mkdir(parents=True, exist_ok=True)
    drawn: list[Tensor] = []
    chunk = min(config.chunk, config.n)
    with task.averaged(config.profile):
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
