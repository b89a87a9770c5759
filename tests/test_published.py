"""torchvision's classifiers by name: what they take, what they are refused for, and their published weights."""

import pytest
import torch

from fd_flower import models
from fd_flower.core.errors import InvalidInputError
from fd_flower.models import published
from fd_flower.models.published import body


@pytest.mark.parametrize("name", ["mobilenet_v3_small", "squeezenet1_1", "shufflenet_v2_x0_5", "regnet_y_400mf"])
def test_a_network_of_each_manner_is_a_model_with_features_and_a_head(name: str):
    shape = (1, 32, 32)
    model = models.build(name, shape, 7, seed=0).eval()
    x = torch.zeros(2, *shape)
    assert model(x).shape == (2, 7)
    torch.testing.assert_close(model.head(model.features(x)), model(x))
    again = models.build(name, shape, 7, seed=0).state_dict()
    assert all(torch.equal(tensor, again[key]) for key, tensor in model.state_dict().items())


def test_a_family_with_a_small_stem_has_it_for_small_images_alone():
    with torch.device("meta"):
        small, _ = body("resnet50", (3, 32, 32))
        large, _ = body("resnet50", (3, 224, 224))
    assert (small.conv1.stride, type(small.maxpool)) == ((1, 1), torch.nn.Identity)
    assert (large.conv1.stride, type(large.maxpool)) == ((2, 2), torch.nn.MaxPool2d)


@pytest.mark.parametrize(
    ("name", "wanted"),
    [("alexnet", "sides of at least 63"), ("inception_v3", "sides of at least 75")],
)
def test_a_network_that_cannot_take_small_images_says_which_size_it_needs(name: str, wanted: str):
    with pytest.raises(InvalidInputError, match=f"{name} cannot take images of 32x32; expected {wanted}"):
        models.build(name, (3, 32, 32), 10, seed=0)


def test_the_size_that_is_named_will_do():
    assert published._takes("alexnet", (3, 63, 63), small=True)
    assert not published._takes("alexnet", (3, 62, 62), small=True)


def test_weights_without_a_network_are_a_line_with_the_file_and_the_folder(monkeypatch, tmp_path):
    def no_network(*_, **__):
        raise OSError("Name or service not known")

    monkeypatch.setattr(torch.hub, "download_url_to_file", no_network)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    words = (
        r"model.weights=DEFAULT of resnet18 cannot be had \(Name .*\): put https://.*/resnet18-.*pth into .*checkpoints"
    )
    with pytest.raises(InvalidInputError, match=words):
        models.build("resnet18", (3, 32, 32), 10, seed=0, weights="DEFAULT")


def test_weights_are_loaded_below_a_new_head(monkeypatch):
    """Published weights in the place of a download: the body has them, the stem is the published one's."""
    from torchvision.models import resnet18

    theirs = resnet18().state_dict()
    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", lambda *_, **__: theirs)
    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", lambda *_, **__: theirs)
    model = models.build("resnet18", (1, 32, 32), 5, seed=0, weights="IMAGENET1K_V1").eval()
    own = model.state_dict()
    assert torch.equal(own["body.1.conv1.weight"], theirs["conv1.weight"])
    assert model(torch.zeros(2, 1, 32, 32)).shape == (2, 5)


@pytest.mark.parametrize(
    ("name", "weights", "words"),
    [
        ("cnn", "DEFAULT", "'cnn' has no published weights"),
        ("resnet50", "V7", "torchvision has of resnet50: DEFAULT, IMAGENET1K_V1, IMAGENET1K_V2$"),
    ],
)
def test_weights_that_are_not_there_are_refused(name: str, weights: str, words: str):
    with pytest.raises(InvalidInputError, match=words):
        models.build(name, (3, 32, 32), 10, seed=0, weights=weights)


def test_a_width_of_a_network_that_has_none_is_refused():
    with pytest.raises(InvalidInputError, match=r"resnet50 has no width multiplier, so not 'resnet50:0\.5'"):
        models.build("resnet50:0.5", (3, 32, 32), 10, seed=0)


def test_an_unknown_name_near_one_of_torchvisions_names_it():
    with pytest.raises(InvalidInputError, match="did you mean 'efficientnet_b0'"):
        models.build("efficientnet_b00", (3, 32, 32), 10, seed=0)


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(published.published()))
def test_every_classifier_of_torchvision_has_features_of_gray_images(name: str):
    """Those of RegNet cannot be made without numbers, so the largest are left to the memory of who asks for them."""
    if name in ("regnet_y_128gf", "regnet_y_32gf", "regnet_x_32gf", "regnet_y_16gf"):
        pytest.skip("too large to make")
    with torch.device("cpu" if name.startswith("regnet") else "meta"), torch.no_grad():
        net, features = body(name, (1, 224, 224))
        assert net.eval()(torch.empty(2, 1, 224, 224)).shape == (2, features)
