"""A published text encoder."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from oboro.stored import State, Stored


def read(path: str) -> tuple[dict[str, Any], State]:
    """Configuration and weights of the ``CLIPText`` of ``path``/text_encoder and ``path``/tokenizer, or of ``path``."""
    from oboro.interop import clip_text  # which imports networks, and they conditions

    folder = Path(path).expanduser()
    if (folder / "text_encoder").is_dir():
        return clip_text.load(folder / "text_encoder", folder / "tokenizer")
    return clip_text.load(folder, folder)


@dataclass(frozen=True)
class PublishedCLIP(Stored):
    """The ``CLIPTextModel`` of transformers in ``path``/text_encoder and its tokenizer in ``path``/tokenizer, as in
    the folder of a pipeline of diffusers, or both in ``path`` itself.

    Raises ``UserError`` for a folder that holds something else.
    """

    path: str

    def part(self) -> tuple[dict[str, Any], State]:
        return read(self.path)


@dataclass(frozen=True)
class PublishedEmptyText(Stored):
    """What the text encoder of ``PublishedCLIP`` says of the empty text, for a network to take for no text."""

    path: str

    def part(self) -> tuple[dict[str, Any], State]:
        from oboro.interop.clip_text import empty_text

        config, state = read(self.path)
        made = {"_target_": "oboro.model.EmptyText", "length": config["length"], "dim": config["dim"]}
        return made, {"tokens": empty_text(config, state)}
