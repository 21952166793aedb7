import numpy as np
import pytest
import skimage.measure
import sklearn.metrics

from oboro.detection import (
    AUPRO,
    AUROC,
    AveragePrecision,
    PixelAUROC,
    PixelAveragePrecision,
    aupro,
    auroc,
    average_precision,
    pixel_auroc,
    pixel_average_precision,
)

MEASURES = {
    "auroc": lambda s, m: AUROC(s.max((1, 2)), m.any((1, 2))),
    "average precision": lambda s, m: AveragePrecision(s.max((1, 2)), m.any((1, 2))),
    "pixel auroc": PixelAUROC,
    "pixel average precision": PixelAveragePrecision,
    "aupro": AUPRO,
}


def scene(seed=0, n=12, side=16, levels=None):
    """Maps and masks (n, side, side), the first third of which is normal; regions of several sizes, some touching at
    a corner alone. ``levels``: how many different scores there are."""
    rng = np.random.default_rng(seed)
    masks = np.zeros((n, side, side), bool)
    for i in range(n // 3, n):
        for _ in range(rng.integers(1, 4)):
            top, left = rng.integers(0, side - 5, 2)
            height, width = rng.integers(1, 6, 2)
            masks[i, top : top + height, left : left + width] = True
    masks[n - 1] = False
    masks[n - 1, 2:4, 2:4] = masks[n - 1, 4:7, 4:7] = True
    maps = rng.normal(size=masks.shape) + masks
    return (maps if levels is None else np.round(maps * levels) / levels), masks


def area(fpr, tpr, limit):
    """By trapezoids from 0 to ``limit``."""
    cut = np.append(fpr[fpr < limit], limit)
    return np.trapezoid(np.interp(cut, fpr, tpr), cut) / limit


def by_region(maps, masks, limit):
    """AUPRO from its definition: of each region the ROC curve against all normal pixels, on every threshold."""
    labels = [skimage.measure.label(mask, connectivity=2) for mask in masks]
    thresholds = np.unique(maps)[::-1]
    fpr = np.array([0, *((maps[~masks] >= t).mean() for t in thresholds)])
    curves = [
        [0, *((m[regions == k] >= t).mean() for t in thresholds)]
        for m, regions in zip(maps, labels, strict=True)
        for k in range(1, regions.max() + 1)
    ]
    pro = np.mean(curves, 0)
    cut = np.unique(np.append(fpr[fpr < limit], limit))
    # the upper end where several points have one FPR: the curve rises there, which has no area
    upper = [pro[fpr == f].max() if (fpr == f).any() else np.interp(f, fpr, pro) for f in cut]
    lower = [pro[fpr == f].min() if (fpr == f).any() else np.interp(f, fpr, pro) for f in cut]
    return sum((b - a) * (u + v) / 2 for a, b, u, v in zip(cut, cut[1:], upper, lower[1:], strict=False)) / limit


@pytest.mark.parametrize("levels", [None, 2, 0.5])
def test_scores_are_ranked_as_by_scikit_learn(levels):
    maps, masks = scene(1, n=60, levels=levels)
    scores, anomalous = maps.max((1, 2)), masks.any((1, 2))
    reference = sklearn.metrics
    assert auroc(scores, anomalous) == pytest.approx(reference.roc_auc_score(anomalous, scores), abs=1e-9)
    expected = reference.average_precision_score(anomalous, scores)
    assert average_precision(scores, anomalous) == pytest.approx(expected, abs=1e-9)
    flat = masks.ravel(), maps.ravel()
    assert pixel_auroc(maps, masks) == pytest.approx(reference.roc_auc_score(*flat), abs=1e-9)
    assert pixel_average_precision(maps, masks) == pytest.approx(reference.average_precision_score(*flat), abs=1e-9)


@pytest.mark.parametrize("levels", [None, 2, 0.5])
@pytest.mark.parametrize("limit", [0.05, 0.3, 1.0])
def test_aupro_is_the_area_under_the_mean_curve_of_regions(levels, limit):
    maps, masks = scene(2, levels=levels)
    assert aupro(maps, masks, limit) == pytest.approx(by_region(maps, masks, limit), abs=1e-9)


def test_regions_count_alike_whatever_their_size():
    """A region of one pixel that is found and one of 25 that is not: a half, as pixels 1/26."""
    masks = np.zeros((1, 20, 20), bool)
    masks[0, 0, 0] = masks[0, 10:15, 10:15] = True
    found = np.zeros((1, 20, 20))
    found[0, 0, 0] = 1
    found[masks] -= 0.5 * (found[masks] == 0)
    assert aupro(found, masks) == pytest.approx(0.5)
    assert pixel_auroc(found, masks) == pytest.approx(1 / 26)


def test_pixels_that_touch_at_a_corner_are_one_region():
    masks = np.zeros((1, 10, 10), bool)
    masks[0, 0, 0] = masks[0, 1, 1] = masks[0, 5, 5] = True
    maps = np.where(masks, -1.0, 0.0)
    maps[0, 5, 5] = 1
    assert aupro(maps, masks) == pytest.approx(1 / 2)  # of three regions it would be a third


def test_masks_of_one_axis_have_regions_too():
    masks = np.array([[0, 1, 1, 1, 0, 0, 1, 0, 0, 0]], bool)
    assert aupro(np.where(np.arange(10)[None] == 6, 1.0, -masks.astype(float)), masks) == pytest.approx(1 / 2)


# --- traps of the field's libraries


def test_a_constant_detector_knows_nothing():
    maps, masks = scene(3)
    constant, anomalous = np.full_like(maps, 0.7), masks.any((1, 2))
    assert auroc(constant[:, 0, 0], anomalous) == 0.5 and pixel_auroc(constant, masks) == 0.5
    assert average_precision(constant[:, 0, 0], anomalous) == pytest.approx(anomalous.mean())
    assert pixel_average_precision(constant, masks) == pytest.approx(masks.mean())
    assert aupro(constant, masks) == pytest.approx(0.15)  # limit / 2, on the straight line from (0, 0) to (1, 1)


def test_a_perfect_map_has_one_and_the_opposite_none():
    masks = scene(4)[1]
    for measure in (pixel_auroc, aupro, pixel_average_precision):
        assert measure(masks.astype(float), masks) == pytest.approx(1, abs=1e-12)
    assert pixel_auroc(-masks.astype(float), masks) == aupro(-masks.astype(float), masks) == 0


def test_the_curve_is_cut_at_the_limit_and_not_at_a_threshold():
    """Half of the normal pixels score like the region: from (0, 0) to (0.5, 1), so 0.3 is reached at PRO = 0.6. Cut at
    the last threshold below it, there would be nothing, divided by the one above it, 1/2."""
    masks = np.zeros((1, 2, 11), bool)
    masks[0, :, 0] = True
    maps = np.zeros((1, 2, 11))
    maps[0, :, :6] = 1
    assert aupro(maps, masks, 0.3) == pytest.approx(0.3)
    assert aupro(maps, masks, 1.0) == pytest.approx(0.75) == pixel_auroc(maps, masks)


def test_equal_to_anomalib():
    """Numbers of ``AUPRO.compute`` of anomalib 2.7.0 (fpr_limit 0.3 and 0.05), computed once on these maps in float32,
    with the regions of cv2.connectedComponents."""
    numbers = {
        (7, None): (0.42726022, 0.13955569),
        (8, 2): (0.46274054, 0.16958334),
        (9, 0.5): (0.34885117, 0.07505037),
    }
    for (seed, levels), values in numbers.items():
        maps, masks = scene(seed, n=30, side=24, levels=levels)
        for limit, value in zip((0.3, 0.05), values, strict=True):
            assert aupro(maps.astype(np.float32), masks, limit) == pytest.approx(value, abs=1e-6)


# --- resampling


@pytest.mark.parametrize("name", MEASURES)
@pytest.mark.parametrize("levels", [None, 1])
def test_counts_are_repetitions(name, levels):
    maps, masks = scene(5, n=15, levels=levels)
    counts = np.random.default_rng(0).integers(0, 3, 15)
    repeated = [np.repeat(array, counts, axis=0) for array in (maps, masks)]
    expected = MEASURES[name](*repeated)()
    assert MEASURES[name](maps, masks)(counts) == pytest.approx(expected, abs=1e-12)
    assert expected != MEASURES[name](maps, masks)()


@pytest.mark.parametrize("name", MEASURES)
def test_only_the_order_of_scores_counts(name):
    maps, masks = scene(6, levels=3)
    assert MEASURES[name](np.exp(maps) * 7, masks)() == MEASURES[name](maps, masks)()


@pytest.mark.parametrize(
    ("scores", "anomalous", "reason"),
    [
        ([0.1, float("nan")], [True, False], "1 of 2 scores are NaN or infinite"),
        ([0.1, 0.2], [True, True], "all of 2 samples are anomalous"),
        ([0.1, 0.2], [False, False], "all of 2 samples are normal"),
        ([0.1, 0.2], [0, 1], "do not belong together"),
        ([0.1, 0.2], [True], "do not belong together"),
    ],
)
def test_what_has_no_ranking_is_refused(scores, anomalous, reason):
    with pytest.raises(ValueError, match=reason):
        auroc(np.array(scores), np.array(anomalous))
