"""ADD against its formulas written out, one sample and one head at a time."""

import torch

from loss.opponents import NOTHING, Affine, Exact, Teaches
from oboro.classifier import NoisyClassifier
from oboro.loss import ADD, time
from oboro.loss.features import Classifier, Perceptual
from oboro.loss.perceptual import Fashion
from oboro.model import UNetEncoder
from oboro.sampler import DDIM
from oboro.schedule import Linear, expand_as

MEAN, STD = 0.1, 0.4


def classifier() -> Classifier:
    torch.manual_seed(0)
    network = UNetEncoder(1, 3, channels=8, channel_mult=[1, 2], blocks=1, attention_levels=[1], attention_pool=False)
    return Classifier(NoisyClassifier(network, Linear())).double().eval().requires_grad_(False)


def built(**settings) -> ADD:
    torch.manual_seed(1)
    return ADD(Teaches(Exact(MEAN, STD)), classifier(), time.Uniform(), **settings).double()


def images(seed: int, n: int = 3) -> torch.Tensor:
    return torch.randn(n, 1, 8, 8, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) / 2


def test_the_heads_learn_by_the_hinge_loss_and_the_slope_of_each_at_real_features():
    loss, x, made = built(r1=0.3), images(0), images(1)
    terms = loss.of_opponents(x, made, NOTHING, torch.Generator())
    (one, hinge), (weight, r1) = terms["discriminator"], terms["r1"]
    assert (one, weight) == (1.0, 0.3)
    for i in range(len(x)):
        expected, slopes = 0.0, 0.0
        for head, f, g in zip(
            loss.heads.heads, loss.features(x[i : i + 1]), loss.features(made[i : i + 1]), strict=True
        ):
            f = f.clone().requires_grad_()
            logit = head(f)
            (slope,) = torch.autograd.grad(logit, f)
            expected += max(0.0, 1 - logit.item()) + max(0.0, 1 + head(g).item())
            slopes += slope.square().sum().item()
        torch.testing.assert_close(hinge[i].item(), expected)
        torch.testing.assert_close(r1[i].item(), slopes)
    weights = [p for p in loss.heads.parameters() if p.ndim > 1]
    assert all(g.abs().max() > 0 for g in torch.autograd.grad(r1.sum(), weights))


def test_the_student_lowers_the_logits_distance_and_the_teacher_is_a_constant():
    loss, made = built(distillation=2.0), images(2).requires_grad_()
    terms = loss.of_learned(images(0), made, NOTHING, generator := torch.Generator().manual_seed(4))
    logits = sum(head(f) for head, f in zip(loss.heads.heads, loss.features(made), strict=True))
    torch.testing.assert_close(terms["generator"][1], -logits)
    generator.manual_seed(4)
    x_t, level = loss.drawn_level(loss.teacher.denoiser, made.detach(), generator)
    apart = made - Exact(MEAN, STD)(x_t, level.t, NOTHING)
    weight, distance = terms["distillation"]
    assert weight == 2.0
    torch.testing.assert_close(distance, level.alpha * apart.square().mean((1, 2, 3)))
    (ours,) = torch.autograd.grad(distance.sum(), made, retain_graph=True)
    torch.testing.assert_close(ours, 2 * expand_as(level.alpha, made) * apart.detach() / 64)
    (slope,) = torch.autograd.grad(terms["generator"][1].sum(), made, retain_graph=True)
    assert slope.abs().min() > 0
    assert all(p.grad is None for p in loss.features.parameters())


def test_the_objective_of_a_student_that_is_not_due_is_that_of_the_heads():
    loss, x = built(), images(0)
    student = Affine(MEAN, STD)
    terms = loss(student, DDIM(1), x, NOTHING, torch.Generator().manual_seed(0), False)
    assert set(terms.numbers) == {"discriminator", "r1"}
    assert torch.autograd.grad(terms.objective.sum(), list(student.parameters()), allow_unused=True) == (None, None)


def test_validation_is_the_distance_of_one_step_from_the_teacher():
    """0 for a student that gives what the teacher makes of anything: data that are a point."""
    loss = ADD(Teaches(Exact(MEAN, 1e-9)), classifier(), time.Uniform()).double()
    u, eps = torch.tensor([0.2, 0.5, 0.8], dtype=torch.float64), images(5)
    near, far = (loss.at_quantile(Affine(m, 0.0), images(0), NOTHING, u, eps) for m in (MEAN, MEAN + 1))
    assert near.max() < 1e-12
    torch.testing.assert_close(far, 1 - u)


def test_features_of_a_classifier_are_the_activations_that_it_has_at_data():
    features, x = classifier(), images(0)
    kept = []
    network = features.classifier.network
    for stage in (network.down[0], network.down[2], network.middle[-1]):
        stage.register_forward_hook(lambda module, inputs, h: kept.append(h))
    given = features(x)
    network(x, torch.full((3,), -2.5, dtype=torch.float64), {})
    assert [f.shape[1] for f in given] == list(features.channels)
    for ours, theirs in zip(given, kept[3:], strict=True):
        torch.testing.assert_close(ours, theirs)


def test_features_of_a_distance_are_those_that_it_compares():
    """And say by which extractor a model that has learned from them must not be judged."""
    features = Perceptual(Fashion())
    features.check(1)
    x, y = (torch.rand(2, 1, 28, 28, generator=torch.Generator().manual_seed(i)) * 2 - 1 for i in (0, 1))
    assert [f.shape[1] for f in features(x)] == list(features.channels)
    unit = [[f / f.norm(dim=1, keepdim=True).clamp(min=1e-4) for f in features(image)] for image in (x, y)]
    by_hand = sum((a - b).square().sum(1).mean((1, 2)) for a, b in zip(*unit, strict=True))
    torch.testing.assert_close(features.distance(x, y), by_hand, rtol=1e-3, atol=1e-4)
    assert features.seen_by == "Fashion"
