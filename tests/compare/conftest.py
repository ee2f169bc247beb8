import json

import pytest

SMALL_CIFAR = {
    "dataset": "cifar10",
    "model": "resnet34",
    "width": 16,
    "stem": "cifar",
    "image_size": 32,
    "train_examples": 10_000,
    "train_examples_available": 50_000,
    "test_examples": 10_000,
    "test_examples_available": 10_000,
    "paper_setting": False,
    "paper_setting_differences": ["width=16 (paper: 64)", "image_size=32 (paper: 224)"],
}
PAPER_CIFAR = {
    **SMALL_CIFAR,
    "width": 64,
    "stem": "imagenet",
    "image_size": 224,
    "train_examples": 50_000,
    "paper_setting": True,
    "paper_setting_differences": [],
}


class Folder:
    """Writes run folders by hand."""

    def __init__(self, path):
        self.path = path

    def write(self, experiment, number, **result):
        folder = self.path / experiment / f"round_{number:02d}"
        folder.mkdir(parents=True, exist_ok=True)
        (self.path / experiment / "flags.txt").write_text("")
        path = folder / "result.json"
        path.write_text(json.dumps({"experiment": experiment, "round": number, **result}))
        return path

    def dense(self, experiment, accuracy, section="", **more):
        settings = {"sparsity": 0.0, "paper_section": section, "rounds": 0, **more}
        return self.write(experiment, 0, regime="dense", accuracy_percent=accuracy, **settings)

    def one_shot(self, experiment, init_from, sparsity, accuracies, section="", **more):
        after_pruning, accuracy = accuracies
        settings = {"paper_section": section, "rounds": 1, "init_from": init_from, **more}
        self.write(experiment, 0, regime="one_shot", sparsity=0.0, **settings)
        return self.write(
            experiment,
            1,
            regime="one_shot",
            target_sparsity=sparsity,
            sparsity=sparsity,
            accuracy_after_pruning_percent=after_pruning,
            accuracy_percent=accuracy,
            **settings,
        )

    def iterative(self, experiment, init_from, levels, section="", **more):
        """`levels`: (sparsity, right after pruning, after fine-tuning) a round."""
        settings = {"paper_section": section, "rounds": len(levels), "init_from": init_from, **more}
        self.write(experiment, 0, regime="iterative", sparsity=0.0, **settings)
        for number, (sparsity, after_pruning, accuracy) in enumerate(levels, start=1):
            self.write(
                experiment,
                number,
                regime="iterative",
                target_sparsity=sparsity,
                sparsity=sparsity,
                accuracy_after_pruning_percent=after_pruning,
                accuracy_percent=accuracy,
                **settings,
            )


@pytest.fixture
def folder(tmp_path):
    return Folder(tmp_path)


@pytest.fixture
def small_cifar():
    return dict(SMALL_CIFAR)


@pytest.fixture
def paper_cifar():
    return dict(PAPER_CIFAR)
