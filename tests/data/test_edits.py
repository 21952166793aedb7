"""Pairs of pictures with instructions, in the words of public data sets."""

import io
import json

import numpy as np
import pytest
from PIL import Image

from oboro.data import HuggingFace, ImageFolder


def picture(i: int) -> Image.Image:
    return Image.fromarray(np.full((8, 8, 3), 10 * i + 5, np.uint8))


@pytest.mark.parametrize(
    ("before", "instruction", "after"),
    [
        ("original_image", "edit_prompt", "edited_image"),
        ("input_image", "edit", "output_image"),
        ("source_img", "instruction", "target_img"),
        ("conditioning_image", "text", "file_name"),
    ],
)
def test_a_folder_names_before_instruction_and_after(tmp_path, before, instruction, after):
    """Whatever the order of fields is, and others beside them."""
    root, lines = tmp_path / "edits", []
    for i in range(4):
        for part, number in (("before", i), ("after", i + 10)):
            (root / part).mkdir(parents=True, exist_ok=True)
            picture(number).save(root / part / f"{i}.png")
        row = {before: f"before/{i}.png", instruction: f"edit {i}", after: f"after/{i}.png", "original_prompt": "?"}
        lines.append(dict(reversed(row.items()) if i % 2 else row.items()))
    (root / "metadata.jsonl").write_text("\n".join(map(json.dumps, lines)))
    data = ImageFolder(root=str(root), cache_dir=str(tmp_path / "cache"), channels=3, resolution=8, validation=0)
    data.prepare_data()
    data.setup()
    assert data.train.captions == [f"edit {i}" for i in range(4)]
    assert data.train.samples[:][:, 0, 0, 0].tolist() == [10 * (i + 10) + 5 for i in range(4)]
    assert data.train.hints["hint"][:][:, 0, 0, 0].tolist() == [10 * i + 5 for i in range(4)]


def test_parquet_files_have_them_in_columns(tmp_path):
    """conf/data/hugging_face_edits.yaml: those of timbrooks/instructpix2pix-clip-filtered."""
    datasets = pytest.importorskip("datasets")

    def column(first: int) -> list[dict]:
        files = [io.BytesIO() for _ in range(3)]
        for i, file in enumerate(files):
            picture(first + i).save(file, "PNG")
        return [{"bytes": file.getvalue(), "path": None} for file in files]

    rows = {"original_image": column(0), "edit_prompt": ["a", "b", "c"], "edited_image": column(10)}
    kinds = {
        "original_image": datasets.Image(),
        "edit_prompt": datasets.Value("string"),
        "edited_image": datasets.Image(),
    }
    datasets.Dataset.from_dict(rows, features=datasets.Features(kinds)).to_parquet(str(tmp_path / "a.parquet"))
    columns = {"image": "edited_image", "text": "edit_prompt", "hints": "original_image"}
    sizes = {"resolution": 8, "validation": 0, "cache_dir": str(tmp_path / "cache")}
    data = HuggingFace(path=str(tmp_path / "a.parquet"), **columns, **sizes)
    data.prepare_data()
    data.setup()
    assert data.train.captions == ["a", "b", "c"]
    assert data.train.samples[:][:, 0, 0, 0].tolist() == [105, 115, 125]
    assert data.train.hints["hint"][:][:, 0, 0, 0].tolist() == [5, 15, 25]
