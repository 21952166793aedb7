"""Adapters as small files, with the names of tensors that the library PEFT uses."""

import json
from dataclasses import dataclass
from math import isfinite
from pathlib import Path

from torch import Tensor, nn

from oboro.adapter.lora import LoRA, low_rank_layers, product
from oboro.base.errors import UserError
from oboro.base.json_text import parsed
from oboro.base.tensor_file import Damaged, TensorFile, write_tensors

PREFIX, A, B = "base_model.model.", ".lora_A.weight", ".lora_B.weight"


@dataclass(frozen=True)
class AdapterFile:
    """For each adapted layer of a network, by name, A and B with the shapes that ``LowRank`` has; and alpha / rank."""

    path: Path
    layers: dict[str, tuple[Tensor, Tensor]]
    scale: float

    def added(self, state: dict[str, Tensor], prefix: str, scale: float) -> dict[str, Tensor]:
        """``state`` with W + ``scale`` (alpha / rank) B A for the layers of the network at ``prefix``.

        Raises ``UserError`` where the file is for another network.
        """
        updated = dict(state)
        for name, (a, b) in self.layers.items():
            key = f"{prefix}{name}.weight"
            fits = key in state and (len(b), a[0].numel()) == (len(state[key]), state[key][0].numel())
            if not fits:
                raise UserError(
                    f"{self.path} adapts {name}, which is absent or of another shape in the model; use it with the "
                    "model that it was trained on."
                )
            w = state[key]
            updated[key] = (w + product(a.double(), b.double(), scale * self.scale).view_as(w)).to(w.dtype)
        return updated


def write_adapter(path: str | Path, network: nn.Module, lora: LoRA) -> None:
    """The adapters of ``network``: ``base_model.model.<layer>.lora_A.weight`` (rank, in, …), ``lora_B`` (out, rank, …).

    The header holds rank, alpha and targets. Raises ``UserError`` where there are none.
    """
    tensors = {}
    for name, layer in low_rank_layers(network):
        for suffix, part in ((A, layer.A), (B, layer.B)):
            tensors[f"{PREFIX}{name}{suffix}"] = part.weight.detach().cpu().contiguous()
    if not tensors:
        raise UserError("the checkpoint has no adapter to export; give one of a run with adapter=lora.")
    settings = {"rank": lora.rank, "alpha": lora.alpha, "targets": lora.targets}
    try:
        write_tensors(Path(path), tensors, {"format": "pt", "adapter": json.dumps(settings)})
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}; choose another folder.") from error


def read_adapter(path: str | Path) -> AdapterFile:
    """Raises ``UserError`` where there is no such file or it is none of an adapter.

    Without our header, as PEFT writes it, alpha is taken to be the rank.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise UserError(f"there is no adapter {path}; give a file that `oboro adapter export` wrote.")
    try:
        file = TensorFile(path)
        header, tensors = file.header, {key: file[key] for key in file.shapes}
    except Damaged as error:
        raise UserError(f"{path} is damaged or no safetensors file; use another one.") from error
    names = [key.removeprefix(PREFIX).removesuffix(A) for key in tensors if key.endswith(A)]
    expected = {f"{PREFIX}{name}{suffix}" for name in names for suffix in (A, B)}
    if not names or expected != set(tensors):
        raise UserError(f"{path} holds other tensors than those of a LoRA; use another file.")
    broken = next((key for key, tensor in tensors.items() if not tensor.isfinite().all()), None)
    if broken is not None:
        raise UserError(f"{path} is of a run that has diverged: {broken} is not finite; use another file.")
    layers = {name: (tensors[f"{PREFIX}{name}{A}"], tensors[f"{PREFIX}{name}{B}"]) for name in names}
    if any(a.ndim < 2 or b.ndim < 2 or b.shape[1] != len(a) for a, b in layers.values()):
        raise UserError(f"{path} has an A and a B of different ranks; it is damaged, use another file.")
    return AdapterFile(path, layers, scale_of(header, path))


def scale_of(header: dict[str, str], path: Path) -> float:
    """alpha / rank. Raises ``UserError`` for a header of ours that does not tell."""
    if "adapter" not in header:
        return 1.0
    try:
        settings = parsed(header["adapter"])
        scale = settings["alpha"] / settings["rank"]
        if not isfinite(scale):
            raise ValueError("alpha / rank is not finite")
        return scale
    except (ValueError, KeyError, TypeError, ArithmeticError) as error:
        raise UserError(f"{path} tells no alpha and rank of its adapter; use another file.") from error
