"""docs/options.md is what docs/options.py makes of conf/ today."""

import importlib.util
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def options():
    spec = importlib.util.spec_from_file_location("options", ROOT / "docs/options.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_page_is_current(options):
    assert options.PAGE.read_text() == options.page(), "run `python docs/options.py`"


def test_every_option_has_a_row_and_a_description(options):
    page = options.page()
    for path in (ROOT / "conf").glob("*/**/*.yaml"):
        if "hydra" not in path.parts:
            assert f"`{path.stem}`" in page
            assert options.description(path), f"{path.relative_to(ROOT)} needs a first line `# What it is.`"


def test_defaults_and_extended_options_are_marked(options):
    assert {("model", "unet_tiny"), ("sampler/grid", "uniform"), ("metrics", "frechet")} <= options.defaults()
    assert options.settings(ROOT / "conf/sampler/unipc_bh1.yaml") == "as `unipc` `b1=true`"
