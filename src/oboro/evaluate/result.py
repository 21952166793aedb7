"""What an evaluation gives: values, their protocol, the line that says them, and the file that keeps them."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import floor, log10
from pathlib import Path
from typing import Any

from torch import Tensor

from oboro.base.json_text import read_json
from oboro.base.settings import settings_text
from oboro.evaluate import version_1
from oboro.evaluate.protocol import digest
from oboro.metrics import Value

VERSION = 2  # of evaluation.json


@dataclass(frozen=True)
class Result:
    """Values by name, the protocol they were measured by, the seconds it took, the first few samples (on rank 0), and
    by name the values of baselines.

    Settings in the protocol are structured: ``{"sampler": {"name": "DDIM", "steps": 5, "eta": 0.0}, …}``.
    """

    values: Mapping[str, Value]
    protocol: Mapping[str, Any]
    seconds: float
    samples: Tensor
    baselines: Mapping[str, Mapping[str, Value]] = field(default_factory=dict)

    @property
    def numbers(self) -> dict[str, float]:
        return {name: value.value for name, value in self.values.items()}

    def plain(self) -> dict[str, Any]:
        """For JSON: ``values`` (numbers alone), ``metrics`` (all that is known of each), ``protocol``, ``seconds``, and
        where there are any ``baselines`` with what is known of each of their values."""
        baselines = {name: {k: v.plain() for k, v in values.items()} for name, values in self.baselines.items()}
        return {
            "version": VERSION,
            "values": self.numbers,
            "metrics": {name: value.plain() for name, value in self.values.items()},
            "protocol": {**self.protocol, "digest": digest(self.protocol)},
            "seconds": round(self.seconds, 3),
            **({"baselines": baselines} if baselines else {}),
        }


def read_result(path: Path) -> dict[str, Any]:
    """The plain values of an ``evaluation.json``, also of one that an older version wrote.

    Raises ``FileNotFoundError`` where there is none and ``ValueError`` where it is damaged.
    """
    result = read_json(path.read_bytes())
    if not isinstance(result, dict):
        raise ValueError("no object")
    return result if "version" in result else version_1.renewed(result)


def protocol_line(protocol: Mapping[str, Any], shown: Mapping[str, str] | None = None) -> str:
    """A protocol in one line; ``shown`` has the words to use for single entries instead of their settings."""
    n = protocol["samples"]
    text = {**_texts(protocol), **(shown or {})}
    if "images" in protocol:
        samples, drawn = f"{n:,} samples of {text['images']}", ""
        if "truth" in protocol:
            drawn = f", paired with {protocol['truth']}@{protocol['truth_fingerprint'][:6]}"
    else:
        first = protocol["first"]
        samples = f"{n:,} samples (ids {first}-{first + n - 1}, seed {protocol['seed']}){_after(protocol)}"
        schedule = f" on {text['schedule']}" if "schedule" in text else ""  # the first files do not have it
        latent = f", decoded by {text['codec']}" if "codec" in text else ""
        drawn = (
            f", {text['sampler']}{schedule}, {text['guidance']}{_controlled(protocol)}{latent}, EMA {text['ema']}, "
            f"{protocol['precision']} on {protocol['device']}"
        )
    if "extractor" not in protocol:  # paired metrics alone
        return f"{protocol['quantisation']}, {samples}{drawn}"
    real = protocol["reference_samples"]
    against = f"{real:,} " if real else ""
    return (
        f"{protocol['extractor']}@{protocol['extractor_digest'][:6]}{_learned(protocol)}, {protocol['quantisation']}, "
        f"{samples} against "
        f"{against}{protocol['reference_split']}@{protocol['reference_fingerprint'][:6]}{drawn}"
    )


def _after(protocol: Mapping[str, Any]) -> str:
    """`` after held_out conditions, 4 of each condition``: what samples are drawn after, where that is unusual."""
    texts = []
    if "conditions" in protocol:
        texts.append(f"{protocol['conditions']} conditions")
    if "draws" in protocol:
        texts.append(f"{protocol['draws']} of each condition")
    if "problem" in protocol:
        problem = protocol["problem"]
        noise = f" with noise {problem['noise']:g}" if problem["noise"] else ""
        texts.append(f"{settings_text(problem['measurement'])}{noise} of {problem['held_out']:,} held-out images")
    return f" after {', '.join(texts)}" if texts else ""


def _controlled(protocol: Mapping[str, Any]) -> str:
    """``, control of strength 0.5 at t from 0.2 to 1``: the pictures of ControlNets, by name."""
    texts = []
    for name, of in protocol.get("control", {}).items():
        low, high = of["interval"]
        times = "" if (low, high) == (0, 1) else f" at t from {low:g} to {high:g}"
        texts.append(f", {name} of strength {of['strength']:g}{times}")
    return "".join(texts)


def _learned(protocol: Mapping[str, Any]) -> str:
    """`` (10 classes, 86.4 % of 450 right)``: what an extractor says of itself that was trained for these data."""
    if "extractor_task" not in protocol:
        return ""
    share = protocol["extractor_accuracy"]
    right = f", {100 * share:.1f} % of {protocol['extractor_held_out']} right" if isinstance(share, float) else ""
    return f" ({protocol['extractor_task']}{right})"


def _texts(protocol: Mapping[str, Any]) -> dict[str, str]:
    """What a reader sees of the entries that are compared."""
    texts = {k: settings_text(protocol[k]) for k in ("schedule", "sampler", "guidance") if k in protocol}
    if "ema" in protocol:
        texts["ema"] = protocol["ema"]["name"]
    if "codec" in protocol:
        texts["codec"] = f"{protocol['codec']['name']}@{protocol['codec']['digest'][:6]}"
    if "images" in protocol:
        texts["images"] = f"{protocol['images']}@{protocol['images_fingerprint'][:6]}"
    return texts


def values_line(result: Result) -> str:
    """``fd_fashion_2000 4.652 (real images 0.284), ...``."""
    texts = []
    for name, value in result.values.items():
        real = "" if value.real is None else f" (real data {with_spread(value.real, value.real_std)})"
        texts.append(f"{name} {value.value:.4g}{real}")
    return ", ".join(texts)


def with_spread(mean: float, std: float | None, digits: int = 4) -> str:
    """``0.384 ± 0.045``: as many places as two digits of the spread take, or ``digits`` digits without one."""
    if not std:
        return f"{mean:.{digits}g}"
    places = max(0, 1 - floor(log10(std)))
    if places > 8:
        return f"{mean:.{digits}g} ± {std:.1e}"
    return f"{mean:.{places}f} ± {std:.{places}f}"


def warnings(result: Result) -> list[str]:
    """Sentences about numbers that rest on too few samples, with the size of their bias where it is known."""
    sentences = []
    remedy = "Measure more samples." if "images" in result.protocol else "Raise n."
    for name, value in result.values.items():
        score = None if value.real is None else with_spread(value.real, value.real_std, digits=3)
        real = "" if score is None else f"; {value.real_n:,} real data score {score}"
        if left_out := value.detail.get("left_out"):
            sentences.append(f"{name}: {left_out} of {result.protocol['samples']} samples have no such number.")
        if value.warning:
            sentences.append(f"{name}: {value.warning}{real}. {remedy}")
        elif value.better < 0 and value.real is not None and value.real > 0.5 * value.value > 0:
            sentences.append(f"{name} is {value.value:.3g}{real}: most of it is the bias of few samples. {remedy}")
    return sentences
