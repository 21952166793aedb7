"""Callbacks: one event, one output each. A callback says when, a function elsewhere says what."""

from oboro.callbacks.checkpoints import Checkpoints
from oboro.callbacks.latent_cache import LatentCache
from oboro.callbacks.latent_statistics import LatentStatistics
from oboro.callbacks.progress import Progress
from oboro.callbacks.reconstruction_metrics import ReconstructionMetrics
from oboro.callbacks.reconstructions import Reconstructions
from oboro.callbacks.sample_grid import SampleGrid
from oboro.callbacks.sample_metrics import SampleMetrics
from oboro.callbacks.snapshots import Snapshots
from oboro.callbacks.summary import Summary
from oboro.callbacks.text_cache import TextCache
from oboro.callbacks.throughput import Throughput

__all__ = [
    "Checkpoints",
    "LatentCache",
    "LatentStatistics",
    "Progress",
    "ReconstructionMetrics",
    "Reconstructions",
    "SampleGrid",
    "SampleMetrics",
    "Snapshots",
    "Summary",
    "TextCache",
    "Throughput",
]
