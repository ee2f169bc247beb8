"""The evaluate binary on runs that the tests share."""

import dataclasses
import types

import pytest

from tfprune.bin import evaluate
from tfprune.errors import UserError
from tfprune.files import digest
from tfprune.runs.folder import RunFolder
from tfprune.runs.metric import significant

pytestmark = pytest.mark.slow


@pytest.fixture
def run_evaluate(runs, monkeypatch, capsys):
    def run(experiment, **changes):
        values = {"output_dir": str(runs.output_dir), "data_dir": "", "summary": False, **changes}
        values = types.SimpleNamespace(experiment=experiment, **values)
        monkeypatch.setattr(evaluate, "flags", types.SimpleNamespace(FLAGS=values))
        capsys.readouterr()
        evaluate.main()
        return capsys.readouterr().out

    return run


def test_it_prints_the_accuracy_that_training_recorded(runs, run_evaluate):
    result = runs.one_shot.round(1).read_result()
    output = run_evaluate("one_shot")
    accuracy = f"{result.metric_at_end:.2f} %"
    assert f"one_shot (round 1): accuracy {accuracy} on 100 test images; recorded {accuracy}" in output
    assert f"\nloss {significant(result.figures['loss'])}\n" in output
    assert f"sparsity {result.sparsity:.4f} of the pruned kernels" in output
    assert f"{result.sparsity_all_parameters:.4f} of all " in output
    assert "stem_conv" not in output


def test_it_evaluates_the_round_that_is_asked_for(runs, run_evaluate):
    result = runs.one_shot.round(0).read_result()
    assert result.metric_at_end != runs.one_shot.round(1).read_result().metric_at_end
    output = run_evaluate("one_shot/round_00", summary=True)
    accuracy = f"{result.metric_at_end:.2f} %"
    assert f"(round 0): accuracy {accuracy} on 100 test images; recorded {accuracy}" in output
    assert "stem_conv" in output


def test_it_measures_and_does_not_repeat_the_record(runs, run_evaluate, tmp_path):
    """The dense network's file in the one-shot run's folder, and its checksum in the result."""
    config = type(runs)(tmp_path).copy(runs.one_shot, "swapped")
    swapped = RunFolder(config.folder).round(1)
    result = swapped.read_result()
    swapped.model_path.write_bytes(runs.dense.round(0).model_path.read_bytes())
    swapped.write_result(dataclasses.replace(result, network=digest(swapped.model_path)))
    output = run_evaluate("swapped", output_dir=str(tmp_path))
    measured = runs.dense.round(0).read_result().metric_at_end
    recorded = runs.one_shot.round(1).read_result().metric_at_end
    assert measured != recorded
    assert f"accuracy {measured:.2f} % on 100 test images; recorded {recorded:.2f} %" in output


@pytest.mark.parametrize(
    "experiment, changes, message",
    [
        ("nobody", {}, "--experiment=nobody: there is no experiment of that name"),
        ("one_shot/round_09", {}, "--experiment=one_shot/round_09: the experiment's last round is round_01"),
        ("one_shot", {"data_dir": "/nowhere"}, "--data_dir=/nowhere: "),
        ("one_shot", {"output_dir": "/nowhere"}, "--experiment=one_shot: there is no experiment"),
    ],
)
def test_what_is_not_there_is_named(runs, run_evaluate, experiment, changes, message):
    assert runs.one_shot.round(1).finished
    with pytest.raises(UserError) as caught:
        run_evaluate(experiment, **changes)
    assert str(caught.value).startswith(message)
