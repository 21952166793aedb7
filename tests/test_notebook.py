"""The notebook runs from top to bottom, with less training, and what it shows is true."""

import json
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOK = Path(__file__).resolve().parents[1] / "notebooks" / "noise_to_image.ipynb"
SHRUNK = {"STEPS": 40, "SAMPLES": 130}  # above the 128 features of the metric
REPORT = """
import json

print(json.dumps({
    "inversion": inversion_error, "fitted": fitted, "declared": declared, "losses": losses,
    "distances": [[*key, value] for key, value in distances.items()], "floor": floor, "ema": ema.updates,
}))
"""


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """The results in the namespace of the executed notebook."""
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    (at,) = [i for i, cell in enumerate(notebook.cells) if "parameters" in cell.metadata.get("tags", [])]
    settings = "\n".join(f"{name} = {value}" for name, value in SHRUNK.items())
    assert all(f"{name} = " in notebook.cells[at].source for name in SHRUNK)
    notebook.cells.insert(at + 1, nbformat.v4.new_code_cell(settings))
    notebook.cells.append(nbformat.v4.new_code_cell(REPORT))
    with pytest.MonkeyPatch.context() as environment:
        folder = tmp_path_factory.mktemp("notebook")
        for name in ("XDG_CACHE_HOME", "IPYTHONDIR", "JUPYTER_CONFIG_DIR"):
            environment.setenv(name, str(folder / name.lower()))
        environment.setenv("OMP_NUM_THREADS", "1")
        NotebookClient(notebook, timeout=250, kernel_name="python3", resources={"metadata": {"path": folder}}).execute()
    return json.loads(notebook.cells[-1].outputs[-1].text)


def test_it_is_kept_as_it_ran_from_top_to_bottom_with_its_pictures():
    """A reader sees them without running it; the file stays small enough for that."""
    cells = [cell for cell in nbformat.read(NOTEBOOK, as_version=4).cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [output for cell in cells for output in cell.outputs]
    assert not [output for output in outputs if output.output_type == "error" or output.get("name") == "stderr"]
    assert sum("image/png" in output.get("data", {}) for output in outputs) >= 8
    assert NOTEBOOK.stat().st_size < 1_500_000


@pytest.mark.slow
def test_every_parameterization_inverts(found):
    assert set(found["inversion"]) == {"Eps", "X0", "V", "Velocity", "EDM"}
    assert max(found["inversion"].values()) < 1e-5


@pytest.mark.slow
def test_samplers_converge_with_their_declared_orders(found):
    assert set(found["fitted"]) == {"DDIM", "Heun", "DPMSolverPP"}
    for name, order in found["fitted"].items():
        assert order == pytest.approx(found["declared"][name], abs=0.2)


@pytest.mark.slow
def test_the_small_model_learns(found):
    """An untrained network predicts 0, so the loss begins at E|eps - x|² = 1 + E[x²], and x² averages about 0.6."""
    losses = found["losses"]
    assert len(losses) == found["ema"] == SHRUNK["STEPS"]
    assert losses[0] == pytest.approx(1.6, abs=0.2)
    assert sum(losses[-5:]) / 5 < losses[0] / 2


@pytest.mark.slow
def test_distances_lie_above_the_floor_of_real_images(found):
    assert len(found["distances"]) == 6
    assert [evaluations for _, evaluations, _ in found["distances"]] == [8, 8, 8, 20, 20, 20]
    assert all(distance > found["floor"] > 0 for *_, distance in found["distances"])
