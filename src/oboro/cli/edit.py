"""oboro edit, python edit.py"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from typing import Any

import torch
from hydra.utils import instantiate
from lightning import Fabric
from omegaconf import DictConfig
from torch import Tensor

from oboro.base.counted import counted
from oboro.base.errors import UserError
from oboro.base.json_text import json_text
from oboro.base.memory import Parts, rows_of
from oboro.base.remark import remark
from oboro.cli.composed_values import plain
from oboro.cli.files import listed, remark_left_out
from oboro.cli.hints import picture_entries
from oboro.cli.sample import (
    average,
    check_amounts,
    check_negative,
    classes,
    condition,
    in_turn,
    open_task,
    progress,
    start,
    text_readers,
    texts,
    trained_precision,
)
from oboro.cli.settings import Editing, check_settings
from oboro.edit import Edit, Model, Pictures
from oboro.generate import Watch, check_samples
from oboro.modality import Image, Modality
from oboro.report.pictures import edits_picture
from oboro.task import Generation, contradictions, remarks
from oboro.task.autoencoder import psnr

Batch = dict[str, Any]


def edit(config: DictConfig) -> None:
    """Write ``images/NAME.png`` (or files of another modality), called as their pictures are, and ``grid.png``: the
    pictures above what became of them."""
    check_settings(config, Editing)
    fabric = start(config, 1, trained_precision(config.checkpoint))
    _, task = open_task(config, config.checkpoint, fabric)
    changing: Edit = instantiate(config.edit, _convert_="all")
    check(config, task, changing)
    originals = Originals.of(config, task.modality)
    ids = list(range(config.n or len(originals.files) or DRAWN))
    for key, files in {"image": originals.files, "to": originals.ends_in}.items():
        remark_left_out(key, files, len(ids))
    check_amounts(len(ids) * changing.frames, config.chunk, task.modality)
    source, target = batches(config, task, changing, ids)
    remarks.say(task, target["label"].tolist() if "label" in target else ())
    work = Work(config, task, changing, fabric, originals, source, target)
    folder = Path(config.output_dir)
    sources, edited = work.run(ids, folder / task.modality.noun)
    edits_picture(task.modality, sources, edited, changing.frames).save(folder / "grid.png")
    files = folder / task.modality.noun
    print(
        f"{counted(len(edited), task.modality.noun)} in {files}, beside their sources in {folder / 'grid.png'}", end=""
    )
    print(likeness(task.modality, sources, edited, changing))


DRAWN = 8  # pictures that the model draws where none are given


@dataclass(frozen=True)
class Originals:
    """Stored pictures (n, C, ...) that are edited in turn, their files, and those in which interpolations end."""

    stored: Tensor | None
    files: Sequence[Path]
    others: Tensor | None
    ends_in: Sequence[Path] = ()

    @classmethod
    def of(cls, config: DictConfig, modality: Modality) -> "Originals":
        """Those of ``image`` and ``to``. Raises ``UserError`` for what is no picture."""
        files, ends = (listed(key, config[key], modality.suffixes, modality.noun) for key in ("image", "to"))
        return cls(read(files, modality), files, read(ends, modality), ends)

    def rows(self, ids: Sequence[int]) -> Tensor | None:
        return taken(self.stored, ids)

    def ends(self, ids: Sequence[int]) -> Tensor | None:
        return taken(self.others, ids)

    def names(self, n: int, frames: int) -> list[str]:
        """Of the files of ``n`` edits of ``frames`` pictures each: those of the pictures, with numbers where several
        would be called the same."""
        if not self.files:
            return [f"{i:06d}" for i in range(n * frames)]
        stems = [self.files[i % len(self.files)].stem for i in range(n) for _ in range(frames)]
        several = {stem for stem in stems if stems.count(stem) > 1}
        numbers = {stem: count() for stem in several}
        return [f"{stem}-{next(numbers[stem]):03d}" if stem in several else stem for stem in stems]


def taken(stored: Tensor | None, ids: Sequence[int]) -> Tensor | None:
    return None if stored is None else stored[[i % len(stored) for i in ids]]


def read(files: Sequence[Path], modality: Modality) -> Tensor | None:
    return torch.stack([modality.read_fitted(file) for file in files]) if files else None


def check(config: DictConfig, task: Generation, changing: Edit) -> None:
    """Raises ``UserError`` where the edit cannot be made of what is given, before anything is read."""
    option, drawn = type(changing).__name__, config.image is None
    if drawn and not changing.draws:
        raise UserError(f"{option} changes a picture and was given none; set image=<a file or folder>.")
    if changing.joins and config.to is None:
        raise UserError(f"{option} leads from one picture to another; set to=<a file or folder>, where it ends.")
    if config.to is not None and not changing.joins:
        raise UserError(f"to is where an interpolation ends; choose edit=interpolation, or leave {config.to} out.")
    lesson = task.lesson
    if not changing.can_ask(lesson, drawn):
        start = next(t for t in (0.5, *(lesson.times or ()), 1.0) if t == 1 or lesson.knows(t))
        raise UserError(
            f"{option} as set asks for what was not learned: the model {lesson.limit}; choose edit=sdedit "
            f"edit.strength={start:g}, or the checkpoint that this one was made of."
        )
    for reason in contradictions.conditions(changing.source_guidance, task.conditioner):
        raise UserError(f"edit.source_scale={changing.source_scale:g} is guidance: {reason}")
    changing.check(Model(task.denoiser, task.guidance, task.sampler), drawn)


def batches(config: DictConfig, task: Generation, changing: Edit, ids: list[int]) -> tuple[Batch, Batch]:
    """What the conditions of source and target are made of. What the target does not name is that of the source, and
    what neither names is left out. Raises ``UserError`` where the model was not trained without it."""
    source = {**picture_entries(config, task, ids), **named(config, task, ids, "source_")}
    target = {**source, **named(config, task, ids, "")}
    if config.negative is not None:
        target["negative"] = in_turn(texts(plain(config.negative), "negative", task), ids)
        check_negative(task)
    for batch, prefix in ((target, ""), (source, "source_")):
        for single in task.conditioner.singles:
            left_out = single.entry not in batch and single.name not in task.conditioner.dropped
            if left_out and (prefix == "" or changing.asks_source):
                key = {"label": f"{prefix}label", "caption": f"{prefix}prompt"}.get(single.entry, "hint")
                raise UserError(f"the model was never trained without {single.name}; set {key}=...")
    remark_unknown(task, changing, source, target)
    if changing.words and "caption" in task.conditioner.entries and not {"caption"} <= {*source} & {*target}:
        raise UserError(
            f"{type(changing).__name__} compares two texts; set source_prompt to that of the pictures and prompt to "
            "that of the edits."
        )
    return source, target


def remark_unknown(task: Generation, changing: Edit, source: Batch, target: Batch) -> None:
    """Say it of classes and texts that nobody has named: pictures are then edited as those of none."""
    for single in task.conditioner.singles:
        key = {"label": "label", "caption": "prompt"}.get(single.entry)
        if key is None:
            continue
        if single.entry not in target:
            remark(f"no {key} is given, so pictures are edited without the condition {single.name}.")
        elif single.entry not in source and changing.asks_source:
            remark(f"no source_{key} is given, so pictures are read without the condition {single.name}.")


def named(config: DictConfig, task: Generation, ids: list[int], prefix: str) -> Batch:
    """The classes and texts under the keys that begin with ``prefix``, in turn."""
    given: Batch = {}
    label, prompt = (plain(config[prefix + key]) for key in ("label", "prompt"))
    if label is not None:
        given["label"] = torch.tensor(in_turn(classes(label, task.conditioner.num_classes, f"{prefix}label"), ids))
    if prompt is not None:
        given["caption"] = in_turn(texts(prompt, f"{prefix}prompt", task), ids)
    return given


@dataclass(frozen=True)
class Work:
    """The edits of a command."""

    config: DictConfig
    task: Generation
    edit: Edit
    fabric: Fabric
    originals: Originals
    source: Batch
    target: Batch

    def run(self, ids: list[int], folder: Path) -> tuple[Tensor, Tensor]:
        """Stored sources (n, C, ...) and edits (n frames, C, ...), each written as soon as its chunk is done."""
        config, task, frames = self.config, self.task, self.edit.frames
        folder.mkdir(parents=True, exist_ok=True)
        names, written = self.originals.names(len(ids), frames), []
        size, sources, edited, parts = min(config.chunk, len(ids)), [], [], Parts()
        evaluations = self.edit.evaluations(Model(task.denoiser, task.guidance, task.sampler))
        starts = range(0, len(ids), size)
        with task.averaged(average(config)), progress("editing", len(starts), evaluations) as watch_of:
            for k, first in enumerate(starts):
                here = ids[first : first + size]
                padded = [*here, *[here[-1]] * (size - len(here))]  # one shape: edit i does not change with n
                watch = watch_of(k)
                rows = parts.rows(lambda part, watch=watch: self.rows(part, watch), padded)[: len(here)]
                sources.append(rows[:, 0])
                edited.append(rows[:, 1:].flatten(0, 1))
                files = names[first * frames : (first + len(here)) * frames]
                written += [task.modality.write(x, folder / f) for x, f in zip(edited[-1], files, strict=True)]
        if "caption" in self.target and frames == 1:  # the folder becomes a data set of its own
            rows = zip(written, self.target["caption"], strict=True)
            lines = (json_text({"file_name": p.name, "text": text}, ensure_ascii=False) + "\n" for p, text in rows)
            (folder / "metadata.jsonl").write_text("".join(lines), encoding="utf-8")
        return torch.cat(sources), torch.cat(edited)

    @torch.no_grad()
    def rows(self, ids: list[int], watch: Watch) -> Tensor:
        """Stored (n, 1 + frames, C, ...): each source, and what becomes of it."""
        task, modality, device = self.task, self.task.modality, self.fabric.device
        with self.fabric.autocast():
            source = condition(task, rows_of(self.source, ids)).to(device)
            target = condition(task, rows_of(self.target, ids)).to(device)
            if self.edit.words and "caption" in self.target:
                target = replace(target, sampling={**target.sampling, **self.read(ids, device)})
            stored, other = self.originals.rows(ids), self.originals.ends(ids)
            if stored is None:
                x, drawn = task.generate(ids, self.config.seed, source, modality.shape), True
                stored = modality.to_stored(x)
            else:
                x, drawn = modality.to_model(stored.to(device)), False
            encode: Callable[[Tensor], Tensor] = lambda x: task.codec.encode(x).float()  # noqa: E731
            end = None if other is None else encode(modality.to_model(other.to(device)))
            pictures = Pictures(encode(x), source, target, ids, self.config.seed, end, drawn)
            latents = self.edit(Model(task.denoiser, task.guidance, task.sampler, watch), pictures)
            made = task.codec.decode(latents).float()
        check_samples(made, latents, task.guidance, task.denoiser)
        edited = modality.to_stored(made).unflatten(0, (len(ids), self.edit.frames))
        return torch.cat([stored[:, None].to(edited), edited], 1).cpu()

    def read(self, ids: list[int], device: torch.device) -> dict[str, Any]:
        """What the edit takes of the texts of source and target."""
        encoder = text_readers(self.task)[0].encoder
        if not hasattr(encoder, "spans"):
            raise UserError(
                f"{type(self.edit).__name__} has to know the words of tokens, and {type(encoder).__name__} has no "
                "spans; give it that method, or choose another edit."
            )
        sources, targets = (rows_of(batch, ids)["caption"] for batch in (self.source, self.target))
        return {name: signal.to(device) for name, signal in self.edit.read(encoder, sources, targets).items()}


def likeness(modality: Modality, sources: Tensor, edited: Tensor, changing: Edit) -> str:
    """``; PSNR to them 21.3 dB`` of images, the mean over all."""
    if not isinstance(modality, Image) or changing.frames > 1:
        return ""
    return f"; PSNR to them {psnr(*map(modality.to_model, (edited, sources))).mean():.1f} dB"
