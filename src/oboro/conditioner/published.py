"""Published text encoders."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from oboro.base.paths import PathOrName
from oboro.base.ranges import CountOrNone, Width
from oboro.interop import clip_text, open_clip, t5_text
from oboro.interop.hub import Files, text_encoder_folder
from oboro.restore import State, Stored


def places(path: str, files: Files) -> tuple[Path, Path]:
    """The folders of encoder and tokenizer: those of a pipeline of diffusers, or one for both."""
    folder = text_encoder_folder(path, files)
    if (folder / "text_encoder").is_dir():
        return folder / "text_encoder", folder / "tokenizer"
    return folder, folder


@dataclass(frozen=True)
class PublishedCLIP(Stored):
    """The ``CLIPTextModel`` of transformers in ``path``/text_encoder and its tokenizer in ``path``/tokenizer, as in
    the folder of a pipeline of diffusers, or both in ``path`` itself, a folder or a name on the Hugging Face hub.

    The last ``skip`` layers are left out: what the layer before them says passes the final norm. Stable Diffusion 2
    reads the penultimate layer of its CLIP so (``skip`` = 1), the pooled vector is that of the same layer.

    Raises ``UserError`` for a folder that holds something else.
    """

    path: PathOrName
    skip: CountOrNone = 0

    def load(self) -> tuple[dict[str, Any], State]:
        return clip_text.load(*places(self.path, clip_text.FILES), self.skip)

    def config(self) -> dict[str, Any]:
        return clip_text.describe(*places(self.path, clip_text.FILES), self.skip)[0]


@dataclass(frozen=True)
class PublishedOpenCLIP(Stored):
    """The text tower of a CLIP in OpenCLIP's own files, ``open_clip_config.json`` and its weights, with a
    tokenizer.json beside them; ``path`` and ``skip`` are those of ``PublishedCLIP``.

    OpenCLIP's tokenizer fills texts up with zeros, and so it is done here. It also mends broken Unicode and HTML
    entities such as ``&amp;`` before, which is left undone.

    Raises ``UserError`` for a folder that holds something else, or towers of other layers or with other tokenizers.
    """

    path: PathOrName
    skip: CountOrNone = 0

    def load(self) -> tuple[dict[str, Any], State]:
        return open_clip.load(*places(self.path, open_clip.FILES), self.skip)

    def config(self) -> dict[str, Any]:
        return open_clip.describe(*places(self.path, open_clip.FILES), self.skip)[0]


@dataclass(frozen=True)
class PublishedT5(Stored):
    """The encoder of the T5 of transformers in ``path``, without its decoder; ``path`` is that of ``PublishedCLIP``.
    Texts are cut and padded to ``length`` tokens.

    Raises ``UserError`` for a folder that holds something else.
    """

    path: PathOrName
    length: Width = 77

    def load(self) -> tuple[dict[str, Any], State]:
        return t5_text.load(*places(self.path, t5_text.FILES), self.length)

    def config(self) -> dict[str, Any]:
        return t5_text.describe(*places(self.path, t5_text.FILES), self.length)[0]


@dataclass(frozen=True)
class PublishedEmptyText(Stored):
    """What the text encoder ``encoder`` says of the empty text, for a network to take for no text."""

    encoder: Stored

    def load(self) -> tuple[dict[str, Any], State]:
        config, state = self.encoder.load()
        made = {"_target_": "oboro.model.EmptyText", "length": config["length"], "dim": config["dim"]}
        return made, {"tokens": clip_text.empty_text(config, state)}
