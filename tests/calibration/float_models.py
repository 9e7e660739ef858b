"""Small float ONNX models with seeded random weights, and inputs for them."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper


class Net:
    """Builds a model node by node; every method returns the name of the tensor it computes."""

    def __init__(
        self, seed: int = 0, shape: tuple[int | str, ...] = ("N", 3, 16, 16), opset: int = 17
    ) -> None:
        self.rng = np.random.default_rng(seed)
        self.opset = opset
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[onnx.TensorProto] = []
        self.channels = {"input": shape[1]}
        self.inputs = [helper.make_tensor_value_info("input", TensorProto.FLOAT, shape)]

    def op(self, kind: str, *inputs: str, channels: int | None = None, **attributes: object) -> str:
        name = f"{kind.lower()}{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, list(inputs), [f"{name}_out"], name, **attributes))
        self.channels[f"{name}_out"] = channels or self.channels.get(inputs[0])
        return f"{name}_out"

    def constant(self, value: np.ndarray) -> str:
        name = f"constant{len(self.initializers)}"
        self.initializers.append(numpy_helper.from_array(value, name))
        return name

    def normal(self, *shape: int, fan: int = 1) -> str:
        return self.constant((self.rng.standard_normal(shape) * math.sqrt(2 / fan)).astype(np.float32))

    def conv(
        self, x: str, out: int, k: int = 3, group: int = 1, bias: bool = True, **attributes: object
    ) -> str:
        fan = self.channels[x] // group
        weights = [self.normal(out, fan, k, k, fan=fan * k * k)] + [self.normal(out, fan=20)] * bias
        attributes.setdefault("pads", [k // 2] * 4)
        return self.op("Conv", x, *weights, channels=out, group=group, kernel_shape=[k, k], **attributes)

    def conv_transpose(self, x: str, out: int, group: int = 1) -> str:
        fan = self.channels[x]
        weights = [self.normal(fan, out // group, 2, 2, fan=fan // group), self.normal(out, fan=20)]
        return self.op(
            "ConvTranspose", x, *weights, channels=out, group=group, strides=[2, 2], kernel_shape=[2, 2]
        )

    def norm(self, x: str) -> str:
        c = self.channels[x]
        draw = self.rng.uniform
        parameters = [draw(0.5, 1.5, c), draw(-0.5, 0.5, c), draw(-0.5, 0.5, c), draw(0.5, 1.5, c)]
        return self.op("BatchNormalization", x, *(self.constant(p.astype(np.float32)) for p in parameters))

    def relu(self, x: str) -> str:
        return self.op("Relu", x)

    def relu6(self, x: str) -> str:
        return self.op("Clip", x, self.constant(np.float32(0)), self.constant(np.float32(6)))

    def gemm(self, x: str, out: int, trans_b: int = 1) -> str:
        c = self.channels[x]
        shape = (out, c) if trans_b else (c, out)
        return self.op(
            "Gemm", x, self.normal(*shape, fan=c), self.normal(out, fan=20), channels=out, transB=trans_b
        )

    def head(self, x: str, out: int = 5) -> str:
        return self.gemm(self.op("Flatten", self.op("GlobalAveragePool", x)), out)

    def build(self, *outputs: str) -> onnx.ModelProto:
        values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs]
        graph = helper.make_graph(self.nodes, "net", self.inputs, values, self.initializers)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", self.opset)])
        model.ir_version = 8
        return onnx.shape_inference.infer_shapes(model)

    def save(self, path: Path, *outputs: str) -> Path:
        onnx.save(self.build(*outputs), path)
        return path


def conv_norm_relu(net: Net) -> str:
    return net.conv(net.relu(net.norm(net.conv("input", 8, bias=False))), 8)


def residual(net: Net) -> str:
    x = net.relu(net.conv("input", 8))
    y = net.conv(net.relu(net.conv(x, 8)), 8)
    return net.head(net.relu(net.op("Add", x, y)))


def downsampling_residual(net: Net) -> str:
    x = net.relu(net.conv("input", 8))
    y = net.conv(net.relu(net.conv(x, 16, strides=[2, 2])), 16)
    shortcut = net.conv(x, 16, k=1, strides=[2, 2])
    return net.head(net.relu(net.op("Add", y, shortcut)))


def depthwise(net: Net) -> str:
    x = net.relu6(net.norm(net.conv("input", 12, k=1, bias=False)))
    x = net.relu6(net.norm(net.conv(x, 12, group=12, bias=False)))
    return net.head(net.norm(net.conv(x, 6, k=1, bias=False)))


def grouped(net: Net) -> str:
    return net.head(net.relu(net.conv(net.relu(net.conv("input", 8)), 12, group=4)))


def concat(net: Net) -> str:
    x = net.relu(net.conv("input", 4, k=1))
    y = net.op("Concat", net.relu(net.conv(x, 6, k=1)), net.relu(net.conv(x, 8)), axis=1, channels=14)
    return net.head(net.conv(y, 8))


def maxpool(net: Net) -> str:
    x = net.op("MaxPool", net.relu(net.conv("input", 8)), kernel_shape=[2, 2], strides=[2, 2])
    return net.head(net.relu(net.conv(x, 8)))


def gemm(net: Net) -> str:
    x = net.relu(net.gemm(net.op("Flatten", "input", channels=768), 32))
    return net.gemm(net.relu(net.gemm(x, 24, trans_b=0)), 5)


def matmul(net: Net) -> str:
    x = net.op("MatMul", net.op("Flatten", "input"), net.normal(768, 32, fan=768), channels=32)
    x = net.relu(net.op("Add", x, net.normal(32, fan=20)))
    return net.op("MatMul", x, net.normal(32, 5, fan=32))


def transposed_conv(net: Net) -> str:
    x = net.relu(net.norm(net.conv_transpose(net.relu(net.conv("input", 8, strides=[2, 2])), 8)))
    return net.conv(x, 3)


def grouped_transposed_conv(net: Net) -> str:
    x = net.norm(net.conv_transpose(net.relu(net.conv("input", 8)), 12, group=4))
    return net.conv(net.relu(x), 3)


def pad_conv(net: Net) -> str:
    amounts = net.constant(np.array([0, 0, 1, 1, 0, 0, 2, 2], np.int64))
    x = net.op("Pad", net.relu(net.conv("input", 8)), amounts)
    return net.head(net.conv(x, 8, strides=[2, 2], pads=[0] * 4))


def reflect_pad_conv(net: Net) -> str:
    amounts = net.constant(np.array([0, 0, 1, 1, 0, 0, 1, 1], np.int64))
    x = net.op("Pad", net.relu(net.conv("input", 8)), amounts, mode="reflect")
    return net.head(net.conv(x, 8, pads=[0] * 4))


def average_pool(net: Net) -> str:
    x = net.op("AveragePool", net.relu(net.conv("input", 8)), kernel_shape=[2, 2], strides=[2, 2])
    return net.head(net.conv(x, 8))


def shuffle(net: Net) -> str:
    x = net.relu(net.conv("input", 8, k=1))
    x = net.op("Reshape", x, net.constant(np.array([-1, 2, 4, 16, 16], np.int64)))
    x = net.op("Transpose", x, perm=[0, 2, 1, 3, 4])
    x = net.op("Reshape", x, net.constant(np.array([-1, 8, 16, 16], np.int64)), channels=8)
    return net.head(net.conv(x, 8, group=8))


def squeeze_excite(net: Net) -> str:
    x = net.op("HardSwish", net.norm(net.conv("input", 8, bias=False)))
    x = net.op("HardSwish", net.conv(x, 8, group=8))
    gate = net.relu(net.conv(net.op("GlobalAveragePool", x), 4, k=1))
    gate = net.op("HardSigmoid", net.conv(gate, 8, k=1), alpha=1 / 6)
    return net.head(net.conv(net.op("Mul", x, gate), 6, k=1))


def hard_swish_written_out(net: Net) -> str:
    three, zero, six = (net.constant(np.float32(value)) for value in (3, 0, 6))
    x = net.conv("input", 8)
    x = net.op("Div", net.op("Mul", x, net.op("Clip", net.op("Add", x, three), zero, six)), six)
    y = net.conv(x, 8)
    y = net.op("Mul", y, net.op("HardSigmoid", y, alpha=1 / 6))
    return net.head(net.conv(y, 8))


PATTERNS: dict[str, Callable[[Net], str]] = {
    function.__name__: function
    for function in (
        conv_norm_relu,
        residual,
        downsampling_residual,
        depthwise,
        grouped,
        concat,
        maxpool,
        gemm,
        matmul,
        transposed_conv,
        grouped_transposed_conv,
        pad_conv,
        reflect_pad_conv,
        average_pool,
        shuffle,
        squeeze_excite,
        hard_swish_written_out,
    )
}


def pattern(name: str, folder: Path, seed: int = 0) -> Path:
    """Write the model of a pattern."""
    net = Net(seed)
    return net.save(folder / f"{name}.onnx", PATTERNS[name](net))


def small_network(path: Path, seed: int = 0) -> Path:
    """Write a CNN of the kind that is deployed: stem, inverted residuals, fire module, classifier."""
    net = Net(seed, ("N", 3, 32, 32))
    x = net.relu6(net.norm(net.conv("input", 16, strides=[2, 2], bias=False)))
    for out, stride in (16, 1), (24, 2), (24, 1):
        y = net.relu6(net.norm(net.conv(x, 4 * net.channels[x], k=1, bias=False)))
        y = net.relu6(
            net.norm(net.conv(y, net.channels[y], group=net.channels[y], strides=[stride] * 2, bias=False))
        )
        y = net.norm(net.conv(y, out, k=1, bias=False))
        x = net.op("Add", x, y) if out == net.channels[x] and stride == 1 else y
    squeezed = net.relu(net.conv(x, 8, k=1))
    expanded = [net.relu(net.conv(squeezed, 16, k=k)) for k in (1, 3)]
    x = net.op(
        "MaxPool", net.op("Concat", *expanded, axis=1, channels=32), kernel_shape=[2, 2], strides=[2, 2]
    )
    return net.save(path, net.op("Softmax", net.head(x, 10)))


def images(count: int, shape: tuple[int, ...] = (3, 16, 16), seed: int = 1) -> np.ndarray:
    """Return smooth random inputs, [count, …] float32, of varied brightness and contrast."""
    rng = np.random.default_rng(seed)
    noise = rng.standard_normal((count, *shape))
    smooth = sum(np.roll(noise, (dy, dx), (-2, -1)) for dy in range(3) for dx in range(3)) / 3
    gain = rng.uniform(0.5, 1.5, (count, 1, 1, 1))
    return (smooth * gain + rng.uniform(-0.5, 0.5, (count, 1, 1, 1))).astype(np.float32)


def batches(data: np.ndarray, size: int = 8) -> list[dict[str, np.ndarray]]:
    """Cut inputs into batches for the input named "input"."""
    return [{"input": data[start : start + size]} for start in range(0, len(data), size)]
