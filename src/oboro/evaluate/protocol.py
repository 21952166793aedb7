"""What an evaluation is: how samples are drawn, its numbers, how they were obtained, and all that in words."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from oboro.metrics import Value

SETTING = ("ema", "codec", "schedule", "sampler", "guidance", "evaluations_per_sample", "images", "images_fingerprint")


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
    """Numbers, how they were obtained, how long that took, and the first few samples (on rank 0)."""

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
        on = f" on {protocol['schedule']}" if "schedule" in protocol else ""  # files of version 0.1 do not say
        latent = f", decoded by {protocol['codec']}" if "codec" in protocol else ""
        how = (
            f", {protocol['sampler']}{on}, {protocol['guidance']}{latent}, EMA {protocol['ema']}, "
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
    sentences = []
    for name, value in evaluation.values.items():
        known = "" if value.real is None else f"; {value.real_n:,} real images score {value.real:.3g}"
        if value.doubt:
            sentences.append(f"{name}: {value.doubt}{known}. Raise n.")
        elif value.better < 0 and value.real is not None and value.real > 0.5 * value.value > 0:
            sentences.append(f"{name} is {value.value:.3g}{known}: most of it is the bias of few samples. Raise n.")
    return sentences
