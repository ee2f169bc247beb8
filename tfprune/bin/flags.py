"""The flags that make an experiment: one for each field of `ExperimentConfig`, with its default."""

import dataclasses
import functools
from typing import Any

from absl import flags

from tfprune.bin import tensorflow_start  # noqa: F401  (before anything that loads TensorFlow)
from tfprune.runs import config as experiments
from tfprune.runs.config import ExperimentConfig
from tfprune.runs.paper import PAPER_SECTIONS

_DEFAULTS = {field.name: field.default for field in dataclasses.fields(ExperimentConfig)}


def _define(define: Any, name: str, help_text: str, *choices: Any) -> None:
    default = _DEFAULTS[name]
    if default is dataclasses.MISSING:
        default = None
    elif isinstance(default, tuple):
        default = [str(value) for value in default]
    define(name, default, *choices, help_text)


def define_experiment_flags(registry: flags.FlagValues = flags.FLAGS) -> None:
    """Defines all flags of `train`, in the process's registry or in one of its own."""
    text, number, real, one_of, several, yes_or_no = (
        functools.partial(define, flag_values=registry)
        for define in (
            flags.DEFINE_string,
            flags.DEFINE_integer,
            flags.DEFINE_float,
            flags.DEFINE_enum,
            flags.DEFINE_list,
            flags.DEFINE_boolean,
        )
    )
    # Run.
    _define(text, "experiment", "Name of the run folder in --output_dir. Required.")
    flags.mark_flag_as_required("experiment", registry)
    _define(text, "output_dir", "Where the run folders are.")
    _define(number, "seed", "Seed of initial weights, order and augmentation.")
    _define(
        text,
        "init_from",
        "EXPERIMENT or EXPERIMENT/round_KK in --output_dir whose weights and masks to start from; it must be "
        "finished. Its head is replaced if it was on another dataset. Empty: start from --weights.",
    )
    _define(
        text,
        "paper_section",
        f"Section of the reference study that the experiment mirrors: {', '.join(PAPER_SECTIONS)}. "
        "Empty: none. The comparison puts its figures beside it and lists every setting that differs.",
    )
    # Data.
    _define(one_of, "dataset", "What to train on. digits needs no download.", experiments.DATASETS)
    _define(
        text,
        "data_dir",
        "Folder of prepared TensorFlow Datasets (empty: its default, downloading what is missing), or the "
        "root of --dataset=image_folder: root/{train,test}/CLASS/*.png|jpg.",
    )
    _define(number, "train_examples", "How many training examples to use, of a fixed shuffle. 0: all.")
    _define(number, "test_examples", "How many test examples to use, of a fixed shuffle. 0: all.")
    _define(number, "image_size", "Images are resized to this height and width, in pixels.")
    _define(one_of, "autoaugment", "Policy of AutoAugment.", experiments.AUTOAUGMENT_CHOICES)
    # Model.
    _define(one_of, "model", "Architecture.", experiments.MODELS)
    _define(number, "width", "Filters of the first stage; 64 is the published network.")
    _define(
        one_of,
        "stem",
        "imagenet: 7x7 stride 2 and max-pool; cifar: 3x3 stride 1.",
        experiments.STEMS,
    )
    _define(
        text,
        "weights",
        "Where to start without --init_from: imagenet (downloaded once, about 87 MB), none (random), or the "
        "path of a .safetensors or .pth file with torchvision's tensor names.",
    )
    # Pruning.
    _define(
        one_of,
        "regime",
        "dense: trains; a pruned start keeps its masks. one_shot: prunes once, then trains. iterative: "
        "prunes and trains --rounds times. gradual: prunes while it trains. sparse: trains with random masks "
        "that move by --regrowth.",
        experiments.REGIMES,
    )
    _define(
        one_of,
        "schedule",
        "How sparsity rises, over the rounds of iterative or the steps of gradual: polynomial "
        "(arXiv:1710.01878) or geometric (the density shrinks by the same factor). constant for the others.",
        experiments.SCHEDULES,
    )
    _define(real, "target_sparsity", "Fraction of the prunable weights that are zero at the end, in [0, 1).")
    _define(real, "power", "Exponent of --schedule=polynomial.")
    _define(number, "rounds", "Rounds of --regime=iterative.")
    _define(number, "frequency", "Steps between updates of --regime=gradual and sparse.")
    _define(
        real,
        "ramp_fraction",
        "Share of the steps in which gradual's sparsity rises, or sparse's masks move. The rest fine-tunes.",
    )
    _define(
        one_of,
        "scope",
        "layer: every layer reaches the sparsity. global: all layers together, by one threshold. erk: all "
        "together, small layers less (Erdos-Renyi-Kernel, arXiv:1911.11134).",
        experiments.SCOPES,
    )
    _define(
        text,
        "prune_layers",
        "Regular expression that the whole name of a layer to prune matches, such as stage[34]_.*. "
        "Empty: every convolution.",
    )
    _define(
        several,
        "layer_sparsity",
        "Targets of their own, REGEX:SPARSITY,...: the first expression that matches a layer's whole name "
        "counts; --target_sparsity is for the others.",
    )
    _define(yes_or_no, "spare_ends", "Leaves the first and the last layer with a kernel as they are.")
    _define(
        one_of,
        "score",
        "What ranks weights: their magnitude, that beside the larger ones of the layer (lamp, for "
        "--scope=global), random numbers, |weight * gradient| (taylor), or weight^2 * gradient^2 (fisher). "
        "Training batches give the gradients.",
        experiments.SCORES,
    )
    _define(number, "gradient_batches", "Batches for one measurement of gradients (taylor, fisher, rigl).")
    _define(
        one_of,
        "granularity",
        "weight: single weights. channel: whole output channels, ranked by their L2 norm.",
        experiments.GRANULARITIES,
    )
    _define(
        several,
        "block_size",
        "HEIGHT,WIDTH of blocks that go together, in input and output channels of a kernel.",
    )
    _define(
        one_of,
        "block_pooling_type",
        "What ranks a block: its mean or its largest score.",
        experiments.POOLING_TYPES,
    )
    _define(
        several,
        "sparsity_m_by_n",
        "M,N: M zeros in every N weights along the input channels; --target_sparsity is M/N. Empty: none.",
    )
    _define(
        one_of,
        "regrowth",
        "How the weights of --regime=sparse move: random ones grow (set, arXiv:1707.04780), or those with "
        "the largest gradients (rigl, arXiv:1911.11134).",
        experiments.REGROWTH,
    )
    _define(real, "drop_fraction", "Share of a layer's weights that moves at the first update of --regrowth.")
    _define(
        one_of,
        "batchnorm_after_pruning",
        "What one_shot and iterative do with BatchNorm after each pruning, before they measure the accuracy "
        "right after it. keep: nothing. reset_removed: filters without weights get beta 0, moving mean 0 and "
        "moving variance 1, so that they are silent. recalibrate: the moving statistics are measured anew on "
        "training batches (arXiv:2007.02491).",
        experiments.AFTER_PRUNING,
    )
    _define(number, "batchnorm_batches", "Training batches for --batchnorm_after_pruning=recalibrate.")
    _define(
        one_of,
        "pruning_engine",
        "What prunes: tfprune, or tfmot itself, on the same network in tf-keras, which needs --scope=layer "
        "and KERAS_BACKEND=tensorflow.",
        experiments.PRUNING_ENGINES,
    )
    # Training.
    _define(several, "epochs", "Epochs of every round, or a comma-separated list with one number a round.")
    _define(number, "batch_size", "Examples a step.")
    _define(real, "learning_rate", "Adam's learning rate at the start of each round.")
    _define(real, "head_learning_rate", "The head's own learning rate. 0: the same.")
    _define(
        one_of,
        "lr_schedule",
        "Of each round, step by step: step: by --lr_boundaries_epochs. cosine: from the full rate to zero.",
        experiments.LR_SCHEDULES,
    )
    _define(
        real,
        "warmup_epochs",
        "The rates rise linearly over so many epochs, a fraction too, at the start of each round.",
    )
    _define(
        several,
        "lr_boundaries_epochs",
        "Both rates are multiplied by --lr_factor after these numbers of epochs of a round. Empty with "
        "--lr_schedule=cosine.",
    )
    _define(real, "lr_factor", "See --lr_boundaries_epochs.")
    _define(real, "weight_decay", "L2 added to every gradient, as in torch.optim.Adam (not decoupled).")
    _define(
        text,
        "distill_from",
        "EXPERIMENT or EXPERIMENT/round_KK in --output_dir that teaches (knowledge distillation, "
        "arXiv:1503.02531): finished, on the same dataset and image size. Empty: none.",
    )
    _define(
        real, "distill_weight", "w, in (0, 1]: the loss is (1 - w) * cross-entropy + w * T^2 * divergence."
    )
    _define(real, "distill_temperature", "T, by which the logits of both networks are divided.")
    _define(
        number,
        "evaluate_every",
        "The test images are evaluated after each so many epochs of a round, and always after its last.",
    )
    _define(
        one_of,
        "mixed_precision",
        "Type of activations; weights stay float32.",
        experiments.MIXED_PRECISION,
    )


def experiment_from_flags(registry: flags.FlagValues = flags.FLAGS) -> ExperimentConfig:
    """Returns the config that the parsed flags make.

    Raises:
        UserError: On a list that is not of whole numbers.
    """
    lines = []
    for field in dataclasses.fields(ExperimentConfig):
        value = registry[field.name].value
        lines.append(f"--{field.name}={','.join(value) if isinstance(value, list) else value}")
    return ExperimentConfig.from_flags("\n".join(lines))


def define_run_flags(experiment_help: str) -> None:
    """Defines the flags of the binaries that take a finished run."""
    flags.DEFINE_string("experiment", None, experiment_help, required=True)
    flags.DEFINE_string("output_dir", _DEFAULTS["output_dir"], "Where the run folders are.")
    flags.DEFINE_string("data_dir", "", "Where the run's dataset is, if not where it was.")
