"""Numbers about generated samples, the same on any number of ranks, leaving training untouched."""

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from oboro.base import distributed
from oboro.base.errors import UserError
from oboro.base.finite import check_finite
from oboro.base.memory import Parts
from oboro.base.precision import rounded_to_tf32
from oboro.base.remark import remark
from oboro.base.settings import settings
from oboro.conditioner import Control
from oboro.data import DataModule, Population
from oboro.data.latents import module_digest
from oboro.ema import EMA
from oboro.evaluate.baselines import Baseline, Baselines
from oboro.evaluate.counting import counted
from oboro.evaluate.drawn_after import Conditions, DrawnAfter
from oboro.evaluate.held_out import HeldOut
from oboro.evaluate.likelihood import bits_per_dim
from oboro.evaluate.protocol import Protocol
from oboro.evaluate.result import Result
from oboro.extractor import Extractor, Joint
from oboro.metrics import Given, Groups, Metric, Paired, PairedView, Value
from oboro.metrics.bank import CHUNK
from oboro.metrics.metric import unserved
from oboro.metrics.view import View
from oboro.task import Generation

SHOWN = 10  # samples that are kept to be shown


class Evaluator:
    """``metrics`` of samples against the training images of ``data``, or against the moments of the file ``published``,
    and, of those that are ``Paired``, against what each sample was drawn after (``DrawnAfter``): with ``conditions`` =
    held_out classes, texts and pictures of the images that are held out, with a ``problem`` held-out images that were
    measured; ``draws`` samples of each.

    The same is measured of ``baselines`` in place of samples. Nothing is read or computed before ``prepare`` and
    ``evaluate``.
    """

    def __init__(
        self,
        extractor: Extractor | Joint,
        metrics: Mapping[str, Metric | Paired],
        data: DataModule,
        published: str | None = None,
        problem: HeldOut | None = None,
        conditions: Conditions = "training",
        draws: int = 1,
        baselines: Sequence[Baseline] = (),
    ):
        self.problem = problem
        self.data = data
        self.after = DrawnAfter(data, conditions, draws, problem)
        self.baselines = Baselines(baselines, self.after, data)
        self.metrics = dict(metrics)
        self.paired = PairedView({name: metric for name, metric in metrics.items() if isinstance(metric, Paired)})
        others = {name: metric for name, metric in metrics.items() if not isinstance(metric, Paired)}
        self.views = [View(part, others, data, published) for part in extractor.parts] if others else []

    def prepare(self) -> None:
        """Find or fetch the weights of extractors, on rank 0 first; raises ``UserError`` with the remedy."""
        for view in self.views:
            with distributed.together():
                if distributed.rank() == 0:
                    view.extractor.prepare()

    def check(self, known: set[str], n: int) -> None:
        """Raises ``UserError`` for a metric that ``n`` samples, these data or these extractors cannot give.

        ``known`` as ``DrawnAfter.known`` gives it."""
        for name, metric in self.metrics.items():
            if not isinstance(metric, Paired) and not any(name in view.metrics for view in self.views):
                raise unserved(name, metric, [view.extractor for view in self.views])
        for view in self.views:
            view.check(known, n)
        self.paired.check(known, self.data.modality)

    def known(self, task: Generation) -> set[str]:
        """What is known of samples of ``task`` before they are drawn; remarks that they are compared with pictures that
        the model has seen. Raises ``UserError`` for baselines that there are not, for an extractor whose features the
        model has learned from, and what ``DrawnAfter.known`` raises.
        """
        for view in self.views:
            task.check_judge(type(view.extractor).__name__)
        known = self.after.known(task.conditioner)
        self.baselines.check(task.conditioner, known)
        if "shuffled" in self.baselines.names and not self.paired:
            raise UserError("baselines=[shuffled] is for paired metrics; leave it out, or add psnr to metrics=[...].")
        compared = [name for name, metric in self.paired.metrics.items() if "draws" not in metric.needs]
        if compared and "truth" in known and self.after.conditions == "training":
            remark(
                f"{', '.join(compared)}: samples are compared with training images; conditions=held_out with others."
            )
        return known

    @property
    def population(self) -> Population:
        """What samples are drawn under. Raises ``UserError`` where nothing is held out."""
        return self.after.population

    def evaluate(
        self,
        task: Generation,
        protocol: Protocol,
        *,
        precision: str,
        autocast: Callable[[], AbstractContextManager] = nullcontext,
        done: Callable[[int], None] | None = None,
    ) -> Result:
        """Every metric on samples of the averaged weights; all ranks get the same answer.

        Samples have the class frequencies of the training data, are stored as files would be, and become
        features chunk by chunk. Rank 0 turns features into numbers, one metric at a time, and tells the others. The
        weights and the training mode of ``task`` come back on every way out. Raises ``UserError`` for samples that are
        no numbers.
        """
        record = self._load(task.device)
        start = time.perf_counter()
        shown: dict[int, Tensor] = {}
        drawn = evaluations = 0  # by this rank, with padding

        def draw(ids: list[int]) -> Tensor:
            nonlocal drawn, evaluations
            before = count()
            images = self._images(task, ids, protocol, autocast)
            rows = torch.cat([self._rows(images), *self._compared(task, images, ids)], 1)
            drawn, evaluations = drawn + len(ids), evaluations + count() - before  # not what memory had no room for
            for i, image in zip(ids, images, strict=True):
                if i < protocol.first + min(SHOWN, protocol.chunk):
                    shown[i] = image.cpu()
            return rows

        with task.averaged(protocol.ema), counted([task.denoiser.network, *task.guidance.networks]) as count:
            rows = distributed.map_samples(
                protocol.n, protocol.chunk, draw, task.device, done, protocol.first, everywhere=False
            )
        features, *compared = self._parted(rows, self._comparisons)
        if broken := distributed.from_first(lambda: int((~features.isfinite().all(1)).sum())):
            raise UserError(
                f"the features of {broken} of {protocol.n} samples hold NaN or infinity, so the model has diverged; "
                "train it with a smaller optimizer.lr or with trainer.precision=32-true."
            )
        seconds = time.perf_counter() - start
        ids = range(protocol.first, protocol.first + protocol.n)
        metadata, groups = self.after.metadata(task.conditioner, ids), self.after.groups(task.conditioner, ids)
        record |= {
            "quantisation": self.data.modality.quantisation,
            "samples": protocol.n,
            "seed": protocol.seed,
            "first": protocol.first,
            "chunk": protocol.chunk,
            "precision": precision,
            "device": task.device.type,
            **arithmetic(task.device, drawn=True),
            "data": {"fingerprint": self.data.fingerprint, "trained_on": task.fingerprint},
            **self.after.protocol(),
            "ema": average_settings(task.ema, protocol.ema, protocol.ema_std),
            **codec_settings(task.codec),
            "schedule": settings(task.denoiser.schedule),
            "sampler": settings(task.sampler),
            "guidance": settings(task.guidance),
            **control_settings(task),
            "evaluations_per_sample": round(evaluations / drawn, 3),
        }
        first = torch.stack(list(shown.values())) if shown else torch.empty(0, *self.data.modality.shape)
        values = self._values(features, metadata, task.device)
        if self.paired:
            values |= distributed.from_first(lambda: self.paired.values(compared[0], groups))
        baselines = self._baselines(task, protocol, metadata, groups, compared)
        return Result(values, record, seconds, first.to(self.data.modality.dtype), baselines)

    def evaluate_images(
        self,
        images: Tensor,
        labels: Tensor | None,
        origin: Mapping[str, Any],
        device: torch.device,
        done: Callable[[int], None] | None = None,
        truth: Tensor | None = None,
    ) -> Result:
        """The same metrics of stored ``images`` (n, C, ...) that exist already; ``origin`` says where from. ``truth``
        (n, C, ...) are the stored pictures that each belongs to, for paired metrics."""
        record = self._load(device)
        start = time.perf_counter()

        def features_of(ids: list[int]) -> Tensor:
            chosen, rows = images[torch.tensor(ids)], []
            if self.paired and truth is not None:
                given = Given(self.data.modality.to_model(truth[torch.tensor(ids)]))
                rows = [self.paired.rows(chosen.to(device), given, self.data.modality)]
            return torch.cat([self._rows(chosen).to(device), *rows], 1)

        size = min(CHUNK, len(images))
        rows = distributed.map_samples(len(images), size, features_of, device, done, everywhere=False)
        seconds = time.perf_counter() - start
        record |= {"quantisation": self.data.modality.quantisation, "samples": len(images)}
        record |= {**arithmetic(device, drawn=False), **origin}
        features, *compared = self._parted(rows)
        values = self._values(features, {} if labels is None else {"label": labels}, device)
        if self.paired:
            values |= distributed.from_first(lambda: self.paired.values(compared[0], Groups.apart(len(images))))
        return Result(values, record, seconds, images[:SHOWN])

    def redraw(self, task: Generation, ids: list[int], protocol: Protocol, autocast: Callable = nullcontext) -> Tensor:
        """Single stored samples once more, (len(ids), C, ...), the same to the last bit; ids at most one chunk."""
        padded = [*ids, *[ids[-1]] * (protocol.chunk - len(ids))]
        with task.averaged(protocol.ema):
            return Parts().rows(lambda part: self._images(task, part, protocol, autocast), padded)[: len(ids)]

    def _images(self, task: Generation, ids: list[int], protocol: Protocol, autocast: Callable) -> Tensor:
        cond = self.after.condition(task.conditioner, ids)
        with autocast():
            x = task.generate(ids, protocol.seed, cond, self.data.modality.shape)
        return (task.modality or self.data.modality).to_stored(x)

    def _rows(self, images: Tensor) -> Tensor:
        if not self.views:
            return torch.empty(len(images), 0, device=images.device)
        return torch.cat([view.rows(images) for view in self.views], 1)

    @property
    def _width(self) -> int:
        return sum(view.width for view in self.views)

    def _parted(self, rows: Tensor, comparisons: int = 1) -> Sequence[Tensor]:
        """What views remember, and of the paired metrics what they make of each comparison."""
        return rows.split([self._width, *[self.paired.width] * comparisons * bool(self.paired)], 1)

    @property
    def _comparisons(self) -> int:
        """How often samples are compared: with what they were drawn after, and with what the next one was."""
        return 1 + ("shuffled" in self.baselines.names)

    def _compared(self, task: Generation, images: Tensor, ids: list[int]) -> list[Tensor]:
        """Rows of the paired metrics, one tensor for each comparison."""
        if not self.paired:
            return []
        given = (self.after.given(task.conditioner, ids, later) for later in range(self._comparisons))
        return [self.paired.rows(images, one, self.data.modality) for one in given]

    def _baselines(
        self, task: Generation, protocol: Protocol, metadata: Mapping[str, Any], groups: Groups, compared: list[Tensor]
    ) -> dict[str, dict[str, Value]]:
        """By baseline, its values; of paired ones ``detail["gain"]``, what the samples' mean is above it."""
        found: dict[str, dict[str, Value]] = {}
        for name in self.baselines.names:
            features, own = None, compared[1:]
            if name != "shuffled":

                def rows_of(ids: list[int], name: Baseline = name) -> Tensor:
                    images = self.baselines.images(name, task.conditioner, ids).to(task.device)
                    rows = [self._rows(images)]
                    if self.paired:
                        given = self.after.given(task.conditioner, ids)
                        rows.append(self.paired.rows(images, given, self.data.modality))
                    return torch.cat(rows, 1)

                rows = distributed.map_samples(
                    protocol.n, protocol.chunk, rows_of, task.device, None, protocol.first, everywhere=False
                )
                features, *own = self._parted(rows)
            values = {} if features is None else self._values(features, metadata, task.device, lenient=True)
            if own:
                values |= distributed.from_first(lambda own=own: self.paired.values_beside(own[0], compared[0], groups))
            found[name] = values
        return found

    def _load(self, device: torch.device) -> dict[str, Any]:
        """What every view compares with, in plain values; those of several extractors are joined by a plus."""
        identities = [view.load(device).identity for view in self.views]
        return {
            key: values[0] if len(values) == 1 else " + ".join(map(str, values))
            for key, values in (
                (k, list(dict.fromkeys(i[k] for i in identities if k in i)))
                for k in dict.fromkeys(k for identity in identities for k in identity)
            )
        }

    def _values(
        self, rows: Tensor, metadata: Mapping[str, Any], device: torch.device, lenient: bool = False
    ) -> dict[str, Value]:
        values: dict[str, Value] = {}
        for view, part in zip(self.views, rows.split([view.width for view in self.views], 1), strict=True):
            values |= view.values(part, metadata, device, lenient)
        return values


def arithmetic(device: torch.device, drawn: bool) -> dict[str, Any]:
    """How float32 numbers are multiplied, on CUDA alone, where it can be set: in full for features, and for samples
    that are ``drawn`` as the program has set it, named are the operations that round to TF32."""
    if device.type != "cuda":
        return {}
    return {"features": "float32 without TF32"} | ({"tf32": rounded_to_tf32()} if drawn else {})


def average_settings(ema: EMA, name: str | None = None, std: float | None = None) -> dict[str, Any]:
    """``{"name": "std005", "std": 0.05}`` of an average, by default the first; ``std`` where no profile has it."""
    name = name or ema.default
    return {"name": name, "std": ema.profiles[name].std if name in ema.profiles else std}


def codec_settings(codec: nn.Module) -> dict[str, dict[str, str]]:
    """``{"codec": {"name": "Autoencoder", "digest": …}}`` of a codec with weights, nothing of pixels as they are."""
    named = {"name": type(codec).__name__, "digest": module_digest(codec)}
    return {"codec": named} if codec.state_dict() else {}


def control_settings(task: Generation) -> dict[str, dict[str, Any]]:
    """``{"control": {"control": {"strength": 1.0, "interval": [0, 1]}}}`` of the pictures of ControlNets, by name; of
    those that were added to the checkpoint's own with the digest of their weights."""
    controls = {
        single.name: {"strength": single.strength, "interval": list(single.interval)}
        for single in task.conditioner.singles
        if isinstance(single, Control)
    }
    for branch in getattr(task.denoiser.network, "branches", [])[1:]:
        controls[branch.signal]["digest"] = module_digest(branch)
    return {"control": controls} if controls else {}


def held_out_likelihood(
    task: Generation, data: DataModule, protocol: Protocol, *, n: int, steps: int, probes: int
) -> dict[str, Value]:
    """``{"bits_per_dim_<n>": value}``: mean over the first n held-out images, with its 95 % interval over images.

    In float32 whatever the run computes in (``likelihood.py``). All ranks share the work and get the same answer.
    """

    def bits_of(ids: list[int]) -> Tensor:
        batch = data.validation.__getitems__((torch.tensor(ids), None))
        pixels = batch["x"].to(task.device)
        batch = data.on_after_batch_transfer(batch, 0)
        cond = task.conditioner.keep(batch).to(task.device)
        return bits_per_dim(task.denoiser, pixels, cond, seed=protocol.seed, ids=ids, steps=steps, probes=probes)

    with task.averaged(protocol.ema):
        bits = distributed.map_samples(n, min(protocol.chunk, n), lambda ids: bits_of(ids)[:, None], task.device)[:, 0]
    check_finite(bits, "likelihoods", "set more bits_per_dim.steps, or take an earlier checkpoint")
    mean, interval = bits.mean().item(), None
    if n > 1:  # one image has no spread
        error = 1.96 * bits.std().item() / n**0.5
        interval = mean - error, mean + error
    known = {"name": "probability-flow ODE", "steps": steps, "probes": probes, "seed": protocol.seed}
    return {f"bits_per_dim_{n}": Value(mean, better=-1, interval=interval, settings=known)}
