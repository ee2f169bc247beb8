"""Image files: which ones a folder of classes has, and their pixels as 8-bit RGB."""

import functools
import io
import os
import threading
import warnings
from pathlib import Path

import numpy as np

from tfprune.errors import FileError
from tfprune.extras import extra
from tfprune.reading import reading
from tfprune.text import printable

with extra("experiments"):
    from PIL import Image, ImageCms, ImageOps, UnidentifiedImageError

# Pillow's names. What it calls an MPO is a JPEG that further pictures follow, such as a camera's preview.
FORMATS = ("BMP", "GIF", "JPEG", "PNG", "WEBP")

_KIND = "image"
_ADVICE = "convert it to an opaque 8-bit PNG or JPEG, or remove it"

# Python's filters of warnings are those of all threads.
_WARNINGS = threading.Lock()

# How far a profile may move 8-bit levels and still count as sRGB: a step of rounding.
_SAME_LEVELS = 1


def read_image(path: str | os.PathLike[str]) -> np.ndarray:
    """Returns the pixels of an image file as they are meant to be seen, in 8-bit RGB.

    The content says what the format is, whatever the suffix. Grey levels fill the three channels, palettes
    become their colours, and CMYK and YCbCr are converted as Pillow's `Image.convert` does. 16 bits become
    the nearest of 8: 0 to 65535 are 0 to 255, in colour within one level, since Pillow drops the lower
    byte. An embedded colour profile other than sRGB is applied (ImageCms, perceptual), and so is the
    orientation in EXIF or XMP. Of an MPO the first picture counts, which is its main one.

    What could only be guessed is an error: animations, pixels that are not opaque, a transparent colour, a
    palette without a colour that is used, a profile of another colour space.

    Args:
        path: A file in one of `FORMATS`.

    Returns:
        uint8 array of shape [height, width, 3].

    Raises:
        FileError: If the file is damaged, no such image, too large for Pillow
            (`PIL.Image.MAX_IMAGE_PIXELS`), or cannot be converted without a guess.
    """
    with reading(path, _KIND, _ADVICE):
        try:
            with _WARNINGS, warnings.catch_warnings():
                warnings.simplefilter("error", Image.DecompressionBombWarning)
                image = Image.open(path, formats=FORMATS)
        except UnidentifiedImageError as error:
            raise ValueError(f"its content is none of {', '.join(FORMATS)}, or damaged") from error
        with image:
            if image.format != "MPO" and getattr(image, "is_animated", False):
                raise ValueError(f"it holds {image.n_frames} pictures, and which one is meant is not known")
            ImageOps.exif_transpose(image, in_place=True)
            return np.asarray(_to_rgb(image))


def class_files(folder: Path) -> dict[str, list[Path]]:
    """Returns the image files below each class's folder, in a fixed order.

    Folders whose names begin with a dot are no classes, and files that are no images are skipped. Links are
    followed.

    Args:
        folder: The folder with a folder for each class.

    Returns:
        Name of the class -> paths, sorted by folder, then by name; the classes are sorted by name.

    Raises:
        FileError: If there is no class, a class has no images, an image lies outside of the classes, is in
            a format that is not read, or is no file, or a folder cannot be listed.
    """
    found: dict[str, list[Path]] = {}
    for entry in _entries(folder):
        if _is_image(entry):
            raise FileError(f"{_shown(entry.path)}: an image outside of the folders of the classes; move it")
        if entry.is_dir() and not entry.name.startswith("."):
            found[entry.name] = _files_below(entry.path)
            if not found[entry.name]:
                raise FileError(
                    f"{_shown(entry.path)}: a class without images; add some or remove the folder"
                )
    if not found:
        raise FileError(f"{_shown(folder)}: has no folders of classes; it must have one for each class")
    return found


def _files_below(top: str) -> list[Path]:
    """Returns the images in a folder and all below it."""
    found = []
    # A folder and those that it lies in, by their identity on the disk: a link may lead back to one.
    waiting = [(top, frozenset())]
    while waiting:
        folder, above = waiting.pop()
        try:
            status = os.stat(folder)
        except OSError as error:
            raise _unreadable_folder(error, folder) from error
        identity = (status.st_dev, status.st_ino)
        if identity in above:
            raise FileError(f"{_shown(folder)}: a link to a folder that it lies in; remove the link")
        for entry in _entries(folder):
            if _is_image(entry):
                found.append((folder, entry.name))
            elif entry.is_dir():
                waiting.append((entry.path, above | {identity}))
    return [Path(folder, name) for folder, name in sorted(found)]


def _entries(folder: str | os.PathLike[str]) -> list[os.DirEntry]:
    """Returns what a folder has, sorted by name."""
    try:
        with os.scandir(folder) as entries:
            return sorted(entries, key=lambda entry: entry.name)
    except OSError as error:
        raise _unreadable_folder(error, folder) from error


def _unreadable_folder(error: OSError, folder: str | os.PathLike[str]) -> FileError:
    return FileError(f"{_shown(folder)}: not a readable folder: {error.strerror}; mend or remove it")


def _is_image(entry: os.DirEntry) -> bool:
    """Returns whether a folder's entry is an image to read.

    Raises:
        FileError: If its name says that it is an image, but it is none that can be read.
    """
    suffix = os.path.splitext(entry.name)[1].lower()
    format = _formats().get(suffix)
    if format is None:
        return False
    with reading(entry.path, _KIND, _ADVICE):  # A folder, a pipe, a link to nothing.
        if format not in (*FORMATS, "MPO"):
            raise ValueError(f"images of the format {format} are not read")
    return True


@functools.cache
def _formats() -> dict[str, str]:
    """Returns each suffix of images that Pillow knows -> its name of the format."""
    return Image.registered_extensions()


def _shown(path: str | os.PathLike[str]) -> str:
    return printable(os.fspath(path))


def _to_rgb(image: Image.Image) -> Image.Image:
    """Returns an image in the mode RGB.

    Raises:
        ValueError: If the conversion would be a guess.
    """
    profile = image.info.get("icc_profile")
    if image.mode == "P":
        count = len(image.getpalette() or ()) // 3
        if (used := image.getextrema()[1]) >= count:
            raise ValueError(f"its palette has {count} colours, but a pixel is number {used}")
    if image.has_transparency_data:
        if image.mode not in ("LA", "P", "PA", "RGBA"):
            # Pillow does not scale the colour with the pixels of 1, 2, 4 and 16 bits.
            raise ValueError("it has a transparent colour, and what lies behind it is not known")
        colours = image.convert("RGBA")
        if colours.getchannel("A").getextrema()[0] < 255:
            raise ValueError("it has pixels that are not opaque, and what lies behind them is not known")
        image = image.convert("L") if image.mode == "LA" else colours.convert("RGB")
    elif image.mode.startswith("I;16"):
        levels = np.asarray(image).astype(np.uint32)
        image = Image.fromarray(((levels * 255 + 32767) // 65535).astype(np.uint8))
    return _through(profile, image) if profile else image.convert("RGB")


def _through(profile: bytes, image: Image.Image) -> Image.Image:
    """Returns an image in the mode RGB, its colours brought from its profile to sRGB."""
    try:
        space = ImageCms.ImageCmsProfile(io.BytesIO(profile)).profile.xcolor_space.strip()
        mode = {"GRAY": "L", "CMYK": "CMYK"}.get(space, "RGB")
        # Grey in a profile of RGB is as good as three equal channels.
        fits = {"L": ("1", "L"), "CMYK": ("CMYK",), "RGB": ("1", "L", "P", "RGB")}[mode]
        if space not in ("GRAY", "CMYK", "RGB") or image.mode not in fits:
            raise ValueError(f"its colour profile is for {space}, its pixels are {image.mode}")
        transform = _to_srgb(profile, mode)
    except (OSError, ImageCms.PyCMSError) as error:
        raise ValueError(f"its colour profile is damaged: {error}") from error
    return image.convert("RGB") if transform is None else transform.apply(image.convert(mode))


@functools.lru_cache(maxsize=16)
def _to_srgb(profile: bytes, mode: str) -> ImageCms.ImageCmsTransform | None:
    """Returns the way from a profile to sRGB; None if that leaves the pixels as they are."""
    source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
    transform = ImageCms.buildTransform(source, ImageCms.createProfile("sRGB"), mode, "RGB")
    if mode == "CMYK":
        return transform
    levels = np.arange(0, 256, 15, dtype=np.uint8)
    colours = np.stack(np.meshgrid(*[levels] * len(mode), indexing="ij"), axis=-1).reshape(1, -1, len(mode))
    plain = Image.fromarray(colours if len(mode) > 1 else colours[..., 0])
    moved = np.asarray(transform.apply(plain)).astype(int) - np.asarray(plain.convert("RGB"))
    return None if np.abs(moved).max() <= _SAME_LEVELS else transform
