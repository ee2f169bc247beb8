"""Every experiment that the flagfiles declare, and the flags that they use."""

import dataclasses
import functools

import pytest
from absl import flags

from tests.support.run_folders import round_result
from tfprune.bin.flagfiles import FLAGS_FOLDER, experiment_from_flagfiles, with_flagfiles
from tfprune.bin.flags import define_settings, parse_flags, values_of
from tfprune.errors import UserError
from tfprune.experiments.methods.registry import check_experiment
from tfprune.runs.config import ExperimentConfig
from tfprune.runs.differences import paper_differences
from tfprune.runs.paper import STUDY, paper_rows

FILES = sorted(FLAGS_FOLDER.glob("*.flags"))
EXPERIMENTS = [path.stem for path in FILES if not path.stem.startswith("base")]
ALL = {"train": 50_000, "test": 10_000}


@pytest.fixture
def defined():
    """The flags of `train` in a registry of their own."""
    registry = flags.FlagValues()
    define_settings(ExperimentConfig, registry)
    return registry


def parse(registry, *arguments):
    parse_flags(with_flagfiles(["train", *arguments]), registry)
    return values_of(ExperimentConfig, registry)


@functools.cache
def config_of(name):
    return experiment_from_flagfiles([FLAGS_FOLDER / f"{name}.flags"])


def header_of(name):
    lines = (FLAGS_FOLDER / f"{name}.flags").read_text().splitlines()
    first = next(i for i, line in enumerate(lines) if not line.startswith("#"))
    return "\n".join(lines[:first])


def test_there_is_a_flag_for_every_field(defined):
    fields = {field.name: field for field in dataclasses.fields(ExperimentConfig)}
    assert set(defined) == fields.keys()
    for name, field in fields.items():
        assert len(defined[name].help) > 5, name
        expected = None if field.default is dataclasses.MISSING else field.default
        assert defined[name].default == defined[name].value == expected, name


def test_no_flags_but_the_name_are_the_defaults(defined):
    assert parse(defined, "--experiment=e") == ExperimentConfig(experiment="e")


def test_the_experiments_name_is_required(defined):
    with pytest.raises(UserError, match="^--experiment: must be given: Name of the run folder in --output"):
        parse(defined)


def test_every_flag_reaches_the_config(defined, tmp_path):
    config = ExperimentConfig(
        experiment="e",
        output_dir="out",
        seed=3,
        init_from="other/round_02",
        paper_section="4.3.1",
        dataset="cifar100",
        data_dir=str(tmp_path),
        train_examples=11,
        test_examples=12,
        image_size=13,
        autoaugment="svhn",
        model="resnet18",
        width=14,
        stem="cifar",
        weights="none",
        regime="iterative",
        schedule="polynomial",
        target_sparsity=0.15,
        power=1.6,
        rounds=2,
        frequency=17,
        ramp_fraction=0.18,
        scope="layer",
        prune_layers="a=b",
        layer_sparsity=("stem_.*:0.1", "head:0"),
        spare_ends=True,
        method="obc",
        method_images=130,
        score="taylor",
        gradient_batches=23,
        granularity="channel",
        block_size=(2, 3),
        block_pooling_type="MAX",
        sparsity_m_by_n=(2, 4),
        regrowth="set",
        drop_fraction=0.24,
        pruning_engine="tfmot",
        prune="channels",
        target_macs=0.51,
        target_params=0.52,
        cuts=3,
        channel_scope="equal",
        channel_score="taylor",
        round_to=8,
        keep_layers=("stem_*", "head"),
        repair="ridge",
        repair_images=129,
        epochs=(1, 2),
        batch_size=19,
        learning_rate=0.2,
        head_learning_rate=0.21,
        lr_boundaries_epochs=(5, 6),
        lr_factor=0.22,
        weight_decay=0.23,
        mixed_precision="bfloat16",
        batchnorm_after_pruning="recalibrate",
        batchnorm_batches=24,
        population=9,
        children=25,
        copy_steps=26,
        weight_price=0.27,
        search="evolve",
        search_images=130,
        search_generations=5,
        lr_schedule="cosine",
        warmup_epochs=0.25,
        distill_from="teacher/round_01",
        distill_weight=0.26,
        distill_temperature=2.7,
        evaluate_every=28,
        new_head=True,
        loss=("mse",),
        metrics=("mae", "mine.metrics:error"),
    )
    unchanged = [
        field.name for field in dataclasses.fields(config) if getattr(config, field.name) == field.default
    ]
    assert not unchanged
    defined(["train", *config.to_flags().splitlines()])  # Some have no effect together.
    assert values_of(ExperimentConfig, defined) == config


@pytest.mark.parametrize(
    "argument", ["--epochs=1,two", "--lr_boundaries_epochs=1.5", "--block_size=2,x", "--sparsity_m_by_n=2/4"]
)
def test_a_list_of_something_else_names_its_flag(defined, argument):
    with pytest.raises(UserError) as caught:
        parse(defined, "--experiment=e", argument)
    assert str(caught.value).startswith(f"{argument}: ")


@pytest.mark.parametrize("argument", ["--dataset=mnist", "--width=wide", "--learning_rate=fast"])
def test_a_value_of_another_kind_names_its_flag(defined, argument):
    with pytest.raises(UserError, match=f"^{argument}: must be "):
        parse(defined, "--experiment=e", argument)


def test_the_promised_experiments_are_there():
    demos = {"demo_dense", "demo_one_shot", "demo_iterative", "demo_genetic"}
    assert demos | {"cifar10_gradual_95", "cifar10_rigl_95"} <= set(EXPERIMENTS)
    sections = {(config_of(name).paper_section, config_of(name).dataset) for name in EXPERIMENTS}
    studied = {key for key in sections if key[0]}
    assert studied == {(one.section, one.dataset) for one in STUDY}
    assert {section for section, _ in studied} == {"baseline", *(f"4.3.{i}" for i in range(1, 9))}
    # One flagfile for each, and one with the other scope for the sections that do not say which they mean.
    by_layer = {name for name in EXPERIMENTS if config_of(name).scope == "layer"}
    assert by_layer == {"cifar10_one_shot_995_layer", "cifar10_one_shot_95_layer"}
    assert sum(bool(config_of(name).paper_section) for name in EXPERIMENTS) == len(STUDY) + 2


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_a_flagfile_is_a_whole_experiment(name):
    config = config_of(name)
    check_experiment(config)
    assert config.experiment == name
    assert config.output_dir == "saved_models"
    assert config.data_dir == ""
    assert ExperimentConfig.from_flags(config.to_flags()) == config


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_flagfile_begins_with_its_note(path):
    lines = path.read_text().splitlines()
    assert lines[0].startswith("# ")
    # absl knows whole-line comments only, and no blank between the note and the flags is needed.
    assert all(line.startswith(("# ", "--")) for line in lines)
    assert all(" #" not in line for line in lines if line.startswith("--"))


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_the_note_holds_the_command(name):
    command = f"# python -m tfprune.bin.train --flagfile={name}"
    assert command in header_of(name).splitlines()


@pytest.mark.parametrize("name", [name for name in EXPERIMENTS if config_of(name).paper_section])
def test_the_note_of_a_studied_experiment(name):
    """It names the section, the accuracies that the study published, the cost and what to run first."""
    config, header = config_of(name), header_of(name)
    assert "Expected" in header and "Cost: " in header
    if config.paper_section != "baseline":
        assert header.startswith(f"# Section {config.paper_section}: ")
    rows = paper_rows(config.paper_section, config.dataset)
    accuracies = ", ".join(f"{row.accuracy_percent:g}" for row in rows)
    assert f"{accuracies} %" in header
    epochs = sum(config.settings(number).epochs for number in range(1, config.training_rounds + 1))
    assert f"Cost: {epochs} epochs" in header
    if config.init_from:
        assert f"Run {config.init_from.split('/')[0]} first." in header


@pytest.mark.parametrize("name", [name for name in EXPERIMENTS if config_of(name).paper_section])
def test_a_studied_experiment_has_the_studys_settings(name):
    config = config_of(name)
    start = None
    if config.init_from:
        source, _, round_name = config.init_from.partition("/")
        rounds = config_of(source).last_round
        number = int(round_name[-2:]) if round_name else rounds
        start = round_result(config_of(source), number, differences=())
    assert paper_differences(config, ALL, ALL, start) == ()


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_a_start_is_another_flagfiles_experiment(name):
    config = config_of(name)
    if config.init_from:
        source, _, round_name = config.init_from.partition("/")
        assert source in EXPERIMENTS
        assert not round_name or int(round_name[-2:]) <= config_of(source).last_round
        start = config_of(source)
        for shared in ("model", "width", "stem", "image_size"):
            assert getattr(config, shared) == getattr(start, shared)


def test_gradual_has_the_one_shots_epochs_and_rates():
    gradual, one_shot = config_of("cifar10_gradual_95"), config_of("cifar10_one_shot_95")
    names = (
        "init_from dataset target_sparsity epochs learning_rate lr_boundaries_epochs batch_size scope width"
    )
    for name in names.split():
        assert getattr(gradual, name) == getattr(one_shot, name), name
    assert gradual.regime == "gradual"


def test_channels_go_to_a_half_and_a_quarter_of_the_work():
    """At once, in rounds and in training; but for the rounds with the recipe of the one-shot."""
    one_shot = config_of("cifar10_one_shot_95")
    for regime, shares in (("one_shot", (0.5, 0.25)), ("iterative", (0.5, 0.25)), ("gradual", (0.5,))):
        for share in shares:
            config = config_of(f"cifar10_channels_{regime}_{'half' if share == 0.5 else 'quarter'}")
            assert (config.regime, config.prune, config.target_macs) == (regime, "channels", share)
            assert (config.model, config.dataset, config.width) == ("resnet34", "cifar10", 64)
            epochs = sum(config.settings(number).epochs for number in range(1, config.training_rounds + 1))
            assert epochs == one_shot.settings(1).epochs
            for name in ("learning_rate", "lr_boundaries_epochs") if regime != "iterative" else ():
                assert getattr(config, name) == getattr(one_shot, name)


@pytest.mark.parametrize("name", ["cifar10_one_shot_995", "cifar10_one_shot_95"])
def test_the_other_scope_is_all_that_differs(name):
    layer = config_of(f"{name}_layer")
    assert layer.differing(config_of(name)) == ["experiment", "scope"]
    assert (layer.experiment, layer.scope) == (f"{name}_layer", "layer")


def test_the_demo_compares_at_one_sparsity():
    one_shot, iterative = config_of("demo_one_shot"), config_of("demo_iterative")
    assert one_shot.target_sparsity == iterative.target_sparsity == 0.95
    assert one_shot.init_from == iterative.init_from == "demo_dense"
    epochs = sum(iterative.settings(number).epochs for number in range(1, iterative.rounds + 1))
    assert one_shot.settings(1).epochs == epochs


def test_later_flags_make_it_small_enough_for_a_laptop(defined, tmp_path):
    overrides = (
        "--train_examples=2000 --test_examples=1000 --image_size=32 --stem=cifar --width=16 "
        "--weights=none --init_from= --epochs=1"
    ).split()
    config = parse(defined, "--flagfile=cifar10_one_shot_95", f"--data_dir={tmp_path}", *overrides)
    check_experiment(config)
    assert config.experiment == "cifar10_one_shot_95"
    assert config.data_dir == str(tmp_path)
    used = {"train": config.train_examples, "test": config.test_examples}
    found = {one.setting: (one.ours, one.paper) for one in paper_differences(config, used, ALL, None)}
    assert found == {
        "epochs": ([1], [40]),
        "image_size": (32, 224),
        "init_from": ("", {"section": "baseline", "dataset": "cifar10", "round": None}),
        "stem": ("cifar", "imagenet"),
        "test_examples": (1000, 10_000),
        "train_examples": (2000, 50_000),
        "width": (16, 64),
    }


def test_a_flag_that_is_none_is_an_error(defined):
    with pytest.raises(UserError, match="^--widht=4: there is no such flag; did you mean --width[?]$"):
        parse(defined, "--flagfile=demo_dense", "--widht=4")
