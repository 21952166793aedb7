"""From the seconds of single things to those of a run."""

from dataclasses import dataclass

LATENCY = 50e-6  # seconds of one message between devices


@dataclass(frozen=True)
class Item:
    """Something that comes ``times`` times in a run and takes ``seconds`` on one device; ``shared``: each of several
    devices does its part of it."""

    name: str
    seconds: float
    times: int
    shared: bool = True

    def whole(self, devices: int = 1) -> float:
        """Seconds of all of them."""
        return self.times * self.seconds / (devices if self.shared else 1)


def all_reduce_seconds(size: int, devices: int, bandwidth: float) -> float:
    """Seconds in which ``devices`` add up gradients of ``size`` bytes in a ring: 2 (N - 1) / N size / bandwidth, and 2
    (N - 1) messages. ``bandwidth`` in bytes a second between two neighbours."""
    return 2 * (devices - 1) * (size / devices / bandwidth + LATENCY)


@dataclass(frozen=True)
class Plan:
    """A run of ``steps`` of ``batch_size`` samples on ``devices``.

    Attributes:
        step_seconds: of a step, on each device its part of the batch and the sum of the gradients.
        startup_seconds: until the first step.
        items: validation, evaluations and checkpoints.
        price: of a device for an hour; None where nobody said.
    """

    steps: int
    batch_size: int
    devices: int
    step_seconds: float
    startup_seconds: float
    items: tuple[Item, ...]
    price: float | None = None

    @property
    def training_seconds(self) -> float:
        return self.steps * self.step_seconds

    @property
    def evaluation_seconds(self) -> float:
        return sum(item.whole(self.devices) for item in self.items)

    @property
    def seconds(self) -> float:
        """Of the whole run."""
        return self.startup_seconds + self.training_seconds + self.evaluation_seconds

    @property
    def images_per_second(self) -> float:
        """Of training alone, as ``callbacks.Throughput`` counts them."""
        return self.batch_size / self.step_seconds

    @property
    def cost(self) -> float | None:
        return None if self.price is None else self.price * self.devices * self.seconds / 3600

    @property
    def advice(self) -> list[str]:
        """What is out of proportion, with the remedy."""
        outweighs = self.evaluation_seconds > self.training_seconds and self.items
        if not outweighs:
            return []
        most = max(self.items, key=lambda item: item.whole(self.devices))
        share = most.whole(self.devices) / self.training_seconds
        return [
            f"{most.name} takes {share:.1f} times as long as training: let it come less often (every_n_steps), or "
            "look at fewer samples (n, sampler.steps)."
        ]
