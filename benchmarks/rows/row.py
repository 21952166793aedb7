"""What a row of ``benchmarks/speed.py`` is."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from omegaconf import OmegaConf

from oboro.base.seeding import generator
from oboro.cli.run import register_resolvers
from oboro.task import Diffusion

CONF = Path(__file__).resolve().parents[2] / "conf"
Contender = Callable[[], object]  # one unit of work


class Seconds(float):
    """What a contender gives that has looked at the clock itself."""


@dataclass
class Row:
    """``title`` says what one call does. ``operations`` are those of a call, 0 if they are not counted, in ``dtype``;
    ``threads`` are torch's, None for those that it has."""

    title: str
    rounds: int = 10
    operations: float = 0.0
    dtype: torch.dtype = torch.float32
    threads: int | None = None
    against: dict[str, str] = field(default_factory=dict)  # whom a contender is compared with, if not with the first
    makers: dict[str, Callable[[], Contender]] = field(default_factory=dict)

    def contender(self, make: Callable[[], Contender]) -> Callable[[], Contender]:
        """Registers a function that prepares its work and gives what is timed; its name is the contender's."""
        self.makers[make.__name__] = make
        return make

    def prepared(self) -> dict[str, Contender]:
        return {name: make() for name, make in self.makers.items()}

    def missing(self) -> str:
        """Why the row makes no sense on this machine."""
        if self.dtype is torch.bfloat16 and not bf16():
            return "the processor has no bfloat16"
        return ""


def bf16() -> bool:
    capable = torch.backends.cpu.get_cpu_capability()
    return capable != "DEFAULT" and bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


def composed(*overrides: str) -> dict:
    """The parts ``task`` and ``data`` of ``train.py OVERRIDES``, not yet set up."""
    register_resolvers()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose("train", [*overrides, "output_dir=outputs"])
    plain = OmegaConf.to_container(config, resolve=True)
    return {key: instantiate(plain[key], _convert_="all") for key in ("task", "data")}


def autocast(dtype: torch.dtype) -> AbstractContextManager:
    return nullcontext() if dtype is torch.float32 else torch.autocast("cpu", dtype)


def trained(task: Diffusion, batches: Iterator[dict], dtype: torch.dtype) -> Contender:
    """A training step of ``task`` on the next of ``batches``, its average included."""
    task.train()
    parameters = list(task.denoiser.parameters())
    optimizer, steps = task.optimizer.build(parameters), count()
    task.ema.start(task.denoiser)

    def step() -> None:
        g, batch = generator(0, "train", next(steps)), next(batches)
        with autocast(dtype):
            loss = task.loss(task.denoiser, batch["x"], task.conditioner(batch, g), g).mean()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        task.ema.update(task.denoiser)

    return step
