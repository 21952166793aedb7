"""The 2015 TensorFlow Inception network, through torch-fidelity: the features that "FID" stands for."""

import hashlib
import io
import os
import re
import tempfile
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from types import MappingProxyType

import torch
from torch import Tensor, nn

from oboro.base.errors import UserError
from oboro.base.paths import LocalPath
from oboro.extractor.extractor import Extractor, file_digest
from oboro.interop.state import read_tensors

TIMEOUT = 30.0  # seconds without a byte
PIECE, LARGEST = 2**18, 2**29  # bytes; the published file has 96 million


class Inception(Extractor):
    """torch-fidelity's Inception-v3 port, the only network whose distance is a FID; final.

    ``features``: the pooled ones (d = 2048). ``logits``: 1008 without the bias of the last layer, as the Inception
    score takes them. ``spatial``: the first 7 channels of the 17 x 17 map that the 1 x 1 branch of block ``mixed_6``
    gives (d = 2023), those of sFID (Nash et al. 2021, arXiv:2103.03841; the choice of layer is that of the evaluator of
    guided-diffusion).

    Equal to torch-fidelity, and to torchmetrics with ``antialias=False``, up to the summation order of convolutions
    (weights are kept channels-last: 1.4 times faster on a CPU, 1e-6 apart). Grey images are repeated to three channels.
    11.4 GFLOP an image.

    Weights: ``weights_path``, else the torch hub cache (``$TORCH_HOME/hub/checkpoints``), else ``prepare`` downloads
    them there from torch-fidelity's release. The file is read as plain tensors only; pickled code in it is refused.
    """

    name = "inception"
    outputs = MappingProxyType({"features": 2048, "logits": 1008, "spatial": 7 * 17 * 17})
    resize = "TensorFlow 1 bilinear (no antialias, no half-pixel shift) to 299x299"
    published = MappingProxyType({"fd": "fid", "sfd": "sfid", "kd": "kid", "score": "is", "sw": "mind"})

    def __init__(self, weights_path: LocalPath | None = None):
        super().__init__()
        self._given = Path(weights_path).expanduser() if weights_path else None

    @property
    def path(self) -> Path:
        """Where the weights file is or belongs."""
        return self._given or Path(torch.hub.get_dir()) / "checkpoints" / weights_url().rsplit("/", 1)[1]

    @property
    def digest(self) -> str:
        """SHA-256 (hex) of the weights file; raises ``UserError`` where it is missing."""
        if not self.path.is_file():
            raise self._missing("not found")
        return file_digest(self.path)

    def prepare(self) -> None:
        """Find or download the weights and check that they fit; raises ``UserError`` with the remedy otherwise."""
        if not self.path.is_file():
            if self._given is not None:
                raise self._missing("not found")
            try:
                download(weights_url(), self.path)
            except OSError as error:
                raise self._missing(f"the download failed: {error}") from error
        self.load(self._device)

    def build(self) -> nn.Module:
        if not self.path.is_file():
            raise self._missing("not found")
        return build(self.path)

    def forward(self, network: nn.Module, images: Tensor, outputs: Sequence[str]) -> dict[str, Tensor]:
        answers: dict[str, Tensor] = {}

        def keep(layer: nn.Module, inputs: tuple, output: Tensor) -> None:
            answers["spatial"] = output[:, :7].flatten(1)

        hook = network.Mixed_6d.branch1x1.register_forward_hook(keep)
        try:
            answers["features"], answers["logits"] = network(images.expand(-1, 3, -1, -1))
        finally:
            hook.remove()
        return answers

    def _missing(self, reason: str) -> UserError:
        return UserError(
            f"the Inception weights for FID are missing ({reason}): put {weights_url()} at {self.path}, or choose "
            "extractor=fashion (its weights ship with the package, for Fashion-MNIST) or metrics=[] (unmeasured)"
        )


def weights_url() -> str:
    """The release address that torch-fidelity downloads from."""
    from torch_fidelity.feature_extractor_inceptionv3 import URL_INCEPTION_V3

    return URL_INCEPTION_V3


def download(url: str, path: Path) -> None:
    """Copy ``url`` to ``path`` by one rename of a whole file; ``OSError`` where that fails."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, partial = tempfile.mkstemp(dir=path.parent, suffix=".partial")
    try:
        with os.fdopen(handle, "wb") as file, urllib.request.urlopen(url, timeout=TIMEOUT) as response:
            received, digest = 0, hashlib.sha256()
            while piece := response.read(PIECE):
                received += len(piece)
                if received > LARGEST:
                    raise OSError(f"more than {LARGEST:,} bytes arrived")
                digest.update(piece)
                file.write(piece)
            named = re.search(r"-([0-9a-f]{8})\.pth$", url)  # the name has the beginning of the digest
            if named and not digest.hexdigest().startswith(named[1]):
                raise OSError("another file than the published one arrived")
            announced = response.headers.get("Content-Length")
            if announced is not None and file.tell() != int(announced):
                raise OSError(f"{file.tell()} of {announced} bytes arrived")
        os.replace(partial, path)
    except BaseException:
        Path(partial).unlink(missing_ok=True)
        raise


def build(path: Path) -> nn.Module:
    """torch-fidelity's network with the weights of ``path``, in evaluation mode, channels-last, on the CPU.

    torch-fidelity unpickles its weights file without restriction. So the file is read here with ``weights_only=True``,
    and torch-fidelity is given the bytes that we write from the tensors in it.
    """
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    remedy = f"delete {path} and fetch it again from {weights_url()}"
    buffer = io.BytesIO()
    try:
        torch.save(read_tensors(path), buffer)
    except UserError as error:
        raise UserError(f"{str(error).partition(';')[0]}: {remedy}") from error
    buffer.seek(0)
    try:
        network = FeatureExtractorInceptionV3(
            "inception-v3-compat", ["2048", "logits_unbiased"], feature_extractor_weights_path=buffer
        )
    except RuntimeError as error:
        raise UserError(f"{path} does not hold the weights of the Inception network of FID: {remedy}") from error
    return network.to(memory_format=torch.channels_last)
