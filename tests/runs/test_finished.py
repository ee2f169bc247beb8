"""What counts as finished: a result, and the network that it is of beside it."""

import json

import pytest

from tests.support.run_folders import NETWORK, RunFolders
from tfprune.errors import FileError, UserError
from tfprune.runs.folder import RunFolder, find_round, read_runs

pytestmark = pytest.mark.one_backend

# Name -> what stands in the place of the network, and whether its size tells.
DAMAGES = {
    "empty": (b"", True),
    "cut short": (NETWORK[:-1], True),
    "longer": (NETWORK + b"\0", True),
    "missing": (None, True),
    "one bit": (bytes([NETWORK[0] ^ 1]) + NETWORK[1:], False),
    "another run's": (NETWORK[::-1], False),
}


@pytest.fixture
def run(tmp_path):
    """A finished run of two rounds."""
    return RunFolder(RunFolders(tmp_path, dataset="digits").one_shot("a", "", 0.5, (1.0, 2.0)).parents[1])


def damage(path, content):
    path.unlink() if content is None else path.write_bytes(content)


def readers(run, number):
    """The ways to a round's result: those that look at the network's size, and those that read it."""
    folder = run.round(number)
    quick = [
        folder.read_result,
        lambda: find_round(str(run.path.parent), f"a/round_{number:02d}", "init_from"),
    ]
    if folder.model_path.exists():  # Results alone can be compared.
        quick.append(lambda: read_runs(run.path.parent))
    return quick, [folder.check_network]


def test_a_whole_run_is_finished(run):
    for number in (0, 1):
        quick, thorough = readers(run, number)
        for read in (*quick, *thorough):
            read()
        assert run.round(number).check_network() == run.round(number).read_result()
    (read,) = read_runs(run.path.parent)
    assert read.finished


def test_results_without_their_networks_can_be_compared(run):
    (before,) = read_runs(run.path.parent)
    for number in (0, 1):
        run.round(number).model_path.unlink()
    assert read_runs(run.path.parent) == [before]


@pytest.mark.parametrize("number", [0, 1])
@pytest.mark.parametrize("content, size_tells", DAMAGES.values(), ids=DAMAGES)
def test_a_result_of_another_network_is_believed_by_nobody(run, number, content, size_tells):
    path = run.round(number).model_path
    damage(path, content)
    quick, thorough = readers(run, number)
    for read in [*(quick if size_tells else []), *thorough]:
        with pytest.raises((FileError, UserError)) as caught:
            read()
        message = str(caught.value)
        assert f"{path}: not a readable network of the result beside it: " in message and "\n" not in message
        assert message.endswith("; put the network back, or remove the round's folder to run the round anew")
    if content is not None and size_tells:
        assert f"it has {len(content)} bytes, and result.json is of one with {len(NETWORK)}" in message
    damage(path, NETWORK)
    for read in (*quick, *thorough):
        read()


@pytest.mark.parametrize(
    "network",
    [
        None,
        {},
        [],
        "0" * 64,
        {"bytes": 9},
        {"bytes": 0, "sha256": "0" * 64},
        {"bytes": True, "sha256": "0" * 64},
        {"bytes": 9.0, "sha256": "0" * 64},
        {"bytes": 9, "sha256": "0" * 63},
        {"bytes": 9, "sha256": "G" * 64},
        {"bytes": 9, "sha256": "0" * 64 + "\n"},
    ],
)
def test_a_result_that_does_not_say_which_network_is_refused(run, network):
    path = run.round(1).path / "result.json"
    content = json.loads(path.read_text())
    path.write_text(json.dumps({**content, "network": network}))
    with pytest.raises(FileError, match=r"result\.json: .*`network` must be \{bytes, sha256\}"):
        run.round(1).read_result()


def test_a_result_without_a_checksum_is_of_an_older_format(run):
    path = run.round(1).path / "result.json"
    content = json.loads(path.read_text())
    del content["network"]
    path.write_text(json.dumps(content))
    with pytest.raises(FileError, match="`network` is missing"):
        run.round(1).read_result()
    path.write_text(json.dumps({**content, "format": 2}))
    with pytest.raises(
        FileError, match="it has format 2, and this version of tfprune reads format 4: run the"
    ):
        run.round(1).read_result()
