"""Tasks: LightningModules. The mathematics is importable and testable without them."""

from oboro.task.diffusion import Diffusion

__all__ = ["Diffusion"]
