"""The pictures that samples are drawn after: ``hint=`` and ``mask=`` of ``oboro sample``."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig
from torch import Tensor

from oboro.base.counted import counted
from oboro.base.errors import UserError
from oboro.base.remark import remark
from oboro.cli.composed_values import plain
from oboro.cli.files import listed, remark_left_out
from oboro.condition import Condition
from oboro.conditioner import Image as Reader
from oboro.data.decode_or_skip import check_alike
from oboro.hint.hint import whole
from oboro.modality import Image, Modality
from oboro.modality.decode_image import load_image
from oboro.task import Generation

READY, KNOWN = "ready {}", "known {}"  # entries of a batch: of the picture of that name what is given ready-made
Places = list[tuple[Reader, str]]  # of each picture that a model reads the file or folder


def picture_entries(config: DictConfig, task: Generation, ids: Sequence[int]) -> dict[str, Any]:
    """What the conditions that are pictures are made of for samples ``ids``, of the given files in turn.

    Of a hint that is computed the picture that it is computed of, unless ``hint_ready`` says that the files are hints.
    Raises ``UserError`` where the model reads no such picture, or a file is none.
    """
    hint = plain(config.hint)
    if hint is None:
        for key in ("mask", "hint_ready"):
            if config.get(key):
                given = "true" if config[key] is True else config[key]
                raise UserError(f"{key}={given} is about a picture and none is given; set hint=<a file or folder>.")
        return {}
    places = named(hint, readers_of(task))
    if config.get("hint_ready") and not any(reader.computed for reader, _ in places):
        raise UserError(
            "hint_ready=true is for hints that the model computes, and it takes all as they are; leave it out."
        )
    given = {"index": torch.tensor(list(ids))}
    for reader, path in places:
        ready = config.get("hint_ready") and reader.computed
        if ready and reader.hint.has_hole:
            raise UserError(
                "hint_ready=true is for hints without a hole, and the model fills holes; give the picture with hint "
                "and the hole with mask=<a picture whose white is the hole>."
            )
        as_it_is = ready or not reader.computed
        channels = reader.image_channels if as_it_is else task.modality.shape[0]
        files = listed("hint", path, Image.suffixes)
        remark_left_out("hint", files, len(ids))
        pictures = fitted(files, channels, task.modality, ids)
        given[READY.format(reader.name) if ready else reader.entry] = pictures
        if ready:
            given.setdefault(reader.entry, torch.zeros(len(pictures), *task.modality.shape))
    if config.get("mask") is not None:
        given |= holes(config.mask, places, task.modality, ids)
    return given


def check_beside(config: DictConfig, task: Generation, measured: int) -> None:
    """Raises ``UserError`` where ``hint`` cannot be of the ``measured`` pictures that samples are drawn after, too."""
    hint = plain(config.hint)
    for reader, path in [] if hint is None else named(hint, readers_of(task)):
        if reader.computed and reader.hint.has_hole:
            raise UserError(
                "the model fills a hole, which that of measured=... is already; leave hint out, or measurement and "
                "measured."
            )
        count = min(len(listed("hint", path, Image.suffixes)), config.n)  # of the measured there are no more, either
        if count != measured:
            raise UserError(
                f"sample i is of file i in hint and in measured, and these have {count} and {measured}; give both as "
                "many."
            )


def holes(path: str, places: Places, modality: Modality, ids: Sequence[int]) -> dict[str, Tensor]:
    """Where pictures with a hole are known, (n, 1, H, W), bool: the mask in a file, or those of a folder in turn, is
    white in the hole. Raises ``UserError`` for a mask that is not of the shape of its picture."""
    known: dict[str, Tensor] = {}
    for reader, place in places:
        if reader.hint.has_hole:
            masks, pictures = (listed(key, of, Image.suffixes) for key, of in (("mask", path), ("hint", place)))
            for i in range(min(max(len(masks), len(pictures)), len(ids))):
                picture, mask = pictures[i % len(pictures)], masks[i % len(masks)]
                check_alike(str(picture), load_image(picture).size, load_image(mask).size)
            remark_left_out("mask", masks, len(ids))
            unknown = fitted(masks, 1, modality, ids) >= 0
            if whole := int((~unknown.flatten(1).any(1)).sum()):
                remark(f"of {counted(len(ids), 'samples')} {whole} have no hole, as nothing in mask={path} is white.")
            known[KNOWN.format(reader.name)] = ~unknown
    if not known:
        raise UserError(
            f"mask={path} is a hole and the model fills none; leave it out, or give the checkpoint of a model that was "
            "trained with hint=mask_box or another mask."
        )
    return known


def readers_of(task: Generation) -> list[Reader]:
    return [single for single in task.conditioner.singles if isinstance(single, Reader)]


def named(hint: Any, readers: Sequence[Reader]) -> Places:
    """The file or folder of each of ``readers``: of one path for all that are made of the same, or by name."""
    if not readers:
        raise UserError(
            f"hint={hint} cannot be drawn: the model reads no picture; leave it out, or give the checkpoint of a model "
            "that was trained with conditioner=image."
        )
    names = ", ".join(reader.name for reader in readers)
    form = "write hint={" + ", ".join(f"{reader.name}: <file>" for reader in readers) + "}"
    if not isinstance(hint, Mapping):
        if len({reader.entry for reader in readers}) > 1:
            raise UserError(f"hint={hint} does not say which of the pictures {names} it is; {form}.")
        return [(reader, hint) for reader in readers]
    if unknown := [name for name in hint if name not in {reader.name for reader in readers}]:
        raise UserError(f"hint names {unknown[0]} and the model reads {names}; {form}.")
    if missing := [reader.name for reader in readers if reader.name not in hint]:
        raise UserError(f"hint names no {missing[0]}, and the model reads {names}; {form}.")
    return [(reader, hint[reader.name]) for reader in readers]


def fitted(files: Sequence[Path], channels: int, modality: Modality, ids: Sequence[int]) -> Tensor:
    """One picture for each of ``ids``, (n, C, H, W) in [-1, 1], scaled and cropped as in training."""
    kind = Image(channels, *modality.shape[1:])
    pictures = kind.to_model(torch.stack([kind.read_fitted(file) for file in files[: max(ids, default=0) + 1]]))
    return pictures[[i % len(files) for i in ids]]


def with_pictures(cond: Condition, batch: Mapping[str, Any], task: Generation) -> Condition:
    """``cond`` with the pictures that are given ready-made, and the holes that are given."""
    signals = dict(cond.signals)
    for reader in task.conditioner.singles:
        if not isinstance(reader, Reader):
            continue
        if (ready := batch.get(READY.format(reader.name))) is not None:
            signals[reader.name] = reader.of(whole(ready))
        if (known := batch.get(KNOWN.format(reader.name))) is not None:
            signals[reader.name] = reader.around(batch[reader.entry], known)
    return replace(cond, signals=signals)
