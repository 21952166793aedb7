"""The 2015 TensorFlow Inception network, through torch-fidelity: the features that "FID" stands for."""

import io
import os
import shutil
import tempfile
import urllib.request
from pathlib import Path

import torch
from torch import Tensor, nn

from oboro.errors import UserError
from oboro.metrics.extractor import Extractor, exact, file_digest, require_images

TIMEOUT = 30.0  # seconds without a byte


class Inception(Extractor):
    """Pooled features (d = 2048) of torch-fidelity's Inception-v3 port, the only ones whose distance is a FID; final.

    Equal to the features of torch-fidelity, and of torchmetrics with ``antialias=False``, up to the summation order of
    convolutions (weights are kept channels-last: 1.4 times faster on a CPU, 1e-6 apart). Grey images are repeated to
    three channels. 11.4 GFLOP an image.

    Weights: ``weights_path``, else the torch hub cache (``$TORCH_HOME/hub/checkpoints``), else ``prepare`` downloads
    them there from torch-fidelity's release. The file is read as plain tensors only; pickled code in it is refused.
    """

    name = "inception"
    metric_prefix = "fid_inception"
    dim = 2048
    resize = "TensorFlow 1 bilinear (no antialias, no half-pixel shift) to 299x299"

    def __init__(self, weights_path: str | None = None):
        self._given = Path(weights_path) if weights_path else None
        self._network: nn.Module | None = None
        self._device = torch.device("cpu")

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

    def load(self, device: torch.device | str) -> None:
        """Read the weights (once) and put them on ``device``; never downloads."""
        if self._network is None:
            if not self.path.is_file():
                raise self._missing("not found")
            self._network = build(self.path)
        self._device = torch.device(device)
        self._network.to(self._device)

    def __call__(self, images: Tensor) -> Tensor:
        """Features (B, 2048), float32, of uint8 ``images`` (B, C, H, W)."""
        require_images(images)
        if self._network is None:
            self.load(images.device)
        with exact(self._device):
            (features,) = self._network(images.to(self._device).expand(-1, 3, -1, -1))
        return features

    def _missing(self, reason: str) -> UserError:
        return UserError(
            f"the Inception weights for FID are missing ({reason}): put {weights_url()} at {self.path}, or choose "
            "metrics=frechet_fashion (its weights ship with the package, for Fashion-MNIST) or metrics=unmeasured"
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
            shutil.copyfileobj(response, file)
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
    and torch-fidelity is given the bytes that we write from the tensors found in it.
    """
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    remedy = f"delete {path} and fetch it again from {weights_url()}"
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load answers damage with half a dozen types
        raise UserError(f"{path} is not a file of plain tensors ({type(error).__name__}): {remedy}") from error
    if not isinstance(state, dict) or not all(type(k) is str and type(v) is Tensor for k, v in state.items()):
        raise UserError(f"{path} is not a state dict of tensors: {remedy}")
    buffer = io.BytesIO()
    torch.save(dict(state), buffer)
    buffer.seek(0)
    try:
        network = FeatureExtractorInceptionV3("inception-v3-compat", ["2048"], feature_extractor_weights_path=buffer)
    except RuntimeError as error:
        raise UserError(f"{path} does not hold the weights of the Inception network of FID: {remedy}") from error
    return network.to(memory_format=torch.channels_last)
