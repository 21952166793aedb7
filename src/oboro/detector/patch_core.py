"""The distance of features of patches from those of normal patches."""

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from oboro.base.errors import UserError
from oboro.base.ranges import Count, CountOrNone, Share
from oboro.base.seeding import generator
from oboro.condition import Condition
from oboro.detector.detector import Detector, Normals, Pictures
from oboro.loss.features import Features
from oboro.modality import Image, Modality
from oboro.task import Generation, Task

CHUNK = 64  # pictures whose features are computed at once
PROJECTED = 128  # dimensions in which the coreset is chosen, as in the paper


class PatchCore(Detector):
    """The distance of each patch's features from the nearest of a memory of normal patches, (B, 1, H, W): Roth et al.
    2022 (arXiv:2106.08265, sec. 3.1-3.3), without the weight of eq. 7.

    The features are those of the ``layers`` of ``features``, all if None; of each the mean over ``neighbourhood``²
    places around, enlarged to the size of the first and laid beside each other. With ``features`` None they are the
    activations of the checkpoint's denoiser at ``time``, without noise (in the manner of Baranchuk et al. 2022,
    arXiv:2112.03126). The memory is a greedy coreset (eq. 5) of ``share`` of the patches of ``samples`` training
    samples, chosen in a random projection to 128 dimensions. Nothing is generated: what diffusion is to be compared
    with.
    """

    learns = True

    def __init__(
        self,
        features: Features | None = None,
        layers: Sequence[CountOrNone] | None = None,
        neighbourhood: Count = 3,
        share: Share = 0.01,
        samples: Count = 200,
        time: Share = 0.1,
        seed: CountOrNone = 0,
    ):
        if neighbourhood % 2 == 0:
            raise UserError(
                f"a patch has a place in its middle; set detector.neighbourhood={neighbourhood} to an odd number."
            )
        self.features = features
        self.layers = None if layers is None else list(layers)
        self.neighbourhood = neighbourhood
        self.share = share
        self.samples = samples
        self.time = time
        self.seed = seed
        self._memory = torch.empty(0)

    @property
    def needs(self) -> str | None:
        return "denoiser" if self.features is None else None

    @property
    def names(self) -> Sequence[str]:
        return ["patch distance"]

    def check(self, task: Task | None, modality: Modality) -> None:
        if not isinstance(modality, Image):
            raise UserError(f"patches are of pictures and these are {modality.noun}; choose another detector.")
        if self.features is not None:
            self.features.check(modality.shape[0])
        elif isinstance(task, Generation) and not hasattr(task.denoiser.network, "features"):
            raise UserError(
                f"{type(task.denoiser.network).__name__} has no levels whose activations could be compared; choose a "
                "checkpoint of model=unet, or detector=patch_core_fashion or patch_core_vgg."
            )

    def to(self, device: torch.device) -> None:
        if self.features is not None:
            self.features.to(device)
        self._memory = self._memory.to(device)

    def patches(self, task: Task | None, x: Tensor, cond: Condition) -> Tensor:
        """The features (B, d, h, w) of the patches of ``x`` (B, C, H, W)."""
        if self.features is not None:
            maps = self.features(x)
        else:
            assert isinstance(task, Generation)
            t = torch.full((len(x),), self.time, device=x.device)
            z = task.codec.encode(x).float()
            alpha = task.denoiser.schedule(t)[0]
            maps = task.denoiser.features(alpha.view(-1, 1, 1, 1) * z, t, task.seen(cond))
        if self.layers is not None:
            if max(self.layers) >= len(maps):
                raise UserError(f"there are layers 0 to {len(maps) - 1}; set detector.layers to some of these.")
            maps = [maps[k] for k in self.layers]
        side, size = self.neighbourhood, maps[0].shape[-2:]
        pooled = [F.avg_pool2d(m.float(), side, stride=1, padding=side // 2, count_include_pad=False) for m in maps]
        return torch.cat([F.interpolate(m, size, mode="bilinear", align_corners=False) for m in pooled], 1)

    @torch.no_grad()
    def fit(self, task: Task | None, normals: Normals, modality: Modality) -> None:
        g = generator(self.seed, "patches")
        rows = torch.randperm(len(normals), generator=g)[: self.samples]
        device = next((p.device for p in task.parameters()), None) if task is not None else None
        found = []
        for chunk in rows.split(CHUNK):
            x = modality.to_model(normals[chunk].to(device or "cpu"))
            features = self.patches(task, x, Condition())
            found.append(features.movedim(1, -1).flatten(0, 2).cpu())
        patches = torch.cat(found)
        count = max(1, round(self.share * len(patches)))
        self._memory = patches[coreset(patches, count, g)].to(device or "cpu")

    def state(self) -> Mapping[str, Tensor]:
        return {"memory": self._memory.cpu()}

    def load(self, state: Mapping[str, Tensor]) -> None:
        self._memory = state["memory"]

    @torch.no_grad()
    def __call__(self, task: Task | None, pictures: Pictures) -> Tensor:
        features = self.patches(task, pictures.x, pictures.cond)
        near = torch.stack([nearest(one.flatten(1).T, self._memory).view(one.shape[1:]) for one in features])
        return F.interpolate(near[:, None], pictures.x.shape[-2:], mode="bilinear", align_corners=False)


def nearest(rows: Tensor, memory: Tensor) -> Tensor:
    """The distance (n,) of each of ``rows`` (n, d) from the nearest of ``memory`` (m, d)."""
    with torch.autocast(rows.device.type, enabled=False):  # a difference of nearly equal numbers
        return torch.cdist(rows.float(), memory).amin(1)


def coreset(rows: Tensor, count: int, g: torch.Generator) -> Tensor:
    """The numbers (count,) of ``rows`` (n, d) that the greedy k-center algorithm chooses: each the farthest from all
    before it, the first at random; distances are those of a random projection to 128 dimensions."""
    if rows.shape[1] > PROJECTED:
        with torch.autocast(rows.device.type, enabled=False):
            rows = rows @ (torch.randn(rows.shape[1], PROJECTED, generator=g) / PROJECTED**0.5)
    chosen = torch.randint(len(rows), (1,), generator=g)
    far = torch.full((len(rows),), torch.inf)
    numbers = [chosen]
    for _ in range(count - 1):
        far = torch.minimum(far, (rows - rows[numbers[-1]]).square().sum(1))
        numbers.append(far.argmax()[None])
    return torch.cat(numbers)
