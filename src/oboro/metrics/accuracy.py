"""Whether images show the class that they were drawn for."""

from oboro.metrics.bank import Bank
from oboro.metrics.metric import Metric, Value
from oboro.metrics.nearest import checked
from oboro.metrics.reference import Reference


class Accuracy(Metric):
    """Share of the images that the extractor's classifier assigns to their own label; final.

    The classification accuracy score of Ravuri & Vinyals 2019 (arXiv:1905.10887) the other way round: here the
    classifier has learned from real images. Its own error on these is the value beside it. Labels have to be numbered
    as the classifier's outputs are. ``detail["classes"]`` has the share of each class.
    """

    outputs = ("logits",)
    labelled = True
    least = 1

    def __call__(self, generated: Bank, reference: Reference) -> dict[str, Value]:
        (logits,) = checked(generated["logits"])
        right = (logits.argmax(1) == generated.labels).double()
        classes = {c: right[generated.labels == c].mean().item() for c in generated.labels.unique().tolist()}
        mean = right.mean().item()
        interval = wilson_interval(mean, len(right))
        return {"accuracy": Value(mean, better=1, interval=interval, detail={"classes": classes})}


def wilson_interval(share: float, n: int, z: float = 1.96) -> tuple[float, float]:
    """The 95 % interval of a probability of which ``share`` was seen in ``n`` trials; within [0, 1] (Wilson 1927)."""
    centre = (share + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * (share * (1 - share) / n + z**2 / (4 * n**2)) ** 0.5
    return centre - half, centre + half
