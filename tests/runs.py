"""Runs of the entry points at toy size, as if typed into a shell.

``train(folder, "key=value")`` executes ``train.py`` inside of this process: importing torch and Lightning takes longer
than the run. What a shell would see (status, stdout, stderr with warnings) comes back, and what a process would leave
behind in its interpreter (environment, logging, generators) does not.
"""

import contextlib
import io
import json
import logging
import os
import random
import runpy
import subprocess
import sys
import tempfile
import traceback
import warnings
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from unittest import mock

import lightning
import numpy as np
import torch
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.utils import instantiate
from omegaconf import OmegaConf

from oboro.cli.start import main as console_command
from oboro.task import Task

ROOT = Path(__file__).resolve().parents[1]
NETWORK = (
    "model.channels=8",
    "model.channel_mult=[1,2]",
    "model.blocks=1",
    "model.attention_levels=[1]",
)
CODEC = (
    "codec.width=8",
    "codec.channel_mult=[1,2]",
    "loss.discriminator.width=8",
    "loss.discriminator.layers=1",
    "loss.warmup=1",
)
TOY = (
    "data.batch_size=8",
    "data.validation=24",
    "optimizer=adamw",
    "optimizer.warmup_steps=2",
    "trainer.accelerator=cpu",
    "trainer.precision=32-true",
    "trainer.max_steps=2",
    "trainer.log_every_n_steps=1",
    "logger=[jsonl]",
)
DRAWS = ("sampler=heun", "sampler.steps=2")  # for a task that has a sampler
CLASSIFICATION = "task=classification"
CLIP = "task=clip"
SMALL_CLIP = ("model.image.channels=[8,8]", "model.text.dim=8", "model.text.depth=1", "model.text.vocab_size=300")
AUTOENCODER = "task=autoencoder"
GENERATOR = ("model.width=8", "model.channel_mult=[1,2]", "model.latent=5")
DISCRIMINATOR = ("loss.discriminator.width=8", "loss.discriminator.channel_mult=[1,2]")
GAN = "task=gan"
VAE = "loss=variational"
DENOISING_AUTOENCODER = "task=denoising_autoencoder"
CALLBACKS = ("callbacks.sample_metrics.n=20", "callbacks.sample_metrics.chunk=8", "callbacks.sample_grid.n=10")
STATISTICS = "callbacks.latent_statistics.n=100"
NO_EVALUATION = "callbacks=[checkpoints]"


@dataclass(frozen=True)
class Run:
    """What a shell sees of a finished run."""

    status: int
    stdout: str
    stderr: str
    folder: Path

    @property
    def rows(self) -> list[dict]:
        """The lines of ``metrics.jsonl``."""
        return [json.loads(line) for line in (self.folder / "metrics.jsonl").read_text().splitlines()]

    def logged(self, name: str) -> dict[int, float]:
        """``{step: value}`` of one name."""
        return {row["step"]: row[name] for row in self.rows if name in row}

    @property
    def last(self) -> Path:
        return self.folder / "checkpoints" / "last.ckpt"

    def checkpoint(self, name: str = "last") -> dict:
        return torch.load(self.folder / "checkpoints" / f"{name}.ckpt", weights_only=True)

    @property
    def images(self) -> list[bytes]:
        """The files of ``sample.py``, in order."""
        return [path.read_bytes() for path in sorted((self.folder / "images").iterdir())]


@cache
def _cache() -> tempfile.TemporaryDirectory:
    return tempfile.TemporaryDirectory(prefix="oboro-tests-")  # goes when the interpreter does


def cache_dir() -> Path:
    """Decoded images and reference statistics, made once for all tests."""
    return Path(_cache().name)


@contextlib.contextmanager
def _own_process(argv: list[str], cwd: Path):
    """As if the block were the main program of a fresh process in the folder ``cwd``."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    threads, before, here = torch.get_num_threads(), (random.getstate(), np.random.get_state()), Path.cwd()
    environment = {k: v for k, v in os.environ.items() if k != "HYDRA_FULL_ERROR"}
    try:
        os.chdir(cwd)
        with (
            mock.patch.dict(os.environ, environment, clear=True),
            mock.patch.object(sys, "argv", argv),
            mock.patch.object(sys, "path", sys.path[:]),
            torch.random.fork_rng(devices=[]),
            warnings.catch_warnings(),
        ):
            warnings.resetwarnings()
            for ignored in (DeprecationWarning, PendingDeprecationWarning, ImportWarning, ResourceWarning):
                warnings.simplefilter("ignore", ignored)
            warnings.showwarning = lambda m, c, f, n, *_: sys.stderr.write(warnings.formatwarning(m, c, f, n))
            yield
    finally:
        os.chdir(here)
        root.handlers[:] = handlers
        root.setLevel(level)
        torch.set_num_threads(threads)
        random.setstate(before[0])
        np.random.set_state(before[1])
        GlobalHydra.instance().clear()


def call(script: str, *arguments: str, cwd: Path) -> Run:
    """``python <script> <arguments>``, or the console command ``oboro <arguments>``, in the folder ``cwd``, inside of
    this process."""
    out, err, status = io.StringIO(), io.StringIO(), 0
    with (
        _own_process([str(ROOT / script), *arguments], cwd),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        try:
            if script == "oboro":
                console_command()
            else:
                runpy.run_path(str(ROOT / script), run_name="__main__")
        except SystemExit as end:  # as the interpreter treats it
            status = end.code if isinstance(end.code, int) else int(end.code is not None)
            if isinstance(end.code, str):
                print(end.code, file=sys.stderr)
        except Exception:
            status = 1
            traceback.print_exc()
    return Run(status, out.getvalue(), err.getvalue(), cwd)


def shell(script: str, *arguments: str, cwd: Path) -> Run:
    """``python <script> <arguments>`` in a process of its own, for what only a process can show."""
    path = os.pathsep.join([str(ROOT / "tests"), *filter(None, [os.environ.get("PYTHONPATH")])])  # for recorder.py
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("HYDRA_", "PL_", "PYTEST"))}
    done = subprocess.run(
        [sys.executable, str(ROOT / script), *arguments],
        cwd=cwd,
        env={**kept, "OMP_NUM_THREADS": "1", "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=240,
    )
    return Run(done.returncode, done.stdout, done.stderr, cwd)


def toy(*overrides: str) -> list[str]:
    """Overrides of ``train.yaml`` for a run of two steps, then ``overrides``."""
    usual = {
        CLASSIFICATION: (NETWORK, ""),
        CLIP: (SMALL_CLIP, ""),
        AUTOENCODER: (CODEC, "latent_statistics"),
        GAN: ((*GENERATOR, *DISCRIMINATOR), "sample_metrics,sample_grid"),
        VAE: (GENERATOR, "sample_metrics,sample_grid"),
        DENOISING_AUTOENCODER: ((*NETWORK, "sampler.steps=3"), "sample_metrics,sample_grid"),
    }
    small, shown = next(
        (v for k, v in usual.items() if k in overrides), ((*NETWORK, *DRAWS), "sample_metrics,sample_grid")
    )
    chosen = [shown, *(o for o in overrides if o.startswith("callbacks="))][-1]
    short = [o for o in (*CALLBACKS, STATISTICS) if o.split(".")[1] in chosen]
    return [*TOY, f"data.cache_dir={cache_dir()}", *small, *short, *overrides]


def outputs(folder: Path, *overrides: str) -> list[str]:
    return [f"hydra.run.dir={folder}", *overrides]


def succeeded(run: Run) -> Run:
    assert run.status == 0, f"{run.stdout}\n{run.stderr}"
    return run


def train(folder: Path, *overrides: str) -> Run:
    """A toy training run with its outputs in ``folder``, which has to succeed. Later overrides win."""
    folder.mkdir(parents=True, exist_ok=True)
    return succeeded(call("train.py", *outputs(folder, *toy(*overrides)), cwd=folder))


def sample(folder: Path, checkpoint: Path, *overrides: str) -> Run:
    """What ``sample.py`` writes, in the place of what it wrote to ``folder`` before."""
    folder.mkdir(parents=True, exist_ok=True)
    arguments = [f"checkpoint={checkpoint}", "accelerator=cpu", "overwrite=true", *overrides]
    return succeeded(call("sample.py", *outputs(folder, *arguments), cwd=folder))


def evaluate(folder: Path, checkpoint: Path, *overrides: str) -> dict:
    """What ``evaluate.py`` writes."""
    folder.mkdir(parents=True, exist_ok=True)
    arguments = [f"checkpoint={checkpoint}", "accelerator=cpu", *overrides]
    succeeded(call("evaluate.py", *outputs(folder, *arguments), cwd=folder))
    return evaluation(folder)


def evaluation(folder: Path) -> dict:
    return json.loads((folder / "evaluation.json").read_text())


def composed(*overrides: str, folder: Path = Path("outputs")) -> dict:
    """The toy run as plain containers, for tests that call the parts themselves."""
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        config = compose("train", [f"output_dir={folder}", *toy(*overrides)])
    return OmegaConf.to_container(config, resolve=True)


def built(*overrides: str, callbacks=(), **trainer) -> tuple[lightning.Trainer, Task, lightning.LightningDataModule]:
    """Trainer, task and data of the toy run without files; the weights and their average are random and differ."""
    config = composed(*overrides)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        task, data = (instantiate(config[part], _convert_="all") for part in ("task", "data"))
        randomise(task)
    data.prepare_data()
    settings = {**config["trainer"], "enable_progress_bar": False, "default_root_dir": None, **trainer}
    return instantiate(settings, callbacks=list(callbacks), logger=False, _convert_="all"), task, data


@torch.no_grad()
def randomise(task: Task) -> None:
    """Random weights, other random averages: a fresh network answers zero, whatever it is asked."""
    task.ema.start(task.learned)
    for group in (*task.ema.averages.values(), list(task.learned.parameters())):
        for p in group:
            p.normal_(std=p[0].numel() ** -0.5 if p.ndim > 1 else 0.5)


def equal(a, b) -> bool:
    """Whether two nested containers of tensors and plain values are the same, bit for bit."""
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return isinstance(b, dict) and a.keys() == b.keys() and all(equal(a[k], b[k]) for k in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(equal(x, y) for x, y in zip(a, b, strict=True))
    return a == b
