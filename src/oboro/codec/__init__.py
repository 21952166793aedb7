"""Codecs: data ↔ latent."""

from oboro.codec.autoencoder import Autoencoder
from oboro.codec.codec import Codec
from oboro.codec.diffusers import Diffusers
from oboro.codec.identity import Identity
from oboro.codec.learned import Learned
from oboro.codec.tiled import Tiled
from oboro.codec.tiny_autoencoder import TinyAutoencoder
from oboro.codec.vq_autoencoder import VQAutoencoder

__all__ = ["Autoencoder", "Codec", "Diffusers", "Identity", "Learned", "Tiled", "TinyAutoencoder", "VQAutoencoder"]
