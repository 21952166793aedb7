"""Optimizers with their learning-rate schedule: ``lr * warm-up(step) * decay(step / max_steps)``."""

from oboro.optimizer.adam import Adam, AdamW, AdamW8bit, RAdam
from oboro.optimizer.decay import Constant, CosineDecay, Decay, LinearDecay, StableDecay
from oboro.optimizer.muon import Muon
from oboro.optimizer.optimizer import Optimizer

__all__ = [
    "Adam",
    "AdamW",
    "AdamW8bit",
    "Constant",
    "CosineDecay",
    "Decay",
    "LinearDecay",
    "Muon",
    "Optimizer",
    "RAdam",
    "StableDecay",
]
