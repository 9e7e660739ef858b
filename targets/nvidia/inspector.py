"""What the engine inspector says of each layer of a plan, in one form for all versions.

Detailed verbosity gives an object a layer, lesser verbosity its name alone (TensorRT developer guide,
"Engine Inspector"). 8.x writes a type as "… row major Int8 format", 10 and later as "Int8"; the ONNX nodes
that a layer was fused from are in "Metadata" since 8.6.
"""

from __future__ import annotations

import json
import re
from typing import Any, Mapping, Sequence

from targets.errors import ModelError
from targets.layers import LayerTime

NODE = re.compile(r"\[ONNX Layer: (.+?)\](?=$|[\x1e\x1f\s\[])")
TYPE = re.compile(r"BFloat16|Int8|UInt8|Int4|FP8|FP4|Half|FP16|Float|FP32|Int32|Int64|Bool")
SAME = {"FP16": "Half", "FP32": "Float"}
# Layers of their own where a plan changes the form of a tensor between two others.
REFORMAT = re.compile(r"reformat", re.IGNORECASE)


def read_layers(text: str) -> list[dict[str, Any]]:
    """Read the inspector's JSON.

    Returns:
        of every layer its name, kind, type, tactic and ONNX nodes; "" and [] where it does not say.

    Raises:
        ModelError: it is no JSON of the inspector.
    """
    try:
        layers = json.loads(text)["Layers"]
        return [_layer(each) for each in layers]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(
            f"what the engine inspector says cannot be read: {error!r}",
            mend="tell the version of TensorRT to the makers of edgewright",
        ) from error


def with_nodes(times: Sequence[LayerTime], layers: Sequence[Mapping[str, Any]]) -> list[LayerTime]:
    """Name timed layers by the ONNX nodes in them, as far as the inspector knows them.

    Args:
        times: by the runtime's own names.
        layers: of `read_layers`.
    """
    known = {layer["name"]: layer for layer in layers}
    return [
        LayerTime(
            " + ".join(known.get(each.name, {}).get("nodes", ())) or each.name,
            _kind(known.get(each.name, {})) or each.kind,
            each.median_ms,
        )
        for each in times
    ]


def summary(layers: Sequence[Mapping[str, Any]]) -> str:
    """Say in one line how many layers of which type a plan has, and how many only change a tensor's form."""
    counts: dict[str, int] = {}
    for layer in layers:
        kind = "reformats" if REFORMAT.search(f"{layer['kind']} {layer['name']}") else layer["type"] or "?"
        counts[kind] = counts.get(kind, 0) + 1
    shares = ", ".join(f"{count} {kind}" for kind, count in sorted(counts.items(), key=lambda item: -item[1]))
    return f"{len(layers)} layers in the engine: {shares}"


def _layer(said: Mapping[str, Any] | str) -> dict[str, Any]:
    if isinstance(said, str):
        return {"name": said, "kind": "", "type": "", "tactic": "", "nodes": []}
    return {
        "name": str(said["Name"]),
        "kind": str(said.get("LayerType", "")),
        "type": _type(said),
        "tactic": str(said.get("TacticName", "")),
        "nodes": NODE.findall(said.get("Metadata", "")),
    }


def _type(said: Mapping[str, Any]) -> str:
    """What it computes in: its weights' type, else its first output's."""
    outputs = said.get("Outputs") or [{}]
    weights = said.get("Weights")
    of_weights = weights.get("Type", "") if isinstance(weights, Mapping) else ""
    text = of_weights or outputs[0].get("Format/Datatype") or outputs[0].get("Datatype") or ""
    found = TYPE.search(text)
    return SAME.get(found[0], found[0]) if found else ""


def _kind(layer: Mapping[str, Any]) -> str:
    return f"{layer['kind']} {layer['type']}".strip() if layer else ""
