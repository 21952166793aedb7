"""Sweeps: every job a process of its own, an account of all of them in ``jobs.json``, one table at the end.

Nothing here imports torch, so that a script which only sends out jobs starts at once.
"""

from oboro.sweep.job import Job
from oboro.sweep.run import run
from oboro.sweep.sweep import Options, Sweep

__all__ = ["Job", "Options", "Sweep", "run"]
