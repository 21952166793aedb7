"""Codecs: data ↔ latent."""

from oboro.codec.identity import Identity
from oboro.codec.trained import Trained

__all__ = ["Identity", "Trained"]
