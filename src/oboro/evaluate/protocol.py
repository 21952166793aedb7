"""What two numbers must share to be compared."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

# What a benchmark compares: entries of a protocol in which numbers of one column may differ.
COMPARED = (
    *("ema", "codec", "schedule", "sampler", "guidance", "control", "evaluations_per_sample"),
    *("data", "images", "images_fingerprint", "images_labels"),
)


@dataclass(frozen=True)
class Protocol:
    """Which samples are drawn: ids ``first`` … ``first + n - 1`` of ``seed``, in chunks, from which averaged weights.

    ``ema`` names the average, None for the first profile; ``ema_std`` is its length where no profile has it.
    """

    n: int
    seed: int = 0
    chunk: int = 100
    ema: str | None = None
    first: int = 0
    ema_std: float | None = None


def measurement(protocol: Mapping[str, Any]) -> dict[str, Any]:
    """What numbers of one column share: a protocol without what is compared (sampler, weights, …)."""
    return {k: v for k, v in protocol.items() if k not in (*COMPARED, "digest")}


def digest(protocol: Mapping[str, Any]) -> str:
    """Eight hexadecimal digits that tell one measurement from another."""
    text = json.dumps(measurement(protocol), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:8]
