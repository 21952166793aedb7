import numpy as np
import pytest
import skimage.data

from oboro.anomalies import Labelled
from oboro.base.errors import UserError
from oboro.data import Textures


def loaded(tmp_path, **settings):
    data = Textures(cache_dir=str(tmp_path), **settings)
    data.prepare_data()
    data.setup()
    return data


def rows_shown(part, picture, stride, size):
    """The rows of ``picture`` that the crops of a part show."""
    tops = range(0, 513 - size, stride)
    at = {bytes(np.ascontiguousarray(picture[t : t + size, s : s + size])): t for t in tops for s in tops}
    return {row for crop in part.samples[:] for row in range(at[bytes(crop.numpy())], at[bytes(crop.numpy())] + size)}


def test_parts_show_disjoint_strips_of_the_normal_texture(tmp_path):
    data = loaded(tmp_path, left_out=[1, 2], stride=32)
    parts = [rows_shown(part, skimage.data.brick(), 32, 64) for part in (data.train, data.validation, data.test)]
    assert max(parts[0]) < min(parts[1]) and max(parts[1]) < min(parts[2])
    assert min(parts[2]) >= 384 and max(parts[0]) < 0.55 * 512
    test = Labelled(n=20)(data)
    assert set(test.kinds) == {"good", "grass", "gravel"} and len(data.anomalous) == 2 * 15 * 15


def test_all_three_may_be_normal(tmp_path):
    data = loaded(tmp_path, num_classes=3, stride=64)
    assert set(data.train.labels.tolist()) == {0, 1, 2} and not len(data.anomalous)


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"validation": 100}, "data.validation=100 is no share of the height"),
        ({"test": 0.1}, "leave a strip without a crop of 64"),
        ({"resolution": 600}, "data.resolution is larger than a photograph"),
    ],
)
def test_what_leaves_no_crop_is_refused(tmp_path, settings, reason):
    with pytest.raises(UserError, match=reason):
        loaded(tmp_path, **settings)
