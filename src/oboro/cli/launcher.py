"""How Lightning starts the ranks of a machine: by its own commands, under our care (``oboro.cli.ranks``)."""

from typing import Any

from lightning.fabric.strategies.launchers.subprocess_script import _SubprocessScriptLauncher as OfFabric
from lightning.pytorch.strategies.launchers.subprocess_script import _SubprocessScriptLauncher as OfTrainer

from oboro.base.remark import notice
from oboro.cli.ranks import leave_taken_port, prepare_environment, supervise


class Careful:
    """A launcher whose processes we ``supervise`` in the place of Lightning's observer, which kills without a word."""

    procs: list[Any]

    def _call_children_scripts(self) -> None:
        prepare_environment()
        super()._call_children_scripts()
        started, self.procs = self.procs, []
        supervise(started)


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
            if line := leave_taken_port():
                notice(line)
