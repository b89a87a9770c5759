"""What votes see: pixels, torchvision's weights, a file, and a resnet8 trained on another labeled set."""

from pathlib import Path
from urllib.error import URLError

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from fd_flower import models
from fd_flower.config import DataConfig, settings
from fd_flower.core.errors import InvalidInputError
from fd_flower.core.samples import Samples
from fd_flower.data import encoder as encoders
from fd_flower.data.encoder import encoder
from fd_flower.tasks.described import described
from fd_flower.tasks.world import World

torch.set_num_threads(1)

IMAGES = torch.randint(0, 256, (7, 1, 8, 8), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
PUBLIC = Samples(IMAGES)


def config(name: str, **also) -> DataConfig:
    return DataConfig(encoder=name, **also)


@pytest.fixture
def body(tmp_path) -> Path:
    """Write the body of a resnet8 for gray images."""
    tensors = models.build("resnet8", (1, 8, 8), 3, seed=1).body.state_dict()
    save_file({key: tensor.contiguous() for key, tensor in tensors.items()}, tmp_path / "body.safetensors")
    return tmp_path / "body.safetensors"


# --- pixels


def test_pixels_are_flat_and_in_the_models_scale():
    """0 is -1 and 255 is 1, in the rows' order."""
    x = torch.tensor([[0, 255], [51, 102]], dtype=torch.uint8).reshape(1, 1, 2, 2)
    seen = encoder(config("pixels"), Samples(x))(Samples(torch.cat([x, 255 - x]), index=torch.tensor([1, 0])))
    expected = torch.tensor([[1.0, -1.0, 0.6, 0.2], [-1.0, 1.0, -0.6, -0.2]], dtype=torch.float64)
    torch.testing.assert_close(seen, expected, atol=1e-6, rtol=0)


def test_a_users_own_inputs_are_pixels_as_they_are():
    x = torch.randn(5, 3)
    assert torch.equal(encoder(config("pixels"), Samples(x))(Samples(x)), x.double())


def test_no_sample_is_no_row():
    none = Samples(IMAGES, index=torch.empty(0, dtype=torch.int64))
    assert encoder(config("pixels"), PUBLIC)(none).shape == (0, 64)


def test_the_public_samples_are_encoded_once(monkeypatch, body):
    calls = []
    real = encoders._features
    monkeypatch.setattr(encoders, "_features", lambda body, samples: calls.append(samples) or real(body, samples))
    for name in ("pixels", str(body)):
        calls.clear()
        encode = encoder(config(name), PUBLIC)
        assert encode(PUBLIC) is encode(PUBLIC)
        assert len(calls) == 1


# --- a file


def test_a_files_features_are_standardized_by_the_public_ones(body):
    """Mean 0 and deviation 1 over the public samples; own samples share their scale."""
    encode = encoder(config(str(body)), PUBLIC)
    net = models.build("resnet8", (1, 8, 8), 3, seed=1).eval()
    with torch.no_grad():
        plain = net.features(PUBLIC.batch(torch.arange(7))[0]).double()
    deviation = plain.std(0, correction=0)
    expected = (plain - plain.mean(0)) / torch.where(deviation == 0, 1.0, deviation)
    torch.testing.assert_close(encode(PUBLIC), expected, atol=1e-4, rtol=0)
    torch.testing.assert_close(encode(PUBLIC[torch.tensor([4])]), expected[4:5], atol=1e-4, rtol=0)
    assert encode(PUBLIC).isfinite().all()


def test_a_feature_that_is_the_same_for_all_says_nothing(body):
    encode = encoder(config(str(body)), PUBLIC[torch.tensor([2, 2, 2])])
    assert encode(PUBLIC[torch.tensor([2])]).abs().max() < 1e-6
    assert encode(PUBLIC).isfinite().all()


def test_a_file_that_does_not_fit_is_refused(body, tmp_path):
    color = Samples(torch.zeros(3, 3, 8, 8, dtype=torch.uint8))
    with pytest.raises(InvalidInputError, match="no body of a resnet8 for images with 3 channels"):
        encoder(config(str(body)), color)
    with pytest.raises(InvalidInputError, match="no body of a resnet8"):
        encoder(config(str(tmp_path / "nowhere.safetensors")), PUBLIC)
    (tmp_path / "broken.safetensors").write_bytes(b"no tensors")
    with pytest.raises(InvalidInputError, match="no body of a resnet8"):
        encoder(config(str(tmp_path / "broken.safetensors")), PUBLIC)
    with pytest.raises(InvalidInputError, match="relative path"):
        encoder(config("body.safetensors"), PUBLIC)


def test_what_is_no_image_can_only_be_seen_as_pixels(body):
    with pytest.raises(InvalidInputError, match=r"sees images, not inputs of shape \[64\]: use pixels"):
        encoder(config(str(body)), Samples(torch.zeros(3, 64)))


# --- torchvision


NAME = "ShuffleNet_V2_X0_5_Weights.IMAGENET1K_V1"


def test_a_torchvision_weight_is_the_network_without_its_last_layer(monkeypatch, tmp_path):
    """Weights are taken from torch's hub folder, where a download would put them; here they are made up."""
    from torchvision import models as zoo

    torch.manual_seed(0)
    net = zoo.shufflenet_v2_x0_5()
    (tmp_path / "checkpoints").mkdir()
    torch.save(net.state_dict(), tmp_path / "checkpoints" / "shufflenetv2_x0.5-f707e7126e.pth")
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    seen = encoder(config(NAME), PUBLIC)(PUBLIC)
    assert seen.shape == (7, 1024)
    prepare = zoo.ShuffleNet_V2_X0_5_Weights.IMAGENET1K_V1.transforms()
    net.fc = torch.nn.Identity()
    with torch.no_grad():
        plain = net.eval()(prepare(IMAGES.expand(-1, 3, -1, -1).float() / 255)).double()
    deviation = plain.std(0, correction=0)
    varied = deviation > 1e-2 * plain.abs().amax(0)
    assert varied.any()
    standard = (plain - plain.mean(0)) / deviation
    torch.testing.assert_close(seen[:, varied], standard[:, varied], atol=1e-2, rtol=0)


def test_weights_that_cannot_be_downloaded_are_named(monkeypatch, tmp_path):
    def fail(*about, **more):
        raise URLError("Name or service not known")

    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr("torch.hub.download_url_to_file", fail)
    with pytest.raises(InvalidInputError) as raised:
        encoder(config(NAME), PUBLIC)
    assert len(str(raised.value).splitlines()) == 1
    for part in (NAME, "service not known", "shufflenetv2_x0.5-f707e7126e.pth", str(tmp_path), "data.encoder=pixels"):
        assert part in str(raised.value)


@pytest.mark.parametrize("name", ["ResNet18_Weights.IMAGENET1K_V2", "ResNet19_Weights.IMAGENET1K_V1"])
def test_an_unknown_weight_names_the_nearest(name):
    with pytest.raises(InvalidInputError, match=r"did you mean 'ResNet18_Weights.IMAGENET1K_V1'"):
        encoder(config(name), PUBLIC)


def test_a_word_that_is_no_encoder_is_refused_before_the_run():
    with pytest.raises(InvalidInputError, match=r"data\.encoder is 'pixel'"):
        settings("fedmd", "data.encoder=pixel")


# --- trained on another set


@pytest.fixture
def source(write_parquet, tmp_path) -> str:
    """Write images of two classes that are easily told apart: bright above, or bright below."""
    labels = np.arange(600) % 2
    images = np.random.default_rng(0).integers(0, 128, (600, 8, 8), dtype=np.uint8)
    images[labels == 0, :4] += 128
    images[labels == 1, 4:] += 128
    write_parquet(tmp_path / "halves", list(images[:500]), labels[:500], classes=2)
    write_parquet(tmp_path / "halves", list(images[500:]), labels[500:], classes=2, split="test")
    return str(tmp_path / "halves")


def test_an_encoder_is_trained_once_and_says_what_it_cost(source, fresh_cache, caplog, monkeypatch):
    caplog.set_level("INFO", logger="flwr")
    first = encoder(config(f"train:{source}"), PUBLIC)(PUBLIC)
    assert first.shape == (7, 64)
    assert f"a resnet8 trained on {source} (500 rows" in caplog.text
    assert "100 held-out images of 2 classes" in caplog.text
    accuracy = float(caplog.text.partition(" tells ")[2].partition(" %")[0])
    assert accuracy > 90
    monkeypatch.setattr(encoders, "_train", lambda *about: pytest.fail("trained again"))
    assert torch.equal(encoder(config(f"train:{source}"), PUBLIC)(PUBLIC), first)


def test_what_it_learns_is_a_function_of_the_source_alone(source, fresh_cache, tmp_path):
    kept = []
    for place in (tmp_path / "a", tmp_path / "b"):
        place.mkdir()
        torch.manual_seed(len(kept))
        encoders._train(source, DataConfig(clients=3 + len(kept)), "8x8x1", place)
        kept.append(load_file(place / encoders.BODY))
    assert kept[0].keys() == models.build("resnet8", (1, 8, 8), 1, seed=0).body.state_dict().keys()
    assert all(torch.equal(tensor, kept[1][key]) for key, tensor in kept[0].items())


def test_another_size_is_another_encoder(source, fresh_cache):
    larger = Samples(torch.zeros(3, 3, 12, 12, dtype=torch.uint8))
    small, large = (
        encoders._trained(source, config(f"train:{source}"), tuple(samples.x.shape[1:])) for samples in (PUBLIC, larger)
    )
    assert small != large


def test_a_source_without_test_rows_is_measured_on_a_fifth(fresh_cache):
    images, learned, held_out = encoders._labeled("digits", DataConfig(), "8x8x1")
    assert len(learned) + len(held_out) == len(images.x) == 1797
    assert abs(len(held_out) - 1797 / 5) < 6
    assert not set(learned.index.tolist()) & set(held_out.index.tolist())


def test_private_labels_are_refused(source):
    with pytest.raises(InvalidInputError, match=r"would learn the private labels of data\.source"):
        encoder(config("train:digits"), PUBLIC)
    listed = config(f"train:{source}/", source=["digits", source], partition="domain")
    with pytest.raises(InvalidInputError, match="private labels"):
        encoder(listed, PUBLIC)


def test_an_unlabeled_source_is_refused(tmp_path, fresh_cache):
    import io

    from datasets import Dataset, Features, Image
    from PIL import Image as Pil

    file = io.BytesIO()
    Pil.fromarray(np.zeros((8, 8), dtype=np.uint8)).save(file, "PNG")
    rows = {"image": [{"bytes": file.getvalue(), "path": None}] * 4}
    (tmp_path / "bare").mkdir()
    Dataset.from_dict(rows, features=Features({"image": Image()})).to_parquet(tmp_path / "bare" / "train.parquet")
    with pytest.raises(InvalidInputError, match="unlabeled"):
        encoder(config(f"train:{tmp_path}/bare"), PUBLIC)


# --- in a run


def test_a_world_encodes_with_its_settings(body):
    chosen = settings("fedmd", f"data.encoder={body}")
    world = World(chosen, described(chosen))
    encoded = world.encoded("mlp")
    seen = encoded(world.public)
    assert seen.shape == (len(world.public), 64)
    torch.testing.assert_close(seen.mean(0), torch.zeros(64, dtype=torch.float64))
    assert world.encoded("cnn")(world.public) is seen
    assert encoded(world.data("0").train).shape == (len(world.data("0").train), 64)
