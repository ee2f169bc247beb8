"""The profiles laid over every experiment."""

import dataclasses
import functools

import pytest

from tfprune.bin import flagfiles
from tfprune.bin.flagfiles import (
    FLAGS_FOLDER,
    experiment_from_flagfiles,
    experiment_names,
    profile_flagfiles,
    profile_names,
)
from tfprune.errors import UserError
from tfprune.experiments.methods.registry import check_experiment
from tfprune.experiments.study.plan import check_plan, plan_runs, with_parents

EXPERIMENTS = sorted(path.stem for path in FLAGS_FOLDER.glob("cifar*.flags"))
PROFILES = ["cpu", "full", "pretrained", "scratch", "small", "tiny"]
OVERLAYS = sorted((FLAGS_FOLDER / "profiles").rglob("*.flags"))

# What `small` lays over each regime, over the transfer, which is dense training of a pruned network, and over
# rates that fall by a cosine; the third number is a rate of its own.
SMALL = {
    "weights": "none",
    "stem": "cifar",
    "image_size": 32,
    "width": 16,
    "train_examples": 10_000,
    "batch_size": 64,
    "learning_rate": 1e-3,
    "head_learning_rate": 0.0,
    "evaluate_every": 100,
}
SMALL_TRAINING = {
    "dense": ((24,), (16, 21)),
    "one_shot": ((9,), (6,)),
    "iterative": ((3,), (2,)),
    "gradual": ((9,), (6,)),
    "sparse": ((24,), (16, 21)),
    "cifar100_transfer_95": ((9,), (6,)),
    "cifar10_dense_continued": ((9,), (6,)),
    "cifar10_one_shot_995_combined": ((9,), (), 3e-3),
    "cifar10_one_shot_995_rate": ((9,), (6,), 3e-3),
    "cifar10_one_shot_995_cosine": ((9,), ()),
    "cifar10_gradual_995": ((9,), (6,), 5e-3),
    "cifar10_gradual_995_dst": ((9,), (6,), 5e-3),
}


@functools.cache
def config_of(name, profile):
    return experiment_from_flagfiles(profile_flagfiles(name, profile))


def plain_config_of(name):
    return config_of(name, "full")


def test_there_are_these_profiles():
    assert profile_names() == PROFILES


@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize("name", EXPERIMENTS)
def test_an_experiment_stays_itself(name, profile):
    config, plain = config_of(name, profile), plain_config_of(name)
    check_experiment(config)
    kept = "experiment paper_section init_from regime schedule target_sparsity scope regrowth seed"
    for field in kept.split():
        assert getattr(config, field) == getattr(plain, field), field
    assert config.rounds == (4 if (profile, plain.regime) == ("tiny", "iterative") else plain.rounds)


@pytest.mark.parametrize("profile", PROFILES)
def test_a_profile_makes_a_whole_study(profile, tmp_path):
    """Every start fits: its rounds, its network, its sparsity."""
    experiments = with_parents(EXPERIMENTS, EXPERIMENTS, lambda name: config_of(name, profile)).values()
    if profile == "full":  # RigL begins random, at 32x32, and nothing starts from it.
        assert config_of("cifar10_rigl_95", profile).image_size == 32
    runs = [dataclasses.replace(config, output_dir=str(tmp_path)) for config in experiments]
    check_plan(plan_runs(runs, [0, 1]))


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_full_changes_nothing(name):
    assert config_of(name, "full") == experiment_from_flagfiles([FLAGS_FOLDER / f"{name}.flags"])


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_small_is_these_flags(name):
    plain = plain_config_of(name)
    epochs, boundaries, *rate = SMALL_TRAINING.get(name) or SMALL_TRAINING[plain.regime]
    expected = dataclasses.replace(plain, **SMALL, epochs=epochs, lr_boundaries_epochs=boundaries)
    if rate:
        expected = dataclasses.replace(expected, learning_rate=rate[0])
    if plain.method == "acdc":  # As many phases in fewer steps.
        expected = dataclasses.replace(expected, frequency=100)
    assert config_of(name, "small") == expected


@pytest.mark.parametrize("profile, width", [("scratch", 64), ("cpu", 16)])
@pytest.mark.parametrize("name", [name for name in EXPERIMENTS if "baseline" not in name])
def test_scratch_and_cpu_have_the_papers_fine_tuning(name, profile, width):
    config, plain = config_of(name, profile), plain_config_of(name)
    changed = {"weights": "none", "stem": "cifar", "image_size": 32, "evaluate_every": 5, "width": width}
    assert config == dataclasses.replace(plain, **changed)


@pytest.mark.parametrize("profile, epochs, schedule", [("scratch", 100, "step"), ("cpu", 40, "cosine")])
@pytest.mark.parametrize("name", ["cifar10_baseline", "cifar100_baseline"])
def test_scratch_and_cpu_have_longer_baselines(name, profile, epochs, schedule):
    config = config_of(name, profile)
    assert config.epochs == (epochs,) and config.lr_schedule == schedule
    assert (config.learning_rate, config.head_learning_rate) == (1e-3, 0)
    assert config.train_examples == 0


def test_pretrained_gives_every_regime_the_same_epochs():
    """So that none wins by more training."""
    for name in EXPERIMENTS:
        config = config_of(name, "pretrained")
        if config.regime == "sparse":  # It begins random, and nothing else does.
            assert config.weights == "none"
            continue
        assert (config.model, config.weights) == ("efficientnet_lite0", "imagenet")
        assert config.lr_schedule == "cosine" and config.head_learning_rate == 0
        assert config.rounds * sum(config.epochs) == (4 if config.rounds == 4 else 6), name


def test_tiny_needs_no_download():
    for name in EXPERIMENTS:
        config = config_of(name, "tiny")
        assert (config.dataset, config.weights, config.autoaugment) == ("digits", "none", "none")


@pytest.mark.parametrize("path", OVERLAYS, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_an_overlay_says_why_and_is_used(path):
    lines = path.read_text().splitlines()
    assert lines[0].startswith("# ")
    assert all(line.startswith(("# ", "--")) for line in lines)
    profile = path.stem if path.parent.name == "profiles" else path.parent.name
    assert any(path in profile_flagfiles(name, profile) for name in EXPERIMENTS)


@pytest.mark.parametrize("profile", PROFILES)
def test_a_profiles_note_holds_its_name_and_command(profile):
    text = (FLAGS_FOLDER / "profiles" / f"{profile}.flags").read_text()
    assert text.startswith(f"# Profile `{profile}`: ")
    engine = " --training_engine=auto" if profile in ("cpu", "pretrained") else ""
    assert f"\n# python -m tfprune.bin.reproduce --profile={profile}{engine}\n" in text


def test_the_most_special_flagfile_lies_on_top(tmp_path, monkeypatch):
    files = {
        "flags/e.flags": "--experiment=e\n--regime=one_shot\n--target_sparsity=0.5\n--width=1\n",
        "flags/profiles/p.flags": "--width=2\n--batch_size=2\n--image_size=2\n--epochs=2\n",
        "flags/profiles/p/one_shot.flags": "--batch_size=3\n--image_size=3\n--epochs=3\n",
        "flags/profiles/p/dense.flags": "--width=9\n",
        "flags/profiles/p/e.flags": "--image_size=4\n--epochs=4\n",
        "extra.flags": "--epochs=5\n",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(flagfiles, "FLAGS_FOLDER", tmp_path / "flags")
    config = experiment_from_flagfiles(profile_flagfiles("e", "p", "extra.flags"))
    assert (config.width, config.batch_size, config.image_size, config.epochs) == (2, 3, 4, (5,))
    assert config.target_sparsity == 0.5


@pytest.mark.parametrize(
    "arguments, message",
    [
        (
            ("nobody", "tiny"),
            "--experiments=nobody: must be some of cifar10",
        ),
        (("base_cifar10", "tiny"), "--experiments=base_cifar10: must be some of "),
        (
            ("cifar10_baseline", "smal"),
            "--profile=smal: must be one of cpu, full, pretrained, scratch, small, tiny; did you mean small?",
        ),
        (
            ("cifar10_baseline", "huge"),
            "--profile=huge: must be one of cpu, full, pretrained, scratch, small, tiny",
        ),
        (("cifar10_baseline", "tiny", "no.flags"), "--extra_flagfile=no.flags: must be a file that is there"),
    ],
)
def test_what_is_not_there_is_named(arguments, message):
    with pytest.raises(UserError) as caught:
        profile_flagfiles(*arguments)
    assert str(caught.value).startswith(message)


def test_they_are_found_from_any_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert set(EXPERIMENTS) < set(experiment_names())
    assert profile_names() == PROFILES
    assert experiment_from_flagfiles(profile_flagfiles("cifar100_baseline", "scratch")).dataset == "cifar100"


@pytest.mark.parametrize(
    "line, part",
    [
        ("--widht=4", "widht"),
        ("--width=x", "--width=x"),
        ("--epochs=x", "--epochs=x"),
    ],
)
def test_a_bad_flag_names_the_flagfiles(line, part, tmp_path):
    extra = tmp_path / "extra.flags"
    extra.write_text(line)
    with pytest.raises(UserError) as caught:
        experiment_from_flagfiles(profile_flagfiles("cifar10_baseline", "tiny", str(extra)))
    assert str(caught.value).startswith("cifar10_baseline.flags + profiles/tiny.flags + ")
    assert f"{extra}: " in str(caught.value) and part in str(caught.value)
