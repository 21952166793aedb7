"""Steps that diverge are seen here, on all ranks, between the backward pass and the optimizer."""

from collections.abc import Callable, Mapping, Sequence
from math import isfinite, isinf
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from oboro.base import distributed, shards
from oboro.base.finite import first_broken
from oboro.base.json_text import json_text
from oboro.divergence import TANGENT, Divergence, Event, Record

FILE = "diverged.jsonl"
SHOWN = 5  # samples in a message


class Guard:
    """Watches over the steps of a run for ``divergence``; ``updated`` is whether the last one reached the weights."""

    def __init__(self, divergence: Divergence):
        self.divergence = divergence
        self.record = Record()
        self.updated = True
        self._seen: list[tuple[Tensor | None, Tensor]] = []  # of the micro-batches of the step: indices, losses
        self._buffers: list[tuple[Tensor, Tensor]] = []

    def begin(self, buffers: Callable[[], Sequence[Tensor]]) -> None:
        """Before the first micro-batch of a step, whose forward passes may write to ``buffers()``."""
        self._seen, self.updated = [], True
        if self.divergence.keeps_buffers:
            self._buffers = [(buffer, buffer.detach().clone()) for buffer in buffers()]

    def mean(self, losses: Tensor, index: Tensor | None) -> Tensor:
        """The mean of ``losses`` (B,), the same bits. If it is not finite, no gradient of it is: every rank sees that
        in the gradients that ranks share, without a word more between them."""
        self._seen.append((index, losses.detach()))
        loss = losses.mean()
        return loss * (loss.detach() * 0 + 1)  # 1, or NaN

    def check(self, task: Any, norms: Mapping[str, Tensor]) -> None:
        """Raises what ``divergence`` does if the step, with gradients of these ``norms`` by network, diverges."""
        tangent = getattr(getattr(task, "loss", None), "watched", {}).get("tangent_norm")
        norms = norms if tangent is None else {**norms, TANGENT: torch.as_tensor(tangent)}
        values = torch.stack([n.to(task.device, torch.float32) for n in norms.values()])
        watched = [name for name in norms if self.divergence.longest(name) is not None]
        if watched:
            values = distributed.mean(values)  # one decision, whatever the last bits
        known = dict(zip(norms, values.tolist(), strict=True))  # the one wait for the device
        broken = [name for name, norm in known.items() if name != TANGENT and not isfinite(norm)]
        spiked = self.divergence.spiked(known, self.record)
        if not broken and not spiked:
            self.record.good({name: known[name] for name in watched})
            return
        self.updated = False
        seen = self._everywhere(task, broken)
        if broken and not bad_samples(seen) and left_to_scaler(task):
            return
        self._meet(task, reason(seen, broken, spiked, known), seen)

    def check_update(self, task: Any) -> None:
        """Raises ``GoBack`` where the optimizer has made a weight NaN or infinite; whoever does not go back sees it in
        the next step, or where the weights are used or kept."""
        if not self.divergence.goes_back:
            return
        for name, learner in task.learners.items():
            if broken := first_broken(learner.named_parameters):
                self._meet(task, f"the optimizer has made weights of the {name} NaN or infinite ({broken})")

    def undo(self) -> None:
        """After a step that was left out: buffers are as before it."""
        with torch.no_grad():
            for buffer, before in self._buffers:
                buffer.copy_(before)

    def _everywhere(self, task: Any, broken: Sequence[str]) -> list[dict[str, Any]]:
        """What each rank has seen: its samples with their losses, and the weights whose gradients are not finite."""
        samples = [
            {"rank": distributed.rank(), "micro_batch": k, **sample}
            for k, (index, losses) in enumerate(self._seen)
            for sample in listed_samples(index, losses)
        ]
        own = {id(p) for name in broken for p in task.learners[name].parameters}
        weights = [
            name
            for name, p in task.named_parameters()
            if id(p) in own and p.grad is not None and not bool(shards.local(p.grad).isfinite().all())
        ]
        return distributed.from_all({"samples": samples, "weights": weights})

    def _meet(self, task: Any, what: str, seen: list[dict[str, Any]] | None = None) -> None:
        step = task.global_step + 1
        listed = self._list(task, step, what, seen if seen is not None else self._everywhere(task, ()))
        task.finish_checkpoint()
        self.divergence.meet(Event(step, what, listed, task.last_checkpoint, remedies(task)), self.record)

    def _list(self, task: Any, step: int, what: str, seen: list[dict[str, Any]]) -> Path | None:
        path = Path(task.trainer.default_root_dir) / FILE
        samples = [sample for one in seen for sample in one["samples"]]
        try:
            if distributed.rank() == 0:
                path.parent.mkdir(parents=True, exist_ok=True)
                with path.open("a") as file:
                    file.write(json_text({"step": step, "reason": what, "samples": samples}) + "\n")
        except OSError:  # a full disk is no reason to say less of what happened
            return None
        return path


def norm_of(parameters: Sequence[nn.Parameter]) -> Tensor:
    """The norm of the gradients as ``clip_grad_norm_`` computes it; those of 16 bits, which end at 65504, in 32. Of
    gradients that lie in shards on several ranks it is that of all."""
    gradients = [p.grad for p in parameters if p.grad is not None]
    return shards.total_norm([g.float() if g.dtype is torch.float16 else g for g in gradients])


def listed_samples(index: Tensor | None, losses: Tensor) -> list[dict[str, Any]]:
    """Rows of the training data and their losses; one loss for all where a loss is not per sample."""
    rows = [None] * losses.numel() if index is None else index.tolist()
    values = losses.float().flatten().tolist()
    if len(values) != len(rows):
        values = [losses.float().mean().item()] * len(rows)
    return [{"index": row, "loss": value} for row, value in zip(rows, values, strict=True)]


def bad_samples(seen: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [sample for one in seen for sample in one["samples"] if not isfinite(sample["loss"])]


def left_to_scaler(task: Any) -> bool:
    """Whether an overflow in 16 bits is the business of the gradient scaler: it leaves the step out and halves its
    factor. From 1 on the numbers themselves are too large."""
    scaler = getattr(task.trainer.precision_plugin, "scaler", None)
    return scaler is not None and scaler.get_scale() > 1


def reason(
    seen: list[dict[str, Any]], broken: Sequence[str], spiked: Mapping[str, float], norms: Mapping[str, float]
) -> str:
    """``the loss of 2 of 64 samples is NaN on rank 1 (rows 17, 45 of the training data)``."""
    bad = bad_samples(seen)
    if bad:
        kinds = " or ".join(sorted({"infinite" if isinf(sample["loss"]) else "NaN" for sample in bad}))
        total = sum(len(one["samples"]) for one in seen)
        rows = ", ".join(str(sample["index"]) for sample in bad[:SHOWN]) + (", …" if len(bad) > SHOWN else "")
        row = "rows" if len(bad) > 1 else "row"
        ranks = ", ".join(str(rank) for rank in sorted({sample["rank"] for sample in bad}))
        on = f" on rank {ranks}" if len(seen) > 1 else ""
        return f"the loss of {len(bad)} of {total} samples is {kinds}{on} ({row} {rows} of the training data)"
    if broken:
        weights = list(dict.fromkeys(name for one in seen for name in one["weights"]))
        of = " and ".join(broken)
        if weights:
            more = f" and {len(weights) - 1} more" if len(weights) > 1 else ""
            return f"the gradient of the {of} is NaN or infinite ({weights[0]}{more})"
        return f"the gradient of the {of} is too large for its norm to be a number"
    name = next(iter(spiked))
    if name == TANGENT:
        return (
            f"the tangent has the norm {norms[name]:.3g}, {norms[name] / spiked[name]:.3g} times the median of the "
            "steps before (divergence.tangent_spike)"
        )
    return (
        f"the gradient of the {name} has the norm {norms[name]:.3g}, {norms[name] / spiked[name]:.3g} times the median "
        f"of the steps before (divergence.spike)"
    )


def remedies(task: Any) -> str:
    """What keeps numbers finite."""
    precise = str(task.trainer.precision) in ("32-true", "64-true")
    return "lower optimizer.lr" if precise else "lower optimizer.lr, compute in trainer.precision=32-true"
