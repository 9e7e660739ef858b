"""Export: what was asked for, the same bytes every time, and nothing of the machine it was made on."""

import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import nn

from pipeline.export import export
from pipeline.onnxmodel.session import OnnxSession
from pipeline.zoo import resnet
from targets.errors import ModelError

SHAPE = (1, 1, 12, 12)


def network():
    torch.manual_seed(0)
    return resnet(channels=1, blocks=(1,), widths=(8,)).eval()


def exported(path, exporter="dynamo", opset=18, dynamic_batch=False):
    export(network(), SHAPE, path, exporter=exporter, opset=opset, dynamic_batch=dynamic_batch)
    return path


@pytest.mark.parametrize("exporter", ["dynamo", "legacy"])
@pytest.mark.parametrize("dynamic", [False, True])
def test_both_exporters_give_the_networks_outputs(tmp_path, exporter, dynamic):
    path = exported(tmp_path / "m.onnx", exporter, 17 if exporter == "legacy" else 18, dynamic)
    images = torch.randn(3 if dynamic else 1, *SHAPE[1:])
    expected = network()(images).detach().numpy()
    session = OnnxSession(path)
    assert session.inputs[0].shape == ((-1 if dynamic else 1), *SHAPE[1:])
    np.testing.assert_allclose(session({"input": images.numpy()})["logits"], expected, atol=1e-5)


def test_the_bytes_are_the_same_in_every_process_and_hold_no_paths(tmp_path):
    code = "import sys; from pathlib import Path; from tests.pipeline.test_export import exported;"
    for seed in ("1", "2"):
        command = [sys.executable, "-c", f"{code} exported(Path({str(tmp_path / seed)!r}))"]
        subprocess.run(command, check=True, env=os.environ | {"PYTHONHASHSEED": seed}, capture_output=True)
    first = (tmp_path / "1").read_bytes()
    assert first == (tmp_path / "2").read_bytes()
    assert b"site-packages" not in first and b"zoo.py" not in first


def test_an_opset_the_exporter_does_not_reach_is_an_error(tmp_path):
    with pytest.raises(ModelError, match="wrote opset") as caught:
        exported(tmp_path / "m.onnx", "dynamo", 13)
    assert "export.opset" in caught.value.mend


def test_a_network_the_exporter_refuses_is_named_with_the_other_exporter(tmp_path):
    class DataDependent(nn.Module):
        def forward(self, x):
            return x.flatten(1)[:, :2] if x.sum().item() > 0 else x.flatten(1)[:, 1:3]

    with pytest.raises(ModelError, match="dynamo exporter refused the network") as caught:
        export(DataDependent(), SHAPE, tmp_path / "m.onnx", exporter="dynamo", opset=18, dynamic_batch=False)
    assert 'export.exporter = "legacy"' in caught.value.mend
