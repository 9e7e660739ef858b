"""From a torch network to ONNX."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import onnx
import torch
from torch import nn

from pipeline.onnxmodel.file import describe, read_model, write_model
from pipeline.packages import PACKAGES
from targets.errors import ModelError, ToolchainMissing

INPUT = "input"
OUTPUT = "logits"


def export(
    network: nn.Module,
    input_shape: Sequence[int],
    path: Path,
    *,
    exporter: Literal["dynamo", "legacy"],
    opset: int,
    dynamic_batch: bool,
) -> None:
    """Write a network as one ONNX file with the input "input" and the output "logits".

    Args:
        network: takes one float tensor, returns logits.
        input_shape: batch 1 included.
        path: the file to write.
        exporter: "dynamo" (torch.export) or "legacy" (TorchScript tracing).
        opset: ONNX operator set of the file.
        dynamic_batch: leave the first dimension open.

    Raises:
        ModelError: the exporter refuses the network; the message carries its reason.
        ToolchainMissing: the dynamo exporter needs onnxscript.
    """
    network.eval()
    example = torch.zeros(tuple(input_shape))
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if exporter == "dynamo":
                _export_dynamo(network, example, path, opset, dynamic_batch)
            else:
                _export_legacy(network, example, path, opset, dynamic_batch)
    except (ModuleNotFoundError, torch.onnx.errors.OnnxExporterError, RuntimeError, ValueError) as error:
        if isinstance(error, ModuleNotFoundError) or "onnxscript" in str(error):
            raise ToolchainMissing(
                "the dynamo exporter needs onnxscript",
                mend=f'{PACKAGES["onnxscript"].install}, or set export.exporter = "legacy"',
            ) from error
        other = "legacy" if exporter == "dynamo" else "dynamo"
        raise ModelError(
            f"the {exporter} exporter refused the network: {str(error).strip().splitlines()[0]}",
            mend=f'try export.exporter = "{other}"',
        ) from error
    model = read_model(path)
    _check_opset(model, opset)
    _forget_origin(model)
    write_model(model, path)


def _export_dynamo(network: nn.Module, example: torch.Tensor, path: Path, opset: int, dynamic: bool) -> None:
    shapes = {0: torch.export.Dim("batch")} if dynamic else None
    # A batch of 1 would be specialised: an open dimension is traced with two images.
    example = example.repeat(2, *[1] * (example.ndim - 1)) if dynamic else example
    program = torch.onnx.export(
        network,
        (example,),
        dynamo=True,
        opset_version=opset,
        input_names=[INPUT],
        output_names=[OUTPUT],
        dynamic_shapes=(shapes,) if dynamic else None,
        external_data=False,
        verbose=False,
    )
    assert program is not None
    program.save(str(path), external_data=False)


def _export_legacy(network: nn.Module, example: torch.Tensor, path: Path, opset: int, dynamic: bool) -> None:
    torch.onnx.export(
        network,
        (example,),
        str(path),
        dynamo=False,
        opset_version=opset,
        input_names=[INPUT],
        output_names=[OUTPUT],
        dynamic_axes={INPUT: {0: "batch"}, OUTPUT: {0: "batch"}} if dynamic else None,
    )


def _check_opset(model: onnx.ModelProto, opset: int) -> None:
    """The exporter may fall back to another opset without failing; that is not what was asked for."""
    found = describe(model).opset
    if found != opset:
        raise ModelError(
            f"the exporter wrote opset {found}, not {opset}",
            where="export.opset",
            mend=f"set export.opset = {found}, or try another export.exporter",
        )


def _forget_origin(model: onnx.ModelProto) -> None:
    """Remove notes on where each node came from: they hold paths of this machine and change with it."""
    del model.metadata_props[:]
    del model.graph.metadata_props[:]
    for part in (*model.graph.node, *model.graph.value_info, *model.graph.input, *model.graph.output):
        del part.metadata_props[:]
        part.doc_string = ""
