"""Averages of the weights chosen after training, from snapshots of a few power-function averages.

Karras et al. 2024 (arXiv:2312.02696, sec. 3.2 and app. C). After n updates a power-function average holds the weights
of time tau in the proportion p(tau) = (gamma + 1) tau^gamma / n^{gamma + 1}, 0 < tau ≤ n; the integral of p from i - 1
to i is the share that ``oboro.ema.PowerFunction`` gives to update i. Averages are linear in their profiles, so the
combination of stored profiles that comes nearest to a profile gives the combination of stored weights that comes
nearest to its average.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from oboro.base.errors import UserError
from oboro.base.json_text import parsed
from oboro.base.tensor_file import Damaged, TensorFile, write_tensors
from oboro.ema import gamma_from_std

# |error| / |p| that is accepted. Of weights that are a slow path plus independent noise at each update, the error of
# the average is this share of the noise that the average leaves.
TOLERANCE = 0.1
WIDEST = 12**-0.5  # std of the plain mean


class Average(NamedTuple):
    """A power-function average: relative width, and the number of updates it has seen."""

    std: float
    updates: float


def inner_products(a: Sequence[Average], b: Sequence[Average]) -> Tensor:
    """∫ p_a p_b dtau for all pairs (A, B), float64; a profile is 0 after its own n.

    (gamma_a + 1) (gamma_b + 1) / (gamma_a + gamma_b + 1) (m / M)^gamma / M with m = min(n_a, n_b), M = max(n_a, n_b),
    and the gamma of the profile that ends at M (arXiv:2312.02696, app. C.3, algorithm 3).
    """
    n_a, n_b = (torch.tensor([x.updates for x in side], dtype=torch.float64) for side in (a, b))
    g_a, g_b = (torch.tensor([gamma_from_std(x.std) for x in side], dtype=torch.float64) for side in (a, b))
    n_a, g_a = n_a[:, None], g_a[:, None]
    small, large = torch.minimum(n_a, n_b), torch.maximum(n_a, n_b)
    gamma = torch.where(n_a > n_b, g_a, g_b)
    return (g_a + 1) * (g_b + 1) / (g_a + g_b + 1) * (small / large) ** gamma / large


def combine(stored: Sequence[Average], wanted: Sequence[Average]) -> tuple[Tensor, Tensor]:
    """The shares x (W, S) that minimise |sum_k x_k p_k - p|² under sum_k x_k = 1, and |sum_k x_k p_k - p| / |p| (W,).

    Float64. Algorithm 3 of arXiv:2312.02696 has no constraint; with it a weight that stood still is exactly itself. Of
    a random walk the error becomes three to seven times smaller where the fit is poor, for a residual that is larger by
    a hundredth. Solved in the least-squares sense, since two equal profiles make the system singular.
    """
    unit = max(x.updates for x in stored)
    stored, wanted = ([x._replace(updates=x.updates / unit) for x in side] for side in (stored, wanted))
    gram, mixed = inner_products(stored, stored), inner_products(stored, wanted)
    one = torch.ones(len(stored), 1, dtype=torch.float64)
    system = torch.cat([torch.cat([gram, one], 1), torch.cat([one.T, torch.zeros(1, 1)], 1)])
    right = torch.cat([mixed, torch.ones(1, len(wanted))])
    x = torch.linalg.lstsq(system, right, driver="gelsd").solution[:-1]
    norm = inner_products(wanted, wanted).diagonal()
    error = (x * (gram @ x)).sum(0) - 2 * (x * mixed).sum(0) + norm
    return x.T, (error.clamp(min=0) / norm).sqrt()


class Snapshot(NamedTuple):
    """A file with the averages of one optimizer step: the width of each by name, and the shape of every tensor."""

    path: Path
    step: int
    updates: int
    stds: dict[str, float]
    shapes: dict[str, list[int]]


def write_snapshot(
    path: Path, step: int, updates: int, stds: Mapping[str, float], averages: Mapping[str, Mapping[str, Tensor]]
) -> None:
    """``averages`` {average: {parameter: tensor}} as tensors ``average/parameter``, and the rest as JSON in the header.

    Readers see the whole file or none: it is written beside and takes its place in one rename. Raises ``OSError``.
    """
    tensors = {f"{a}/{key}": w for a in stds for key, w in averages[a].items()}
    header = {"step": step, "updates": updates, "stds": dict(stds)}
    write_tensors(path, tensors, {"snapshot": json.dumps(header)})


def read_snapshots(folder: str | Path) -> list[Snapshot]:
    """The snapshots of ``folder`` by step, tensors unread. Raises ``UserError`` for none, or a file that is not one."""
    snapshots = []
    for path in Path(folder).expanduser().glob("*.safetensors"):
        try:
            file = TensorFile(path)
            snapshot = Snapshot(path, **parsed(file.header["snapshot"]), shapes=file.shapes)
            check_snapshot(snapshot)
        except (Damaged, ValueError, TypeError, KeyError) as error:
            raise damaged(path) from error
        snapshots.append(snapshot)
    if not snapshots:
        raise UserError(
            f"there are no snapshots in {folder}; train with +callbacks=snapshots, or name the folder of such a run."
        )
    return sorted(snapshots, key=lambda snapshot: snapshot.step)


def check_snapshot(snapshot: Snapshot) -> None:
    """Raises ``ValueError`` where a header is none of ``write_snapshot``, or has other tensors than it says."""
    step, updates, stds = snapshot.step, snapshot.updates, snapshot.stds
    if not all(type(n) is int and 0 <= n < 2**63 for n in (step, updates)) or not updates or not stds:
        raise ValueError("counts")
    if not all(isinstance(std, float) and 0 < std < WIDEST for std in stds.values()):
        raise ValueError("widths")
    of_each = [{k.removeprefix(f"{a}/") for k in snapshot.shapes if k.startswith(f"{a}/")} for a in stds]
    if any(names != of_each[0] for names in of_each) or sum(map(len, of_each)) != len(snapshot.shapes):
        raise ValueError("tensors")


def reconstruct(snapshots: Sequence[Snapshot], std: float) -> dict[str, Tensor]:
    """{parameter: float32 tensor}: the power-function average of width ``std`` at the last of ``snapshots``.

    Tensors are read one after the other and summed in float64. Raises ``UserError`` where ``std`` is impossible, where
    the stored profiles cannot express it within ``TOLERANCE``, and where the files are of different models.
    """
    if not 0 < std < WIDEST:
        raise UserError(f"std={std} is no width of an average; choose one above 0 and below {WIDEST:.4f}.")
    last = snapshots[-1]
    other = [s.path for s in snapshots if (s.shapes, s.stds) != (last.shapes, last.stds)]
    if other:
        raise UserError(f"{other[0]} is of another model or ema than {last.path.name}; use a folder for each run.")
    stored = [Average(width, s.updates) for s in snapshots for width in s.stds.values()]
    (shares,), (residual,) = combine(stored, [Average(std, last.updates)])
    if residual > TOLERANCE:
        raise UserError(
            f"{len(snapshots)} snapshots up to step {last.step} cannot express std={std}, the relative error would be "
            f"{residual:.2g}; {remedy(stored, last.updates)}."
        )
    prefix = f"{next(iter(last.stds))}/"
    sums = {
        key.removeprefix(prefix): torch.zeros(shape, dtype=torch.float64)
        for key, shape in last.shapes.items()
        if key.startswith(prefix)
    }
    share = iter(shares.tolist())
    for snapshot in snapshots:
        try:
            file = TensorFile(snapshot.path)
            for average in snapshot.stds:
                x = next(share)
                for key, total in sums.items():
                    total.add_(file[f"{average}/{key}"].double(), alpha=x)
        except Damaged as error:
            raise damaged(snapshot.path) from error
    broken = next((key for key, total in sums.items() if not total.isfinite().all()), None)
    if broken is not None:
        raise UserError(f"{broken} is not finite in the snapshots of {last.path.parent}; choose an earlier step.")
    return {key: total.float() for key, total in sums.items()}


def damaged(path: Path) -> UserError:
    return UserError(f"{path} is damaged or no snapshot at all; take it out of the folder.")


def remedy(stored: Sequence[Average], now: int) -> str:
    """Which widths can be had instead, to two digits, and how to have more."""
    widths = [round(0.005 * 1.06**i, 3) for i in range(70)]
    widths = [w for w in widths if w < WIDEST]
    _, residuals = combine(stored, [Average(w, now) for w in widths])
    possible = [w for w, r in zip(widths, residuals.tolist(), strict=True) if r <= TOLERANCE]
    often = "train with a smaller callbacks.snapshots.every_n_steps"
    return f"choose std from {min(possible)} to {max(possible)}, or {often}" if possible else often


def posthoc(folder: str | Path, std: float, step: int | None = None) -> dict[str, Tensor]:
    """{parameter: float32 tensor}: the average of width ``std`` at ``step``, by default the last, from its snapshots.

    What ``PowerFunction(std)`` would hold had it been tracked; ``EMA.add`` puts it into a task. Raises ``UserError`` as
    ``read_snapshots`` and ``reconstruct`` do, and where ``step`` has no snapshot: the end of the profile weighs most.
    """
    snapshots = read_snapshots(folder)
    steps = [s.step for s in snapshots]
    if step is not None and step not in steps:
        nearest = min(steps, key=lambda s: abs(s - step))
        raise UserError(f"there is no snapshot of step {step} in {folder}; choose another step, {nearest} is nearest.")
    return reconstruct([s for s in snapshots if step is None or s.step <= step], std)
