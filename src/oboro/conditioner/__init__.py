"""Conditioners: batch to condition. Dropping happens per sample, for training only."""

from oboro.conditioner.label import Label
from oboro.conditioner.unconditional import Unconditional

__all__ = ["Label", "Unconditional"]
