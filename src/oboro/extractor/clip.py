"""CLIP embeddings of images and of texts. The network is that of the ``transformers`` library."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from oboro.base.errors import UserError
from oboro.base.memory import Parts
from oboro.base.paths import PathOrName
from oboro.base.precision import full_float32
from oboro.extractor.extractor import Extractor
from oboro.extractor.pretrained import Checkpoint, Lengths, resized, standardised

DEFAULT = "openai/clip-vit-large-patch14"
MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)  # of CLIP's training images
TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.json", "merges.txt")
TEXTS = 250  # embedded at once


class CLIP(Extractor):
    """The image embedding of CLIP (Radford et al. 2021, arXiv:2103.00020) in the space it shares with texts; final.

    It is not normalised; d = 768 of ViT-L/14. Images are resized so that the shorter side has the length that the
    network was trained on, and cropped to the square in the middle. Grey images are repeated to three channels. 162
    GFLOP an image, 382 at 336 pixels.

    ``path``: a folder, or a name on the Hugging Face hub; lengths follow the model. Published CMMD is on
    ``openai/clip-vit-large-patch14-336``. The FD-CLIP of Stein et al. 2023 (arXiv:2306.04675) is on a network trained
    on DataComp, before the projection: it does not compare.
    """

    name = "clip"
    reads_texts = True

    def __init__(self, path: PathOrName | None = None):
        super().__init__()
        self.checkpoint = Checkpoint(path or DEFAULT, "clip", TOKENIZER)
        self.outputs = Lengths(self._length)

    def _length(self) -> int:
        return self.checkpoint.setting("projection_dim")

    @property
    def resize(self) -> str:
        """How images become the network's input; the size is in the model's configuration."""
        side = self.checkpoint.setting("vision_config", "image_size")
        return f"PIL bicubic, antialiased, shorter side to {side}, rounded to 8 bits, centre {side}x{side}"

    @property
    def digest(self) -> str:
        """SHA-256 (hex) of the weights file; raises ``UserError`` where it is missing."""
        return self.checkpoint.digest

    def prepare(self) -> None:
        """Find or download the weights and check that they fit; raises ``UserError`` with the remedy otherwise."""
        self.checkpoint.fetch()
        self.load(self._device)

    def build(self) -> nn.Module:
        return self.checkpoint.load("CLIPModel")

    def forward(self, network: nn.Module, images: Tensor, outputs: Sequence[str]) -> dict[str, Tensor]:
        side = network.config.vision_config.image_size
        pixels = standardised(centred(images, side), MEAN, STD)
        return {"features": network.visual_projection(network.vision_model(pixel_values=pixels).pooler_output)}

    def embed_text(self, texts: Sequence[str]) -> Tensor:
        """Embeddings (n, d) of n texts, float32, not normalised, on the extractor's device.

        A text is cut at the network's context (77 tokens, with the marks of its begin and end), as in OpenAI's code.
        Raises ``UserError`` where the folder has no tokenizer.
        """
        if self._network is None:
            self.load(self._device)
        network, transformers = self._network, self.checkpoint.library("transformers")
        folder = self.checkpoint.find()
        if not any((folder / name).is_file() for name in ("tokenizer.json", "vocab.json")):
            raise UserError(f"{folder} has no tokenizer; copy {', '.join(TOKENIZER)} of the model there.")
        tokenizer = transformers.CLIPTokenizer.from_pretrained(folder, local_files_only=True)
        context = network.config.text_config.max_position_embeddings

        def embed(part: list[str]) -> Tensor:
            tokens = tokenizer(
                part,
                padding="max_length",  # one shape for all: shapes change the last bits
                truncation=True,
                max_length=context,
                return_tensors="pt",
            ).to(self._device)
            return network.text_projection(network.text_model(**tokens).pooler_output)

        parts = Parts()
        with torch.no_grad(), torch.autocast(self._device.type, enabled=False), full_float32():
            starts = range(0, len(texts), TEXTS)
            return torch.cat([parts.rows(embed, list(texts[start : start + TEXTS])) for start in starts])


def centred(images: Tensor, side: int) -> Tensor:
    """uint8 (B, C, H, W) -> uint8 (B, 3, side, side): the shorter side resized to ``side``, and the middle of it."""
    height, width = images.shape[-2:]
    short = min(height, width)
    height, width = side * height // short, side * width // short
    top, left = (height - side) // 2, (width - side) // 2
    return resized(images, height, width)[..., top : top + side, left : left + side]
