"""Features that are learned on the spot, from the very data that they are used for: no download, no other data set."""

import hashlib
import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock
from rich.console import Console
from rich.progress import Progress
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from oboro.base.counted import counted
from oboro.base.errors import UserError
from oboro.base.json_text import parsed
from oboro.base.paths import LocalPath
from oboro.base.ranges import Count, Seed, Width
from oboro.base.remark import notice, remark
from oboro.base.temporary import beside, clear_abandoned, held
from oboro.data import DataModule
from oboro.data.cache import write_whole, writing
from oboro.extractor.extractor import Extractor, file_digest
from oboro.extractor.in_domain_training import InDomainNetwork, Recipe, accuracy, train
from oboro.modality import Image, Modality

log = logging.getLogger(__name__)
VERSION = 1  # of the network and its training: other weights from the same settings
MOST = 100_000_000  # of a number in a recipe
SMALLEST, LARGEST = 24, 64  # side of the pictures that the network sees
HELD_OUT = 10_000  # pictures, at most, that the accuracy is taken of
SPEED = 2.3e6  # pixels a second on one core, for saying how long it takes
LITTLE = 0.1  # of the way from chance to certainty


class InDomain(Extractor):
    """The last features (``dim``) of a small network that has learned to name the classes of the training images, or,
    where these have none, how far an image is turned (Gidaris et al. 2018, arXiv:1803.07728); final.

    Morozov et al. 2021 (openreview.net/forum?id=NeRdBeTionN) found that features learned without labels on the data
    themselves judge generators of pictures unlike ImageNet's better than Inception does. For pictures of any number of
    channels; they are brought to a square of 24 to 64 pixels. Distances compare models on these data alone.

    It is trained once, by rank 0, on the CPU, from the training split of the data (never the held-out images), and kept
    in ``cache_dir`` of the data under the hash of these images, their labels and all settings; every later run reads
    the same weights. How it scores on the held-out images stands in the protocol, beside the digest of the weights.

    - ``labels``: whether to learn the classes where the data have any.
    - ``views``: pictures seen in training, with repetitions; the time is proportional.
    - ``weights_path``: a file that was kept, for other data of the same shape: a number of runs whose splits differ.
    """

    name = "in_domain"

    def __init__(
        self,
        labels: bool = True,
        dim: Width = 128,
        views: Count = 60_000,
        seed: Seed = 0,
        weights_path: LocalPath | None = None,
    ):
        super().__init__()
        if dim < 1 or views < 1:
            raise UserError(
                f"{dim} features after {counted(views, 'pictures')} tell nothing apart; set extractor.dim and "
                "extractor.views to 1 or more."
            )
        self.labels, self.dim, self.views, self.seed = labels, dim, views, seed
        self._given = Path(weights_path).expanduser() if weights_path else None
        self.outputs = Outputs(self)

    # --- the data

    def accept(self, modality: Modality) -> None:
        if not isinstance(modality, Image):
            raise UserError(
                f"the extractor {self.name} learns from images and these are {modality.noun} of {modality}; choose "
                "extractor=raw, or metrics=[]."
            )

    def require(self, samples: Tensor) -> None:
        """Raises ``ValueError`` unless the samples are pictures with the channels of the data."""
        if samples.dtype != torch.uint8 or samples.ndim != 4 or samples.shape[1] != self.recipe.channels:
            raise ValueError(
                f"this extractor takes uint8 images (B, {self.recipe.channels}, H, W), got "
                f"{str(samples.dtype).removeprefix('torch.')} {tuple(samples.shape)}"
            )

    @property
    def classes(self) -> int:
        """How many classes it learns, 0 where it learns rotations."""
        if self._given:
            return self._recipe_of(self._given)["classes"]
        return (self.data.num_classes or 0) if self.labels else 0

    @property
    def data(self) -> DataModule:
        if self._data is None:
            raise RuntimeError("the extractor in_domain learns from data: call observe(data) first")
        return self._data

    @property
    def recipe(self) -> Recipe:
        """What decides the weights, the pictures apart."""
        if self._given:
            return Recipe(**self._recipe_of(self._given))
        channels, height, width = self.data.modality.shape
        side = min(max(height, width, SMALLEST), LARGEST)
        return Recipe(channels, side, self.dim, self.classes, self.views, self.data.flip, self.seed)

    # --- the weights

    @property
    def path(self) -> Path:
        """Where the weights are or will be."""
        if self._given:
            return self._given
        train, held_out = self.data.train, self.data.validation
        parts = [VERSION, asdict(self.recipe), train.samples.fingerprint, held_out.samples.fingerprint]
        key = hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:32]
        return self.data.cache_dir / "extractors" / f"{self.name}-{key}.safetensors"

    @property
    def digest(self) -> str:
        """SHA-256 (hex) of the weights file; raises ``UserError`` before ``prepare``."""
        self._require_file()
        return file_digest(self.path)

    @property
    def described(self) -> Mapping[str, Any]:
        """``extractor_task``, ``extractor_accuracy`` and ``extractor_held_out``: what it has learned, its share of
        right answers on held-out images, None where there are none, and how many these are."""
        return {f"extractor_{key}": value for key, value in self._origin(self.path)["result"].items()}

    @property
    def resize(self) -> str:
        """How images become the network's input."""
        side = self.recipe.side
        return f"bilinear antialiased to {side}x{side}"

    def prepare(self) -> None:
        """Train, unless the weights are there already. A file that is damaged is made anew."""
        if self._given:
            self._origin(self._given)
            if not self._whole():
                raise UserError(f"{self._given} is damaged; copy it anew, with the .sha256 file beside it.")
            channels = self.data.modality.shape[0]
            if self.recipe.channels != channels:
                raise UserError(
                    f"{self._given} has learned images of {counted(self.recipe.channels, 'channels')} and these have "
                    f"{channels}; leave extractor.weights_path out to train one."
                )
            return
        folder = self.path.parent
        with writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
            lock = FileLock(self.path.with_suffix(".lock"))
            lock.acquire()  # of two processes one trains and the other waits
        try:
            if not self._whole():
                self._train()
        finally:
            lock.release()

    def build(self) -> nn.Module:
        self._require_file()
        network = InDomainNetwork(self.recipe)
        self._origin(self.path)
        with safe_open(self.path, "pt") as file:
            network.load_state_dict({name: file.get_tensor(name) for name in file.keys()})  # noqa: SIM118
        return network

    def forward(self, network: nn.Module, images: Tensor, outputs: Sequence[str]) -> dict[str, Tensor]:
        """Non-negative features (B, dim), and logits (B, classes) where it has learned classes."""
        features = network(network.standardise(images))
        return {"features": features, "logits": network.head(features)}

    def _train(self) -> None:
        recipe, data = self.recipe, self.data
        labels, of_held_out = (part.labels if recipe.classes else None for part in (data.train, data.validation))
        what = f"the {counted(recipe.classes, 'classes')} of" if recipe.classes else "rotations of"
        with announced(
            f"training a feature extractor on {what} {counted(len(data.train), 'images')}, once for these data: "
            f"{duration((1.5 if recipe.classes else 1) * recipe.views * recipe.side**2 / SPEED)}",
            recipe.views,
        ) as done:
            network = train(recipe, data.train.samples, labels, done)
        held_out = torch.arange(min(len(data.validation), HELD_OUT))
        share = accuracy(
            network, data.validation.samples[held_out], None if of_held_out is None else of_held_out[held_out]
        )
        task = f"{recipe.classes} classes" if recipe.classes else "rotations"
        result = {"task": task, "accuracy": share, "held_out": len(held_out)}
        origin = {"recipe": asdict(recipe), "images": len(data.train), "result": result}
        report(result, recipe.outputs)
        partial = beside(self.path)
        with writing(self.path.parent), held(partial):
            clear_abandoned(self.path.parent)
            # One key: safetensors writes several in random order, and the digest is that of the file.
            save_file(network.state_dict(), partial, {"origin": json.dumps(origin, sort_keys=True)})
            partial.replace(self.path)
            write_whole(self._written, file_digest(self.path))

    @property
    def _written(self) -> Path:
        """Beside the weights, the digest of the file that was written; none where they are older than this."""
        return self.path.with_suffix(".sha256")

    def _whole(self) -> bool:
        """Whether the weights are there and what was written: a bit of them would change all numbers a little."""
        try:
            self._origin(self.path)
            whole = not self._written.is_file() or self._written.read_text().strip() == file_digest(self.path)
        except (UserError, OSError, ValueError):
            return False
        if not whole:
            remark(f"{self.path} is damaged, its weights are not those that were written; they are made anew.")
        return whole

    def _require_file(self) -> None:
        if not self.path.is_file():
            raise UserError(
                f"the weights {self.path} of extractor={self.name} are not there; "
                + ("correct extractor.weights_path." if self._given else "set data.cache_dir=<a folder that all see>.")
            )

    def _recipe_of(self, path: Path) -> dict[str, Any]:
        return self._origin(path)["recipe"]

    @staticmethod
    def _origin(path: Path) -> dict[str, Any]:
        """What a file says of itself; raises ``UserError`` where it is missing or not one of these."""
        try:
            with safe_open(path, "pt") as file:
                origin = parsed(file.metadata()["origin"])
                check_origin(origin, {name: file.get_slice(name).get_shape() for name in file.keys()})  # noqa: SIM118
                return origin
        except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
            raise UserError(
                f"{path} has no weights of extractor=in_domain ({type(error).__name__}); correct "
                "extractor.weights_path, or leave it out to train one."
            ) from error


def check_origin(origin: Any, shapes: Mapping[str, list[int]]) -> None:
    """Raises ``ValueError`` where a file does not say where it is from, or has other weights than it says: before they
    take memory."""
    recipe, result = origin["recipe"], origin["result"]
    if not all(type(n) is int and 0 <= n <= MOST for k, n in recipe.items() if k not in ("flip", "seed")):
        raise ValueError("recipe")
    with torch.device("meta"):
        wanted = InDomainNetwork(Recipe(**recipe)).state_dict()
    if {name: list(weight.shape) for name, weight in wanted.items()} != dict(shapes):
        raise ValueError("weights")
    if not {"task", "accuracy", "held_out"} <= set(result):
        raise ValueError("result")


class Outputs(Mapping[str, int]):
    """``features``, and ``logits`` where classes are learned: lengths are read when they are needed; final."""

    def __init__(self, extractor: InDomain):
        self._extractor = extractor

    def __getitem__(self, output: str) -> int:
        if output not in self:
            raise KeyError(output)
        return self._extractor.recipe.dim if output == "features" else self._extractor.classes

    def __contains__(self, output: object) -> bool:
        return output == "features" or (output == "logits" and bool(self._extractor.classes))

    def __iter__(self) -> Iterator[str]:
        return iter(["features", *["logits"] * ("logits" in self)])

    def __len__(self) -> int:
        return 1 + ("logits" in self)


def duration(seconds: float) -> str:
    minutes = max(1, round(seconds / 60))
    return "about a minute" if minutes == 1 else f"about {minutes} minutes"


@contextmanager
def announced(sentence: str, total: int) -> Iterator[Callable[[int], None]]:
    """``sentence`` on the terminal and in the log, and a bar on stderr while the block runs."""
    notice(sentence)
    with Progress(console=Console(stderr=True), transient=True) as bar:
        job = bar.add_task("learning", total=total)
        yield lambda seen: bar.update(job, completed=seen)


def report(result: Mapping[str, Any], answers: int) -> None:
    """What it has learned, in one line; a warning where that is hardly anything."""
    share, task = result["accuracy"], result["task"]
    if share is None:
        return
    log.info("the feature extractor names %s of held-out images right in %.1f %%", task, 100 * share)
    if share < (1 + LITTLE * (answers - 1)) / answers:
        remark(
            f"the feature extractor has learned little: it names {task} of held-out images right in "
            f"{100 * share:.1f} %, and chance is {100 / answers:.1f} %; distances in its features say little, choose "
            "extractor=raw or inception."
        )
