"""NVIDIA's own ONNX parser and builder, from TensorRT-RTX: they need no GPU."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

needs_parser = pytest.mark.skipif(
    importlib.util.find_spec("tensorrt_rtx") is None,
    reason="tensorrt_rtx, NVIDIA's parser, is not installed: pip install tensorrt-rtx-cu13",
)


def parse(model: Path) -> list[str]:
    """Return what NVIDIA's parser has against a model, nothing when it takes it."""
    import tensorrt_rtx as trt

    logger = trt.Logger(trt.Logger.ERROR)
    network = trt.Builder(logger).create_network(0)
    parser = trt.OnnxParser(network, logger)
    if parser.parse_from_file(str(model)):
        return []
    return [str(parser.get_error(index)) for index in range(parser.num_errors)] or ["refused without a word"]
