import pytest
import torch
from torchmetrics.functional.image.lpips import _LPIPS, ScalingLayer

from oboro.base.errors import UserError
from oboro.extractor.fashion import Fashion as Extractor
from oboro.extractor.fashion import standardise
from oboro.loss.perceptual import LPIPS, Fashion, Zero


@pytest.fixture(scope="module")
def theirs():
    """torchmetrics' LPIPS with random weights, none of whose layers fades."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        with torch.device("meta"):  # VGG's classifier, which is thrown away, would take seconds to initialise
            network = _LPIPS(pretrained=False, net="vgg", pnet_rand=True)
        network.to_empty(device="cpu").scaling_layer = ScalingLayer()
        for p in network.net.parameters():
            torch.nn.init.kaiming_normal_(p) if p.ndim > 1 else p.normal_(std=0.1)
        for lin in network.lins:
            lin.model[-1].weight.uniform_()
    return network


@pytest.fixture(scope="module")
def files(theirs, tmp_path_factory):
    """These weights in two files, named as torchvision and lpips name them; the former's classifier is left out."""
    folder = tmp_path_factory.mktemp("weights")
    backbone = {".".join(["features", *name.split(".")[1:]]): p for name, p in theirs.net.named_parameters()}
    heads = {name: p for name, p in theirs.named_parameters() if name.startswith("lin")}
    torch.save(backbone, folder / "vgg16.pth")
    torch.save(heads, folder / "heads.pth")
    return {"backbone": str(folder / "vgg16.pth"), "heads": str(folder / "heads.pth")}


@pytest.fixture
def pair():
    g = torch.Generator().manual_seed(1)
    return torch.rand(2, 2, 3, 32, 48, generator=g).unbind(0)


def test_lpips_is_that_of_torchmetrics_in_value_and_gradient(theirs, files, pair):
    x, y = (2 * a - 1 for a in pair)
    ours = LPIPS(**files)
    ours.check(3)
    x.requires_grad_()
    found, expected = ours(x, y), theirs(x, y).view(2)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(
        torch.autograd.grad(found.sum(), x)[0], torch.autograd.grad(expected.sum(), x)[0], rtol=1e-3, atol=1e-7
    )


def test_lpips_sees_grey_images_as_rgb(files, pair):
    ours = LPIPS(**files)
    ours.check(1)
    x, y = (a[:, :1] for a in pair)
    torch.testing.assert_close(ours(x, y), ours(x.repeat(1, 3, 1, 1), y.repeat(1, 3, 1, 1)))


def test_the_fashion_distance_is_that_of_the_classifier_s_feature_maps(pair):
    ours = Fashion()
    ours.check(1)
    network, maps = Extractor().build(), []
    for conv in (network.conv1, network.conv2, network.conv3, network.conv4):
        conv.register_forward_hook(lambda layer, inputs, output: maps.append(output.relu()))
    x, y = ((a[:, :1, :28, :28] * 255).round() for a in pair)
    expected = 0
    for pixels in (x, y):
        network(standardise(pixels.to(torch.uint8)))
    for a, b in zip(maps[:4], maps[4:], strict=True):
        u, v = (f / f.norm(dim=1, keepdim=True).clamp(min=1e-12) for f in (a, b))
        expected = expected + (u - v).square().sum(1).mean((1, 2))
    torch.testing.assert_close(ours(x / 127.5 - 1, y / 127.5 - 1), expected, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("name", ["zero", "fashion", "lpips"])
def test_equal_images_are_at_distance_zero_and_others_are_not(name, files, pair):
    distance = {"zero": Zero(), "fashion": Fashion(), "lpips": LPIPS(**files)}[name]
    distance.check(3)
    x, y = (2 * a - 1 for a in pair)
    x.requires_grad_()
    assert distance(x, x).tolist() == [0, 0] and bool((distance(x, y) > 0).all()) == (name != "zero")
    (gradient,) = torch.autograd.grad(distance(x, x.detach()).sum() + 0 * x.sum(), x)
    assert gradient.count_nonzero() == 0  # and no NaN, though a norm has none at 0


@pytest.mark.parametrize("distance", [Fashion(), LPIPS(None, None)], ids=["fashion", "lpips"])
def test_its_weights_are_in_no_checkpoint_and_no_optimizer(distance):
    assert list(distance.state_dict()) == [] and list(distance.parameters()) == []


def test_files_that_are_missing_or_of_another_network_end_in_a_remedy(files, pair, tmp_path):
    with pytest.raises(UserError, match=r"set loss.perceptual.backbone=FILE"):
        LPIPS(None, files["heads"]).check(3)
    with pytest.raises(UserError, match=r"set loss.perceptual.heads=FILE"):
        LPIPS(files["backbone"], str(tmp_path / "nothing.pth")).check(3)
    with pytest.raises(UserError, match=r"LPIPS have no lin._model_1_weight of shape"):
        LPIPS(files["backbone"], files["backbone"]).check(3)
    (tmp_path / "text.pth").write_text("no weights")
    with pytest.raises(UserError, match="damaged or something else"):
        LPIPS(str(tmp_path / "text.pth"), files["heads"]).check(3)
    torch.save([1, 2], tmp_path / "list.pth")
    with pytest.raises(UserError, match="holds a list and no state dict"):
        LPIPS(str(tmp_path / "list.pth"), files["heads"]).check(3)
    with pytest.raises(UserError, match=r"set data.channels=3"):
        Fashion().check(4)
    heads = torch.load(files["heads"], weights_only=True)
    name = next(iter(heads))
    for i, broken in enumerate((torch.nan * heads[name], heads[name].long(), heads[name] + 0j)):
        torch.save({**heads, name: broken}, tmp_path / f"{i}.pth")
        with pytest.raises(UserError, match=r"hold NaN, infinity or no numbers in lin0_model_1_weight; get the files"):
            LPIPS(files["backbone"], str(tmp_path / f"{i}.pth")).check(3)
    assert LPIPS(**files)(*pair).isnan().all()  # nothing was read
