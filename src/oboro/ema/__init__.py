"""Averages of weights: tracked in training, or put together from snapshots afterwards."""

from oboro.ema.ema import EMA, ConstantDecay, PowerFunction, Profile, gamma_from_std

__all__ = ["EMA", "ConstantDecay", "PowerFunction", "Profile", "gamma_from_std"]
