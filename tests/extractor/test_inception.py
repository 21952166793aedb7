"""The FID network, with random weights of the right shapes: parity with torch-fidelity and torchmetrics, and safety."""

import hashlib
import io
import os
import urllib.request

import pytest
import torch
from torch import nn
from torch_fidelity import feature_extractor_inceptionv3 as theirs

from oboro.base.errors import UserError
from oboro.extractor import Inception
from oboro.metrics import FeatureStatistics, frechet_distance

FILE = "weights-inception-2015-12-05-6726825d.pth"


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """Random weights under which signals keep their size through the depth."""
    path = tmp_path_factory.mktemp("inception") / "random.pth"
    original = theirs.FeatureExtractorInceptionV3.load_state_dict
    theirs.FeatureExtractorInceptionV3.load_state_dict = lambda self, state: None
    try:
        buffer = io.BytesIO()
        torch.save({}, buffer)
        buffer.seek(0)
        network = theirs.FeatureExtractorInceptionV3("x", ["2048"], feature_extractor_weights_path=buffer)
    finally:
        theirs.FeatureExtractorInceptionV3.load_state_dict = original
    torch.manual_seed(0)
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight)
    torch.save(network.state_dict(), path)
    return path


@pytest.fixture(scope="module")
def images():
    rng = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (4, 3, 32, 32), generator=rng, dtype=torch.uint8)


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """An empty torch hub cache, and a release address that does not exist."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setattr(torch.hub, "_hub_dir", None)
    monkeypatch.setattr(theirs, "URL_INCEPTION_V3", (tmp_path / "release" / FILE).as_uri())
    return tmp_path / "torch" / "hub" / "checkpoints" / FILE


def relative(a, b):
    return ((a - b).norm() / b.norm()).item()


@pytest.mark.slow
def test_features_are_those_of_torch_fidelity(weights, images):
    network = theirs.FeatureExtractorInceptionV3("x", ["2048"], feature_extractor_weights_path=str(weights))
    found = Inception(str(weights))(images)["features"]
    assert found.shape == (4, 2048) and found.dtype == torch.float32
    assert relative(found, network(images)[0]) < 1e-5
    assert relative(found[:2], found[2:]) > 1e-2, "the images differ by far more than the rounding"


@pytest.mark.slow
def test_features_are_those_of_torchmetrics_without_antialiasing(weights, images):
    from torchmetrics.image.fid import NoTrainInceptionV3

    found = Inception(str(weights))(images)["features"]
    network = NoTrainInceptionV3("x", ["2048"], str(weights), antialias=False)
    assert relative(network(images), found) < 1e-5
    network = NoTrainInceptionV3("x", ["2048"], str(weights), antialias=True)
    assert relative(network(images), found) > 1e-3, "the bite: the default of torchmetrics is another metric"


@pytest.mark.slow
def test_logits_are_those_of_torch_fidelity(weights, images):
    network = theirs.FeatureExtractorInceptionV3("x", ["logits_unbiased"], feature_extractor_weights_path=str(weights))
    found = Inception(str(weights))(images, ["logits"])["logits"]
    assert found.shape == (4, 1008) and relative(found, network(images)[0]) < 1e-5


@pytest.mark.slow
def test_spatial_features_are_seven_channels_of_the_one_by_one_branch(weights, images):
    """Channel c, row i, column j of the map, as a convolution of the block's input computes it, at 289 c + 17 i + j."""
    extractor = Inception(str(weights))
    found = extractor(images, ["spatial"])["spatial"].view(4, 7, 17, 17)
    block, seen = extractor._network.Mixed_6d, []
    hook = block.register_forward_hook(lambda module, inputs, output: seen.append((inputs[0], output)))
    extractor(images)
    hook.remove()
    x, whole = seen[0]
    conv, norm = block.branch1x1.conv, block.branch1x1.bn
    weight = (
        (norm.weight / (norm.running_var + norm.eps).sqrt()) if norm.weight is not None else norm.running_var.rsqrt()
    )
    expected = torch.einsum("oi,bihw->bohw", conv.weight[:, :, 0, 0], x) - norm.running_mean[:, None, None]
    expected = (expected * weight[:, None, None] + norm.bias[:, None, None]).relu()[:, :7]
    assert relative(found, expected) < 1e-5
    assert torch.equal(found, whole[:, :7]), "the branch comes first in the block's output"


def test_mixed_precision_of_the_run_does_not_reach_the_features(weights, images):
    extractor = Inception(str(weights))
    expected = extractor(images[:1])["features"]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(extractor(images[:1])["features"], expected)


def test_grey_is_repeated(weights, images):
    extractor, grey = Inception(str(weights)), images[:2, :1]
    assert torch.equal(extractor(grey)["features"], extractor(grey.repeat(1, 3, 1, 1))["features"])


@pytest.mark.slow
def test_fid_is_that_of_torch_fidelity_end_to_end(weights):
    """uint8 images in, one number out, both ways; 12 + 12 images, so the covariances are singular."""
    from torch_fidelity import calculate_metrics

    rng = torch.Generator().manual_seed(1)
    sets = [torch.randint(0, top, (12, 3, 16, 16), generator=rng, dtype=torch.uint8) for top in (256, 200)]

    class Images(torch.utils.data.Dataset):
        def __init__(self, images):
            self.images = images

        def __len__(self):
            return len(self.images)

        def __getitem__(self, index):
            return self.images[index]

    expected = calculate_metrics(
        input1=Images(sets[0]),
        input2=Images(sets[1]),
        fid=True,
        cuda=False,
        cache=False,
        verbose=False,
        save_cpu_ram=True,
        batch_size=12,
        feature_extractor_weights_path=str(weights),
    )["frechet_inception_distance"]
    extractor = Inception(str(weights))
    found = frechet_distance(*(FeatureStatistics.from_features(extractor(s)["features"]) for s in sets))
    assert found == pytest.approx(expected, rel=1e-6)


def test_constructing_reads_nothing(hub):
    extractor = Inception()
    assert extractor.path == hub
    assert not hub.exists()


def test_missing_weights_name_the_file_the_address_and_the_way_out(hub, images):
    extractor = Inception()
    calls = (extractor.prepare, lambda: extractor.load("cpu"), lambda: extractor(images), lambda: extractor.digest)
    for call in calls:
        with pytest.raises(UserError) as error:
            call()
        message = str(error.value)
        assert str(hub) in message and theirs.URL_INCEPTION_V3 in message
        assert "metrics=[]" in message and "extractor=fashion" in message
    assert not hub.parent.exists() or list(hub.parent.iterdir()) == []
    with pytest.raises(UserError, match=r"given\.pth"):
        Inception("given.pth").prepare()


def test_weights_are_downloaded_once(hub, weights, monkeypatch):
    digest = hashlib.sha256(weights.read_bytes()).hexdigest()
    other, right = (weights.with_name(f"weights-{start}.pth") for start in ("01234567", digest[:8]))
    for name in (other, right):
        os.symlink(weights, name)
    monkeypatch.setattr(theirs, "URL_INCEPTION_V3", other.as_uri())
    with pytest.raises(UserError, match="another file than the published one"):
        Inception().prepare()
    monkeypatch.setattr(theirs, "URL_INCEPTION_V3", right.as_uri())
    extractor = Inception()
    extractor.prepare()
    assert [p.name for p in hub.parent.iterdir()] == [right.name]
    assert extractor.digest == digest
    monkeypatch.setattr(urllib.request, "urlopen", lambda *args, **kwargs: pytest.fail("downloaded again"))
    Inception().prepare()


def test_a_download_cut_short_leaves_nothing(hub, monkeypatch):
    class Cut(io.BytesIO):
        headers = {"Content-Length": "1000"}  # noqa: RUF012

    monkeypatch.setattr(urllib.request, "urlopen", lambda *args, **kwargs: Cut(b"x" * 10))
    monkeypatch.setattr(theirs, "URL_INCEPTION_V3", "https://host/weights.pth")
    with pytest.raises(UserError, match="10 of 1000 bytes"):
        Inception().prepare()
    assert list(hub.parent.iterdir()) == []


class Bomb:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (os.mkdir, (self.path,))


def test_code_in_the_weights_file_is_refused(tmp_path):
    path = tmp_path / "bomb.pth"
    torch.save({"fc.weight": Bomb(str(tmp_path / "exploded"))}, path)
    with pytest.raises(UserError, match="never built: delete"):
        Inception(str(path)).prepare()
    assert not (tmp_path / "exploded").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([torch.zeros(2)], "holds a list and no state dict"),
        ({"fc.weight": 1}, "holds no weights"),
        ({"fc.weight": torch.zeros(1008, 2048)}, "does not hold the weights"),
    ],
    ids=["list", "number", "other network"],
)
def test_weights_of_something_else_are_refused(content, message, tmp_path):
    path = tmp_path / "other.pth"
    torch.save(content, path)
    with pytest.raises(UserError, match=message):
        Inception(str(path)).prepare()


def test_a_cut_file_is_refused(weights, tmp_path):
    path = tmp_path / "cut.pth"
    path.write_bytes(weights.read_bytes()[:100_000])
    with pytest.raises(UserError, match=r"delete .*cut\.pth"):
        Inception(str(path)).prepare()
