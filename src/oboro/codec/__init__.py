"""Codecs: data ↔ latent."""

from oboro.codec.identity import Identity

__all__ = ["Identity"]
