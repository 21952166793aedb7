"""oboro sample, python sample.py"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning import Fabric
from omegaconf import DictConfig
from rich.console import Console
from rich.progress import Progress
from torch import Tensor

from oboro.base.amounts import check_fits_memory
from oboro.base.counted import counted
from oboro.base.errors import UserError
from oboro.base.json_text import json_text
from oboro.base.memory import Parts, rows_of
from oboro.base.remark import remark
from oboro.cli.composed_values import plain
from oboro.cli.control import control
from oboro.cli.device import as_trained, check_device, resolve_precision
from oboro.cli.hints import check_beside, picture_entries, with_pictures
from oboro.cli.launcher import care_for
from oboro.cli.measured import Pictures, read_measured
from oboro.cli.prepare import quiet
from oboro.cli.resize import resize
from oboro.cli.settings import Sampling, check_settings
from oboro.condition import Condition
from oboro.conditioner import Conditioner, Text
from oboro.conditioner import Image as ImageConditioner
from oboro.conditioner.conditioner import Single
from oboro.conditioner.encoded_texts import remark_unread
from oboro.conditioner.image import with_measured
from oboro.ema.posthoc import posthoc
from oboro.generate import Watch
from oboro.modality import Modality
from oboro.report.pictures import hints_shown, samples_picture
from oboro.report.previews import ROWS, Previews
from oboro.restore.checkpoint import forget_checkpoint, load_checkpoint
from oboro.restore.merge import merged, with_adapter
from oboro.restore.rebuild import build_task
from oboro.task import Generation, contradictions, remarks


def start(config: DictConfig, devices: int, precision: str) -> Fabric:
    """The device, or devices, and the precision that ``config`` asks for; ``precision`` is that of training."""
    quiet()
    check_device(config.accelerator, devices)
    if config.precision is None:
        chosen = as_trained(precision, config.accelerator)
    else:
        chosen = resolve_precision(str(config.precision), config.accelerator)
    fabric = Fabric(accelerator=config.accelerator, devices=devices, precision=chosen)
    care_for(fabric.strategy)
    fabric.launch()
    return fabric


def open_task(
    config: DictConfig, path: str | Path, fabric: Fabric, towards_itself: bool = False
) -> tuple[dict[str, Any], Generation]:
    """The checkpoint without its weights, and its task with the schedule, sampler and guidance of ``config``, on the
    device. ``towards_itself``: guidance that draws towards a measurement has each sample as its own."""
    checkpoint = adapted(config, load_checkpoint(path))
    parts = {key: plain(config[key]) for key in ("schedule", "sampler", "guidance")}
    task = build_task(checkpoint, **parts)
    control(config, task)
    task.measured = config.get("measurement") is not None or (towards_itself and task.guidance.measures)
    contradictions.check(task, task.measured)
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
    forget_checkpoint()
    return {key: checkpoint[key] for key in ("config", "global_step")}, task


def adapted(config: DictConfig, checkpoint: dict[str, Any]) -> dict[str, Any]:
    """The checkpoint with the adapter file that ``config`` names in its weights, or its own at another scale."""
    if config.adapter_file is None and config.adapter_scale == 1:
        return checkpoint
    if config.ema_std is not None:
        raise UserError("ema_std knows no merged adapters; leave out ema_std, or adapter_file and adapter_scale.")
    if config.adapter_file is not None:
        return with_adapter(checkpoint, config.adapter_file, config.adapter_scale)
    scaled = merged(checkpoint, config.adapter_scale)
    if scaled is checkpoint:
        raise UserError("adapter_scale is for an adapter and the checkpoint has none; name one with adapter_file=...")
    return scaled


def average(config: DictConfig) -> str | None:
    """The name of the averaged weights that ``config`` chooses; None is the first profile."""
    return config.profile if config.ema_std is None else f"std={config.ema_std:g}"


def trained_precision(path: str | Path) -> str:
    """The precision that the checkpoint was trained in."""
    return load_checkpoint(path)["config"]["trainer"]["precision"]


def sample_batch(
    config: DictConfig, task: Generation, ids: list[int], pictures: Pictures | None = None
) -> dict[str, Any]:
    """The batch that the conditions of samples ``ids`` are made of: the given classes, texts and pictures in turn, and
    of the others what the conditioner shows in pictures. Of measured ``pictures`` these are not known."""
    conditioner, given = task.conditioner, {}
    label, prompt, negative = (plain(config[key]) for key in ("label", "prompt", "negative"))
    if label is not None:
        given["label"] = torch.tensor(in_turn(classes(label, conditioner.num_classes), ids))
    if prompt is not None:
        given["caption"] = in_turn(texts(prompt, "prompt", task), ids)
    elif pictures is None and "caption" in conditioner.entries and not conditioner.prompts:
        raise UserError('the model draws what a text says and was given none; set prompt="a red apple" or the like.')
    if negative is not None:
        given["negative"] = in_turn(texts(negative, "negative", task), ids)
        check_negative(task)
    given |= picture_entries(config, task, ids)
    lacking = [single for single in conditioner.singles if single.entry not in given]
    if pictures is not None:
        check_beside(config, task, len(pictures))
        check_known(lacking, conditioner, pictures)
        return given | {"id": ids}
    for single in lacking:
        given |= single.sample_batch(ids, None)
    return given


def check_known(lacking: list[Single], conditioner: Conditioner, pictures: Pictures) -> None:
    """Says of which conditions samples of measured pictures are drawn without: a hole is made of the measurement, and
    what else the pictures show is not known. Raises ``UserError`` where the model cannot do without."""
    keys = {"label": "label", "caption": "prompt"}
    made = with_measured(Condition(), pictures.rows([0]), conditioner).signals
    for single in lacking:
        if single.name in made:
            continue
        key = keys.get(single.entry, "hint")
        if single.name not in conditioner.dropped:
            raise UserError(
                f"the model draws under the condition {single.name}, which nobody knows of the pictures in "
                f"measured=..., and was not trained without; set {key}=..."
            )
        remark(f"no {key} is given, so the samples are drawn without the condition {single.name}.")


def in_turn(choices: list[Any], ids: list[int]) -> list[Any]:
    return [choices[i % len(choices)] for i in ids]


def classes(label: Any, count: int, key: str = "label") -> list[int]:
    """One class or a list of them. Raises ``UserError`` where the model does not have them."""
    several = [label] if isinstance(label, int) else list(label)
    if not several or not all(isinstance(c, int) and 0 <= c < count for c in several):
        has = f"has classes 0 to {count - 1}" if count else "was trained without labels"
        raise UserError(f"{key}={label} cannot be drawn: the model {has}; change {key}=... or leave it out.")
    return several


def texts(value: Any, key: str, task: Generation) -> list[str]:
    """One text or a list of them. Raises ``UserError`` where the model reads none."""
    if "caption" not in task.conditioner.entries:
        raise UserError(
            f"{key}={value} cannot be drawn: the model reads no text; leave it out, or give the checkpoint of a model "
            "that was trained with conditioner=text."
        )
    values = value if isinstance(value, list) else [value]
    several = [str(text) if type(text) in (int, float) else text for text in values]
    if not several:
        raise UserError(f"{key}=[] names no text; give one or leave it out.")
    for text in several:
        if not isinstance(text, str):
            typed = "null" if text is None else str(text).lower()
            raise UserError(
                f"{key} has {typed} among its texts; put it into quotes if it is meant as a word, or leave it out."
            )
    for single in task.conditioner.singles:
        if isinstance(single, Text):
            remark_unread(single.encoder, several, f"texts of {key}")
    return several


def check_negative(task: Generation) -> None:
    """Raises ``UserError`` where guidance goes away from no text."""
    if not task.guidance.leaves_out(task.conditioner.gives) & {single.name for single in text_readers(task)}:
        raise UserError(
            f"negative is a text that guidance goes away from, and {type(task.guidance).__name__} as set does not; "
            "choose guidance=classifier_free guidance.scale=3, or leave negative out."
        )


def text_readers(task: Generation) -> list[Single]:
    return [single for single in task.conditioner.singles if single.entry == "caption"]


def condition(task: Generation, batch: dict[str, Any], pictures: Pictures | None = None) -> Condition:
    """The condition of the samples of ``batch``, with the texts that guidance goes away from and the measurements."""
    known = all(single.entry in batch for single in task.conditioner.singles)
    cond = task.conditioner.keep(batch) if known else with_known(task.conditioner, batch)
    cond = with_pictures(cond, batch, task)
    if pictures is not None:
        cond = with_measured(cond, pictures.rows(batch["id"]), task.conditioner)
    if "negative" not in batch:
        return cond
    return replace(cond, away={s.name: s.signal({"caption": batch["negative"]}) for s in text_readers(task)})


def pictures_of(task: Generation, batch: dict[str, Any]) -> Condition:
    """The part of the condition of ``batch`` that is pictures."""
    readers = [single for single in task.conditioner.singles if isinstance(single, ImageConditioner)]
    signals = {reader.name: reader.signal(batch) for reader in readers if reader.entry in batch}
    return with_pictures(Condition(signals), batch, task)


def with_known(conditioner: Conditioner, batch: dict[str, Any]) -> Condition:
    """The signals that ``batch`` has, and no others."""
    return Condition({single.name: single.signal(batch) for single in conditioner.singles if single.entry in batch})


@contextmanager
def progress(what: str, chunks: int, a_chunk: int) -> Iterator[Callable[[int], Watch]]:
    """A progress bar on stderr of ``chunks`` of ``a_chunk`` evaluations; the block asks for the watch of each chunk."""
    with Progress(console=Console(stderr=True)) as bar:
        job = bar.add_task(what, total=chunks * a_chunk)

        def watch_of(chunk: int) -> Watch:
            bar.update(job, completed=chunk * a_chunk)  # a sampler may take fewer evaluations than it announces
            return lambda x0, t: bar.advance(job)

        yield watch_of
        bar.update(job, completed=chunks * a_chunk)


@contextmanager
def watching(config: DictConfig, task: Generation, chunks: int) -> Iterator[Callable[[int], Watch]]:
    """The progress bar of network evaluations, and the previews."""
    page = Path(config.output_dir) / "previews.png"
    previews = Previews(page, config.previews, task.modality) if config.previews else None
    with progress("sampling", chunks, task.sampler.evaluations(task.denoiser.schedule)) as advance_of:

        def watch_of(chunk: int) -> Watch:
            advance = advance_of(chunk)

            def watch(x0: Tensor, t: Tensor) -> None:
                advance(x0, t)
                if chunk == 0 and previews is not None and previews.wants(float(t.max())):
                    shown = task.codec.decode(x0[:ROWS]).float()
                    previews.add(task.modality.to_stored(shown), float(t.max()))

            return watch

        yield watch_of


def draw(
    config: DictConfig,
    task: Generation,
    fabric: Fabric,
    batch: dict[str, Any],
    folder: Path,
    pictures: Pictures | None = None,
) -> Tensor:
    """Stored samples (n, C, ...), each written to ``folder`` as soon as its chunk is done."""
    chunk, drawn, parts = min(config.chunk, config.n), [], Parts()
    starts = range(0, config.n, chunk)
    with task.averaged(average(config)), watching(config, task, len(starts)) as watch_of:
        for k, first in enumerate(starts):
            ids = list(range(first, min(first + chunk, config.n)))
            # Every chunk has the same shape: from n = chunk on, sample i does not change with n, to the last bit.
            padded = [*ids, *[ids[-1]] * (chunk - len(ids))]
            watch = watch_of(k)

            def stored(part: list[int], watch: Watch = watch) -> Tensor:
                with fabric.autocast():
                    cond = condition(task, rows_of(batch, part), pictures)
                    x = task.generate(part, config.seed, cond, task.modality.shape, watch)
                return task.modality.to_stored(x).cpu()

            samples = parts.rows(stored, padded)[: len(ids)]
            for i, one in zip(ids, samples, strict=True):
                task.modality.write(one, folder / f"{i:06d}")
            drawn.append(samples)
    return torch.cat(drawn)


def check_amounts(n: int, chunk: int, modality: Modality) -> None:
    """Raises ``UserError`` where ``n`` stored samples, or the noise of a chunk, do not fit into memory."""
    check_fits_memory("n", n, modality.shape, modality.dtype.itemsize, modality.noun)
    check_fits_memory("chunk", min(chunk, n), modality.shape, torch.float32.itemsize, modality.noun)


def sample(config: DictConfig) -> None:
    """Write ``images/000000.png`` … (or files of another modality), ``grid.png`` and, if asked, ``samples.npz`` and
    ``previews.png``; of measured pictures ``truth`` and ``measured``, too."""
    check_settings(config, Sampling)
    fabric = start(config, 1, trained_precision(config.checkpoint))
    _, task = open_task(config, config.checkpoint, fabric)
    if config.size is not None:
        resize(task, config.size)
    modality, folder = task.modality, Path(config.output_dir)
    files = folder / modality.noun
    check_amounts(config.n, config.chunk, modality)
    pictures = read_measured(config, task)
    batch = sample_batch(config, task, list(range(config.n)), pictures)
    remarks.say(task, batch["label"].tolist() if "label" in batch else ())
    files.mkdir(parents=True, exist_ok=True)
    samples = draw(config, task, fabric, batch, files, pictures)
    if "caption" in batch:  # the folder becomes a data set of its own
        names = (f"{i:06d}{modality.suffixes[0]}" for i in range(config.n))
        rows = ({"file_name": name, "text": text} for name, text in zip(names, batch["caption"], strict=True))
        lines = "".join(json_text(row, ensure_ascii=False) + "\n" for row in rows)
        (files / "metadata.jsonl").write_text(lines, encoding="utf-8")
    kinds = task.conditioner.num_classes if config.label is None else 0
    if pictures is None:
        hints = hints_shown(modality, pictures_of(task, batch))
        samples_picture(modality, samples, batch.get("caption"), kinds, hints).save(folder / "grid.png")
    else:
        pictures.write(folder)
        pictures.grid(samples, modality).save(folder / "grid.png")
    if config.npz:
        labels = {"labels": batch["label"].numpy()} if "label" in batch else {}
        np.savez(folder / "samples.npz", **{modality.noun: modality.to_array(samples)}, **labels)
    print(f"{counted(config.n, modality.noun)} in {files}, all together in {folder / 'grid.png'}")
