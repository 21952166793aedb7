"""Whether images show the class that they were drawn for."""

from oboro.metrics.bank import Bank
from oboro.metrics.metric import Metric, Value
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
        right = (generated["logits"].argmax(1) == generated.labels).double()
        classes = {c: right[generated.labels == c].mean().item() for c in generated.labels.unique().tolist()}
        mean = right.mean().item()
        error = 1.96 * (mean * (1 - mean) / len(right)) ** 0.5
        return {"accuracy": Value(mean, better=1, interval=(mean - error, mean + error), detail={"classes": classes})}
