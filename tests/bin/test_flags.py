"""Flags as anybody types them: what is wrong with one, or with two together, is one line that names it."""

import importlib

import pytest
from absl import flags

from tfprune.bin.flagfiles import with_flagfiles
from tfprune.bin.flags import define_settings, names_in, parse_flags, setting_flags, values_of
from tfprune.errors import UserError
from tfprune.experiments.devices import Devices
from tfprune.runs.config import ExperimentConfig
from tfprune.runs.devices import DeviceSettings
from tfprune.settings import settings_of, to_text

pytestmark = pytest.mark.one_backend

BINARIES = ("train", "evaluate", "export", "benchmark", "compare", "reproduce", "demo", "browser")


def registry_of(name):
    """The flags of a binary in a registry of their own."""
    registry = flags.FlagValues()
    module = importlib.import_module(f"tfprune.bin.{name}")
    owners = (ExperimentConfig, DeviceSettings) if name == "train" else (module.Flags,)
    for owner in owners:
        define_settings(owner, registry)
    return registry


def parse(registry, *arguments):
    line = ["program", *arguments]
    parse_flags(with_flagfiles(line), registry, names_in(line, registry))


def error_of(name, *arguments):
    registry = registry_of(name)
    required = [f"--{flag.name}=e" for flag in setting_flags(registry) if flag.required]
    with pytest.raises(UserError) as caught:
        parse(registry, *required, *arguments)
    return str(caught.value)


# Setting that matters only with others -> flags under which it does not, a value, and flags under which it
# does.
PRUNES = "--regime=one_shot"
CUTS = f"{PRUNES} --prune=channels"
ONLY_WITH = {
    "data_dir": ("--dataset=digits", ".", "--dataset=image_folder"),
    "target_sparsity": ("", "0", PRUNES),
    "power": (PRUNES, "3", "--schedule=polynomial"),
    "rounds": (PRUNES, "1", "--regime=iterative"),
    "frequency": (PRUNES, "100", "--regime=gradual"),
    "ramp_fraction": ("--regime=iterative", "0.5", "--regime=sparse"),
    "scope": ("", "global", PRUNES),
    "prune_layers": ("", "stage.*", "--regime=gradual"),
    "layer_sparsity": ("--regime=sparse", "a:0.5", PRUNES),
    "spare_ends": ("--regime=dense", "false", PRUNES),
    "method": ("--regime=sparse", "score", PRUNES),
    "method_images": (PRUNES, "512", f"{PRUNES} --method=obc"),
    "score": ("--regime=genetic", "magnitude", PRUNES),
    "gradient_batches": (f"{PRUNES} --score=lamp", "8", f"{PRUNES} --score=fisher"),
    "width": ("--model=MobileNetV2", "64", "--model=resnet18"),
    "stem": ("--model=mine:network", "imagenet", "--model=resnet34"),
    "weights": ("--model=network.keras", "none", "--model=VGG16"),
    "new_head": ("--model=mine:network", "true", "--model=network.keras"),
    "granularity": ("", "weight", PRUNES),
    "block_size": ("", "1,1", PRUNES),
    "block_pooling_type": (f"{PRUNES} --block_size=1,1", "AVG", "--block_size=1,2 --regime=one_shot"),
    "sparsity_m_by_n": ("", "2,4", PRUNES),
    "regrowth": (PRUNES, "none", "--regime=sparse"),
    "drop_fraction": (PRUNES, "0.3", "--regime=sparse"),
    "search": ("--regime=gradual", "none", PRUNES),
    "search_images": (PRUNES, "512", f"{PRUNES} --search=evolve"),
    "search_generations": (f"{PRUNES} --search=none", "40", f"{PRUNES} --search=evolve"),
    "population": (PRUNES, "8", "--regime=genetic"),
    "children": ("", "40", "--regime=genetic"),
    "copy_steps": (PRUNES, "40", "--regime=genetic"),
    "weight_price": ("--regime=sparse", "1.0", "--regime=genetic"),
    "batchnorm_after_pruning": ("--regime=gradual", "keep", "--regime=iterative"),
    "batchnorm_batches": (
        f"{PRUNES} --batchnorm_after_pruning=reset_removed",
        "32",
        f"{PRUNES} --batchnorm_after_pruning=recalibrate",
    ),
    "pruning_engine": ("", "tfprune", PRUNES),
    "prune": ("--regime=sparse", "weights", PRUNES),
    "target_macs": (PRUNES, "0.5", CUTS),
    "target_params": ("", "0.5", CUTS),
    "cuts": ("--regime=iterative", "3", "--regime=gradual --prune=channels"),
    "channel_scope": (PRUNES, "global", CUTS),
    "channel_score": (PRUNES, "l2", CUTS),
    "round_to": (PRUNES, "1", CUTS),
    "keep_layers": (PRUNES, "head", CUTS),
    "repair": (PRUNES, "none", CUTS),
    "repair_images": (CUTS, "512", f"{CUTS} --repair=ridge"),
    "distill_weight": ("", "0.5", "--distill_from=teacher"),
    "distill_temperature": ("--distill_from=", "4", "--distill_from=teacher"),
    "lr_boundaries_epochs": ("--lr_schedule=cosine", "3", "--lr_schedule=step"),
    "lr_factor": ("--lr_boundaries_epochs=", "0.1", "--lr_boundaries_epochs=3"),
    "coordinator_address": ("", "host:1", "--distributed"),
    "process_count": ("--nodistributed", "0", "--distributed"),
    "process_index": ("", "-1", "--distributed"),
}
ALWAYS = (
    "experiment output_dir seed init_from paper_section dataset train_examples test_examples image_size "
    "autoaugment model regime schedule epochs batch_size learning_rate "
    "head_learning_rate lr_schedule warmup_epochs weight_decay evaluate_every distill_from "
    "loss metrics mixed_precision training_engine data_parallel distributed"
).split()


def test_of_every_setting_it_is_known_when_it_matters():
    said = settings_of(ExperimentConfig) | settings_of(Devices)
    assert {name for name in said if said[name].only_with} == ONLY_WITH.keys()
    assert {name for name in said if not said[name].only_with} == {*ALWAYS}


@pytest.mark.parametrize("name", ONLY_WITH)
def test_a_flag_without_effect_is_an_error(name):
    """Its default, too, and in any order; not where it has an effect."""
    without, value, within = ONLY_WITH[name]
    arguments = [f"--{name}={value}"]
    for line in ([*without.split(), *arguments], [*arguments, *without.split()]):
        message = error_of("train", *line)
        assert message.startswith(f"--{name}=") and ": has no effect without --" in message
        for needed in within.split():
            if needed not in CUTS.split() or len(within.split()) == 1:
                assert needed.partition("=")[0] in message
    registry = registry_of("train")
    parse(registry, "--experiment=e", *arguments, *within.split())


def test_a_flagfile_may_have_any_default(tmp_path):
    """As the flags.txt of older runs has them; other values that have no effect are errors there, too."""
    path = tmp_path / "some.flags"
    registry = registry_of("train")
    path.write_text(
        "".join(f"--{flag.name}={to_text(flag.default)}\n" for flag in setting_flags(registry)[1:])
    )
    parse(registry, "--experiment=e", f"--flagfile={path}")
    typed = error_of("train", f"--flagfile={path}", "--power=3")
    assert typed == "--power=3.0: has no effect without --schedule=polynomial"
    path.write_text("--rounds=3\n--distill_weight=0.5")
    assert error_of("train", f"--flagfile={path}") == "--rounds=3: has no effect without --regime=iterative"


# Of masks alone: flags under which each matters otherwise.
OF_MASKS = {
    "search": ("evolve", ""),
    "target_sparsity": ("0.9", ""),
    "frequency": ("100", "--regime=gradual"),
    "scope": ("global", ""),
    "prune_layers": ("stage.*", ""),
    "layer_sparsity": ("a:0.5", ""),
    "spare_ends": ("true", ""),
    "method": ("obc", ""),
    "score": ("lamp", ""),
    "granularity": ("channel", ""),
    "block_size": ("1,2", ""),
    "sparsity_m_by_n": ("2,4", ""),
    "pruning_engine": ("tfmot", ""),
}


def test_of_every_setting_it_is_known_what_takes_its_effect_away():
    said = settings_of(ExperimentConfig)
    assert {name for name in said if said[name].unless} == {*OF_MASKS, "cuts"}


@pytest.mark.parametrize("name", OF_MASKS)
def test_a_flag_of_masks_is_an_error_where_channels_are_cut(name):
    value, within = OF_MASKS[name]
    message = error_of("train", *CUTS.split(), *within.split(), f"--{name}={value}")
    assert message.startswith(f"--{name}=") and message.endswith(": has no effect with --prune=channels")


def test_cuts_are_those_of_channels():
    message = error_of("train", "--regime=gradual", "--cuts=3")
    assert message == "--cuts=3: has no effect with --prune=weights"


@pytest.mark.parametrize("form", ["--power=3", "-power=3", "--power 3"])
def test_a_default_without_effect_is_an_error_in_each_form(form):
    assert error_of("train", *form.split()) == "--power=3.0: has no effect without --schedule=polynomial"


@pytest.mark.parametrize("name", ["data_dir", "prune_layers", "layer_sparsity", "lr_boundaries_epochs"])
def test_an_empty_value_takes_back_what_was_given(name):
    without, value, _ = ONLY_WITH[name]
    parse(registry_of("train"), "--experiment=e", f"--{name}={value}", *without.split(), f"--{name}=")


def test_all_flags_without_effect_are_named_at_once():
    assert error_of("train", "--rounds=3", "--distill_weight=0.3") == (
        "--rounds=3: has no effect without --regime=iterative; "
        "--distill_weight=0.3: has no effect without --distill_from"
    )


@pytest.mark.parametrize(
    "name, arguments, message",
    [
        (
            "export",
            ["--formats=keras,tflite", "--sparse_weights=float16"],
            "--sparse_weights=float16: has no effect without --formats=sparse",
        ),
        (
            "export",
            ["--sparse_values=int8"],
            "--sparse_values=int8: has no effect without --sparse_weights=int8",
        ),
        ("export", ["--targets=wasm32"], "--targets=wasm32: has no effect without --formats=c"),
        ("benchmark", ["--headline", "--layers"], "--layers=True: has no effect without --noheadline"),
    ],
)
def test_flags_without_effect_of_other_binaries(name, arguments, message):
    assert error_of(name, *arguments) == message


FRACTIONS = {
    "target_sparsity": PRUNES,
    "ramp_fraction": "--regime=gradual",
    "drop_fraction": "--regime=sparse",
    "distill_weight": "--distill_from=teacher",
}


@pytest.mark.parametrize("value, meant", [("95", "0.95"), ("99.5", "0.995"), ("95%", "0.95"), ("2", "0.02")])
@pytest.mark.parametrize("name", FRACTIONS)
def test_a_fraction_in_percent_is_asked_about(name, value, meant):
    message = error_of("train", FRACTIONS[name], f"--{name}={value}")
    assert message.startswith(f"--{name}={value}: must be ")
    assert message.endswith(f"; did you mean {meant}?")


def test_what_is_no_percentage_is_not_asked_about():
    for argument in ("--target_sparsity=-0.5", "--target_sparsity=1000", "--learning_rate=-5", "--power=0"):
        assert "did you mean" not in error_of("train", argument)


WHOLE, NUMBER = "must be a whole number", "must be a number"
BAD_VALUES = [
    *(
        (name, "width", text, WHOLE)
        for name in ("train",)
        for text in ("ten", "0x10", "1e3", "1.5", "nan", "")
    ),
    *(("train", "width", text, WHOLE) for text in ("1_000", "٣", "4 4", "9" * 5000, "--width=4")),
    ("train", "width", str(10**20), "must be a whole number of 64 bits"),
    ("train", "width", "-4", "must be at least 1"),
    *(
        ("train", "epochs", text, "must be whole numbers with commas")
        for text in ("ten", "1,x", "1;2", "2.0")
    ),
    ("train", "epochs", "0", "must be at least 1"),
    *(("train", "learning_rate", text, NUMBER) for text in ("fast", "nan", "inf", "0x10", "1,5", "1_0", "")),
    *(
        ("train", "learning_rate", text, "must be above 0 and finite")
        for text in ("1e400", "-1e-5", "1e-400")
    ),
    ("train", "warmup_epochs", "1e400", "must be finite"),
    *(("train", "spare_ends", text, "must be true or false") for text in ("maybe", "1", "no", "")),
    (
        "train",
        "dataset",
        "cifar",
        "cifar100, digits, image_folder, or PACKAGE.MODULE:FUNCTION; did you mean cifar10?",
    ),
    ("train", "regime", "oneshot", "gradual, sparse, genetic; did you mean one_shot?"),
    ("train", "regime", "Iterative", "; did you mean iterative?"),
    ("train", "experiment", "../e", "must be a folder name"),
    ("train", "prune_layers", "(", "must be a regular expression"),
    ("train", "data_dir", "/nowhere", "must be an existing folder"),
    ("export", "formats", "keras,tflit", "saved_model, tflite, sparse, c; did you mean tflite?"),
    ("export", "formats", "", "must be at least one format"),
    ("export", "sparse_weights", "float", "must be one of "),
    ("export", "sparse_values", "int4", "must be one of "),
    ("export", "targets", "wasm", "thumbv7em, wasm32; did you mean wasm32?"),
    ("export", "audit_images", "0", "must be at least 1"),
    ("benchmark", "rounds", "-1", "must be at least 1"),
    ("benchmark", "contenders", "torch", "must be some of all, tfprune, "),
    ("compare", "html", "maybe", "must be true or false"),
    ("reproduce", "dry_run", "maybe", "must be true or false"),
]


@pytest.mark.parametrize("name, flag, text, rule", BAD_VALUES)
def test_a_bad_value_is_named_with_its_rule(name, flag, text, rule):
    message = error_of(name, f"--{flag}={text}")
    assert message.startswith(f"--{flag}={text}: must be ")
    assert rule in message and "\n" not in message


@pytest.mark.parametrize("name", BINARIES)
@pytest.mark.parametrize(
    "path",
    ["n" * 256, "a/" + "ü" * 128, "x/" * 2100, "~nobody_of_that_name/x", "a\0b", "a\udcff", "a\nb"],
    ids=["long", "long in bytes", "deep", "no user", "NUL", "no UTF-8", "lines"],
)
def test_a_path_that_cannot_be_is_one_line(name, path):
    places = [flag.name for flag in setting_flags(registry_of(name)) if flag.said.role == "place"]
    assert "output_dir" in places
    for flag in places:
        message = error_of(name, f"--{flag}={path}")
        assert message.startswith(f"--{flag}={path}: must be ")


@pytest.mark.parametrize("name", BINARIES)
def test_home_is_found(name, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    registry = registry_of(name)
    required = [f"--{flag.name}=e" for flag in setting_flags(registry) if flag.required]
    parse(registry, *required, "--output_dir=~/runs")
    assert registry.output_dir == str(tmp_path / "runs")


@pytest.mark.parametrize("name", BINARIES)
def test_words_and_names_that_are_no_flags(name):
    assert error_of(name, "demo", "dense") == "not a flag: demo dense; flags are written --name=value"
    assert error_of(name, "--outptu_dir=x") == (
        "--outptu_dir=x: there is no such flag; did you mean --output_dir?"
    )
    assert error_of(name, "--zzz") == "--zzz: there is no such flag"
    assert error_of(name, "--output_dir") == "--output_dir: must have a value, as --output_dir=VALUE"


@pytest.mark.parametrize("name", ["train", "evaluate", "benchmark"])
def test_a_required_flag_is_asked_for(name):
    with pytest.raises(UserError, match="^--experiment: must be given: "):
        parse(registry_of(name))


def test_values_come_as_their_types():
    registry = registry_of("train")
    arguments = "--experiment=e --width=+4 --learning_rate=1e-3 --epochs=1, --regime=one_shot --spare_ends"
    parse(registry, *arguments.split(), "--layer_sparsity", "a:0.1,b:.2", "--nodata_parallel", "-seed=3")
    config = values_of(ExperimentConfig, registry)
    assert config == ExperimentConfig(
        "e",
        width=4,
        learning_rate=1e-3,
        epochs=(1,),
        regime="one_shot",
        spare_ends=True,
        layer_sparsity=("a:0.1", "b:.2"),
        seed=3,
    )
    assert values_of(Devices, registry) == Devices()
