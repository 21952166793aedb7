"""Students that read the scale of guidance: what teachers answer them, what they learn, and what they may be asked."""

from typing import ClassVar

import pytest
import torch
from torch import nn

from loss.test_flow_maps import mean_flow, network_of
from oboro.base.errors import UserError
from oboro.condition import Condition, GuidanceScale, Label
from oboro.denoiser import Denoiser
from oboro.guidance import MMPS, Autoguidance, ClassifierFree, Embedded
from oboro.guidance.embedded import at_scale
from oboro.parameterization import V, Velocity
from oboro.schedule import Cosine, Linear, expand_as
from oboro.task.guidance_scale import drawn
from oboro.teacher import Teacher

SCALES = torch.tensor([1.0, 3.0, 7.5], dtype=torch.float64)
COND = Condition.of(label=Label(torch.tensor([0, 2, -1])))


class Classes(nn.Module):
    """F = c x + b_label (1 + c_noise), and b_0 without a label; exactly linear in what guidance combines."""

    reads: ClassVar = {"label": Label}

    def forward(self, x, c_noise, signals):
        shift = torch.tensor([0.1, -0.7, 0.4, 1.3], dtype=x.dtype)  # without a label, and of three classes
        label = signals["label"].index if "label" in signals else torch.full(c_noise.shape, -1)
        return 0.8 * x + expand_as(shift[label + 1] * (1 + c_noise), x)


class GuidedClasses(Classes):
    """The same under classifier-free guidance of the scale that it reads."""

    reads: ClassVar = {"label": Label, "guidance_scale": GuidanceScale}

    def forward(self, x, c_noise, signals):
        with_label, without = super().forward(x, c_noise, signals), super().forward(x, c_noise, {})
        return without + expand_as(signals["guidance_scale"].value, x) * (with_label - without)


def teaching(network, schedule=None, **settings):
    teacher = Teacher("teacher.ckpt", **{"guidance": ClassifierFree(1.0), "guidance_scales": [1, 8], **settings})
    teacher.denoiser = Denoiser(network, schedule or Linear(), Velocity())  # in the place of what a file has
    return teacher


@pytest.fixture
def asked(normal):
    return normal(3, 1, 4, 4), torch.tensor([0.2, 0.5, 0.9], dtype=torch.float64)


def test_a_teacher_answers_each_sample_at_its_own_scale(asked, randomise):
    """As guidance of that scale does alone, with a network of ours; one that reads the scale is not guided again."""
    x, t = asked
    network = network_of(randomise, reads_end=False)
    cond = at_scale(COND, SCALES)
    found = teaching(network).on(Cosine(), x)(x, t, cond)
    denoiser = Denoiser(network, Cosine(), Velocity())
    for i, scale in enumerate(SCALES.tolist()):
        alone = ClassifierFree(scale)(denoiser, [])(x[i : i + 1], t[i : i + 1], COND.rows([i]))
        torch.testing.assert_close(found[i : i + 1], alone)
    student = Denoiser(GuidedClasses(), Linear(), Velocity())
    own = teaching(GuidedClasses()).on(Linear(), x)(x, t, cond)
    torch.testing.assert_close(own, student(x, t, cond), rtol=0, atol=0)
    torch.testing.assert_close(own, teaching(Classes()).on(Linear(), x)(x, t, cond))


def test_the_guided_model_is_what_students_learn(asked, normal):
    """A student that is its guided teacher at every scale has no loss; one that does not read it has."""
    x, _ = asked
    u, eps = torch.tensor([0.3, 0.6, 0.8], dtype=torch.float64), normal(3, 1, 4, 4)
    student = Denoiser(GuidedClasses(), Linear(), Velocity())
    loss = mean_flow(share=0.0, teacher=teaching(Classes()))
    assert loss.at_quantile(student, x, at_scale(COND, SCALES), u, eps).max() < 1e-24
    plain = Denoiser(Classes(), Linear(), Velocity())
    of_plain = loss.at_quantile(Blind(plain), x, at_scale(COND, SCALES), u, eps)
    assert (of_plain[1] > 1e-2) and of_plain[[0, 2]].max() < 1e-24  # scale 1, and no label: nothing is guided


class Blind:
    """A denoiser that does not see the scale of the condition."""

    def __init__(self, denoiser):
        self.denoiser, self.schedule, self.parameterization = denoiser, denoiser.schedule, denoiser.parameterization

    def __call__(self, x_t, t, cond, *end):
        return self.denoiser(x_t, t, cond.only("label"))

    def towards(self, alpha, sigma):
        return self

    def combined(self, x_t, t, cond, p, q):
        return self.denoiser.combined(x_t, t, cond.only("label"), p, q)

    def reschedule(self, schedule):
        return Blind(self.denoiser.reschedule(schedule))


def test_mean_flow_of_several_scales_is_that_of_each(asked, normal, randomise):
    """With a network that reads the scale and has learned nothing of it yet."""
    x, _ = asked
    u, eps = torch.tensor([0.3, 0.6, 0.8], dtype=torch.float64), normal(3, 1, 4, 4)
    denoiser = Denoiser(network_of(randomise, reads_guidance_scale=True), Linear(), Velocity())
    nn.init.zeros_(denoiser.network.guidance_scale.mlp[-1].weight)
    nn.init.zeros_(denoiser.network.guidance_scale.mlp[-1].bias)
    found = mean_flow(guidance_scales=[1, 8]).at_quantile(denoiser, x, at_scale(COND, SCALES), u, eps)
    for i, scale in enumerate(SCALES.tolist()):
        alone = mean_flow(guidance_scale=scale).at_quantile(
            denoiser, x[i : i + 1], COND.rows([i]), u[i : i + 1], eps[i : i + 1]
        )
        torch.testing.assert_close(found[i : i + 1], alone, rtol=1e-9, atol=1e-12)


def test_embedded_guidance_is_one_evaluation_at_its_scale(asked):
    """What classifier-free guidance makes of two; without a word the scale is 1."""
    x, t = asked
    student, teacher = (Denoiser(network, Cosine(), V()) for network in (GuidedClasses(), Classes()))
    guided = Embedded(3.0)(student, [])
    torch.testing.assert_close(guided(x, t, COND), ClassifierFree(3.0)(teacher, [])(x, t, COND))
    torch.testing.assert_close(student(x, t, COND), teacher(x, t, COND))


def test_scales_are_drawn_evenly_and_only_where_there_are_some(asked):
    loss = mean_flow(teacher=teaching(Classes(), guidance_scales=[9, 3]))
    u = torch.tensor([0.0, 0.5, 1.0])
    assert drawn(loss, COND, u).signals["guidance_scale"].value.tolist() == [3, 6, 9]
    assert drawn(mean_flow(), COND, u) is COND


@pytest.mark.parametrize(
    "wrong, reason",
    [
        ({"guidance": ClassifierFree(2.0)}, r"guidance_scales=\[1, 8\] and loss.teacher.guidance.scale=2 both say"),
        ({"guidance": Autoguidance(None)}, "are those of classifier-free guidance and Autoguidance is another"),
    ],
    ids=["two scales", "another guidance"],
)
def test_a_teacher_is_guided_by_one_thing(wrong, reason):
    with pytest.raises(UserError, match=reason):
        teaching(Classes(), **wrong)
    with pytest.raises(UserError, match=r"guided by loss\.teacher already"):
        mean_flow(teacher=teaching(Classes()), guidance_scales=[1, 2])


def test_a_scale_inside_of_guidance_by_a_measurement_is_asked_for():
    assert MMPS(inside=Embedded(3.0)).learned_scale == 3.0 and MMPS().learned_scale is None
