"""`ExperimentConfig`: everything that one experiment is, each setting declared once.

A field says of its setting all that there is to say: default, help, choices, range, the paper's value,
words for readers. Flags, checks, columns, the comparison with the paper and the grouping of repetitions are
loops over the fields, so that a new setting is a new field and the code that uses it. Needs no Keras.
"""

import os
import re
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, NoReturn

from tfprune.errors import UserError, blame_flag
from tfprune.named import is_named
from tfprune.runs.paper import SECTIONS
from tfprune.settings import (
    ABOVE_0,
    AT_LEAST_0,
    AT_LEAST_1,
    Rule,
    SettingError,
    With,
    check_effects,
    check_settings,
    percent_hint,
    setting,
    settings_of,
    to_text,
    value_of,
    with_settings_of,
    without_effect,
)
from tfprune.training.settings import EPOCHS, MIXED_PRECISION, TrainingSettings

REGIMES = ("dense", "one_shot", "iterative", "gradual", "sparse", "genetic")
SCHEDULES = ("constant", "polynomial", "geometric")
PRUNING_ENGINES = ("tfprune", "tfmot")
SEARCHES = ("none", "evolve")
AFTER_PRUNING = ("keep", "reset_removed", "recalibrate")


# The names that a part of the library has a thing for; here, so that flags know them before it is loaded.
DATASETS = ("cifar10", "cifar100", "digits", "image_folder")
POLICIES = ("cifar10", "imagenet", "svhn", "none")
RESNETS = ("resnet18", "resnet34")
MODELS = (*RESNETS, "efficientnet_lite0")
STEMS = ("imagenet", "cifar")
SCOPES = ("layer", "global", "erk")
SCORES = ("magnitude", "lamp", "gathered", "random", "taylor", "fisher")
GRANULARITIES = ("weight", "channel")
POOLING_TYPES = ("AVG", "MAX")
REGROWTHS = ("none", "set", "rigl")
PRUNED = ("weights", "channels")
CHANNEL_SCOPES = ("global", "layer", "equal")
CHANNEL_SCORES = ("l2", "l1", "taylor", "fisher", "batchnorm", "variance")
LEARNING_METHODS = ("dst", "cs", "acdc")
PRUNING_METHODS = ("score", "reconstruct", "obc", *LEARNING_METHODS)
REPAIRS = ("none", "constant", "merge", "ridge")


def _is_regular_expression(text: str) -> bool:
    try:
        re.compile(text)
    except re.error:
        return False
    return True


NAME = Rule(
    "a folder name of at most 200 letters, digits, '.', '_' and '-'",
    lambda name: re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,199}", name) is not None,
)
"""What the name of an experiment must be."""


def _can_be(path: str) -> bool:
    expanded = os.path.expanduser(path)
    if "\0" in expanded or expanded.startswith("~"):
        return False
    names = os.fsencode(expanded).split(b"/")
    return all(len(name) <= 255 for name in names) and len(os.fsencode(expanded)) < 4096


PATH = Rule("a path: names of at most 255 bytes without NUL, after ~ a user that there is", _can_be)
"""What a path that does not have to be there must be."""
FOLDER = Rule("an existing folder", lambda path: not path or os.path.isdir(os.path.expanduser(path)))
"""What the path of a folder that is there must be; empty if there need be none."""
FUNCTION = Rule("PACKAGE.MODULE:FUNCTION", is_named)
"""What the name of a function of the user's own must be."""
_SEED = Rule("at least 0 and below 2**32", lambda seed: 0 <= seed < 2**32)
_ROUNDS = Rule("at least 1 and at most 9999", lambda rounds: 1 <= rounds <= 9999)
SPARSITY = Rule("in [0, 1)", lambda sparsity: 0.0 <= sparsity < 1.0)
"""What a sparsity must be."""
_SECTION = Rule(f"empty or one of {', '.join(SECTIONS)}", lambda section: section in ("", *SECTIONS))
_SHARE = Rule("in (0, 1]", lambda share: 0.0 < share <= 1.0)
_BLOCK = Rule(
    "HEIGHT,WIDTH, two whole numbers of at least 1", lambda block: len(block) == 2 and min(block) >= 1
)
_M_BY_N = Rule(
    "M,N, two whole numbers, M at least 1 and below N, or empty",
    lambda pair: not pair or (len(pair) == 2 and 1 <= pair[0] < pair[1]),
)

_PRUNING = (With("regime", tuple(regime for regime in REGIMES if regime != "dense")),)
_RANKING = (With("regime", tuple(regime for regime in REGIMES if regime not in ("dense", "genetic"))),)
_GENETIC = (With("regime", ("genetic",)),)
_CUTTING_REGIMES = ("one_shot", "iterative", "gradual")
_CHANNELS = (With("prune", ("channels",)),)
_LEFT = Rule("0 or in (0, 1)", lambda share: 0.0 <= share < 1.0)
_RESNET = (With("model", RESNETS),)
_FILE = Rule("FILE.keras", lambda model: model.endswith(".keras"))
_NAME = Rule("NAME", str.isidentifier)
_OTHER_MODEL = Rule(
    f"a network of keras.applications such as MobileNetV2, {_FILE.text} or {FUNCTION.text}",
    lambda model: any(rule.holds(model) for rule in (_NAME, _FILE, FUNCTION)),
)
_WITH_DATA = (With("method", ("reconstruct", "obc")),)
_BY_STEPS = (With("regime", ("gradual", "sparse")),)
_SEARCHING = (With("search", ("evolve",)),)
_DISTILLING = (With("distill_from"),)

_REGULAR_EXPRESSION = Rule("a regular expression", _is_regular_expression)


@dataclass(frozen=True)
@with_settings_of(TrainingSettings, group="training")
class ExperimentConfig:
    """One experiment; each field is the flag of the same name.

    The settings of `TrainingSettings` are fields too. `epochs` is declared here, because it may be a list.
    """

    experiment: str = setting(help="Name of the run folder in --output_dir.", group="run", rule=NAME)
    output_dir: str = setting(
        "saved_models", "Where the run folders are.", group="run", role="place", rule=PATH
    )
    seed: int = setting(
        0, "Seed of initial weights, order and augmentation.", group="run", role="seed", rule=_SEED
    )
    init_from: str = setting(
        "",
        "EXPERIMENT or EXPERIMENT/round_KK in --output_dir whose weights and masks to start from; it must be "
        "finished. Its head is replaced if it was on another dataset. Empty: start from --weights.",
        group="run",
        role="reference",
    )
    paper_section: str = setting(
        "",
        "Section of the reference study that the experiment mirrors. Empty: none. The comparison puts its "
        "figures beside it and lists every setting that differs.",
        group="run",
        rule=_SECTION,
    )

    dataset: str = setting(
        "cifar10",
        "What to train on. digits needs no download. A function, importable from the current folder, returns "
        "(train, test) or (train, test, class names); each of the first two is (x, y) or (x, y, weights) of "
        "arrays, or a tf.data.Dataset of such.",
        group="data",
        choices=DATASETS,
        besides=FUNCTION,
    )
    data_dir: str = setting(
        "",
        "Folder of prepared TensorFlow Datasets (empty: its default, downloading what is missing), the "
        "root of --dataset=image_folder: root/{train,test}/CLASS/*.png|jpg, or the argument data_dir of a "
        "function.",
        group="data",
        role="place",
        rule=FOLDER,
        only_with=(With("dataset", ("cifar10", "cifar100", "image_folder", FUNCTION)),),
    )
    train_examples: int = setting(
        0, "How many training examples to use, of a fixed shuffle. 0: all.", group="data", rule=AT_LEAST_0
    )
    test_examples: int = setting(
        0, "How many test examples to use, of a fixed shuffle. 0: all.", group="data", rule=AT_LEAST_0
    )
    image_size: int = setting(
        224,
        "Images are resized to this height and width, in pixels. 0: they stay as they are.",
        group="data",
        rule=AT_LEAST_0,
        paper=224,
        words=lambda size: f"{size}x{size}" if size else "images not resized",
    )
    autoaugment: str = setting(
        "cifar10",
        "Policy of AutoAugment, for images.",
        group="data",
        choices=POLICIES,
        paper=Rule("AutoAugment", lambda policy: policy != "none"),
        words=lambda policy: "no AutoAugment" if policy == "none" else f"AutoAugment {policy}",
    )

    model: str = setting(
        "resnet34",
        "Architecture. A function, importable from the current folder, returns a model and gets those of the "
        "arguments classes, input_shape, image_size, seed, mean and std that it names.",
        group="model",
        choices=MODELS,
        besides=_OTHER_MODEL,
        paper="resnet34",
        words=lambda model: model,
    )
    width: int = setting(
        64,
        "Filters of the first stage; 64 is the published network.",
        group="model",
        rule=AT_LEAST_1,
        paper=64,
        only_with=_RESNET,
    )
    stem: str = setting(
        "imagenet",
        "imagenet: 7x7 stride 2 and max-pool; cifar: 3x3 stride 1.",
        group="model",
        choices=STEMS,
        paper="imagenet",
        words=lambda stem: f"{stem} stem",
        only_with=_RESNET,
    )
    weights: str = setting(
        "imagenet",
        "Where to start: imagenet (downloaded once; of efficientnet_lite0 from the extra pretrained), none "
        "(random), or a path: for tfprune's networks of a .safetensors or .pth file with the published "
        "tensor names, for keras.applications of a .weights.h5 file of the network without its top. "
        "With --init_from it is recorded alone.",
        group="model",
        only_with=(With("model", (_NAME,)),),
    )
    new_head: bool = setting(
        False,
        "Gives the network of a file a fresh last layer, for the classes of --dataset.",
        group="model",
        only_with=(With("model", (_FILE,)),),
    )

    regime: str = setting(
        "dense",
        "dense: trains; a pruned start keeps its masks. one_shot: prunes once, then trains. iterative: "
        "prunes and trains --rounds times. gradual: prunes while it trains. sparse: trains with random masks "
        "that move by --regrowth. genetic: masks evolve in a population of copies, each trained by itself "
        "and judged by its loss and its weights (Whitley, 1990), and the best one trains on; for small "
        "networks.",
        group="pruning",
        choices=REGIMES,
    )
    schedule: str = setting(
        "constant",
        "How sparsity rises, over the rounds of iterative or the steps of gradual: polynomial "
        "(arXiv:1710.01878) or geometric (the density shrinks by the same factor). constant for the others.",
        group="pruning",
        choices=SCHEDULES,
    )
    prune: str = setting(
        "weights",
        "What goes. weights: masks hold them at zero, and the network keeps its shape. channels: they are "
        "cut out, so that the network that is left is smaller.",
        group="pruning",
        choices=PRUNED,
        paper="weights",
        words=lambda what: f"{what} cut out",
        only_with=(With("regime", _CUTTING_REGIMES),),
    )
    target_sparsity: float = setting(
        0.0,
        "Fraction of the prunable weights that are zero at the end.",
        group="pruning",
        rule=SPARSITY,
        only_with=_RANKING,
        unless=_CHANNELS,
    )
    power: float = setting(
        3.0,
        "Exponent of the polynomial.",
        group="pruning",
        rule=ABOVE_0,
        only_with=(With("schedule", ("polynomial",)),),
    )
    rounds: int = setting(
        1,
        "How often it prunes and trains.",
        group="pruning",
        rule=_ROUNDS,
        only_with=(With("regime", ("iterative",)),),
    )
    frequency: int = setting(
        100,
        "Steps between updates of the masks.",
        group="pruning",
        rule=AT_LEAST_1,
        only_with=_BY_STEPS,
        unless=_CHANNELS,
    )
    ramp_fraction: float = setting(
        0.5,
        "Share of the steps in which gradual's sparsity rises, or sparse's masks move. The rest fine-tunes.",
        group="pruning",
        rule=_SHARE,
        only_with=_BY_STEPS,
    )
    scope: str = setting(
        "global",
        "layer: every layer reaches the sparsity. global: all layers together, by one threshold. erk: all "
        "together, small layers less (Erdos-Renyi-Kernel, arXiv:1911.11134).",
        group="pruning",
        choices=SCOPES,
        words=lambda scope: f"scope {scope}",
        only_with=_RANKING,
        unless=_CHANNELS,
    )
    prune_layers: str = setting(
        "",
        "Regular expression that the whole name of a layer to prune matches, such as stage[34]_.*. "
        "Empty: every convolution.",
        group="pruning",
        rule=_REGULAR_EXPRESSION,
        paper=Rule("every convolution", lambda pattern: not pattern),
        words=lambda pattern: f"layers {pattern}",
        only_with=_PRUNING,
        unless=_CHANNELS,
    )
    layer_sparsity: tuple[str, ...] = setting(
        (),
        "Targets of their own, REGEX:SPARSITY,...: the first expression that matches a layer's whole name "
        "counts; --target_sparsity is for the others.",
        group="pruning",
        paper=(),
        words=lambda targets: f"layer sparsity {' '.join(targets)}",
        only_with=(With("regime", ("one_shot", "iterative", "gradual")),),
        unless=_CHANNELS,
    )
    spare_ends: bool = setting(
        False,
        "Leaves the first and the last layer with a kernel as they are.",
        group="pruning",
        paper=False,
        words=lambda spared: "ends spared",
        only_with=_PRUNING,
        unless=_CHANNELS,
    )
    method: str = setting(
        "score",
        "How weights are chosen. score: they are ranked by --score and keep their values. In one_shot and "
        "iterative, by a few training images, without labels: layer by layer those go without which the "
        "others, corrected by least squares, do best what the layer did. reconstruct: for layers of any size "
        "(arXiv:2401.02938). obc: one weight at a time (arXiv:2208.11580), in small layers. In gradual, by "
        "training: thresholds (dst, arXiv:2005.06870) or soft masks (cs, arXiv:1912.04427) are learned and "
        "fixed at the ramp's end, or phases of --frequency steps with masks and without take turns (acdc, "
        "arXiv:2106.12379).",
        group="pruning",
        choices=PRUNING_METHODS,
        paper="score",
        words=lambda method: f"pruned by {method}",
        only_with=(With("regime", _CUTTING_REGIMES),),
        unless=_CHANNELS,
    )
    method_images: int = setting(
        512,
        "Training images, without their labels and not augmented, that --method measures on.",
        group="pruning",
        rule=Rule("at least 2", lambda images: images >= 2),
        only_with=_WITH_DATA,
    )
    score: str = setting(
        "magnitude",
        "What ranks weights: their magnitude, that beside the larger ones of the layer (lamp, for "
        "--scope=global), that times the strength of the weight's channels (gathered, so that more channels "
        "lose all weights), random numbers, |weight * gradient| (taylor), or weight^2 * gradient^2 (fisher). "
        "Training batches give the gradients.",
        group="pruning",
        choices=SCORES,
        paper="magnitude",
        only_with=_RANKING,
        unless=_CHANNELS,
    )
    gradient_batches: int = setting(
        8,
        "Batches for one measurement of gradients (taylor, fisher, rigl) or of outputs (variance).",
        group="pruning",
        rule=AT_LEAST_1,
        only_with=(
            With("score", ("taylor", "fisher")),
            With("regrowth", ("rigl",)),
            With("channel_score", ("taylor", "fisher", "variance")),
        ),
    )
    granularity: str = setting(
        "weight",
        "weight: single weights. channel: whole output channels, ranked by their L2 norm.",
        group="pruning",
        choices=GRANULARITIES,
        paper="weight",
        words=lambda granularity: f"whole {granularity}s",
        only_with=_RANKING,
        unless=_CHANNELS,
    )
    block_size: tuple[int, ...] = setting(
        (1, 1),
        "HEIGHT,WIDTH of blocks that go together, in input and output channels of a kernel.",
        group="pruning",
        rule=_BLOCK,
        paper=(1, 1),
        words=lambda block: f"blocks of {'x'.join(map(str, block))}",
        only_with=_RANKING,
        unless=_CHANNELS,
    )
    block_pooling_type: str = setting(
        "AVG",
        "What ranks a block: its mean or its largest score.",
        group="pruning",
        choices=POOLING_TYPES,
        only_with=(With("block_size"),),
    )
    sparsity_m_by_n: tuple[int, ...] = setting(
        (),
        "M,N: M zeros in every N weights along the input channels; --target_sparsity is M/N. Empty: none.",
        group="pruning",
        rule=_M_BY_N,
        paper=(),
        words=lambda pair: f"{' of '.join(map(str, pair))} weights zero",
        only_with=_RANKING,
        unless=_CHANNELS,
    )
    regrowth: str = setting(
        "none",
        "How the weights of --regime=sparse move: random ones grow (set, arXiv:1707.04780), or those with "
        "the largest gradients (rigl, arXiv:1911.11134).",
        group="pruning",
        choices=REGROWTHS,
        only_with=(With("regime", ("sparse",)),),
    )
    drop_fraction: float = setting(
        0.3,
        "Share of a layer's weights that moves at the first update of --regrowth.",
        group="pruning",
        rule=Rule("in (0, 1)", lambda share: 0.0 < share < 1.0),
        only_with=(With("regime", ("sparse",)),),
    )
    search: str = setting(
        "none",
        "What divides the sparsity over the layers when one_shot and iterative prune. none: --scope. evolve: "
        "a search for the division by which the outputs change least on training examples without their "
        "labels (arXiv:2410.14649); --scope then says nothing.",
        group="pruning",
        choices=SEARCHES,
        paper="none",
        words=lambda search: f"sparsities searched ({search})",
        only_with=(With("regime", ("one_shot", "iterative")),),
        unless=_CHANNELS,
    )
    search_images: int = setting(
        512,
        "Training examples, not augmented, that --search looks at.",
        group="pruning",
        rule=Rule("at least 2", lambda count: count >= 2),
        only_with=_SEARCHING,
    )
    search_generations: int = setting(
        40,
        "Generations of --search.",
        group="pruning",
        rule=AT_LEAST_1,
        only_with=_SEARCHING,
    )
    population: int = setting(
        8,
        "Copies that --regime=genetic has at a time.",
        group="pruning",
        rule=Rule("at least 2", lambda count: count >= 2),
        only_with=_GENETIC,
    )
    children: int = setting(
        40,
        "Copies that it tries after the first population.",
        group="pruning",
        rule=AT_LEAST_0,
        only_with=_GENETIC,
    )
    copy_steps: int = setting(
        40,
        "Training steps of each of its copies, and as many times the removed share again.",
        group="pruning",
        rule=AT_LEAST_1,
        only_with=_GENETIC,
    )
    weight_price: float = setting(
        1.0,
        "The loss that its copies pay for all weights; in proportion for those that stay.",
        group="pruning",
        rule=AT_LEAST_0,
        only_with=_GENETIC,
    )
    batchnorm_after_pruning: str = setting(
        "keep",
        "What one_shot and iterative do with BatchNorm after each pruning, before they measure the accuracy "
        "right after it. keep: nothing. reset_removed: filters without weights get beta 0, moving mean 0 and "
        "moving variance 1, so that they are silent. recalibrate: the moving statistics are measured anew on "
        "training batches (arXiv:2007.02491).",
        group="pruning",
        choices=AFTER_PRUNING,
        paper="keep",
        words=lambda choice: f"BatchNorm after pruning: {choice}",
        only_with=(With("regime", ("one_shot", "iterative")),),
    )
    batchnorm_batches: int = setting(
        32,
        "Training batches for one measurement of the statistics.",
        group="pruning",
        rule=AT_LEAST_1,
        only_with=(With("batchnorm_after_pruning", ("recalibrate",)),),
    )
    target_macs: float = setting(
        0.0,
        "Share of the multiply-accumulates that is left at the end, of the whole network as --model has it. "
        "0: --target_params counts.",
        group="channels",
        rule=_LEFT,
        words=lambda share: f"to {100 * share:g} % of the MACs",
        only_with=_CHANNELS,
    )
    target_params: float = setting(
        0.0,
        "Share of the parameters that is left at the end, likewise. 0: --target_macs counts.",
        group="channels",
        rule=_LEFT,
        words=lambda share: f"to {100 * share:g} % of the parameters",
        only_with=_CHANNELS,
    )
    cuts: int = setting(
        0,
        "How often gradual cuts: at the start of so many epochs, spread evenly over those of "
        "--ramp_fraction. 0: at the start of each of these.",
        group="channels",
        rule=AT_LEAST_0,
        only_with=(With("regime", ("gradual",)),),
        unless=(With("prune", ("weights",)),),
    )
    channel_scope: str = setting(
        "global",
        "global: all channels by one ranking. layer: each group of channels that go together loses the same "
        "share of them. equal: each group loses the same share of the sum of its scores.",
        group="channels",
        choices=CHANNEL_SCOPES,
        words=lambda scope: f"channel scope {scope}",
        only_with=_CHANNELS,
    )
    channel_score: str = setting(
        "l2",
        "What ranks channels, over all layers that make and take them: the L2 or L1 norm of their weights, "
        "the loss that training batches estimate (taylor, fisher), the scale of their BatchNorm, or the "
        "variance of their values.",
        group="channels",
        choices=CHANNEL_SCORES,
        only_with=_CHANNELS,
    )
    round_to: int = setting(
        1,
        "Widths are left as multiples of this.",
        group="channels",
        rule=AT_LEAST_1,
        only_with=_CHANNELS,
    )
    keep_layers: tuple[str, ...] = setting(
        (),
        "Names of layers, or patterns such as stage1_*, whose channels all stay.",
        group="channels",
        words=lambda patterns: f"{' '.join(patterns)} kept",
        only_with=_CHANNELS,
    )
    repair: str = setting(
        "none",
        "What becomes of what is cut, before any training. none: nothing. constant: the mean of what varies "
        "little goes into the next bias. merge: each removed channel becomes part of the one most like it. "
        "ridge: what is left expresses it, by least squares (arXiv:2602.23795).",
        group="channels",
        choices=REPAIRS,
        words=lambda method: f"repaired by {method}",
        only_with=_CHANNELS,
    )
    repair_images: int = setting(
        512,
        "Training examples, without their labels, that --repair measures on.",
        group="channels",
        rule=AT_LEAST_1,
        only_with=(With("repair", ("constant", "merge", "ridge")),),
    )
    pruning_engine: str = setting(
        "tfprune",
        "What prunes: tfprune, or tfmot itself, on the same network in tf-keras, which needs --scope=layer "
        "and KERAS_BACKEND=tensorflow.",
        group="pruning",
        choices=PRUNING_ENGINES,
        words=lambda engine: f"pruned by {engine}",
        only_with=_RANKING,
        unless=_CHANNELS,
    )

    epochs: tuple[int, ...] = setting(
        (20,),
        "Epochs of every round, or a comma-separated list with one number a round.",
        group="training",
        rule=Rule(EPOCHS.text, lambda epochs: all(EPOCHS.holds(number) for number in epochs)),
    )
    distill_from: str = setting(
        "",
        "EXPERIMENT or EXPERIMENT/round_KK in --output_dir that teaches (knowledge distillation, "
        "arXiv:1503.02531): finished, on the same dataset and image size. Empty: none.",
        group="training",
        role="reference",
        paper="",
        words=lambda teacher: f"distilled from {teacher}",
    )
    distill_weight: float = setting(
        0.5,
        "w: the loss is (1 - w) * cross-entropy + w * T^2 * divergence.",
        group="training",
        rule=_SHARE,
        only_with=_DISTILLING,
    )
    distill_temperature: float = setting(
        4.0,
        "T, by which the logits of both networks are divided.",
        group="training",
        rule=ABOVE_0,
        only_with=_DISTILLING,
    )
    loss: tuple[str, ...] = setting(
        (),
        "A loss of Keras, such as mean_squared_error, or package.module:function; of several outputs one "
        "each, OUTPUT:LOSS,... Empty: the one that a compiled file has, or else follows from outputs and "
        "labels.",
        group="training",
        paper=(),
        words=lambda losses: f"loss {' '.join(losses)}",
    )
    metrics: tuple[str, ...] = setting(
        (),
        "Metrics, in the same form; the first one is the run's figure. One of your own says by its attribute "
        "higher_is_better which way is better. Empty: as for --loss.",
        group="training",
        paper=(),
        words=lambda metrics: f"metrics {' '.join(metrics)}",
    )
    mixed_precision: str = setting(
        "none",
        "Type of activations; weights stay float32.",
        group="training",
        choices=MIXED_PRECISION,
        paper="none",
    )

    @property
    def folder(self) -> Path:
        """The run folder."""
        return Path(os.path.expanduser(self.output_dir)) / self.experiment

    @property
    def last_round(self) -> int:
        """Number of the experiment's last round: 0 for `dense`."""
        return {"dense": 0, "iterative": self.rounds}.get(self.regime, 1)

    @property
    def training_rounds(self) -> int:
        """The number of rounds that train."""
        return max(self.last_round, 1)

    def settings(self, round_number: int) -> TrainingSettings:
        """Returns the settings of a round's fit. `dense` trains in round 0, the others from 1."""
        index = max(round_number - 1, 0)
        epochs = self.epochs[index] if len(self.epochs) > 1 else self.epochs[0]
        same = {field.name: getattr(self, field.name) for field in fields(TrainingSettings)}
        return TrainingSettings(**{**same, "epochs": epochs})

    def check(self) -> None:
        """Checks all that can be checked without data, weights and the pruning library.

        `tfprune.experiments` checks how the pruning settings go together.

        Raises:
            UserError: With the flag, the value and the rule.
        """
        try:
            check_settings(self)
        except SettingError as error:
            self.refuse(error.name, f"must be {error.rule}")
        check_effects(self)
        self.layer_targets()
        is_path = self.weights not in ("imagenet", "none") and not self.init_from
        if is_path and not os.path.isfile(os.path.expanduser(self.weights)):
            self.refuse("weights", "must be imagenet, none or an existing file")
        if len(self.epochs) not in (1, self.training_rounds):
            self.refuse(
                "epochs",
                f"must be one number, or one for each of the {self.training_rounds} rounds of "
                f"--regime={self.regime}, but has {len(self.epochs)}",
            )
        for number in range(1, self.training_rounds + 1):
            try:
                self.settings(number)
            except SettingError as error:
                self.refuse(error.name, f"must be {error.rule}")

    def layer_targets(self) -> dict[str, float]:
        """Returns {regular expression of layer names: sparsity at the end}; the last entry is for all others.

        Raises:
            UserError: On an entry of `layer_sparsity` that is not REGEX:SPARSITY.
        """
        targets = {}
        for entry in self.layer_sparsity:
            pattern, _, number = entry.rpartition(":")
            try:
                target = value_of(number, float)
                hint = percent_hint(target, SPARSITY)
            except ValueError as error:
                target, hint = -1.0, "".join(str(error).partition("; ")[1:])
            if not pattern or not _is_regular_expression(pattern) or not SPARSITY.holds(target):
                raise UserError(
                    f"--layer_sparsity={entry}: must be REGEX:SPARSITY, a regular expression of layer names "
                    f"and a sparsity {SPARSITY.text}{hint}"
                )
            targets.setdefault(pattern, target)  # The first counts.
        targets.setdefault(".*", self.target_sparsity)
        return targets

    def refuse(self, name: str, rule: str) -> NoReturn:
        """Raises the `UserError` of a flag whose value breaks a rule."""
        raise UserError(f"{self.flag(name)}: {rule}")

    def flag(self, name: str) -> str:
        """Returns a flag as it is written, `--name=value`."""
        return f"--{name}={to_text(getattr(self, name))}"

    def to_flags(self) -> str:
        """Returns the flagfile that makes this config, one `--name=value` a line.

        Defaults that have no effect are left out: given, they would be errors.
        """
        idle = without_effect(self, settings_of(self)).keys() - without_effect(self).keys()
        return "".join(f"{self.flag(name)}\n" for name in settings_of(self) if name not in idle)

    @classmethod
    def from_flags(cls, text: str) -> "ExperimentConfig":
        """Reads what `to_flags` wrote.

        Raises:
            UserError: On a line that `to_flags` cannot have written.
        """
        types = {field.name: field.type for field in fields(cls)}
        values = {}
        for line in text.splitlines():
            name, equals, value = line.removeprefix("--").partition("=")
            if not equals or name not in types:
                raise UserError(f"not a flag of an experiment: {line!r}")
            with blame_flag(name, value):
                values[name] = value_of(value, types[name])
        return cls(**values)

    def to_json(self) -> dict[str, Any]:
        """Returns the settings by name, as JSON has them: lists for tuples."""
        return {
            name: list(value) if isinstance(value := getattr(self, name), tuple) else value
            for name in settings_of(self)
        }

    @classmethod
    def from_json(cls, values: Any) -> "ExperimentConfig":
        """Reads what `to_json` returned. A setting that is missing has its default.

        Raises:
            ValueError: On a setting that is unknown, of a wrong type, or out of range.
        """
        if not isinstance(values, dict):
            raise ValueError(f"`config` must be an object. Received: {values!r}")
        kinds = {field.name: field.type for field in fields(cls)}
        unknown = sorted(values.keys() - kinds.keys())
        if unknown:
            raise ValueError(f"`config` has a setting that this version does not know: {unknown[0]}")
        if "experiment" not in values:
            raise ValueError("`config` must have the setting experiment")
        config = cls(**{name: _from_json(name, value, kinds[name]) for name, value in values.items()})
        config.check_recorded()
        return config

    def check_recorded(self) -> None:
        """Checks that a run can have had the settings: all but places, and names that the library owns.

        Raises:
            SettingError: On the first value that breaks its rule.
        """
        if self.regime not in REGIMES:
            raise SettingError("regime", f"one of {', '.join(REGIMES)}", self.regime)
        for name, said in settings_of(self).items():
            rule = None if said.role == "place" else said.broken_range(getattr(self, name))
            if rule is not None:
                raise SettingError(name, rule, getattr(self, name))

    def differing(self, other: "ExperimentConfig") -> list[str]:
        """Returns the names of the settings, but for places, in which two configs differ."""
        return [
            name
            for name, said in settings_of(self).items()
            if said.role != "place" and getattr(self, name) != getattr(other, name)
        ]

    def identity(self) -> dict[str, Any]:
        """Returns what repetitions of one experiment share: every setting but the seed and places.

        `_seedN`, N the config's seed, is left out of the experiment's name and of the names of the runs that
        it refers to.
        """
        suffix = re.compile(rf"_seed{self.seed}(?=$|/)")
        shared = {name: value for name, value in self.to_json().items() if self._is_shared(name)}
        for name, said in settings_of(self).items():
            if said.role == "reference" or name == "experiment":
                shared[name] = suffix.sub("", shared[name])
        return shared

    def _is_shared(self, name: str) -> bool:
        return settings_of(self)[name].role not in ("seed", "place")


_ITEMS = {tuple[int, ...]: int, tuple[str, ...]: str}


def _from_json(name: str, value: Any, kind: Any) -> Any:
    """Returns a setting's value read from JSON as the field's type; JSON's `true` is no number."""
    if kind in _ITEMS:
        if isinstance(value, list) and all(type(item) is _ITEMS[kind] for item in value):
            return tuple(value)
        raise ValueError(f"`{name}` must be a list of {_ITEMS[kind].__name__}. Received: {name}={value!r}")
    if kind is float and type(value) in (int, float):
        return float(value)
    if type(value) is not kind:
        raise ValueError(f"`{name}` must be of type {kind.__name__}. Received: {name}={value!r}")
    return value
