"""The page that runs a network in the browser: in Chromium, and its WebAssembly in Node."""

import base64
import json
import re
import shutil
import subprocess

import keras
import numpy as np
import pytest
from keras import layers

from tests.export.conftest import IMAGE_SIZE
from tfprune.errors import UserError
from tfprune.export.browser import write_page
from tfprune.export.network import keras_logits

NAMES = [f"class <{number}>" for number in range(10)]
needs_linker = pytest.mark.skipif(shutil.which("wasm-ld") is None, reason="wasm-ld is not installed")


@pytest.fixture(scope="module")
def page(network, images, tmp_path_factory):
    """The page, and what Keras predicts; every other label is right."""
    model, _ = network
    predicted = np.argmax(keras_logits(model, images[:6]), axis=1)
    labels = np.where(np.arange(6) % 2, predicted, (predicted + 1) % 10)
    path = tmp_path_factory.mktemp("page") / "page.html"
    write_page(model, path, images[:6], labels, NAMES, title="A & B", subtitle="Six images.")
    return path, predicted


def data_of(path):
    return json.loads(re.search(r'type="application/json">(.*?)</script>', path.read_text(), re.S).group(1))


@needs_linker
@pytest.mark.slow
def test_the_module_gives_the_networks_outputs(page, network, images, tmp_path):
    if shutil.which("node") is None:
        pytest.skip("Node is not installed")
    data = data_of(page[0])
    (tmp_path / "model.wasm").write_bytes(base64.b64decode(data["module"]))
    images[:6].tofile(tmp_path / "images.bin")
    numbers = IMAGE_SIZE * IMAGE_SIZE * 3
    (tmp_path / "run.js").write_text(f"""
const fs = require("fs");
const instance = new WebAssembly.Instance(new WebAssembly.Module(fs.readFileSync("model.wasm")));
const {{memory, __heap_base, model_run_uint8}} = instance.exports;
const arena = (__heap_base.value + 63) & ~63, image = arena + {data["arena"]}, output = image + 4096;
memory.grow(Math.ceil((output + 4096) / 65536));
const images = fs.readFileSync("images.bin");
for (let i = 0; i < 6; i++) {{
  new Uint8Array(memory.buffer, image).set(images.subarray(i * {numbers}, (i + 1) * {numbers}));
  model_run_uint8(arena, image, output);
  console.log(Array.from(new Float32Array(memory.buffer, output, 10)).join(" "));
}}
""")
    ran = subprocess.run(["node", "run.js"], cwd=tmp_path, capture_output=True, text=True, check=True)
    found = np.array([line.split() for line in ran.stdout.splitlines()], np.float32)
    expected = keras_logits(network[0], images[:6])
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


@needs_linker
@pytest.mark.slow
def test_a_browser_classifies_the_images(page):
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if chromium is None:
        pytest.skip("Chromium is not installed")
    path, predicted = page
    flags = ["--headless=new", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=20000", "--dump-dom"]
    ran = subprocess.run([chromium, *flags, path.as_uri()], capture_output=True, text=True, timeout=120)
    assert "3 of 6" in ran.stdout
    captions = re.findall(r"<figcaption class=\"(\w+)\">(.*?)<div", ran.stdout)
    assert [kind for kind, _ in captions] == ["wrong", "right"] * 3
    for (_, caption), number in zip(captions, predicted, strict=True):
        assert f"class &lt;{number}&gt;, " in caption
    assert re.search(r'id="time">[\d.]+ ms<', ran.stdout)


@needs_linker
@pytest.mark.slow
def test_the_page_asks_for_nothing_else(page):
    text = page[0].read_text()
    assert "<title>A &amp; B</title>" in text
    assert not re.search(r"(src|href)=|https?:|import\(|fetch\(", text)
    assert text.count("</script>") == 2  # The names of classes end no element.


@pytest.mark.parametrize("changes, message", [
    ({"images": np.zeros((2, 8, 8, 3), np.uint8)}, r"`images` must be uint8 \[n, 16, 16, 3\]"),
    ({"images": np.zeros((2, 16, 16, 3))}, "Received: float64"),
    ({"labels": [1]}, "a label for each of 2 images.*Received: 1 labels"),
    ({"class_names": ["one"]}, "and 10 names.*1 names"),
])  # fmt: skip
def test_what_does_not_fit_is_refused(network, tmp_path, changes, message):
    arguments = {"images": np.zeros((2, 16, 16, 3), np.uint8), "labels": [0, 1], "class_names": NAMES}
    with pytest.raises(ValueError, match=message):
        write_page(network[0], tmp_path / "page.html", **arguments | changes)
    assert list(tmp_path.iterdir()) == []


def test_a_network_of_several_outputs_is_refused(tmp_path):
    image = keras.Input((16, 16, 3), dtype="uint8")
    x = layers.GlobalAveragePooling2D()(layers.Rescaling(1.0)(image))
    model = keras.Model(image, [layers.Dense(10)(x), layers.Dense(10)(x)])
    with pytest.raises(ValueError, match="one input and one output. Received: 1 inputs, 2 outputs"):
        write_page(model, tmp_path / "page.html", np.zeros((1, 16, 16, 3), np.uint8), [0], NAMES)
    assert list(tmp_path.iterdir()) == []


def test_a_missing_linker_is_named(network, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    images = np.zeros((1, 16, 16, 3), np.uint8)
    with pytest.raises(UserError, match="wasm-ld, LLVM's linker for WebAssembly, is not installed"):
        write_page(network[0], tmp_path / "page.html", images, [0], NAMES)


def test_a_layer_that_the_runtime_cannot_run_is_named(tmp_path):
    image = keras.Input((16, 16, 3), dtype="uint8")
    x = layers.Lambda(lambda x: x[:, ::-1], output_shape=(16, 16, 3), name="odd")(
        layers.Rescaling(1.0)(image)
    )
    model = keras.Model(image, layers.Dense(10)(layers.GlobalAveragePooling2D()(x)))
    with pytest.raises(UserError, match="odd"):
        write_page(model, tmp_path / "page.html", np.zeros((1, 16, 16, 3), np.uint8), [0], NAMES)
