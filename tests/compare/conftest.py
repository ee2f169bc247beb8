import pytest

from tests.support.run_folders import SMALL_CIFAR, RunFolders, study_settings


class Folder(RunFolders):
    """Run folders whose `section` gives the paper's settings, where `faithful` asks for them."""

    def dense(self, experiment, accuracy, section="", **values):
        return super().dense(experiment, accuracy, **_settings(section, values))

    def one_shot(self, experiment, init_from, sparsity, accuracies, section="", **values):
        return super().one_shot(experiment, init_from, sparsity, accuracies, **_settings(section, values))

    def iterative(self, experiment, init_from, levels, section="", **values):
        """`levels`: (sparsity, right after pruning, after training) a round."""
        return super().iterative(experiment, init_from, levels, **_settings(section, values))

    def unfinish(self, experiment, *rounds):
        for number in rounds:
            (self.path / f"{experiment}/round_{number:02d}/result.json").unlink()


def _settings(section, values):
    values = {"dataset": "cifar10", "paper_section": section, **values}
    if values.pop("faithful", False) and section:
        stated = study_settings(section, values["dataset"])
        del stated["regime"]  # The method's.
        values = {**stated, **values}
    return values


@pytest.fixture
def folder(tmp_path):
    return Folder(tmp_path)


@pytest.fixture
def small_cifar():
    return {**SMALL_CIFAR, "weights": "none", "dataset": "cifar10"}


@pytest.fixture
def paper_cifar():
    return {"dataset": "cifar10", "faithful": True}
