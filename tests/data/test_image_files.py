"""Image files as pixels, beside values worked out by hand or by Pillow."""

import io
import os
import struct
import zlib

import keras
import numpy as np
import pytest
from PIL import Image, ImageCms

from tfprune.data.image_files import class_files, read_image
from tfprune.errors import FileError

pytestmark = pytest.mark.one_backend

COLOURS = np.random.default_rng(0).integers(0, 256, (5, 7, 3)).astype(np.uint8)
# One channel or three of PNG, by the number that its header has.
GREY, RGB, PALETTE, GREY_ALPHA, RGB_ALPHA = 0, 2, 3, 4, 6


def chunk(name, data):
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png(rows, depth, kind, width, *chunks):
    """The bytes of a PNG of rows of bytes, with further chunks before the pixels."""
    header = struct.pack(">IIBBBBB", width, len(rows), depth, kind, 0, 0, 0)
    pixels = zlib.compress(b"".join(b"\0" + row for row in rows))
    body = [chunk(b"IHDR", header), *chunks, chunk(b"IDAT", pixels), chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(body)


def encoded(image, format="PNG", **options):
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


@pytest.fixture
def read(tmp_path):
    """Reads the bytes of a file as an image."""

    def read(content, name="image.png"):
        path = tmp_path / name
        path.write_bytes(content)
        pixels = read_image(path)
        assert pixels.dtype == np.uint8 and pixels.ndim == 3 and pixels.shape[2] == 3
        return pixels

    return read


@pytest.fixture
def refused(tmp_path):
    """Asserts that bytes of a file are an error of one line that names the file, and returns its reason."""

    def refused(content, name="image.png"):
        path = tmp_path / name
        path.write_bytes(content)
        with pytest.raises(FileError) as caught:
            read_image(path)
        message = str(caught.value)
        assert message.startswith(f"{path}: not a readable image: ") and len(message.splitlines()) == 1
        return message.removeprefix(f"{path}: not a readable image: ")

    return refused


def grey(*levels):
    """A row of pixels of three equal channels."""
    return np.repeat(np.array([levels], np.uint8)[..., None], 3, axis=-1)


def test_sixteen_bits_become_the_nearest_of_eight(read):
    levels = np.arange(65536)
    content = png([levels.astype(">u2").tobytes()], 16, GREY, 65536)
    np.testing.assert_array_equal(read(content)[0, :, 1], np.rint(levels / 257))
    assert read(content)[0, 30000].tolist() == [117, 117, 117]
    colour = png([struct.pack(">6H", 30000, 65535, 0, 128, 129, 65000)], 16, RGB, 2)
    expected = np.array([30000, 65535, 0, 128, 129, 65000]) / 257
    assert np.abs(read(colour).ravel() - expected).max() <= 1
    assert read(colour).ravel()[:3].tolist() == [117, 255, 0]
    opaque = png([struct.pack(">2H", 30000, 65535)], 16, GREY_ALPHA, 1)
    assert read(opaque).tolist() == grey(117).tolist()


@pytest.mark.parametrize("depth", [1, 2, 4, 8])
def test_greys_of_few_bits_are_spread_over_the_levels(depth, read):
    values = np.arange(2**depth)
    bits = (values[:, None] >> np.arange(depth)[::-1]) & 1
    content = png([np.packbits(bits.ravel()).tobytes()], depth, GREY, len(values))
    np.testing.assert_array_equal(read(content), grey(*values * 255 // (2**depth - 1)))


@pytest.mark.parametrize(
    ("mode", "format"), [("L", "PNG"), ("1", "PNG"), ("P", "GIF"), ("P", "BMP"), ("RGB", "BMP"), ("1", "BMP")]
)
def test_lossless_files_are_the_image_that_was_saved(mode, format, read):
    image = Image.fromarray(COLOURS).convert(mode)
    expected = np.asarray(image.convert("RGB"))
    np.testing.assert_array_equal(read(encoded(image, format)), expected)


@pytest.mark.parametrize("depth", [1, 2, 4, 8])
def test_palettes_become_their_colours(depth, read):
    colours = np.array([[10, 20, 30], [40, 50, 60]], np.uint8)
    plte = chunk(b"PLTE", colours.tobytes())
    indices = {1: 0b01000000, 2: 0b00010000, 4: 0b00000001}
    row = bytes([indices[depth]]) if depth < 8 else b"\0\1"
    np.testing.assert_array_equal(read(png([row], depth, PALETTE, 2, plte)), colours[None])
    opaque = chunk(b"tRNS", b"\xff\xff")
    np.testing.assert_array_equal(read(png([row], depth, PALETTE, 2, plte, opaque)), colours[None])
    # The colour that is not opaque is not used.
    unused = png([bytes(1)], 1, PALETTE, 8, plte, chunk(b"tRNS", b"\xff\0"))
    np.testing.assert_array_equal(read(unused), np.broadcast_to(colours[0], (1, 8, 3)))


def test_opaque_alpha_goes(read):
    alpha = np.full((5, 7, 1), 255, np.uint8)
    image = Image.fromarray(np.concatenate([COLOURS, alpha], axis=-1))
    np.testing.assert_array_equal(read(encoded(image)), COLOURS)
    np.testing.assert_array_equal(read(encoded(image, "WEBP", lossless=True), "image.webp"), COLOURS)
    levels = np.concatenate([COLOURS[..., :1], alpha], axis=-1)
    np.testing.assert_array_equal(read(encoded(Image.fromarray(levels))), COLOURS[..., [0, 0, 0]])


def test_what_is_not_opaque_is_an_error(refused):
    image = Image.fromarray(COLOURS)
    for alpha in (254, 128, 0):
        transparent = image.copy()
        transparent.putalpha(Image.new("L", (7, 5), 255))
        transparent.putpixel((3, 2), (1, 2, 3, alpha))
        for mode in ("RGBA", "LA"):
            assert "not opaque" in refused(encoded(transparent.convert(mode)))
        assert "not opaque" in refused(encoded(transparent, "WEBP", lossless=True))
    plte = chunk(b"PLTE", bytes(6))
    assert "not opaque" in refused(png([b"\0\1"], 8, PALETTE, 2, plte, chunk(b"tRNS", b"\xff\xfe")))
    assert "not opaque" in refused(png([b"\0\1"], 8, PALETTE, 2, plte, chunk(b"tRNS", b"\0")))
    few = image.quantize(4)
    assert "not opaque" in refused(encoded(few, "GIF", transparency=few.getpixel((0, 0))))
    assert "not opaque" in refused(png([struct.pack(">2H", 9, 0)], 16, GREY_ALPHA, 1))
    assert "not opaque" in refused(png([struct.pack(">4H", 9, 9, 9, 600)], 16, RGB_ALPHA, 1))


@pytest.mark.parametrize("depth", [1, 2, 4, 8, 16])
def test_a_transparent_grey_or_colour_is_an_error(depth, refused):
    assert "a transparent colour" in refused(png([bytes(2)], depth, GREY, 1, chunk(b"tRNS", b"\0\1")))
    if depth >= 8:
        transparent = chunk(b"tRNS", bytes(6))
        assert "a transparent colour" in refused(png([bytes(6)], depth, RGB, 1, transparent))


def test_a_palette_without_the_colour_is_an_error(refused):
    plte = chunk(b"PLTE", bytes(6))
    assert "its palette has 2 colours, but a pixel is number 7" in refused(
        png([b"\1\7"], 8, PALETTE, 2, plte)
    )
    refused(png([b"\0\1"], 8, PALETTE, 2))


def test_inks_are_converted_as_pillow_does(read):
    inks = Image.new("CMYK", (8, 8), (10, 200, 60, 20))
    content = encoded(inks, "JPEG", quality=100, subsampling=0)
    pixels = read(content, "image.jpg")
    with Image.open(io.BytesIO(content)) as image:
        assert image.mode == "CMYK"
        np.testing.assert_array_equal(pixels, np.asarray(image.convert("RGB")))
    assert np.abs(pixels.astype(int) - np.array([225, 50, 180])).max() <= 3
    # Adobe's mark for YCCK makes the same four planes a luminance, two differences and black.
    marked = bytearray(content)
    assert marked[(mark := content.index(b"Adobe")) + 11] == 0
    marked[mark + 11] = 2
    assert read(bytes(marked)).tolist() != pixels.tolist()
    with Image.open(io.BytesIO(bytes(marked))) as image:
        assert image.mode == "CMYK"
        np.testing.assert_array_equal(read(bytes(marked)), np.asarray(image.convert("RGB")))


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_orientation_is_applied(orientation, format, read):
    upright = np.kron(COLOURS[:2, :3], np.ones((16, 16, 1), np.uint8))
    # How a camera that was held so stores the scene.
    stored = {
        1: lambda x: x,
        2: lambda x: x[:, ::-1],
        3: lambda x: x[::-1, ::-1],
        4: lambda x: x[::-1],
        5: lambda x: x.swapaxes(0, 1),
        6: lambda x: x.swapaxes(0, 1)[::-1],
        7: lambda x: x.swapaxes(0, 1)[::-1, ::-1],
        8: lambda x: x.swapaxes(0, 1)[:, ::-1],
    }[orientation](upright)
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"JPEG": {"quality": 100, "subsampling": 0}, "PNG": {}, "WEBP": {"lossless": True}}[format]
    pixels = read(encoded(Image.fromarray(np.ascontiguousarray(stored)), format, exif=exif, **options))
    assert pixels.shape == upright.shape
    assert np.abs(pixels.astype(int) - upright).max() <= (4 if format == "JPEG" else 0)


def test_the_orientation_of_other_modes_is_applied(read):
    exif = Image.Exif()
    exif[0x0112] = 6
    for image in (
        Image.fromarray((COLOURS[..., 0].astype(np.uint16)) * 257),
        Image.fromarray(COLOURS[..., 0]),
        Image.fromarray(COLOURS).quantize(256),
    ):
        with_exif, without = read(encoded(image, exif=exif)), read(encoded(image))
        np.testing.assert_array_equal(with_exif, without.swapaxes(0, 1)[:, ::-1])


def test_several_pictures_are_an_error(refused, read):
    frames = [Image.fromarray(COLOURS), Image.fromarray(COLOURS[::-1].copy())]
    for format in ("GIF", "PNG", "WEBP"):
        content = encoded(frames[0], format, save_all=True, append_images=frames[1:])
        assert "it holds 2 pictures" in refused(content)
        one = encoded(frames[0].convert("L"), format, save_all=True, append_images=[])
        assert read(one).shape == (5, 7, 3)


def test_the_first_picture_of_an_mpo_counts(read):
    frames = [Image.new("RGB", (16, 8), colour) for colour in ("red", "blue")]
    pixels = read(encoded(frames[0], "MPO", save_all=True, append_images=frames[1:]), "image.jpg")
    assert pixels.shape == (8, 16, 3)
    assert np.abs(pixels.astype(int) - np.array([255, 0, 0])).max() <= 3


def swapped_profile():
    """A profile of RGB that is sRGB's with the tags of red and green exchanged."""
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    return profile.replace(b"rXYZ", b"????").replace(b"gXYZ", b"rXYZ").replace(b"????", b"gXYZ")


def grey_profile():
    """A profile of grey levels in linear light, put together by the format's rules."""
    tags = [
        (b"wtpt", b"XYZ \0\0\0\0" + struct.pack(">3i", 63190, 65536, 54061)),
        (b"kTRC", b"curv\0\0\0\0" + struct.pack(">I", 0)),
        (b"desc", b"desc\0\0\0\0" + struct.pack(">I", 5) + b"grey\0" + bytes(78 + 1)),
    ]
    table, data, offset = b"", b"", 128 + 4 + 12 * len(tags)
    for name, content in tags:
        content += bytes(-len(content) % 4)
        table += name + struct.pack(">II", offset + len(data), len(content))
        data += content
    size = offset + len(data)
    header = struct.pack(">I4sI4s4s4s", size, b"\0\0\0\0", 0x02100000, b"mntr", b"GRAY", b"XYZ ")
    header += bytes(12) + b"acsp" + bytes(28) + struct.pack(">3i", 63190, 65536, 54061)
    return header.ljust(128, b"\0") + struct.pack(">I", len(tags)) + table + data


def test_a_colour_profile_is_applied(read):
    plain = encoded(Image.fromarray(COLOURS))
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    np.testing.assert_array_equal(read(encoded(Image.fromarray(COLOURS), icc_profile=srgb)), read(plain))
    swapped = read(encoded(Image.fromarray(COLOURS), icc_profile=swapped_profile()))
    assert np.abs(swapped.astype(int) - COLOURS[..., [1, 0, 2]]).max() <= 2
    exact = Image.fromarray(COLOURS).quantize(64)
    paletted = read(encoded(exact, icc_profile=swapped_profile()))
    assert np.abs(paletted.astype(int) - np.asarray(exact.convert("RGB"))[..., [1, 0, 2]]).max() <= 2


def test_a_profile_of_grey_is_applied(read):
    levels = np.array([[0, 55, 128, 255]], np.uint8)
    pixels = read(encoded(Image.fromarray(levels), icc_profile=grey_profile()))
    light = levels / 255  # What sRGB shows as this share of white's light.
    expected = 255 * np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)
    assert np.abs(pixels - expected[..., None]).max() <= 2
    alpha = np.stack([levels, np.full_like(levels, 255)], axis=-1)
    np.testing.assert_array_equal(read(encoded(Image.fromarray(alpha), icc_profile=grey_profile())), pixels)
    deep = Image.fromarray(levels.astype(np.uint16) * 257)
    np.testing.assert_array_equal(read(encoded(deep, icc_profile=grey_profile())), pixels)


def test_a_profile_that_cannot_be_meant_is_an_error(refused):
    image = Image.fromarray(COLOURS)
    assert "colour profile" in refused(encoded(image, icc_profile=b"no profile"))
    assert "its colour profile is for GRAY, its pixels are RGB" in refused(
        encoded(image, icc_profile=grey_profile())
    )
    assert "its colour profile is for Lab" in refused(
        encoded(image, icc_profile=ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes())
    )
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    inks = Image.new("CMYK", (8, 8))
    assert "its colour profile is for RGB, its pixels are CMYK" in refused(
        encoded(inks, "JPEG", icc_profile=srgb)
    )


def test_damage_is_an_error(refused):
    large = Image.fromarray(np.random.default_rng(1).integers(0, 256, (64, 64, 3)).astype(np.uint8))
    for format in ("PNG", "JPEG", "BMP", "GIF", "WEBP"):
        content = encoded(large, format)
        for share in (0, 4, 16, len(content) // 2, len(content) - 40):
            refused(content[:share])
    content = bytearray(encoded(large))
    content[len(content) // 2] ^= 255
    refused(bytes(content))


def test_other_content_is_an_error(refused):
    image = Image.fromarray(COLOURS)
    contents = [encoded(image, format) for format in ("TIFF", "PPM", "TGA", "ICO", "JPEG2000", "PDF")]
    deep = [
        encoded(Image.fromarray(COLOURS[..., 0].astype(dtype)), "TIFF") for dtype in (np.int32, np.float32)
    ]
    lab = encoded(Image.new("LAB", (4, 4)), "TIFF")
    for content in (b"", b"text", bytes(1000), *contents, *deep, lab):
        assert "its content is none of BMP, GIF, JPEG, PNG, WEBP" in refused(content)


def test_the_content_counts_and_not_the_suffix(read):
    np.testing.assert_array_equal(read(encoded(Image.fromarray(COLOURS)), "image.jpg"), COLOURS)


def test_more_pixels_than_pillow_takes_for_safe_are_an_error(refused, monkeypatch):
    for width, height in ((10_000, 10_000), (100_000, 100_000), (2**31 - 1, 2**31 - 1)):
        content = png([], 8, RGB, 1)
        header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, RGB, 0, 0, 0))
        assert "pixels" in refused(content[:8] + header + content[8 + len(header) :])
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 34)
    assert "35 pixels" in refused(encoded(Image.fromarray(COLOURS)))


@pytest.fixture
def folder(tmp_path):
    """Two classes, with folders in one, files that are no images, and a hidden folder."""
    for name in ("cat/b.png", "cat/a.JPG", "cat/sub/c.bmp", "cat/sub-1/d.gif", "dog/.e.jpeg", "dog/Z.png"):
        path = tmp_path / "split" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(COLOURS).save(path)
    (tmp_path / "split" / "cat" / "notes.txt").touch()
    (tmp_path / "split" / ".git").mkdir()
    (tmp_path / "split" / "README").touch()
    return tmp_path / "split"


def test_files_and_classes_are_in_kerass_order(folder):
    keras_found = keras.utils.image_dataset_from_directory(folder, shuffle=False, verbose=False)
    found = class_files(folder)
    assert list(found) == keras_found.class_names == ["cat", "dog"]
    assert [str(path) for paths in found.values() for path in paths] == keras_found.file_paths


def test_suffixes_of_all_formats_are_read(folder):
    for suffix in ("webp", "jpe", "jfif", "apng", "WebP"):
        (folder / "dog" / f"x.{suffix}").touch()
    assert len(class_files(folder)["dog"]) == 7


def assert_folder_refused(folder, path, reason):
    with pytest.raises(FileError) as caught:
        class_files(folder)
    message = str(caught.value)
    assert message.startswith(f"{path}: ") and reason in message and len(message.splitlines()) == 1


def test_links_are_followed(folder, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    Image.fromarray(COLOURS).save(tmp_path / "elsewhere" / "f.png")
    (folder / "dog" / "link").symlink_to(tmp_path / "elsewhere")
    (folder / "dog" / "again").symlink_to(tmp_path / "elsewhere")
    (folder / "dog" / "file.png").symlink_to(tmp_path / "elsewhere" / "f.png")
    (folder / "fox").symlink_to(tmp_path / "elsewhere")
    found = class_files(folder)
    assert len(found["dog"]) == 5
    assert [path.name for path in found["fox"]] == ["f.png"]


@pytest.mark.parametrize("target", [".", "..", "../cat", "../../split/cat"])
def test_a_link_back_is_an_error(folder, target):
    path = folder / "cat" / "back"
    path.symlink_to(target)
    with pytest.raises(FileError, match="a link to a folder that it lies in"):
        class_files(folder)


@pytest.mark.parametrize("name", ["cat/x.png", "dog/.x.JPG", "cat/sub/x.gif", "x.png"])
def test_what_only_has_the_name_of_an_image_is_an_error(folder, name):
    path = folder / name
    os.mkfifo(path)
    assert_folder_refused(folder, path, "it is a pipe")
    path.unlink()
    path.mkdir()
    assert_folder_refused(folder, path, "it is a folder")
    path.rmdir()
    path.symlink_to("nowhere")
    assert_folder_refused(folder, path, "No such file")
    path.unlink()
    path.symlink_to(path)
    assert_folder_refused(folder, path, "symbolic links")


def test_a_pipe_is_never_opened(tmp_path):
    os.mkfifo(tmp_path / "x.png")
    with pytest.raises(FileError, match="it is a pipe, not a file"):
        read_image(tmp_path / "x.png")


def test_a_class_without_images_is_an_error(folder):
    (folder / "fox" / "below").mkdir(parents=True)
    assert_folder_refused(folder, folder / "fox", "a class without images")
    (folder / "fox" / "below" / "notes.txt").touch()
    assert_folder_refused(folder, folder / "fox", "a class without images")


def test_a_folder_without_classes_is_an_error(tmp_path):
    assert_folder_refused(tmp_path, tmp_path, "has no folders of classes")


def test_an_image_of_no_class_is_an_error(folder):
    (folder / "x.png").touch()
    assert_folder_refused(folder, folder / "x.png", "an image outside of the folders of the classes")


@pytest.mark.parametrize("suffix", ["tif", "TIFF", "avif", "jp2", "psd", "ppm"])
def test_an_image_that_would_be_left_out_is_an_error(folder, suffix):
    path = folder / "dog" / f"x.{suffix}"
    path.touch()
    assert_folder_refused(folder, path, "are not read")


def test_names_are_shown_without_what_cannot_be_seen(folder):
    name = os.fsdecode(b"\x1b[31m\xff\n.png")
    (folder / "dog" / name).mkdir()
    assert_folder_refused(folder, f"{folder}/dog/\\x1b[31m\\udcff\\n.png", "it is a folder")
    (folder / "dog" / name).rmdir()
    Image.fromarray(COLOURS).save(folder / "dog" / "x.png")
    (folder / "dog" / "x.png").rename(folder / "dog" / name)
    np.testing.assert_array_equal(read_image(folder / "dog" / name), COLOURS)
    (folder / os.fsdecode(b"\xff")).mkdir()
    assert_folder_refused(folder, f"{folder}/\\udcff", "a class without images")


def test_a_name_that_no_disk_takes_is_an_error(tmp_path):
    with pytest.raises(FileError, match="File name too long"):
        read_image(tmp_path / ("x" * 256 + ".png"))
    with pytest.raises(FileError, match="File name too long"):
        class_files(tmp_path / ("x" * 256))
    with pytest.raises(FileError, match="null"):
        read_image(tmp_path / "x\0.png")
