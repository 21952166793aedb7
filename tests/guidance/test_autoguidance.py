import pytest
import torch

from oboro.condition import Condition, Label
from oboro.denoiser import Denoiser
from oboro.denoiser.exact import GaussianDenoiser
from oboro.guidance import Autoguidance
from oboro.guidance.weight import Interval
from oboro.parameterization import EDM
from oboro.sampler import DDIM
from oboro.schedule import VP, Linear

pytestmark = pytest.mark.usefixtures("global_generator_unread")

T = torch.tensor([0.9, 0.5, 0.2], dtype=torch.float64)
COND = Condition.of(label=Label(torch.tensor([0, 1, 2])))


@pytest.fixture
def pair(small_unet):
    """A denoiser and another one with other weights, on another schedule."""
    return (
        Denoiser(small_unet(num_classes=3, seed=seed), schedule, EDM()).requires_grad_(False)
        for seed, schedule in ((0, Linear()), (1, VP()))
    )


def test_scale_extrapolates_from_the_weak_through_the_strong_model(pair, normal):
    strong, weak = pair
    x_t = normal(3, 1, 8, 8)
    weak_answer, answer = weak.reschedule(strong.schedule)(x_t, T, COND), strong(x_t, T, COND)
    for scale in (0.0, 1.0, 1.7):
        guided = Autoguidance(weak, scale)(strong, [])
        torch.testing.assert_close(guided(x_t, T, COND), weak_answer + scale * (answer - weak_answer))
        assert guided.schedule is strong.schedule


def test_the_weak_model_is_asked_where_the_weight_is_not_zero(normal):
    class Loud(GaussianDenoiser):
        def forward(self, x_t, t, cond):
            asked.append(cond)
            return super().forward(x_t, t, cond)

        def reschedule(self, schedule):
            return self

    asked, schedule = [], Linear()
    guided = Autoguidance(Loud(0.0, 1.0, schedule), 2.0, Interval(0.5, 2.0))(GaussianDenoiser(0.0, 1.0, schedule), [])
    for t in (0.9, 0.5, 0.2):
        guided(normal(2, 1), torch.full((2,), t, dtype=torch.float64), COND)
    assert asked == [COND]


def test_samples_leave_what_the_weak_model_blurs(normal):
    """Data N(1, 0.5²), and a weak model that holds them for N(1, 1): guided samples keep the mean and are narrower."""

    class Blurred(GaussianDenoiser):
        def reschedule(self, schedule):
            return Blurred(self.mean, self.std, schedule)

    schedule, sampler = VP(), DDIM(64)
    strong, weak = GaussianDenoiser(1.0, 0.5, schedule), Blurred(1.0, 1.0, Linear())
    x_T = schedule.prior(normal(4000, 1))
    plain, guided = (
        sampler(Autoguidance(weak, scale)(strong, sampler.nodes(schedule)), x_T, Condition(), None)
        for scale in (1.0, 1.5)
    )
    assert plain.std() == pytest.approx(0.5, abs=0.03)
    assert guided.mean() == pytest.approx(1.0, abs=0.03) and guided.std() < 0.75 * plain.std()


def test_a_weak_model_without_labels_is_asked_without_them(small_unet, normal):
    weak = Denoiser(small_unet(num_classes=0, seed=1), VP(), EDM()).requires_grad_(False)
    strong, x_t = Denoiser(small_unet(num_classes=3), Linear(), EDM()).requires_grad_(False), normal(3, 1, 8, 8)
    alone = Autoguidance(weak, 0.0)(strong, [])(x_t, T, COND)
    torch.testing.assert_close(alone, weak.reschedule(Linear())(x_t, T, Condition()))
