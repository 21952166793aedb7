"""How Lightning starts the ranks of a machine: by its own commands, under our care (``oboro.cli.ranks``)."""

from typing import Any

from lightning.fabric.strategies.launchers.subprocess_script import _SubprocessScriptLauncher as OfFabric
from lightning.pytorch.strategies.launchers.subprocess_script import _SubprocessScriptLauncher as OfTrainer

from oboro.base.remark import notice
from oboro.cli.ranks import look_after, port_if_free


class Careful:
    """A launcher whose processes ``look_after`` has, and Lightning's observer has not: it kills without a word."""

    procs: list[Any]

    def _call_children_scripts(self) -> None:
        super()._call_children_scripts()
        started, self.procs = self.procs, []
        look_after(started)


class TrainerLauncher(Careful, OfTrainer):
    """Of a ``lightning.Trainer``."""


class FabricLauncher(Careful, OfFabric):
    """Of a ``lightning.Fabric``."""


def care_for(strategy: Any) -> None:
    """Let the launcher of ``strategy``, before it launches, be one of ours if it starts the ranks by commands."""
    theirs = strategy.launcher
    for ours in (TrainerLauncher, FabricLauncher):
        if type(theirs) in ours.__bases__:
            strategy._launcher = ours(theirs.cluster_environment, theirs.num_processes, theirs.num_nodes)
            if line := port_if_free():
                notice(line)
