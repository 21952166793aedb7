"""Samples compared with what they were drawn after: formulas, regions, and how sure a mean is."""

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter
from scipy.optimize import linear_sum_assignment
from torch.nn.functional import avg_pool2d

from oboro.base.errors import UserError
from oboro.hint.edges import sobel
from oboro.measurement import Downsample
from oboro.metrics import (
    LPIPS,
    PSNR,
    SSIM,
    Consistency,
    Diversity,
    EdgeF1,
    Given,
    Groups,
    KnownKept,
    Observation,
    PairedView,
    PerceptualFashion,
)
from oboro.metrics.clustered import clustered_mean
from oboro.metrics.edge_f1 import edge_f1, thin_edges
from oboro.modality import Image, Series

MOST = 106.0206  # dB: 10 log10(4 / 1e-10)
REGIONS = ["all", "hole", "outside"]


@pytest.fixture
def pair(rng):
    """Pictures and noisy ones, (4, 3, 20, 24), of which a box of 6 × 8 is not known."""
    truth = torch.rand(4, 3, 20, 24, generator=rng) * 2 - 1
    x = (truth + 0.2 * torch.randn(truth.shape, generator=rng)).clamp(-1, 1)
    known = torch.ones(4, 1, 20, 24, dtype=torch.bool)
    known[:, :, 5:11, 9:17] = False
    return x, Given(truth, known)


def reference_ssim(x, y):
    """Wang et al. 2004, eq. 13, on windows that SciPy weighs; of images (H, W) in [-1, 1]."""

    def local(image):
        return gaussian_filter(image, 1.5, truncate=3.5, mode="mirror")

    mean_x, mean_y = local(x), local(y)
    var_x, var_y, cov = local(x * x) - mean_x**2, local(y * y) - mean_y**2, local(x * y) - mean_x * mean_y
    c1, c2 = (0.01 * 2) ** 2, (0.03 * 2) ** 2
    return (2 * mean_x * mean_y + c1) * (2 * cov + c2) / ((mean_x**2 + mean_y**2 + c1) * (var_x + var_y + c2))


def test_psnr_and_ssim_are_those_of_the_literature(pair):
    x, given = pair
    for i, (a, b) in enumerate(zip(x.double().numpy(), given.truth.double().numpy(), strict=True)):
        maps = np.stack([reference_ssim(p, q) for p, q in zip(a, b, strict=True)])
        hole = ~given.known[i, 0].numpy()
        ssim = SSIM(REGIONS).rows(x, given)[i]
        expected = [maps.mean(), maps[:, hole].mean(), maps[:, ~hole].mean()]
        assert ssim.tolist() == pytest.approx(expected, abs=1e-6)
        psnr = 10 * np.log10(2**2 / ((a - b) ** 2).mean())
        assert PSNR().rows(x, given)[i].item() == pytest.approx(psnr, abs=1e-5)


def test_regions_weigh_to_the_whole(pair):
    x, given = pair
    psnr = PSNR(REGIONS)
    assert psnr.names == ["psnr", "psnr_hole", "psnr_outside"] and psnr.needs == {"truth", "hole"}
    mse = 4 * 10 ** (-psnr.rows(x, given) / 10)
    share = (~given.known).double().mean((1, 2, 3))
    assert torch.allclose(mse[:, 0], share * mse[:, 1] + (1 - share) * mse[:, 2], rtol=1e-12)
    filled = torch.where(given.known, given.truth, x)
    assert torch.allclose(psnr.rows(filled, given)[:, 2], torch.tensor(MOST).double())
    assert torch.equal(psnr.rows(filled, given)[:, 1], psnr.rows(x, given)[:, 1])


def test_a_sample_without_a_hole_has_no_number_in_it_and_is_counted(pair):
    x, given = pair
    whole = Given(given.truth, given.known | (torch.arange(4) == 2).view(4, 1, 1, 1))
    rows = PSNR(["hole"]).rows(x, whole)
    assert rows.isnan().flatten().tolist() == [False, False, True, False]
    (value,) = PairedView({"psnr": PSNR(["hole"])}).values(rows, Groups.apart(4)).values()
    assert value.value == pytest.approx(rows[[0, 1, 3]].mean().item()) and value.detail == {"left_out": 1}
    with pytest.raises(UserError, match=r"^psnr is undefined: no sample has such a number; leave it out"):
        PairedView({"psnr": PSNR(["hole"])}).values(torch.full((4, 1), torch.nan), Groups.apart(4))


def test_known_pixels_are_kept_to_the_last_bit_or_not(pair):
    x, given = pair
    filled = torch.where(given.known, given.truth, x)
    assert KnownKept().rows(filled, given).flatten().tolist() == [1] * 4
    filled[1, 2, 0, 0] += 1 / 127.5  # one channel of one pixel
    filled[2, 0, 7, 12] += 1 / 127.5  # in the hole
    n = int(given.known[0].sum())
    assert KnownKept().rows(filled, given).flatten().tolist() == pytest.approx([1, 1 - 1 / n, 1, 1])


def stroke(column, width=1, size=16):
    edges = torch.zeros(1, 1, size, size, dtype=torch.bool)
    edges[..., column : column + width] = True
    return edges


def test_edges_match_within_a_pixel():
    line = stroke(5)
    assert [edge_f1(line, stroke(5 + k)).item() for k in (0, 1, 2)] == [1, 1, 0]
    assert edge_f1(line, stroke(7), tolerance=2).item() == 1
    none = torch.zeros_like(line)
    assert edge_f1(none, none).item() == 1 and edge_f1(none, line).item() == edge_f1(line, none).item() == 0


def test_each_edge_pixel_matches_one_other(rng):
    """A wide edge is not near a line six times over, and the matching is the largest one: as many as the assignment of
    least cost has, where those near each other cost nothing."""
    line, wide = stroke(5), stroke(5, 6)
    assert edge_f1(wide, line).item() == edge_f1(line, wide).item() == pytest.approx(2 * 1 / (1 + 6))
    a, b = (torch.rand(4, 1, 9, 9, generator=rng) < share for share in (0.3, 0.4))
    for first, second, f1 in zip(a, b, edge_f1(a, b).tolist(), strict=True):
        pixels, others = first[0].nonzero(), second[0].nonzero()
        far = (pixels[:, None] - others).abs().amax(-1) > 1
        matched = (~far.numpy())[linear_sum_assignment(far.numpy())].sum()
        assert f1 == pytest.approx(2 * matched / (len(pixels) + len(others)))


def test_edges_are_thin_in_every_direction():
    """Of a half plane one pixel in each row across the edge, of a disk about its circumference."""
    row, column = torch.meshgrid(torch.arange(32.0), torch.arange(32.0), indexing="ij")
    for step in (column - 15.5, row - 15.5, 15.5 - column):
        edges = thin_edges((step > 0).float()[None, None], 0.5)[0, 0]
        assert edges.sum() == 32 and (edges.any(0).sum(), edges.any(1).sum()) in [(1, 32), (32, 1)]
    disk = ((row - 15.5).hypot(column - 15.5) < 10).float()[None, None]
    wide, thin = (sobel(disk) >= 0.3).sum().item(), thin_edges(disk, 0.3).sum().item()
    assert thin == pytest.approx(2 * torch.pi * 10, rel=0.3) and wide > 1.6 * thin


def test_the_score_of_edges_falls_with_the_distance(rng):
    """Blobs against themselves, moved: a pixel is forgiven."""
    blobs = avg_pool2d(torch.rand(8, 1, 72, 72, generator=rng), 9, 1)[..., :64, :64]
    x = (4 * (blobs - blobs.mean()) / blobs.std()).clamp(-1, 1)
    scores = [EdgeF1(0.2).rows(x.roll(k, 3), Given(x)).mean().item() for k in range(5)]
    assert scores[0] == 1 and scores[1] > 0.95 and scores[1] > scores[2] > scores[3] > scores[4]
    colour = x.expand(-1, 3, -1, -1)
    assert EdgeF1(0.2).rows(colour.roll(2, 3), Given(colour)).mean().item() == pytest.approx(scores[2], abs=1e-3)


def test_consistency_is_the_error_of_what_was_measured(pair, rng):
    x, given = pair
    a = Downsample(4)
    y = a(given.truth)
    rows = Consistency().rows(x, Given(given.truth, None, [Observation(y, a, a.picture(y))])).flatten()
    error = (avg_pool2d(x, 4) - avg_pool2d(given.truth, 4)).double().square().mean((1, 2, 3))
    assert rows.tolist() == pytest.approx((10 * (4 / error).log10()).tolist(), abs=1e-4)
    exact = given.truth + (lambda n: n - a.picture(a(n)))(torch.randn(x.shape, generator=rng))  # of equal block means
    assert (Consistency().rows(exact, Given(None, None, [Observation(y, a, y)])) > 100).all()
    noise = torch.randn(x.shape, generator=rng)  # of a mask: what is not known counts nowhere
    mask = Observation(given.truth * given.known, lambda z: z, x, weight=given.known)
    rows = Consistency().rows(torch.where(given.known, x, noise), Given(None, given.known, [mask]))
    assert torch.allclose(rows, PSNR(["outside"]).rows(x, given))
    brought = Observation(y, a, y, entry="hint")  # of another picture than the sample
    assert torch.allclose(Consistency().rows(x, Given(None, None, [brought, mask])), PSNR(["outside"]).rows(x, given))


def test_perceptual_distances_see_the_region_alone(rng):
    truth = torch.rand(3, 1, 28, 28, generator=rng) * 2 - 1
    known = torch.ones(3, 1, 28, 28, dtype=torch.bool)
    known[..., 14:] = False
    metric = PerceptualFashion(regions=REGIONS)
    metric.check(Image(1, 28, 28))
    x = torch.where(known, truth, -truth)
    rows = metric.rows(x, Given(truth, known))
    assert (rows[:, 2] == 0).all() and torch.equal(rows[:, 0], rows[:, 1]) and (rows[:, 0] > 0.01).all()


def test_the_interval_is_over_pictures_and_not_over_samples(rng):
    """Eight equal draws of each condition are worth one; of single draws the interval is that of the normal law."""
    values = torch.randn(60, generator=rng).double()
    groups = torch.arange(60)
    mean, (low, high) = clustered_mean(values, groups)
    normal = 2 * 1.96 * values.std() / 60**0.5
    assert mean == pytest.approx(values.mean().item()) and (high - low) == pytest.approx(normal.item(), rel=0.1)
    many = values.repeat_interleave(8)
    _, (low8, high8) = clustered_mean(many, groups.repeat_interleave(8))
    _, naive = clustered_mean(many, torch.arange(480))
    assert (low8, high8) == pytest.approx((low, high))
    assert (high8 - low8) / (naive[1] - naive[0]) == pytest.approx(8**0.5, rel=0.1)
    assert clustered_mean(values, torch.zeros(60, dtype=torch.int64))[1] is None


def test_a_gain_is_surer_than_the_two_means(rng):
    """What is hard for one is hard for the other."""
    hard = 5 * torch.randn(200, 1, generator=rng)
    a, b = hard + 0.1 * torch.randn(200, 1, generator=rng) + 1, hard
    view, groups = PairedView({"psnr": PSNR()}), Groups.apart(200)
    (value,) = view.values_beside(b, a, groups).values()
    gain = value.detail["gain"]
    assert gain["value"] == pytest.approx((a - b).mean().item(), rel=1e-5)
    assert gain["interval"][1] - gain["interval"][0] < 0.05 * (value.interval[1] - value.interval[0])


@pytest.mark.parametrize("region", ["all", "hole"])
def test_diversity_is_the_distance_of_draws_of_one_condition(region):
    """Of flat pictures that differ by 0.2, 0.4 and 0.6 in their hole, half of the picture; one condition has one draw,
    and what other conditions are does not count."""
    known = torch.zeros(4, 1, 8, 8, dtype=torch.bool)
    known[..., :4] = True
    x = torch.tensor([0.0, 0.4, 1.2, -1.0]).view(4, 1, 1, 1) * ~known.expand(4, 3, 8, 8)
    metric = Diversity(region)
    metric.check(Image(3, 8, 8))
    rows = metric.rows(x, Given(known=known))
    assert rows.shape == (4, metric.width)
    groups = Groups(torch.tensor([7, 7, 7, 9]), torch.tensor([0, 0, 0, 1]))
    ((name, value),) = metric.values(rows, groups).items()
    assert name == ("diversity" if region == "all" else "diversity_hole")
    assert value.value == pytest.approx(0.4 * (1 if region == "hole" else 0.5**0.5), rel=1e-6)
    with pytest.raises(ValueError, match="two samples"):
        metric.values(rows, Groups.apart(4))


def test_what_is_missing_is_named_before_anything_is_drawn():
    modality = Image(1, 28, 28)
    cases = [
        (PSNR(), set(), "name needs the picture that each sample's condition was made of"),
        (PSNR(["hole"]), {"truth"}, "name needs a hole in each picture; measure a model with hint=mask_box"),
        (KnownKept(), {"truth", "hole"}, "name needs known pixels without noise; set measurement_noise=0"),
        (Consistency(), {"truth"}, "name needs something that the condition shows"),
        (Diversity(), {"truth"}, "name needs several samples of each condition; set draws=4"),
        (LPIPS(), {"truth"}, "set metrics.lpips.backbone=FILE"),
    ]
    for metric, known, text in cases:
        with pytest.raises(UserError, match=text) as caught:
            PairedView({"name": metric}).check(known, modality)
        assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match="1×5×28 is too small"):
        SSIM().check(Image(1, 5, 28))
    with pytest.raises(UserError, match="compares pictures and the samples are series"):
        PSNR().check(Series(8, [0.0], [1.0]))
