"""What an operator's output gradient means for its inputs, written as ONNX nodes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx

from calibration.graph import attribute
from calibration.tape import Tape
from targets.errors import ModelError


def _conv(tape: Tape, node: onnx.NodeProto, gradient: str) -> None:
    weight, source = node.input[1], node.input[0]
    rank = len(tape.shapes[weight]) - 2
    ints = {item.name: list(item.ints) for item in node.attribute if item.ints}
    strides, dilations = ints.get("strides", [1] * rank), ints.get("dilations", [1] * rank)
    tape.add(
        source,
        tape.op(
            "ConvTranspose",
            gradient,
            weight,
            group=int(attribute(node, "group", 1)),
            strides=strides,
            dilations=dilations,
            **_transposed_pads(tape, node, ints.get("pads", [0] * 2 * rank), strides, dilations),
        ),
    )


def _transposed_pads(
    tape: Tape, node: onnx.NodeProto, pads: list[int], strides: list[int], dilations: list[int]
) -> dict[str, Any]:
    sizes, outs = tape.shapes[node.input[0]][2:], tape.shapes[node.output[0]][2:]
    kernel = tape.shapes[node.input[1]][2:]
    rank = len(sizes)
    full = [
        (o - 1) * s + (k - 1) * d + 1 for o, s, k, d in zip(outs, strides, kernel, dilations, strict=True)
    ]
    mode = next((item.s for item in node.attribute if item.name == "auto_pad"), b"NOTSET")
    if mode in (b"SAME_UPPER", b"SAME_LOWER"):
        totals = [max(0, width - size) for width, size in zip(full, sizes, strict=True)]
        halves = [[total // 2 for total in totals], [total - total // 2 for total in totals]]
        pads = [*halves[mode == b"SAME_LOWER"], *halves[mode == b"SAME_UPPER"]]
    missing = [
        size - (width - before - after)
        for size, width, before, after in zip(sizes, full, pads[:rank], pads[rank:], strict=True)
    ]
    return {"pads": pads, "output_padding": missing}


def _matmul(tape: Tape, node: onnx.NodeProto, gradient: str) -> None:
    if node.input[1] not in tape.fixed or attribute(node, "transA", 0):
        raise ModelError(
            f"there is no gradient rule for {node.op_type} of two computed tensors", where=node.name
        )
    weight = node.input[1]
    if not attribute(node, "transB", 0):
        weight = tape.op("Transpose", weight, perm=[1, 0])
    tape.add(node.input[0], tape.op("MatMul", gradient, weight))


def _relu(tape: Tape, node: onnx.NodeProto, gradient: str) -> None:
    tape.add(
        node.input[0],
        tape.op("Mul", gradient, tape.mask(tape.op("Greater", node.input[0], tape.constant(0)))),
    )


def _clip(tape: Tape, node: onnx.NodeProto, gradient: str) -> None:
    limits = [*node.input[1:], "", ""][:2]
    conditions = [
        tape.op(kind, node.input[0], limit)
        for kind, limit in zip(("Greater", "Less"), limits, strict=True)
        if limit
    ]
    tape.add(node.input[0], tape.op("Mul", gradient, tape.mask(*conditions)) if conditions else gradient)


def _add(tape: Tape, node: onnx.NodeProto, gradient: str) -> None:
    for name in node.input:
        if name not in tape.fixed:
            tape.add(name, tape.reduced(gradient, tape.shapes[node.output[0]], tape.shapes[name]))


def _mul(tape: Tape, node: onnx.NodeProto, gradient: str) -> None:
    for name, other in (node.input[0], node.input[1]), (node.input[1], node.input[0]):
        if name not in tape.fixed:
            scaled = tape.op("Mul", gradient, other)
            tape.add(name, tape.reduced(scaled, tape.shapes[node.output[0]], tape.shapes[name]))


def _sigmoid(tape: Tape, node: onnx.NodeProto, gradient: str) -> None:
    rest = tape.op("Sub", tape.constant(1), node.output[0])
    tape.add(node.input[0], tape.op("Mul", gradient, tape.op("Mul", node.output[0], rest)))


def _hard_sigmoid(tape: Tape, node: onnx.NodeProto, gradient: str) -> None:
    slope = tape.constant(attribute(node, "alpha", 0.2))
    inside = tape.mask(
        tape.op("Greater", node.output[0], tape.constant(0)),
        tape.op("Less", node.output[0], tape.constant(1)),
    )
    tape.add(node.input[0], tape.op("Mul", tape.op("Mul", gradient, slope), inside))


def _hard_swish(tape: Tape, node: onnx.NodeProto, gradient: str) -> None:
    """d/dx of x · clip(x / 6 + 1/2, 0, 1): the gate, plus x / 6 where the gate is open in part."""
    sixth = tape.op("Mul", node.input[0], tape.constant(1 / 6))
    gate = tape.op("Clip", tape.op("Add", sixth, tape.constant(0.5)), tape.constant(0), tape.constant(1))
    inside = tape.mask(tape.op("Greater", gate, tape.constant(0)), tape.op("Less", gate, tape.constant(1)))
    slope = tape.op("Add", gate, tape.op("Mul", sixth, inside))
    tape.add(node.input[0], tape.op("Mul", gradient, slope))


def _mean(tape: Tape, node: onnx.NodeProto, gradient: str) -> None:
    want, have = tape.shapes[node.input[0]], tape.shapes[node.output[0]]
    kept = have if len(have) == len(want) else (*have, *([1] * (len(want) - len(have))))
    share = tape.constant(np.prod(have) / np.prod(want))
    wide = tape.op("Reshape", tape.op("Mul", gradient, share), tape.constant(kept, np.int64))
    tape.add(node.input[0], tape.op("Expand", wide, tape.constant(want, np.int64)))


def _max_pool(tape: Tape, node: onnx.NodeProto, gradient: str) -> None:
    """Give the gradient to the places the maxima came from."""
    copy = onnx.NodeProto()
    copy.CopyFrom(node)
    copy.name = ""
    del copy.output[:]
    copy.output.extend([f"{node.output[0]}/gradient_maximum", f"{node.output[0]}/gradient_place"])
    tape.nodes.append(copy)
    shape = tape.shapes[node.input[0]]
    flat = tape.constant([-1], np.int64)
    empty = tape.op("ConstantOfShape", tape.constant([np.prod(shape)], np.int64))
    spread = tape.op(
        "ScatterElements",
        empty,
        tape.op("Reshape", copy.output[1], flat),
        tape.op("Reshape", gradient, flat),
        reduction="add",
    )
    tape.add(node.input[0], tape.op("Reshape", spread, tape.constant(shape, np.int64)))


def _concat(tape: Tape, node: onnx.NodeProto, gradient: str) -> None:
    axis = int(attribute(node, "axis", 1))
    sizes = tape.constant([tape.shapes[name][axis] for name in node.input], np.int64)
    first = tape.op("Split", gradient, sizes, outputs=len(node.input), axis=axis)
    for index, name in enumerate(node.input):
        tape.add(name, f"{first.rsplit('_', 1)[0]}_{index}")


def _reshape(tape: Tape, node: onnx.NodeProto, gradient: str) -> None:
    tape.add(node.input[0], tape.op("Reshape", gradient, tape.constant(tape.shapes[node.input[0]], np.int64)))


def _transpose(tape: Tape, node: onnx.NodeProto, gradient: str) -> None:
    order = next(list(item.ints) for item in node.attribute if item.name == "perm")
    tape.add(node.input[0], tape.op("Transpose", gradient, perm=[int(i) for i in np.argsort(order)]))


# Operator → its rule: (tape, node, gradient of the node's first output).
RULES: dict[str, Callable[[Tape, onnx.NodeProto, str], None]] = {
    "Add": _add,
    "Clip": _clip,
    "Concat": _concat,
    "Conv": _conv,
    "Dropout": _reshape,
    "Flatten": _reshape,
    "Gemm": _matmul,
    "GlobalAveragePool": _mean,
    "HardSigmoid": _hard_sigmoid,
    "HardSwish": _hard_swish,
    "Identity": _reshape,
    "MatMul": _matmul,
    "MaxPool": _max_pool,
    "Mul": _mul,
    "ReduceMean": _mean,
    "Relu": _relu,
    "Reshape": _reshape,
    "Sigmoid": _sigmoid,
    "Squeeze": _reshape,
    "Transpose": _transpose,
    "Unsqueeze": _reshape,
}
