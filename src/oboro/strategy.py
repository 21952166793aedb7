"""How the ranks of a run share the work, beyond what Lightning has."""

from collections.abc import Mapping
from typing import Any

from lightning import LightningModule, Trainer
from lightning.pytorch.strategies import ModelParallelStrategy, StrategyRegistry
from torch.optim import Optimizer

from oboro.base import shards
from oboro.base.errors import UserError
from oboro.restore.lightning_file import Way
from oboro.task import Task
from oboro.task.learner import Together

PRECISIONS = ("32-true", "bf16-mixed")


class FSDP2(ModelParallelStrategy):
    """Fully sharded data parallel: each rank keeps 1/world of the weights, their averages, their gradients and the
    optimizer's state, and gathers the weights of a block when it computes with it.

    Zhao et al. 2023 (arXiv:2304.11277), in the form of torch's ``fully_shard``. The batch is shared as by DDP, and so
    a run is that of DDP to within rounding. Frozen parts, such as a codec, are whole on every rank, and so are the
    averaged weights of the network while samples are drawn and in validation. Checkpoints are those of one device, or,
    with ``callbacks.checkpoints.sharded``, each rank writes its part.

    Raises ``UserError`` for a task whose network is not called as a whole, and a precision that needs a gradient
    scaler.
    """

    strategy_name = "fsdp2"

    def __init__(self, **settings: Any):
        super().__init__(save_distributed_checkpoint=False, **settings)

    def setup_environment(self) -> None:
        self._data_parallel_size, self._tensor_parallel_size = self.num_nodes * self.num_processes, 1
        super().setup_environment()

    def shard(self, task: Task) -> None:
        """Share the learned networks out. What else the task trains is whole on every rank."""
        if not task.sharded:
            raise UserError(
                f"trainer.strategy=fsdp2 knows no network of {type(task).__name__} to shard; choose "
                "trainer.strategy=ddp."
            )
        for network in task.sharded:
            shards.shard(network, self.device_mesh["data_parallel"], task.whole)

    def setup(self, trainer: Trainer) -> None:
        if str(trainer.precision) not in PRECISIONS:
            raise UserError(
                f"trainer.strategy=fsdp2 has no gradient scaler, which {trainer.precision} needs; set "
                f"trainer.precision to {' or '.join(PRECISIONS)}."
            )
        # Lightning validates in inference mode, whose tensors training cannot use later.
        trainer.fit_loop.epoch_loop.val_loop.inference_mode = False
        super().setup(trainer)

    @property
    def _task(self) -> LightningModule:
        assert self.lightning_module is not None
        return self.lightning_module

    def lightning_module_state_dict(self) -> dict[str, Any]:
        """Of shards; ``save_checkpoint`` makes them whole, together with what callbacks and the task add."""
        shards.apart(self._task)
        return self._task.state_dict()

    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        return super(ModelParallelStrategy, self).optimizer_state(optimizer)

    def save_checkpoint(self, checkpoint: dict[str, Any], filepath: Any, storage_options: Any = None) -> None:
        if isinstance(storage_options, Way) and storage_options.sharded:
            self.checkpoint_io.save_checkpoint(checkpoint, filepath, storage_options)
            return
        whole = shards.gathered(checkpoint, keep=self.is_global_zero)
        super(ModelParallelStrategy, self).save_checkpoint(whole, filepath, storage_options)

    @property
    def lightning_restore_optimizer(self) -> bool:
        return True

    def load_checkpoint(self, checkpoint_path: Any, weights_only: bool | None = None) -> dict[str, Any]:
        return super(ModelParallelStrategy, self).load_checkpoint(checkpoint_path, weights_only)

    def load_model_state_dict(self, checkpoint: Mapping[str, Any], strict: bool = True) -> None:
        here = dict(self._task.named_parameters(remove_duplicate=False))
        state = {name: shards.sharded_as(v, here.get(name, v)) for name, v in checkpoint["state_dict"].items()}
        self._task.load_state_dict(state, strict=strict)

    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        for optimizer, state in zip(self.optimizers, checkpoint["optimizer_states"], strict=True):
            optimizer.load_state_dict(sharded_state(optimizer, state))


def sharded_state(optimizer: Optimizer, state: Mapping[str, Any]) -> dict[str, Any]:
    """``state`` of an optimizer with each tensor that is as large as its parameter laid out as that is."""
    if isinstance(optimizer, Together):
        states = state["networks"]
        own = {name: sharded_state(o, states[name]) for name, o in optimizer.optimizers.items() if name in states}
        return {"networks": {**states, **own}}
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    places = [place for group in state["param_groups"] for place in group["params"]]
    kept = {
        place: {
            key: shards.sharded_as(value, p) if getattr(value, "shape", None) == p.shape else value
            for key, value in state["state"][place].items()
        }
        for place, p in zip(places, parameters, strict=True)
        if place in state["state"]
    }
    return {**state, "state": kept}


StrategyRegistry.register(FSDP2.strategy_name, FSDP2, "Fully sharded data parallel (FSDP2)")
