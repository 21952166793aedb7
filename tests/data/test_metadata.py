"""Metadata as people write them: what each file means, or the line that is wrong."""

import json
import re
import sys

import pytest
from PIL import Image

from oboro.base.errors import UserError
from oboro.data import ImageFolder
from oboro.data.image_folder import list_pictures
from oboro.data.left_out import UNNAMED, UNREADABLE

NAMES = ("0.png", "1.png", "sub/2.png", "é.png")


@pytest.fixture
def root(tmp_path):
    for name in NAMES:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.new("L", (4, 4)).save(tmp_path / name)
    return tmp_path


def jsonl(*rows):
    return "\n".join(json.dumps(row, ensure_ascii=False) for row in rows)


def files(*names, **columns):
    """A row for each name; columns are lists."""
    return jsonl(*({"file_name": n, **{k: v[i] for k, v in columns.items()}} for i, n in enumerate(names)))


TWO = ("0.png", "1.png")
CASES = {
    "line separators of Unicode in a text": (
        files(*TWO, text=["a\u2028b\u2029c\x85d\x0be\x0cf\x1cg", "x"]),
        "a\u2028b\u2029c\x85d\x0be\x0cf\x1cg|x",
    ),
    "line breaks of Windows": (files(*TWO, text=["a", "b"]).replace("\n", "\r\n"), "a|b"),
    "a mark of UTF-8": ("\ufeff" + files(*TWO, text=["a", "b"]), "a|b"),
    "UTF-16": (files(*TWO, text=["朧", "b"]).encode("utf-16"), "朧|b"),
    "UTF-32": (files(*TWO, text=["朧", "b"]).encode("utf-32"), "朧|b"),
    "caption": (files(*TWO, caption=["a", "b"]), "a|b"),
    "prompt": (files(*TWO, prompt=["a", "b"]), "a|b"),
    "text before caption": (files(*TWO, caption=["c", "d"], text=["a", None]), "a|d"),
    "image": (jsonl({"image": "0.png", "text": "a"}), "a"),
    "file_names of one": (jsonl({"file_names": ["0.png"], "text": "a"}), "a"),
    "a dot in front": (files("./0.png", text=["a"]), "a"),
    "backslashes": (files("sub\\2.png", text=["a"]), "a"),
    "up and down again": (files("sub/../0.png", text=["a"]), "a"),
    "another spelling of an accent": (files("e\u0301.png", text=["a"]), "a"),
    "blank lines": ("\n\n" + files("0.png", text=["a"]) + "\n  \n", "a"),
    "no texts": (files(*TWO), "None|None"),
}


@pytest.mark.parametrize("kind", CASES)
def test_texts(root, kind):
    content, texts = CASES[kind]
    (root / "metadata.jsonl").write_bytes(content if isinstance(content, bytes) else content.encode())
    found = list_pictures(root)
    assert "|".join(map(str, (entry.caption for entry in found.entries))) == texts
    assert all((root / entry.name).is_file() for entry in found.entries)
    assert sum(item.reason == UNNAMED for item in found.left_out) == len(NAMES) - len(found.entries)


LABELS = {
    "numbers": ([1, 0, 1], [1, 0, 1], "0 1"),
    "texts of numbers": (["1", "0", "10"], [1, 0, 10], "0 1 2 3 4 5 6 7 8 9 10"),
    "whole floats": ([1.0, 0.0, 1.0], [1, 0, 1], "0 1"),
    "texts of whole floats": (["1.0", "0.0", "1.0"], [1, 0, 1], "0 1"),
    "numbers and texts of numbers": ([1, "0", 1], [1, 0, 1], "0 1"),
    "names": (["dog", "cat", "dog"], [1, 0, 1], "cat dog"),
    "names in natural order": (["class10", "class2", " class2"], [1, 0, 0], "class2 class10"),
    "names and numbers as texts": (["dog", "3", "dog"], [1, 0, 1], "3 dog"),
    "a gap": ([0, 2, 2], [0, 2, 2], "0 1 2"),
    "none": ([None, None, None], [None] * 3, ""),
    "NaN": ([float("nan")] * 3, [None] * 3, ""),
}


@pytest.mark.parametrize("kind", LABELS)
@pytest.mark.parametrize("suffix", ["jsonl", "csv", "parquet"])
def test_labels(root, kind, suffix):
    values, labels, classes = LABELS[kind]
    write(root / f"metadata.{suffix}", [{"file_name": n, "label": v} for n, v in zip(NAMES, values, strict=False)])
    found = list_pictures(root)
    assert [entry.label for entry in found.entries] == labels and found.classes == tuple(classes.split())


def write(path, rows):
    if path.suffix == ".jsonl":
        path.write_text(jsonl(*rows))
    elif path.suffix == ".csv":
        lines = [",".join("" if v is None or v != v else str(v) for v in row.values()) for row in rows]
        path.write_text("\n".join([",".join(rows[0]), *lines]))
    else:
        pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
        if len({type(row["label"]) for row in rows}) > 1:
            pytest.skip("a column has one type")
        parquet.write_table(pyarrow.Table.from_pylist(rows), path)


MISTAKES = {
    "half a line": (
        '{"file_name": "0.png"}\n{',
        r"^line 2 of .*metadata\.jsonl: not a JSON object; write one on each line$",
    ),
    "deep": ("[" * 100_000, "line 1 .*: not a JSON object"),
    "a list": ("[1]", "line 1 .*: not a JSON object"),
    "no name": ('{"text": "a"}', "line 1 .*: no file_name among text; correct that line$"),
    "an empty name": ('{"file_name": " "}', "line 1 .*: no file_name"),
    "a number": ('{"file_name": 3}', "line 1 .*: file_name is not the name of a file; correct that line$"),
    "above the folder": (files("../secret.png"), r"line 1 .*: \.\./secret\.png is not below the folder"),
    "above by backslashes": (files("..\\secret.png"), "line 1 .* is not below the folder"),
    "absolute": (files("/etc/passwd.png"), "line 1 .*: /etc/passwd.png is not below the folder"),
    "a drive": (files("C:\\pictures\\0.png"), "line 1 .* is not below the folder"),
    "twice": (files("0.png", "./0.png"), r"line 2 .*: 0\.png appears twice"),
    "several in a row": (
        jsonl({"file_names": list(TWO)}),
        "line 1 .*: 2 files in one row, and a sample is one picture",
    ),
    "a number as text": (files("0.png", text=[3]), "line 1 .*: text is not a string"),
    "a number as caption": (files("0.png", caption=[3]), "line 1 .*: caption is not a string"),
    "half a pair": ('{"file_name": "0.png", "text": "\\ud800"}', "line 1 .*: half of a surrogate pair"),
    "a negative label": (
        files(*TWO, label=[0, -1]),
        r"has the label -1 for 1\.png, which is not a class number; number",
    ),
    "a huge label": (files(*TWO, label=[0, 10**12]), "label 1000000000000 for .* not a class number"),
    "a fraction": (files(*TWO, label=[0, 1.5]), r"has the label 1\.5 for 1\.png, neither a class number nor a name"),
    "true": (files(*TWO, label=[True, False]), r"has the label True for 0\.png, neither"),
    "a list of labels": (files(*TWO, label=[[0], [1]]), r"has the label \[0\] for 0\.png, neither"),
    "texts and numbers": (files(*TWO, label=["cat", 1]), r"has the label 1 for 1\.png, beside texts; write one kind"),
    "a label missing": (
        files(*TWO, label=[0, None]),
        r"has no label for 1\.png; give a label to every image or to none",
    ),
    "Latin-1": (
        '{"file_name": "0.png"}\n{"file_name": "é.png"}'.encode("latin-1"),
        "^line 2 of .* is not UTF-8; save the file as UTF-8$",
    ),
    "UTF-16 without its mark": (
        files("0.png").encode("utf-16-le"),
        r"has the character 0, which is in no text; save the file as UTF-8$",
    ),
    "nothing": ("\n", "names no images; add one line for each image, or delete the file$"),
    "an empty label": (
        files(*TWO, label=["cat", " "]),
        r"has no label for 1\.png; give a label to every image or to none",
    ),
}


@pytest.mark.parametrize("kind", MISTAKES)
def test_mistakes_are_named(root, kind):
    content, message = MISTAKES[kind]
    (root / "metadata.jsonl").write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UserError, match=message) as error:
        list_pictures(root)
    assert "\n" not in str(error.value)


CSV = {
    "quotes": ('file_name,text\n0.png,"a red, big\nbicycle"\n1.png,b\n', "a red, big\nbicycle|b"),
    "semicolons": ("file_name;text\n0.png;a, b\n", "a, b"),
    "tabs": ("file_name\ttext\n0.png\ta\n", "a"),
    "a mark and Windows": ("\ufefffile_name,text\r\n0.png,a\r\n", "a"),
    "a short row": ("file_name,text\n0.png\n1.png,b\n", "|b"),
}


@pytest.mark.parametrize("first", ["0.png,a", "File_Name,Text", "a;b"])
def test_a_first_line_without_file_name_is_named_and_not_the_row_after_it(root, first):
    (root / "metadata.csv").write_text(f"{first}\n1.png,b\n")
    columns = ", ".join(re.split("[,;]", first))
    with pytest.raises(UserError, match=f"has the columns {columns}; write a first line of names with file_name"):
        list_pictures(root)


@pytest.mark.parametrize("kind", CSV)
def test_csv(root, kind):
    content, texts = CSV[kind]
    (root / "metadata.csv").write_bytes(content.encode())
    assert "|".join(entry.caption for entry in list_pictures(root).entries) == texts


def test_mistakes_in_csv_and_parquet(root, monkeypatch):
    (root / "metadata.csv").write_text("file_name,text\n0.png,a red, big bicycle\n")
    with pytest.raises(UserError, match=r"^line 2 of .*csv has more fields than the first line; put texts with ','"):
        list_pictures(root)
    (root / "metadata.csv").write_text('file_name,text\n0.png,"a\n')
    with pytest.raises(UserError, match=r"is no CSV file \(unexpected end of data\)"):
        list_pictures(root)
    (root / "metadata.csv").unlink()
    (root / "metadata.parquet").write_bytes(b"PAR1 and more")
    with pytest.raises(UserError, match=r"metadata\.parquet cannot be read \(.*\); write it again"):
        list_pictures(root)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(UserError, match=r'needs the library pyarrow; pip install "oboro\[pyarrow\]"$'):
        list_pictures(root)


@pytest.mark.parametrize("name", ["gone.png", "x" * 5000 + ".png", "0.png/more.png", "sub"])
def test_names_without_a_file_are_unreadable_pictures(root, name):
    (root / "metadata.jsonl").write_text(files("0.png", "1.png", name))
    data = ImageFolder(root=str(root), cache_dir=str(root / "cache"), resolution=4, validation=0)
    data.prepare_data()
    data.setup()
    (item,) = data._store.left_out
    assert len(data.train) == 2 and (item.name, item.reason) == (name, UNREADABLE)
    assert all(len(line) < 500 for line in (data._store.path / "left_out.txt").read_text().splitlines())


def test_what_is_not_read_is_named(root):
    (root / "metadata.jsonl").write_text(jsonl({"file_name": "0.png", "text": "a", "width": 3, "caption": "b"}))
    (root / "metadata.csv").write_text("file_name\n1.png\n")
    found = list_pictures(root)
    assert found.notes == [f"{root}/metadata.jsonl has fields that are not read: width, caption"]
    assert {item.name for item in found.left_out} == {"metadata.csv", "1.png", "sub/2.png", "é.png"}


def test_every_folder_may_have_metadata_of_its_own(root):
    (root / "other").mkdir()
    Image.new("L", (4, 4)).save(root / "other" / "1.png")
    (root / "sub" / "metadata.jsonl").write_text(files("2.png", text=["two"]))
    (root / "other" / "metadata.csv").write_text("file_name,text\n1.png,one\n")
    found = list_pictures(root)
    assert [(e.name, e.caption) for e in found.entries] == [("other/1.png", "one"), ("sub/2.png", "two")]
    assert {item.name for item in found.left_out} == {"0.png", "1.png", "é.png"}


def test_train_is_the_part_that_is_read(tmp_path):
    for part in ("train", "test"):
        (tmp_path / part).mkdir()
        Image.new("L", (4, 4)).save(tmp_path / part / "0.png")
        (tmp_path / part / "metadata.jsonl").write_text(files("0.png", text=[part]))
    found = list_pictures(tmp_path)
    assert [(e.name, e.caption) for e in found.entries] == [("0.png", "train")]
    assert [item.name for item in found.left_out] == ["test"]
