"""What is measured beside samples, and draws: pictures that need no model, held against direct computations."""

import pytest
import torch
from torch.nn.functional import avg_pool2d, interpolate

import runs
from oboro.base.errors import UserError
from oboro.conditioner import Label, Unconditional
from oboro.evaluate.baselines import Baselines
from oboro.evaluate.drawn_after import DrawnAfter
from oboro.evaluate.evaluator import Evaluator
from oboro.evaluate.held_out import HeldOut
from oboro.evaluate.protocol import Protocol
from oboro.evaluate.result import protocol_line
from oboro.extractor import Fashion
from oboro.guidance import DDNM
from oboro.measurement import Downsample, MaskBox
from oboro.metrics import PSNR, Accuracy, Consistency, Diversity, EdgeF1, Frechet, KnownKept
from oboro.modality import from_uint8, to_uint8
from oboro.report.table import gain_lines
from ranks import on_ranks

LABEL = Label(10)
IDS = [0, 1, 2, 3, 4]


@pytest.fixture(scope="module")
def parts():
    _, task, data = runs.built()
    data.setup()
    task.guidance = DDNM()
    return task, data


@pytest.fixture(scope="module")
def data(parts):
    return parts[1]


@pytest.fixture(scope="module")
def train(data):
    return from_uint8(data.train.samples[torch.arange(len(data.train))])


def beside(data, name, measurement, conditioner=LABEL, noise=0.0):
    """The baseline, the truth, and the measurement of ``IDS``."""
    problem = HeldOut(data, measurement, noise)
    made = Baselines([name], DrawnAfter(data, problem=problem), data)
    made.check(conditioner, made.after.known(conditioner))
    return made.images(name, conditioner, IDS), from_uint8(problem.truth(IDS)), problem.measured(IDS)


def test_a_copy_is_what_was_measured_as_a_picture(data):
    images, truth, _ = beside(data, "copy", Downsample(4))
    blocks = to_uint8(interpolate(avg_pool2d(truth, 4), scale_factor=4))
    assert (images.int() - blocks.int()).abs().max() <= 1  # a mean of sixteen levels may lie between two
    images, truth, measured = beside(data, "copy", MaskBox())
    assert torch.equal(images, to_uint8(torch.where(measured.operator.mask, truth, 0.0)))


def test_a_smaller_picture_is_enlarged(data):
    images, truth, _ = beside(data, "bicubic", Downsample(4))
    enlarged = interpolate(avg_pool2d(truth, 4), (28, 28), mode="bicubic", align_corners=False)
    assert (images.int() - to_uint8(enlarged).int()).abs().max() <= 1
    with pytest.raises(UserError, match=r"baselines=\[bicubic\] enlarges a smaller picture and the condition shows no"):
        beside(data, "bicubic", MaskBox())


def test_the_mean_is_that_of_the_class_where_it_is_known(data, train):
    images, truth, measured = beside(data, "mean", MaskBox())
    for i, label in enumerate(data.validation.labels[:5]):
        mean = train[data.train.labels == label].mean(0)
        expected = torch.where(measured.operator.mask[i], truth[i], mean)
        assert (images[i].int() - to_uint8(expected).int()).abs().max() <= 1
    noisy, *_ = beside(data, "mean", MaskBox(), noise=0.1)
    assert (noisy[0] == noisy[[int(i) for i in IDS if data.validation.labels[i] == data.validation.labels[0]]]).all()


@pytest.mark.parametrize("measurement", [MaskBox(), Downsample(7)])
def test_the_nearest_training_image_is_that_of_the_nearest_measurement(data, train, measurement):
    """One by one: each mask leaves other pixels to compare."""
    images, truth, measured = beside(data, "nearest", measurement)
    for i in range(5):
        one = measured.rows([i])
        distances = (one.operator(train) - one.y).square().sum((1, 2, 3))
        expected = train[distances.argmin()]
        if one.operator.known is not None:
            expected = torch.where(one.operator.known[0], truth[i], expected)
        assert torch.equal(images[i], to_uint8(expected))


METRICS = {
    "frechet": Frechet(),
    "accuracy": Accuracy(),
    "psnr": PSNR(["all", "hole", "outside"]),
    "known_kept": KnownKept(),
    "consistency": Consistency(),
    "edge_f1": EdgeF1(),
    "diversity": Diversity("hole"),
}


def evaluated(task, data, metrics=METRICS, baselines=("copy", "mean", "shuffled"), chunk=6):
    problem = HeldOut(data, MaskBox(14, 14))
    evaluator = Evaluator(Fashion(), metrics, data, problem=problem, draws=2, baselines=baselines)
    evaluator.check(evaluator.known(task), 12)
    return evaluator, evaluator.evaluate(task, Protocol(n=12, chunk=chunk), precision="32-true")


@pytest.fixture(scope="module")
def found(parts):
    return evaluated(*parts)


def test_samples_and_baselines_go_through_the_same_metrics(parts, found):
    """Of a DDNM that keeps what it knows; a picture drawn twice from one measurement, which copies do not differ in."""
    task, data = parts
    evaluator, result = found
    numbers = result.numbers
    assert numbers["known_kept_12"] == 1 and numbers["psnr_outside_12"] == pytest.approx(106.02, abs=0.01)
    assert numbers["consistency_12"] == numbers["psnr_outside_12"] and numbers["diversity_hole_12"] > 0
    assert numbers["psnr_12"] == pytest.approx(
        numbers["psnr_hole_12"] + 10 * torch.tensor(4.0).log10().item(), abs=0.01
    )
    copies = evaluator.baselines.images("copy", task.conditioner, range(12))
    truth = from_uint8(data.validation.samples[torch.arange(12) // 2])
    mse = (from_uint8(copies) - truth).double().square().mean((1, 2, 3))
    copy = result.baselines["copy"]
    assert copy["psnr_12"].value == pytest.approx((10 * (4 / mse).log10()).mean().item(), abs=1e-4)
    assert copy["diversity_hole_12"].value == 0 and {"fd_fashion_12", "accuracy_fashion_12"} <= copy.keys()
    gain = copy["psnr_12"].detail["gain"]
    assert gain["value"] == pytest.approx(numbers["psnr_12"] - copy["psnr_12"].value, abs=1e-4)
    assert gain["interval"][0] < gain["value"] < gain["interval"][1]
    assert any(line.startswith("samples above copy: psnr_12 ") for line in gain_lines(result))
    assert result.plain()["baselines"]["copy"]["psnr_12"]["value"] == copy["psnr_12"].value


def test_shuffled_samples_are_held_against_the_next_condition(parts, found):
    """No sample is drawn for it, and features have no part in it."""
    _, data = parts
    evaluator, result = found
    shuffled = result.baselines["shuffled"]
    assert not any("fashion" in name for name in shuffled) and shuffled["known_kept_12"].value < 0.9
    after = evaluator.after
    own, other = (after.given(LABEL, [4, 5], later) for later in (0, 1))
    rows = data.validation.samples[torch.tensor([2, 2, 3, 3])]
    assert torch.equal(torch.cat([own.truth, other.truth]), from_uint8(rows))


def test_the_protocol_says_what_samples_were_drawn_after(parts, found):
    _, result = found
    protocol = result.protocol
    assert protocol["draws"] == 2 and protocol["problem"]["measurement"]["name"] == "MaskBox"
    assert "2 of each condition" in protocol_line(protocol) and "MaskBox(height=14" in protocol_line(protocol)
    alone = evaluated(*parts, {"psnr": PSNR()}, ())[1]
    assert "extractor" not in alone.protocol and protocol_line(alone.protocol).startswith("uint8 round, 12 samples")
    assert alone.numbers["psnr_12"] == result.numbers["psnr_12"]


def test_what_means_nothing_to_the_conditions_is_refused(parts):
    _, data = parts

    def refusal(conditioner, name="copy", **settings):
        after = DrawnAfter(data, **settings)
        with pytest.raises(UserError) as caught:
            Baselines([name], after, data).check(conditioner, after.known(conditioner))
        return str(caught.value)

    assert refusal(LABEL).startswith("baselines=[copy] is for samples that are drawn after pictures, and these are not")
    assert refusal(Unconditional(), draws=2).startswith("draws: the model has no condition")
    assert refusal(Unconditional(), conditions="held_out").startswith("conditions=held_out: the model has no")


def on_each(rank: int, folder) -> None:
    import lightning

    fabric = lightning.Fabric(accelerator="cpu", devices=2, strategy="ddp")
    fabric.launch()
    torch.save(both(), folder / f"{rank}.pt")


def both():
    _, task, data = runs.built()
    data.setup()
    task.guidance = DDNM()
    result = evaluated(task, data, baselines=("nearest", "shuffled"), chunk=5)[1].plain()
    return {key: result[key] for key in ("metrics", "baselines")}


@pytest.mark.slow
def test_values_are_equal_on_one_and_two_ranks(tmp_path):
    """To the last bit, those of samples and of baselines, with chunks that part the draws of a condition."""
    on_ranks(2, on_each, tmp_path)
    alone = both()
    assert len(alone["baselines"]) == 2
    for rank in range(2):
        assert torch.load(tmp_path / f"{rank}.pt", weights_only=True) == alone
