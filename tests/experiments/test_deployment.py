"""The dense run that a run goes back to, among run folders that training cannot have made, too."""

import pytest

from tests.support.run_folders import RunFolders
from tfprune.compare import write_comparison, write_page
from tfprune.errors import UserError
from tfprune.experiments.deployment import dense_ancestor
from tfprune.runs.folder import RunFolder

pytestmark = pytest.mark.one_backend


def pruned(folders, **starts):
    """Writes a pruned run for each name, which starts from another."""
    for name, start in starts.items():
        folders.one_shot(name, start, 0.5, (1.0, 2.0))


@pytest.fixture
def folders(tmp_path):
    return RunFolders(tmp_path, dataset="digits")


@pytest.mark.parametrize(
    "starts, circle",
    [
        ({"a": "a"}, "a -> a"),
        ({"a": "b", "b": "a"}, "a -> b -> a"),
        ({"a": "b/round_01", "b": "c/round_00", "c": "a/round_01"}, "a -> b -> c -> a"),
        ({"a": "b", "b": "c", "c": "d", "d": "c"}, "a -> b -> c -> d -> c"),
        ({"a": "b", "b": "b/round_01"}, "a -> b -> b"),
    ],
)
def test_run_folders_that_start_from_each_other_in_a_circle_are_an_error(folders, starts, circle):
    pruned(folders, **starts)
    with pytest.raises(UserError) as caught:
        dense_ancestor(RunFolder(folders.path / "a"))
    message = str(caught.value)
    assert message.startswith("--init_from=") and "\n" not in message
    assert message.endswith(f"the run folders in {folders.path} start from each other in a circle: {circle}")
    assert "\na " in write_comparison(folders.path).text  # Which looks for dense runs, too, and finds none.
    assert write_page(folders.path).exists()


def test_a_long_line_of_runs_has_its_dense_ancestor(folders):
    folders.dense("dense", 90.0)
    pruned(folders, run_00="dense", **{f"run_{n:02d}": f"run_{n - 1:02d}/round_01" for n in range(1, 20)})
    assert dense_ancestor(RunFolder(folders.path / "run_19")) == folders.path / "dense"


def test_without_its_ancestors_a_run_has_no_dense_one(folders):
    pruned(folders, a="gone")
    assert dense_ancestor(RunFolder(folders.path / "a")) is None
