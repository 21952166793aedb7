"""Networks of the ``transformers`` library as extractors: where their files are, and how they want images."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from oboro.base.errors import UserError
from oboro.base.json_text import parsed
from oboro.extractor.extractor import file_digest
from oboro.interop import hub

CONFIG, WEIGHTS = "config.json", "model.safetensors"


class Checkpoint:
    """A model of the ``transformers`` library: a local folder, or a name on the Hugging Face hub; final.

    ``path`` is a folder with ``config.json`` and ``model.safetensors`` if there is one of that name, else a name on the
    hub, whose files lie in the hub's cache (``$HF_HOME/hub``) once they have been fetched. Only safetensors are read,
    never pickles, and no code that comes with a model is run. ``kind`` is the type of model that the configuration has
    to state; ``extras`` are files to be fetched besides these two. Nothing is read or imported before it is needed.
    """

    def __init__(self, path: str, kind: str, extras: Sequence[str] = ()):
        self.path = path
        self.kind = kind
        self.extras = tuple(extras)

    def find(self) -> Path:
        """The folder; raises ``UserError`` where it lacks one of the two files. Asks no network."""
        folder = Path(self.path).expanduser()
        folder = hub.unpacked(folder, CONFIG) if folder.is_dir() else self._snapshot(local_files_only=True)
        if absent := [name for name in (CONFIG, WEIGHTS) if not (folder / name).is_file()]:
            raise self._missing(f"{folder} has no {' and no '.join(absent)}")
        return folder

    def fetch(self) -> None:
        """Download what is not there yet; raises ``UserError`` with the remedy where that fails."""
        try:
            self.find()
        except UserError:
            if Path(self.path).expanduser().is_dir():
                raise
            self._snapshot(local_files_only=False)
            self.find()

    @property
    def digest(self) -> str:
        """SHA-256 (hex) of the weights file; raises ``UserError`` where it is missing."""
        return file_digest(self.find() / WEIGHTS)

    def setting(self, *keys: str) -> Any:
        """One value of ``config.json``; raises ``UserError`` if the file is of another kind of model or lacks it."""
        path = self.find() / CONFIG
        try:
            value = parsed(path.read_text(encoding="utf-8"))
            kind = value["model_type"]
            for key in keys:
                value = value[key]
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"{path} has no {'.'.join(keys)}; get the folder again.") from error
        if kind != self.kind:
            raise UserError(f"{path} is of a model of type {kind}; give the folder or name of a {self.kind} model.")
        return value

    def load(self, model: str) -> nn.Module:
        """``transformers.<model>`` with all its weights, float32, on the CPU.

        Raises ``UserError`` where the library is not installed or the file does not hold every weight; the library
        itself would go on with random numbers.
        """
        self.setting("model_type")
        path = self.find() / WEIGHTS
        transformers = self.library("transformers")
        bars = transformers.utils.logging
        shown = bars.is_progress_bar_enabled()
        bars.disable_progress_bar()
        try:
            network, report = getattr(transformers, model).from_pretrained(
                path.parent, local_files_only=True, use_safetensors=True, dtype=torch.float32, output_loading_info=True
            )
        except Exception as error:  # the library answers damage with half a dozen types
            raise self._unfit(path, type(error).__name__) from error
        finally:
            if shown:
                bars.enable_progress_bar()
        if report["missing_keys"]:
            raise self._unfit(path, f"no {min(report['missing_keys'])}")
        return network

    def library(self, name: str) -> ModuleType:
        """``transformers`` or what comes with it; raises ``UserError`` where it is not installed."""
        try:
            return import_module(name)
        except ImportError as error:
            raise UserError(
                f'the extractor {self.kind} needs the library transformers; pip install "oboro[{self.kind}]".'
            ) from error

    def _snapshot(self, local_files_only: bool) -> Path:
        try:
            return hub.snapshot(self.path, [CONFIG, WEIGHTS, *self.extras], local_files_only)
        except LookupError as error:
            raise self._missing(str(error)) from error

    def _missing(self, reason: str) -> UserError:
        return UserError(
            f"the weights of the extractor {self.kind} are missing ({reason}); connect to the network and run again, "
            f"or set extractor.path to a folder with the model's {CONFIG} and {WEIGHTS}."
        )

    def _unfit(self, path: Path, reason: str) -> UserError:
        return UserError(
            f"{path} does not hold the weights of the {self.kind} model that its {CONFIG} describes ({reason}); "
            "get the folder again."
        )


class Lengths(Mapping[str, int]):
    """``{"features": length}`` where the length is read when it is needed, but the name is known before; final."""

    def __init__(self, read: Callable[[], int]):
        self._read = read

    def __getitem__(self, output: str) -> int:
        if output != "features":
            raise KeyError(output)
        return self._read()

    def __contains__(self, output: object) -> bool:
        return output == "features"

    def __iter__(self) -> Iterator[str]:
        return iter(("features",))

    def __len__(self) -> int:
        return 1


def resized(images: Tensor, height: int, width: int) -> Tensor:
    """uint8 (B, C, H, W), C = 1 or 3 -> uint8 (B, 3, height, width) on the same device, by PIL's bicubic filter.

    PIL works image by image on the CPU, and in integers, so every device gives the same bits.
    """
    arrays = images.expand(-1, 3, -1, -1).permute(0, 2, 3, 1).cpu().numpy()
    pictures = [Image.fromarray(array).resize((width, height), Image.Resampling.BICUBIC) for array in arrays]
    return torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).to(images.device)


def standardised(images: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """uint8 (B, 3, H, W) -> (images / 255 - mean) / std, float32."""
    pixels = images.float() / 255
    return (pixels - pixels.new_tensor(mean).view(3, 1, 1)) / pixels.new_tensor(std).view(3, 1, 1)
