import numpy as np
import torch

from oboro.modality import Image
from oboro.modality.image import grid_image
from oboro.report.pictures import HEADING, columns_for, prompts_picture, samples_picture

IMAGES = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (7, 3, 16, 16), dtype=np.uint8))
MODALITY = Image(3, 16, 16)
TEXTS = ["a bag", "a shoe with a very long description that does not fit into a single line", ""]


def rows(page, count):
    pixels = np.asarray(page)
    return np.split(pixels, count)


def test_each_text_has_a_row_of_its_images_with_the_text_beside_it():
    texts = [TEXTS[i % 3] for i in range(7)]
    for j, row in enumerate(rows(prompts_picture(MODALITY, IMAGES, texts), 3)):
        expected = np.asarray(grid_image(IMAGES[j::3], len(IMAGES[j::3])))
        assert np.array_equal(row[:, HEADING : HEADING + expected.shape[1]], expected)
        ink = np.argwhere(row[:, :HEADING].min(-1) < 128)
        assert len(ink) > 20 and ink[:, 1].max() < HEADING - 1  # something is written, and not cut off
        assert abs(ink[:, 0].mean() - len(row) / 2) < 8


def test_many_texts_make_a_plain_picture():
    images = IMAGES[:1].repeat(20, 1, 1, 1)
    several = samples_picture(MODALITY, images, [f"text {i}" for i in range(20)], 0)
    assert np.array_equal(np.asarray(several), np.asarray(grid_image(images, 4)))


def test_a_column_is_of_one_class_and_the_picture_is_no_tower():
    for classes in range(2, 17):
        columns = columns_for(80, classes)
        assert columns % classes == 0 and (columns >= 6 or classes > 10)
    assert columns_for(64, 0) == columns_for(64, 100) == 8
