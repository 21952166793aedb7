"""Numbers about generated samples, the same on any number of ranks, leaving training untouched."""

import hashlib
import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from oboro import distributed
from oboro.data import ImageData, to_uint8
from oboro.errors import UserError
from oboro.likelihood import bits_per_dim
from oboro.metrics import Bank, Extracted, Extractor, Metric, Published, Reference, Value
from oboro.metrics.bank import look_at
from oboro.metrics.metric import QUANTISATION, check, measure, outputs_of, plain
from oboro.task import Diffusion

SHOWN = 10  # samples that are kept to be looked at
SETTING = ("ema", "sampler", "guidance", "evaluations_per_sample", "images", "images_fingerprint")


@dataclass(frozen=True)
class Protocol:
    """Samples ``first`` .. ``first + n - 1`` of a seed, drawn in chunks of a size, from which averaged weights."""

    n: int
    seed: int = 0
    chunk: int = 100
    ema: str | None = None
    first: int = 0


@dataclass(frozen=True)
class Evaluation:
    """What was found, how it was obtained, how long it took, and the first few samples (on rank 0)."""

    values: Mapping[str, Value]
    protocol: Mapping[str, Any]
    seconds: float
    samples: Tensor

    @property
    def numbers(self) -> dict[str, float]:
        return {name: value.value for name, value in self.values.items()}

    def plain(self) -> dict[str, Any]:
        """For JSON: ``values`` (numbers alone), ``judged`` (all that is known of each), ``protocol``, ``seconds``."""
        judged = {name: value.plain() for name, value in self.values.items()}
        return {
            "values": self.numbers,
            "judged": judged,
            "protocol": {**self.protocol, "digest": digest(self.protocol)},
            "seconds": round(self.seconds, 3),
        }


class Evaluator:
    """``metrics`` of samples against the training images of ``data``, or against the moments of the file ``published``.

    Nothing is read or computed before ``prepare`` and ``evaluate`` ask for it.
    """

    def __init__(
        self,
        extractor: Extractor,
        metrics: Mapping[str, Metric],
        data: ImageData,
        published: str | None = None,
    ):
        self.extractor = extractor
        self.metrics = dict(metrics)
        self.data = data
        self.published = published
        self._reference: Reference | None = None

    def prepare(self) -> None:
        """Find or fetch the extractor's weights, on rank 0 first; raises ``UserError`` with the remedy."""
        if self.metrics:
            with distributed.together():
                if distributed.rank() == 0:
                    self.extractor.prepare()

    def check(self, labelled: bool, n: int) -> None:
        """Raises ``UserError`` for a metric that ``n`` samples, these data or this extractor cannot give."""
        real = 0 if self.published else len(self.data.train_images)
        check(self.metrics, self.extractor, n, real, labelled)
        for name, metric in self.metrics.items():
            if self.published and not metric.moments:
                raise UserError(
                    f"{self.published} holds moments alone and {name} compares images; choose metrics=[frechet], or "
                    "leave reference=... out to compare with the data."
                )

    def reference(self, device: torch.device) -> Reference:
        """The real images, summarised by all ranks together the first time; later calls return the same."""
        if self._reference is None:
            self.extractor.load(device)
            self._reference = (
                Published(self.published, self.extractor)
                if self.published
                else Extracted(
                    self.extractor,
                    outputs_of(self.metrics),
                    self.data.train_images,
                    self.data.train_labels,
                    self.data.train_images.fingerprint,
                    "train",
                    self.data.cache_dir,
                )
            )
        return self._reference

    def evaluate(
        self,
        task: Diffusion,
        protocol: Protocol,
        *,
        precision: str,
        autocast: Callable[[], AbstractContextManager] = nullcontext,
        done: Callable[[int], None] | None = None,
    ) -> Evaluation:
        """Every metric on samples of the averaged weights; all ranks get the same answer.

        Samples have the class frequencies of the training data, are quantised to 8 bits as files would be, and become
        features chunk by chunk. Rank 0 turns features into numbers, one metric at a time, and tells the others. The
        weights and the training mode of ``task`` come back on every way out.
        """
        reference = self.reference(task.device)
        start = time.perf_counter()
        with task.averaged(protocol.ema), counted(task.denoiser.network) as count:
            bank, samples = self._draw(task, protocol, autocast, done)
        per_sample = count() / self._drawn(protocol)
        seconds = time.perf_counter() - start
        said = {**self._describe(task, protocol, reference, precision), "evaluations_per_sample": round(per_sample, 3)}
        return Evaluation(self._values(bank, reference), said, seconds, samples)

    def evaluate_images(
        self,
        images: Tensor,
        labels: Tensor | None,
        origin: Mapping[str, Any],
        device: torch.device,
        done: Callable[[int], None] | None = None,
    ) -> Evaluation:
        """The same metrics of ``images`` (n, C, H, W), uint8, that are there already; ``origin`` says where from."""
        reference = self.reference(device)
        start = time.perf_counter()
        bank = look_at(images, self.extractor, outputs_of(self.metrics), labels, done)
        seconds = time.perf_counter() - start
        said = {**reference.identity, "quantisation": QUANTISATION, "samples": len(images), **origin}
        return Evaluation(self._values(bank, reference), said, seconds, images[:SHOWN])

    def _values(self, bank: Bank, reference: Reference) -> dict[str, Value]:
        """On rank 0, one metric at a time, and told to the others."""
        values: dict[str, Value] = {}
        for name, metric in self.metrics.items():
            one = {name: metric}
            values |= distributed.from_first(lambda one=one: measure(one, self.extractor, bank, reference))
        return values

    def redraw(self, task: Diffusion, ids: list[int], protocol: Protocol, autocast: Callable = nullcontext) -> Tensor:
        """Single samples once more, uint8 (len(ids), C, H, W), the same to the last bit; ids at most one chunk."""
        padded = [*ids, *[ids[-1]] * (protocol.chunk - len(ids))]
        with task.averaged(protocol.ema):
            return self._images(task, padded, protocol, autocast)[: len(ids)]

    def _images(self, task: Diffusion, ids: list[int], protocol: Protocol, autocast: Callable) -> Tensor:
        cond = task.conditioner.for_samples(ids, self.data.label_frequencies)
        with autocast():
            return to_uint8(task.generate(ids, protocol.seed, cond, self.data.image_shape))

    def _draw(
        self, task: Diffusion, protocol: Protocol, autocast: Callable, done: Callable[[int], None] | None
    ) -> tuple[Bank, Tensor]:
        outputs = outputs_of(self.metrics)
        shown = torch.empty(0, *self.data.image_shape, dtype=torch.uint8)

        def look(ids: list[int]) -> Tensor:
            nonlocal shown
            images = self._images(task, ids, protocol, autocast)
            if ids[0] == protocol.first:
                shown = images[: min(SHOWN, protocol.n)].cpu()
            return self.extractor.rows(images, outputs)

        rows = distributed.map_samples(protocol.n, protocol.chunk, look, task.device, done, protocol.first)
        ids = range(protocol.first, protocol.first + protocol.n)
        labels = task.conditioner.for_samples(ids, self.data.label_frequencies).get("label")
        return Bank(self.extractor.split(rows, outputs), labels), shown

    @staticmethod
    def _drawn(protocol: Protocol) -> int:
        """How many samples this rank drew, padding included."""
        return max(1, sum(len(ids) for ids in distributed.chunks(protocol.n, protocol.chunk)))

    def _describe(self, task: Diffusion, protocol: Protocol, reference: Reference, precision: str) -> dict[str, Any]:
        """Everything that two numbers must share to be compared, in plain values."""
        return {
            **reference.identity,
            "quantisation": QUANTISATION,
            "samples": protocol.n,
            "seed": protocol.seed,
            "first": protocol.first,
            "chunk": protocol.chunk,
            "precision": precision,
            "device": task.device.type,
            "ema": protocol.ema or task.ema.default,
            "sampler": plain(task.sampler),
            "guidance": plain(task.guidance),
        }


def held_out_likelihood(
    task: Diffusion, data: ImageData, protocol: Protocol, *, n: int, steps: int, probes: int
) -> dict[str, Value]:
    """``{"bits_per_dim_<n>": value}``: mean over the first n held-out images, with its 95 % interval over images.

    In float32 whatever the run computes in (``oboro.likelihood``). All ranks share the work and get the same answer.
    """
    images, labels = data.validation_images, data.validation_labels

    def look(ids: list[int]) -> Tensor:
        rows = torch.tensor(ids)
        batch = {"image": images[rows], **({} if labels is None else {"label": labels[rows]})}
        cond = {k: v.to(task.device) for k, v in task.conditioner.keep(batch).items()}
        pixels = batch["image"].to(task.device)
        return bits_per_dim(task.denoiser, pixels, cond, seed=protocol.seed, ids=ids, steps=steps, probes=probes)

    with task.averaged(protocol.ema):
        bits = distributed.map_samples(n, min(protocol.chunk, n), lambda ids: look(ids)[:, None], task.device)[:, 0]
    error = 1.96 * bits.std().item() / n**0.5 if n > 1 else float("nan")
    mean = bits.mean().item()
    how = f"probability-flow ODE, {steps} Runge-Kutta steps, {probes} probes, seed {protocol.seed}, held-out images"
    return {f"bits_per_dim_{n}": Value(mean, better=-1, interval=(mean - error, mean + error), how=how)}


@contextmanager
def counted(network: nn.Module) -> Iterator[Callable[[], int]]:
    """How often ``network`` is evaluated inside the context, in images: guidance and samplers hide nothing from it."""
    images = 0

    def count(module: nn.Module, inputs: tuple, output: Any) -> None:
        nonlocal images
        images += len(inputs[0])

    hook = network.register_forward_hook(count)
    try:
        yield lambda: images
    finally:
        hook.remove()


def measurement(protocol: Mapping[str, Any]) -> dict[str, Any]:
    """What two numbers must share to stand in one column: all but what is being compared (sampler, weights, …)."""
    return {k: v for k, v in protocol.items() if k not in (*SETTING, "digest")}


def digest(protocol: Mapping[str, Any]) -> str:
    """Eight hexadecimal digits that tell one measurement from another."""
    text = json.dumps(measurement(protocol), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def short(protocol: Mapping[str, Any]) -> str:
    """A protocol in one line."""
    n, real = protocol["samples"], protocol["reference_samples"]
    against = f"{real:,} " if real else ""
    if "images" in protocol:
        what, how = f"{n:,} images of {protocol['images']}@{protocol['images_fingerprint'][:6]}", ""
    else:
        first = protocol["first"]
        what = f"{n:,} samples (ids {first}-{first + n - 1}, seed {protocol['seed']})"
        how = (
            f", {protocol['sampler']}, {protocol['guidance']}, EMA {protocol['ema']}, "
            f"{protocol['precision']} on {protocol['device']}"
        )
    return (
        f"{protocol['extractor']}@{protocol['extractor_digest'][:6]}, {protocol['quantisation']}, {what} against "
        f"{against}{protocol['reference_split']}@{protocol['reference_fingerprint'][:6]}{how}"
    )


def line(evaluation: Evaluation) -> str:
    """``fd_fashion_2000 4.652 (real images 0.284), ...``."""
    texts = []
    for name, value in evaluation.values.items():
        real = "" if value.real is None else f" (real images {value.real:.4g})"
        texts.append(f"{name} {value.value:.4g}{real}")
    return ", ".join(texts)


def doubts(evaluation: Evaluation) -> list[str]:
    """Sentences about numbers that rest on too few samples, with the size of their bias where it is known."""
    said = []
    for name, value in evaluation.values.items():
        known = "" if value.real is None else f"; {value.real_n:,} real images score {value.real:.3g}"
        if value.doubt:
            said.append(f"{name}: {value.doubt}{known}. Raise n.")
        elif value.better < 0 and value.real is not None and value.real > 0.5 * value.value > 0:
            said.append(f"{name} is {value.value:.3g}{known}: most of it is the bias of few samples. Raise n.")
    return said
