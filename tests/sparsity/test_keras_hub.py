"""KerasHub's backbones and tasks, small and random: they stay what they are while they are pruned."""

import json

import keras
import numpy as np
import pytest

from tfprune.sparsity import (
    ConstantSparsity,
    UpdatePruningStep,
    masks_of,
    prune_low_magnitude,
    prune_to,
    pruned_layers,
    strip_pruning,
    summarize,
)

models = pytest.importorskip(
    "keras_hub", reason="keras-hub is not installed (`pip install keras-hub`)"
).models

pytestmark = pytest.mark.slow

SMALL = {"vocabulary_size": 50, "num_layers": 2, "num_heads": 2, "hidden_dim": 8, "intermediate_dim": 16}
LLAMA = {**SMALL, "num_query_heads": 2, "num_key_value_heads": 1}
del LLAMA["num_heads"]
GEMMA = {**LLAMA, "head_dim": 4}
SHORT = {**SMALL, "max_sequence_length": 12}
IMAGES = np.random.default_rng(0).random((4, 16, 16, 3)).astype("float32")
TOKENS = np.random.default_rng(0).integers(1, 50, (4, 8)).astype("int32")
ONES = np.ones((4, 8), "int32")
TEXT = {"token_ids": TOKENS, "padding_mask": ONES}
PAIR = {f"{side}_{name}": value for side in ("encoder", "decoder") for name, value in TEXT.items()}
LABELS = np.array([0, 1, 2, 0])


def vit():
    return models.ViTBackbone((16, 16, 3), 4, 2, 2, 8, 16)


def resnet():
    sizes = {"stackwise_num_filters": [64], "stackwise_num_blocks": [1], "stackwise_num_strides": [1]}
    return models.ResNetBackbone([64], [7], **sizes, block_type="basic_block", image_shape=(16, 16, 3))


def bert():
    return models.BertBackbone(**SHORT)


def lm(cls, backbone):
    return cls(backbone=backbone, preprocessor=None)


def classifier(cls, backbone):
    return cls(backbone=backbone, num_classes=3, preprocessor=None)


SEGMENTS = {**TEXT, "segment_ids": 0 * ONES}
MASKED = {**SEGMENTS, "mask_positions": ONES[:, :2]}
SPOKEN = {"encoder_features": np.ones((4, 16, 4), "float32"), **{k: PAIR[k] for k in PAIR if "decoder" in k}}
AUDIO = {**SMALL, "max_encoder_sequence_length": 16, "max_decoder_sequence_length": 12, "num_mels": 4}
# Name -> (model, inputs, labels; whether it writes texts).
CASES = {
    "gpt2": (lambda: models.GPT2Backbone(**SHORT), TEXT, None, False),
    "gpt2 writes": (lambda: lm(models.GPT2CausalLM, models.GPT2Backbone(**SHORT)), TEXT, TOKENS, True),
    "llama writes": (lambda: lm(models.LlamaCausalLM, models.LlamaBackbone(**LLAMA)), TEXT, TOKENS, True),
    "gemma writes": (lambda: lm(models.GemmaCausalLM, models.GemmaBackbone(**GEMMA)), TEXT, TOKENS, True),
    "opt writes": (lambda: lm(models.OPTCausalLM, models.OPTBackbone(**SHORT)), TEXT, TOKENS, True),
    "bart writes": (lambda: lm(models.BartSeq2SeqLM, models.BartBackbone(**SHORT)), PAIR, TOKENS, True),
    "t5": (lambda: models.T5Backbone(**SMALL), PAIR, None, False),
    "whisper": (lambda: models.WhisperBackbone(**AUDIO), SPOKEN, None, False),
    "bert classifies": (lambda: classifier(models.BertTextClassifier, bert()), SEGMENTS, LABELS, False),
    "bert fills in": (lambda: lm(models.BertMaskedLM, bert()), MASKED, ONES[:, :2], False),
    "vit": (vit, IMAGES, None, False),
    "vit classifies": (lambda: classifier(models.ViTImageClassifier, vit()), IMAGES, LABELS, False),
    "resnet classifies": (lambda: classifier(models.ResNetImageClassifier, resnet()), IMAGES, LABELS, False),
}


def as_json(config):
    return json.loads(json.dumps(config))


@pytest.mark.parametrize("name", CASES)
def test_a_model_stays_what_it_is(name, tmp_path):
    make, inputs, labels, writes = CASES[name]
    model = make()
    cls, config = type(model), model.get_config()
    wrapped = prune_low_magnitude(model, ConstantSparsity(0.5, begin_step=0))
    assert wrapped is model and isinstance(model, cls)
    if labels is None:
        prune_to(model, 0.5)
    else:
        model.fit(inputs, labels, batch_size=2, verbose=0, callbacks=[UpdatePruningStep()])
    assert summarize(model).sparsity == pytest.approx(0.5, abs=0.01)
    expected = model.predict(inputs, verbose=0)

    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert isinstance(loaded, cls) and len(pruned_layers(loaded)) == len(pruned_layers(model))
    for key, mask in masks_of(loaded).items():
        np.testing.assert_array_equal(mask, masks_of(model)[key])
    found = loaded.predict(inputs, verbose=0)
    for a, b in zip(keras.tree.flatten(found), keras.tree.flatten(expected), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)
    if writes:
        texts = [m.generate(inputs, max_length=8, stop_token_ids=None) for m in (model, loaded)]
        for a, b in zip(*map(keras.tree.flatten, texts), strict=True):
            np.testing.assert_array_equal(np.asarray(a), np.asarray(b))

    stripped = strip_pruning(loaded)
    assert type(stripped) is cls and pruned_layers(stripped) == []
    assert as_json(stripped.get_config()) == as_json(config) == as_json(strip_pruning(model).get_config())
    stripped.save(tmp_path / "stripped.keras")
    assert type(keras.models.load_model(tmp_path / "stripped.keras")) is cls


def test_kernels_of_a_transformer_are_chosen_one_by_one():
    model = prune_low_magnitude(
        models.GPT2Backbone(**SHORT), None, layers=r"transformer_layer_\d+/.*", spare=".*/self_attention/.*"
    )
    prune_to(model, 0.75)
    names = ("feedforward_intermediate_dense/kernel", "feedforward_output_dense/kernel")
    summary = summarize(model, {name: (1, 8) for name in TEXT})
    assert [(v.layer, v.variable) for v in summary.counted] == [
        (f"transformer_layer_{i}", name) for i in range(2) for name in names
    ]
    assert [(v.sparsity, v.macs) for v in summary.counted] == [(0.75, 8 * 8 * 16)] * 4


def test_a_task_with_a_preprocessor(tmp_path):
    pytest.importorskip("tensorflow_text", reason="KerasHub's tokenizers need tensorflow-text")
    vocabulary = {"<|endoftext|>": 0, **{letter: i for i, letter in enumerate("abcdĠ", 1)}}
    tokenizer = models.GPT2Tokenizer({**vocabulary, "ab": 6, "cd": 7}, ["a b", "c d"])
    preprocessor = models.GPT2CausalLMPreprocessor(tokenizer, sequence_length=8)
    model = models.GPT2CausalLM(models.GPT2Backbone(**{**SHORT, "vocabulary_size": 8}), preprocessor)
    prune_low_magnitude(model, ConstantSparsity(0.5, begin_step=0))
    model.fit(["ab cd", "abcd"], batch_size=2, verbose=0, callbacks=[UpdatePruningStep()])
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert loaded.preprocessor.sequence_length == 8
    assert loaded.generate("ab", max_length=6) == model.generate("ab", max_length=6)
    assert summarize(loaded).sparsity == 0.5
