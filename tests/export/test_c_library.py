"""C libraries as exports: audited by their own machine code, with every weight found in the files."""

import numpy as np
import pytest

from tfprune.errors import UserError
from tfprune.export import export_model
from tfprune.export.audit import AuditError
from tfprune.export.formats.c_library import CLibrary
from tfprune.runtime.ahead.targets import this_machines_target

HERE = this_machines_target()
pytestmark = pytest.mark.skipif(HERE is None, reason="this machine is none of the targets")


def export(network, images, folder, **arguments):
    model, masks = network
    audit = export_model(
        model, str(folder), inputs=images, masks=masks, formats=["c"], progress=lambda line: None, **arguments
    )
    return audit["artifacts"]


@pytest.mark.slow
def test_a_library_for_this_machine_and_another(network, images, tmp_path):
    entries = export(network, images, tmp_path, targets=[HERE, "thumbv7em", "wasm32"])
    assert set(entries) == {"c", "c_int8"}
    entry, small = entries["c"], entries["c_int8"]
    assert entry["passed"] and entry["ran"]
    assert entry["zeros"]["masked_zero"] == entry["zeros"]["masked"] > 0
    assert entry["equal_predictions_percent"] == 100
    assert entry["largest_logit_difference_relative"] < 1e-5
    assert [built["target"] for built in entry["targets"]] == [HERE, "wasm32"]
    assert small["passed"] and not small["ran"] and small["weights"] == "int8"
    assert small["zeros"] == entry["zeros"]
    assert 1e-5 < small["largest_logit_difference_relative"] < 0.02
    assert (tmp_path / "c" / "model.h").exists()
    # A later export of other formats removes it.
    model, masks = network
    export_model(model, str(tmp_path), masks=masks, formats=["keras"], progress=lambda line: None)
    assert not [folder for folder in ("c", "c_int8") if (tmp_path / folder).exists()]


@pytest.mark.slow
def test_8_bits_are_for_all_targets_and_the_sparse_file(network, images, tmp_path):
    model, masks = network
    arguments = {"masks": masks, "inputs": images, "progress": lambda line: None}
    found = {}
    for weights in ("float16", "int8"):
        audit = export_model(
            model, str(tmp_path), formats=["sparse", "c"], sparse_weights=weights, targets=[HERE], **arguments
        )
        found[weights] = audit["artifacts"]
    assert set(found["int8"]) == {"model.tfprune", "c_int8"}
    sparse, c = (found["int8"][name] for name in ("model.tfprune", "c_int8"))
    assert sparse["passed"] and sparse["weights"] == c["weights"] == "int8" and c["ran"]
    assert sparse["bytes"] < 0.8 * found["float16"]["model.tfprune"]["bytes"]
    # The file's weights are the library's.
    assert sparse["largest_logit_difference"] == pytest.approx(c["largest_logit_difference"], rel=0.01)


@pytest.mark.slow
def test_another_machines_library_is_audited_by_one_for_this_machine(network, images, tmp_path):
    entry = export(network, images, tmp_path, targets=["aarch64-linux"], cpu="cortex-a53")["c"]
    assert entry["passed"] and not entry["ran"]
    assert entry["targets"][0]["processors"] == ["cortex-a53"]


@pytest.mark.slow
@pytest.mark.parametrize("target", [HERE, "wasm32"])
def test_weights_that_are_not_the_networks_are_found(network, images, tmp_path, monkeypatch, target):
    write = CLibrary.write

    def write_and_damage(self, network, path):
        write(self, network, path)
        file = f"{path}/{target}/model.o"
        with open(file, "rb") as opened:
            code = bytearray(opened.read())
        kernel = next(node for node in network.compiled().nodes if node.name == "conv2").kernel
        value = np.asarray(kernel)[np.nonzero(kernel)].astype(np.float32)[7].tobytes()
        assert code.count(value)
        with open(file, "wb") as opened:
            opened.write(code.replace(value, np.float32(0.5).tobytes()))

    monkeypatch.setattr(CLibrary, "write", write_and_damage)
    with pytest.raises(AuditError, match=f"{target}/model.o: the weights of conv2 are not the network's"):
        export(network, images, tmp_path, targets=[target])


@pytest.mark.parametrize("arguments, message", [
    ({"targets": ["amiga"]}, "`targets` must name some of .*amiga"),
    ({"targets": ["wasm32", "thumbv7em"], "cpu": "generic"}, "`cpu` is for a single target"),
    ({"targets": ["aarch64-linux"], "cpu": "z80"}, "one that LLVM knows"),
])  # fmt: skip
def test_what_cannot_be_compiled_is_refused_before_anything_is_written(
    network, images, tmp_path, arguments, message
):
    with pytest.raises(UserError, match=message):
        export(network, images, tmp_path, **arguments)
    assert list(tmp_path.iterdir()) == []
