"""Samples of every job of a benchmark beneath each other."""

from collections.abc import Sequence
from math import ceil
from textwrap import fill

from matplotlib.font_manager import FontProperties, findfont
from PIL import Image, ImageDraw, ImageFont

from oboro.modality.decode_image import load_image
from oboro.report.benchmark import Benchmark
from oboro.report.benchmark_table import Cells, folded, number_cells, setting_cells

HEIGHT = 132  # pixels of a row of samples, or fewer
FONT = 0.28  # of that height
LINE = 24  # characters of a setting
GAP = 0.9  # between columns of text, in heights of the font


def strip_image(benchmark: Benchmark, quality: str | None = None) -> Image.Image:
    """``samples.png`` of all jobs in the order of the table, on the left of each its settings and its ``quality``.

    Every job draws the same seeds, so a column of images shows what the settings make of one noise. Rows have one
    height and so, as all jobs generate images of one shape, one width of images; a job without the file has an empty
    row. The best value is bold. Raises ``UserError`` for a name that no column has.
    """
    column = benchmark.column(quality)
    files = [row.folder / "samples.png" for row in benchmark.rows]
    opened = [
        load_image(file).convert("RGB") if file.exists() else Image.new("RGB", (1, HEIGHT), "white") for file in files
    ]
    height = min(HEIGHT, *(picture.height for picture in opened))
    pictures = [scaled(picture, height) for picture in opened]
    settings = setting_cells(benchmark.rows) or [Cells("job", [row.folder.name for row in benchmark.rows])]
    settings = [cells._replace(texts=[fill(words, LINE) for words in cells.texts]) for cells in settings]
    values = [one for one in benchmark.columns.values() if one.metric == column.metric]
    words = text_image([*settings, *(number_cells(benchmark, one, folded(one.name)) for one in values)], height)
    canvas = Image.new("RGB", (words.width + max(picture.width for picture in pictures), words.height), "white")
    canvas.paste(words, (0, 0))
    for i, picture in enumerate(reversed(pictures), start=1):
        canvas.paste(picture, (words.width, words.height - i * height))
    return canvas


def text_image(columns: Sequence[Cells], height: int) -> Image.Image:
    """Cells in rows of ``height`` pixels, below their headings."""
    size = round(FONT * height)
    normal, bold = (
        ImageFont.truetype(findfont(FontProperties(family="DejaVu Sans", weight=weight)), size)
        for weight in ("normal", "bold")
    )
    pen = ImageDraw.Draw(Image.new("RGB", (1, 1)))
    placed, left = [], 0
    for cells in columns:
        texts = [(words, bold if i in cells.best else normal) for i, words in enumerate(cells.texts)]
        boxes = [pen.multiline_textbbox((0, 0), *text) for text in (*texts, (cells.heading, bold))]
        left += round(GAP * size)
        placed.append((left, left + ceil(max(box[2] for box in boxes)), cells, texts))
        left = placed[-1][1]
    head = round((1 + 1.2 * max(len(cells.heading.split("\n")) for cells in columns)) * size)
    canvas = Image.new("RGB", (left + round(GAP * size), head + height * len(columns[0].texts)), "white")
    pen = ImageDraw.Draw(canvas)
    for start, end, cells, texts in placed:
        x, anchor, align = (end, "rm", "right") if cells.right else (start, "lm", "left")
        pen.text((x, head / 2), cells.heading, "black", bold, anchor, align=align)
        for i, (words, font) in enumerate(texts):
            pen.text((x, head + height * (i + 0.5)), words, "black", font, anchor, align=align)
    return canvas


def scaled(picture: Image.Image, height: int) -> Image.Image:
    """The same proportions at another height; untouched at its own."""
    if picture.height == height:
        return picture
    return picture.resize((round(picture.width * height / picture.height), height), Image.Resampling.LANCZOS)
