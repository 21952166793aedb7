"""What an evaluation gives: values, their protocol, the line that says them, and the file that keeps them."""

from collections.abc import Mapping
from dataclasses import dataclass
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
    """Values by name, the protocol they were measured by, the seconds it took, and the first few samples (on rank 0).

    Settings in the protocol are structured: ``{"sampler": {"name": "DDIM", "steps": 5, "eta": 0.0}, …}``.
    """

    values: Mapping[str, Value]
    protocol: Mapping[str, Any]
    seconds: float
    samples: Tensor

    @property
    def numbers(self) -> dict[str, float]:
        return {name: value.value for name, value in self.values.items()}

    def plain(self) -> dict[str, Any]:
        """For JSON: ``values`` (numbers alone), ``metrics`` (all that is known of each), ``protocol``, ``seconds``."""
        return {
            "version": VERSION,
            "values": self.numbers,
            "metrics": {name: value.plain() for name, value in self.values.items()},
            "protocol": {**self.protocol, "digest": digest(self.protocol)},
            "seconds": round(self.seconds, 3),
        }


def read_result(path: Path) -> dict[str, Any]:
    """The plain values of an ``evaluation.json``, also of one that an older version wrote.

    Raises ``FileNotFoundError`` where there is none and ``json.JSONDecodeError`` where it is damaged.
    """
    result = read_json(path.read_text())
    return result if "version" in result else version_1.renewed(result)


def protocol_line(protocol: Mapping[str, Any], shown: Mapping[str, str] | None = None) -> str:
    """A protocol in one line; ``shown`` has the words to use for single entries instead of their settings."""
    n, real = protocol["samples"], protocol["reference_samples"]
    against = f"{real:,} " if real else ""
    text = {**_texts(protocol), **(shown or {})}
    if "images" in protocol:
        samples, drawn = f"{n:,} samples of {text['images']}", ""
    else:
        first = protocol["first"]
        samples = f"{n:,} samples (ids {first}-{first + n - 1}, seed {protocol['seed']})"
        schedule = f" on {text['schedule']}" if "schedule" in text else ""  # the first files do not have it
        latent = f", decoded by {text['codec']}" if "codec" in text else ""
        drawn = (
            f", {text['sampler']}{schedule}, {text['guidance']}{latent}, EMA {text['ema']}, "
            f"{protocol['precision']} on {protocol['device']}"
        )
    return (
        f"{protocol['extractor']}@{protocol['extractor_digest'][:6]}, {protocol['quantisation']}, {samples} against "
        f"{against}{protocol['reference_split']}@{protocol['reference_fingerprint'][:6]}{drawn}"
    )


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
        real = "" if value.real is None else f" (real data {value.real:.4g})"
        texts.append(f"{name} {value.value:.4g}{real}")
    return ", ".join(texts)


def warnings(result: Result) -> list[str]:
    """Sentences about numbers that rest on too few samples, with the size of their bias where it is known."""
    sentences = []
    for name, value in result.values.items():
        real = "" if value.real is None else f"; {value.real_n:,} real data score {value.real:.3g}"
        if value.warning:
            sentences.append(f"{name}: {value.warning}{real}. Raise n.")
        elif value.better < 0 and value.real is not None and value.real > 0.5 * value.value > 0:
            sentences.append(f"{name} is {value.value:.3g}{real}: most of it is the bias of few samples. Raise n.")
    return sentences
