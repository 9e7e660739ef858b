"""A build record as the footwear sorter leaves it, with a losing cell, and ways to vary it."""

from __future__ import annotations

import base64
import hashlib
import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.record import Record

LABELS = ["Sandal", "Sneaker", "Ankle boot", "other"]
COUNTS = [1000, 1000, 1000, 7000]
# (variant, network, precision, role, engine bytes, ONNX bytes, images wrong by true class and prediction)
VARIANTS = (
    ("teacher fp32", "teacher", "fp32", "baseline", 1_148_002, 1_141_846),
    ("student fp32", "student", "fp32", "float twin", 297_410, 292_167),
    ("student int8", "student", "int8", "product", 97_204, 88_523),
)
CONFUSION = {
    "teacher fp32": [[975, 16, 6, 3], [5, 974, 21, 0], [2, 27, 971, 0], [4, 1, 1, 6994]],
    "student fp32": [[969, 21, 7, 3], [6, 969, 25, 0], [3, 30, 966, 1], [6, 2, 1, 6991]],
    "student int8": [[967, 22, 8, 3], [7, 967, 26, 0], [3, 31, 965, 1], [7, 2, 1, 6990]],
}
MEDIAN_MS = {
    "x86-avx2-openvino": {"teacher fp32": 1.874, "student fp32": 0.529, "student int8": 0.236},
    "any-onnxruntime": {"teacher fp32": 2.213, "student fp32": 0.604, "student int8": 0.689},
    "x86-avx2-onnxruntime": {"teacher fp32": 2.208, "student fp32": 0.601, "student int8": 0.598},
}
WIDTHS = (("stem", 32, 16), ("layer1", 32, 16), ("layer2", 64, 32), ("layer3", 128, 62), ("layer4", 192, 94))
FACTS = {
    "cpu_model": "AMD EPYC 7B13",
    "cores": "2",
    "smt": "off",
    "governor": "performance",
    "frequency_max_mhz": "3500",
    "virtual_machine": "yes",
    "memory_mib": "7961",
    "system": "Debian GNU/Linux 12 (bookworm)",
    "kernel": "6.1.0-28-amd64",
}


def digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def example(
    targets: tuple[str, ...] = ("x86-avx2-openvino", "any-onnxruntime"), samples: int = 700
) -> Record:
    """Return the record of a whole build; INT8 loses on "any-onnxruntime", ties on the third target."""
    return Record.model_validate(document(targets, samples))


def document(targets: tuple[str, ...] = tuple(MEDIAN_MS)[:2], samples: int = 700) -> dict[str, Any]:
    """Return the same as plain data, to be changed and validated by a test."""
    return {
        "schema": "edgewright.record/2",
        "project": project(targets),
        "data": {
            "name": "Fashion-MNIST",
            "source": "Debian package dataset-fashion-mnist 0.0~git20200523.55506a9-1",
            "licence": "MIT",
            "labels": "data set",
            "sha256": digest("data"),
            "image_shape": [28, 28, 1],
            "split_seed": 7,
            "split_sizes": {"train": 54_000, "select": 4_000, "calibrate": 2_000, "test": 10_000},
        },
        "task": {"wanted": LABELS[:3], "outputs": LABELS, "other": True},
        "networks": networks(),
        "structure": structure(),
        "targets": [target(name) for name in targets],
        "results": [result(name, *variant, samples) for name in targets for variant in VARIANTS],
        "gates": gates(targets),
        "stages": stages(targets),
        "environments": {name: environment() for name in targets},
        "packages": {"numpy": "2.3.5", "onnx": "1.23.0", "onnxruntime": "1.31.0", "openvino": "2026.4.0"},
        "seeds": {"split": 7, "train": 11, "distill": 12},
    }


def onnx_start() -> dict[str, Any]:
    """Return the record of a build from an ONNX file: one network, one target, one variant, nothing extra."""
    whole = document(("any-onnxruntime",), samples=40)
    variant = ("model fp32", "model", "fp32", "product", 292_167, 292_167)
    only = result("any-onnxruntime", *variant, 40)
    only["latency"]["p90_ms"] = only["latency"]["p99_ms"] = None
    model = {**whole["networks"][1], "name": "model", "origin": "sorter.onnx"}
    whole["targets"][0] |= {
        "products": ["model fp32"],
        "headlines": ["any-onnxruntime: 0.62 ms, accuracy 98.9 %"],
    }
    start = {**whole["project"], "settings": {"model": {"onnx": "sorter.onnx"}}}
    return {
        **whole,
        "project": start,
        "networks": [model],
        "structure": None,
        "results": [only],
        "gates": [],
        "stages": [],
        "seeds": {},
    }


def project(targets: tuple[str, ...]) -> dict[str, Any]:
    return {
        "name": "footwear-sorter",
        "version": "1.2.0",
        "description": "Tells sandals, sneakers and ankle boots apart on a conveyor; all else is “other”.",
        "edgewright_version": "0.1.0",
        "command": "edgewright build examples/footwear/build.toml",
        "finished_at": "2026-01-14T10:32:07+00:00",
        "settings": {
            "project": {"name": "footwear-sorter", "version": "1.2.0"},
            "data": {"kind": "fashion-mnist", "split_seed": 7},
            "task": {"classes": LABELS[:3], "other": True},
            "model": {"factory": "pipeline.zoo:resnet", "checkpoint": "teacher.safetensors"},
            "student": {"macs": 0.25, "epochs": 12, "temperature": 4.0},
            "quantize": {"range": "percentile", "percentile": 99.99, "images": 512},
            "targets": [{"name": name, "threads": 1, "precisions": ["fp32", "int8"]} for name in targets],
            "gates": {"cosine": 0.99, "top1_agreement": 0.98},
        },
    }


def networks() -> list[dict[str, Any]]:
    common = {"input_shape": [-1, 1, 28, 28], "opset": 20}
    return [
        {
            **common,
            "name": "teacher",
            "origin": "pipeline.zoo:resnet + teacher.safetensors",
            "parameters": 284_714,
            "macs": 31_912_448,
            "outputs": 10,
            "onnx_size_bytes": 1_141_846,
        },
        {
            **common,
            "name": "student",
            "origin": "slimmed from the teacher to 25 % of its MACs, distilled",
            "parameters": 72_410,
            "macs": 7_943_616,
            "outputs": 4,
            "onnx_size_bytes": 292_167,
        },
    ]


def structure() -> dict[str, Any]:
    """The groups of WIDTHS with curves that bend, and what the student keeps of them."""
    groups = [
        {
            "leader": leader,
            "members": [leader, f"{leader}.conv2"],
            "width": before,
            "lost": [[count, lost_of(leader, count)] for count in thinned(before)],
        }
        for leader, before, _ in WIDTHS
    ]
    student = slimmed("student", {leader: after for leader, _, after in WIDTHS})
    return {"criterion": "joint", "groups": groups, "students": [student], "uncut": [], "warnings": []}


def slimmed(network: str, widths: dict[str, int]) -> dict[str, Any]:
    """A student whose budget of operations holds."""
    kept = [
        {
            "leader": leader,
            "channels": sorted((7 * channel) % before for channel in range(widths[leader])),
            "lost": lost_of(leader, before - widths[leader]),
        }
        for leader, before, _ in WIDTHS
    ]
    budget = {
        "kind": "macs",
        "limit": 7_978_112,
        "before": 31_912_448,
        "predicted": 7_943_616,
        "achieved": 7_943_616,
        "achieved_interval": None,
        "achieved_on": "the ONNX file",
        "verdict": "holds",
    }
    return {"network": network, "groups": kept, "budget": budget}


def family() -> dict[str, Any]:
    """Return the record of a family of three with budgets of milliseconds: held, unclear, exceeded."""
    whole = document()
    students = ("student-0.3ms", "student-0.2ms", "student-0.1ms")
    teacher, student = whole["networks"]
    whole["networks"] = [teacher, *({**student, "name": name} for name in students)]
    keep = {leader: after for leader, _, after in WIDTHS}
    whole["structure"]["students"] = [
        slimmed(name, {leader: max(8, after // (1 << place)) for leader, after in keep.items()})
        for place, name in enumerate(students)
    ]
    cases = ((0.3, 0.282, "holds"), (0.2, 0.1995, "too close to call"), (0.1, 0.132, "exceeded"))
    for each, (limit, measured, verdict) in zip(whole["structure"]["students"], cases, strict=True):
        each["budget"] |= {"kind": "latency_ms", "limit": limit, "before": 1.874, "predicted": 0.97 * limit}
        each["budget"] |= {"achieved": measured, "achieved_interval": [0.99 * measured, 1.01 * measured]}
        each["budget"] |= {"achieved_on": f"{each['network']} int8 on x86-avx2-openvino", "verdict": verdict}
    whole["structure"]["uncut"] = [
        {"layer": "mixer.conv", "reason": "grouped in 4: channels are tied together"}
    ]
    whole["structure"]["warnings"] = ["Ankle boot has 40 training images for 192 channels; 960 are wanted"]
    for where in whole["targets"]:
        where["products"] = [f"{name} int8" for name in students]
        where["headlines"] *= len(students)
    whole["results"] = [
        each | {"speedups": against_all(each, rows)} for rows in members(whole, students) for each in rows
    ]
    return whole


def members(whole: dict[str, Any], students: tuple[str, ...]) -> list[list[dict[str, Any]]]:
    """Results of each target: the teacher at both precisions, then every student at both."""
    found = []
    for where in whole["targets"]:
        teacher, plain, product = (each for each in whole["results"] if each["target"] == where["name"])
        rows = [teacher, {**teacher, "variant": "teacher int8", "precision": "int8"}]
        rows += [
            {**each, "network": name, "variant": f"{name} {each['precision']}"}
            for place, name in enumerate(students)
            for each in (faster(plain, 1 << place), faster(product, 1 << place))
        ]
        found.append(rows)
    return found


def faster(result: dict[str, Any], factor: float) -> dict[str, Any]:
    """The same at another speed, and a little less accurate."""
    latency = {
        key: [each / factor for each in value] if isinstance(value, list) else value / factor
        for key, value in result["latency"].items()
        if key not in ("samples", "coefficient_of_variation", "warmup_s")
    }
    matrix = [list(row) for row in result["accuracy"]["confusion"]]
    moved = round(9 * factor)
    matrix[3][3] -= moved
    matrix[3][0] += moved
    return result | {"latency": result["latency"] | latency, "accuracy": accuracy(matrix)}


def against_all(own: dict[str, Any], rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Speed-ups over every other row, as a build records them."""
    return [
        {"baseline": each["variant"], "ratio": ratio, "interval": [0.988 * ratio, 1.013 * ratio]}
        for each in rows
        if each["variant"] != own["variant"]
        for ratio in [each["latency"]["median_ms"] / own["latency"]["median_ms"]]
    ]


def lost_of(leader: str, removed: int) -> float:
    """Share lost: little at first, all of it in the end; groups bend differently."""
    width = next(before for name, before, _ in WIDTHS if name == leader)
    return round((removed / width) ** (1.5 + len(leader) % 3 + width / 100), 6)


def thinned(width: int) -> list[int]:
    points = min(width, 63)
    return [round(point * width / points) for point in range(points + 1)]


def target(name: str) -> dict[str, Any]:
    times = MEDIAN_MS[name]
    own, teacher = times["student int8"], times["teacher fp32"]
    return {
        "name": name,
        "device": name.rsplit("-", 1)[0],
        "toolchain": name.rsplit("-", 1)[1],
        "toolchain_version": "2026.4.0" if "openvino" in name else "1.31.0",
        "threads": 1,
        "products": ["student int8"],
        "fingerprint": {"cpu": "AMD EPYC 7B13", "flags": "avx2 fma", "runtime": "2026.4.0"},
        "headlines": [
            f"{name}: {own:.2f} ms, {teacher / own:.1f}× faster than the teacher, "
            "accuracy 98.9 % ± 0.2, was 99.1 %"
        ],
    }


def result(
    where: str, variant: str, network: str, precision: str, role: str, size: int, onnx: int, samples: int
) -> dict[str, Any]:
    folder = f"engines/{where}/{variant.replace(' ', '-')}"
    return {
        "target": where,
        "variant": variant,
        "network": network,
        "precision": precision,
        "role": role,
        "engine": {
            "path": folder,
            "sha256": {"model.xml": digest(folder), "model.bin": digest(folder + "bin")},
            "size_bytes": size,
            "onnx_path": f"onnx/{variant.replace(' ', '-')}.onnx",
            "onnx_size_bytes": onnx,
            "notes": ["float parts run in fp32"] if precision == "int8" else [],
        },
        "latency": latency(where, variant, samples),
        "speedups": speedups(where, variant),
        "accuracy": accuracy(CONFUSION.get(variant, CONFUSION["student fp32"])),
    }


def right(matrix: NDArray[np.int64]) -> str:
    """The images right and wrong, class after class, as the record packs them."""
    bits = [np.arange(row.sum()) < row[index] for index, row in enumerate(matrix)]
    return base64.b64encode(np.packbits(np.concatenate(bits)).tobytes()).decode()


def latency(where: str, variant: str, count: int) -> dict[str, Any]:
    """Log-normal samples, with a second mode for the INT8 student on OpenVINO and a few late ones."""
    middle = MEDIAN_MS[where].get(variant, 0.62)
    random = np.random.default_rng(sum(map(ord, where + variant)))
    times = middle * np.exp(0.02 * random.standard_normal(count))
    if variant == "student int8" and "openvino" in where:
        times[random.random(count) < 0.3] *= 1.18
    times[random.random(count) < 0.01] *= 1.5
    median = float(np.median(times))
    half = 1.25 * float(np.std(times)) / math.sqrt(count)
    return {
        "samples": count,
        "median_ms": median,
        "median_interval_ms": [median - half, median + half],
        "p90_ms": float(np.quantile(times, 0.9)) if count >= 64 else None,
        "p99_ms": float(np.quantile(times, 0.99)) if count >= 662 else None,
        "min_ms": float(times.min()),
        "max_ms": float(times.max()),
        "coefficient_of_variation": float(np.std(times) / np.mean(times)),
        "warmup_s": 1.03,
        "load_ms": 41.7 * middle,
        "first_inference_ms": 3.1 * middle,
        "samples_ms": [round(time, 6) for time in times.tolist()],
    }


def speedups(where: str, variant: str) -> list[dict[str, Any]]:
    times = MEDIAN_MS[where]
    faster_than = {"student int8": ["student fp32", "teacher fp32"], "student fp32": ["teacher fp32"]}
    ratios = [(name, times[name] / times[variant]) for name in faster_than.get(variant, [])]
    return [
        {"baseline": name, "ratio": ratio, "interval": [0.988 * ratio, 1.013 * ratio]}
        for name, ratio in ratios
    ]


def accuracy(confusion: list[list[int]]) -> dict[str, Any]:
    matrix = np.asarray(confusion)
    images, correct = int(matrix.sum()), int(np.trace(matrix))
    share, z = correct / images, 1.96
    centre = (share + z * z / (2 * images)) / (1 + z * z / images)
    half = z * math.sqrt(share * (1 - share) / images + z * z / (4 * images**2)) / (1 + z * z / images)
    classes = [
        {
            "label": label,
            "count": int(matrix[index].sum()),
            "recall": float(matrix[index, index] / matrix[index].sum()),
            "precision": float(matrix[index, index] / matrix[:, index].sum()),
        }
        for index, label in enumerate(LABELS)
    ]
    return {
        "images": images,
        "correct": correct,
        "top1": share,
        "top1_interval": [centre - half, centre + half],
        "classes": classes,
        "confusion": matrix.tolist(),
        "right": right(matrix),
    }


def gates(targets: tuple[str, ...]) -> list[dict[str, Any]]:
    steps = [
        ("export student", "student (torch)", "student fp32 (ONNX)", 2.1e-6, 0.9999999, 1.0),
        ("simplify student", "student fp32 (ONNX)", "student fp32 (simplified)", 1.9e-6, 0.9999999, 1.0),
        ("quantize student", "student fp32 (simplified)", "student int8 (QDQ)", 0.031, 0.99934, 0.9975),
    ]
    steps += [
        (f"engine student int8 {name}", "student int8 (QDQ)", f"engine on {name}", 0.008, 0.99991, 0.9995)
        for name in targets
    ]
    return [gate(*step) for step in steps]


def gate(
    name: str, reference: str, candidate: str, relative_l2: float, cosine: float, agreement: float
) -> dict[str, Any]:
    figures = (
        ("relative_l2", relative_l2, 0.05),
        ("cosine", cosine, 0.999),
        ("top1_agreement", agreement, 0.98),
    )
    checks = [
        {
            "metric": metric,
            "value": value,
            "limit": limit,
            "passed": value <= limit if metric == "relative_l2" else value >= limit,
        }
        for metric, value, limit in figures
    ]
    return {
        "name": name,
        "reference": reference,
        "candidate": candidate,
        "inputs": 256,
        "checks": checks,
        "passed": all(check["passed"] for check in checks),
    }


def stages(targets: tuple[str, ...]) -> list[dict[str, Any]]:
    costs = [("data", 1.3, 310), ("train teacher", 148.0, 1420), ("structure", 2.2, 512)]
    costs += [("distill student", 164.2, 1210), ("export student", 6.4, 890), ("simplify student", 1.9, 240)]
    costs += [("gate simplify student", 0.8, 201), ("quantize student", 5.1, 376)]
    costs += [(f"measure {name}", 18.6, 301) for name in targets]
    return [
        {
            "name": name,
            "key": digest(f"key {name}"),
            "digest": digest(name),
            "seconds": seconds,
            "peak_memory_bytes": megabytes << 20,
            "finished_at": f"2026-01-14T10:{24 + index % 8:02}:07+00:00",
        }
        for index, (name, seconds, megabytes) in enumerate(costs)
    ]


def environment() -> dict[str, Any]:
    before = {"load_average_1min": "0.12", "frequency_mhz": "3410", "temperature_k10temp_c": "48.0"}
    after = {**before, "load_average_1min": "0.98", "temperature_k10temp_c": "53.5"}
    return {
        "facts": FACTS,
        "before": {**before, "throttle_events": "0"},
        "after": {**after, "throttle_events": "0"},
    }


# One black pixel.
PNG = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGNgAAAAAgABSK+kcQAAAABJRU5ErkJggg=="


def complete(samples: int = 80) -> dict[str, Any]:
    """Return the record with everything that may be in one: INT8 that does not pay, mixed bits, energy."""
    whole = document(samples=samples)
    for result in whole["results"]:
        result |= measured_beside(result)
        result["latency"] |= {
            "settled": True,
            "drift": 0.001,
            "drift_p": 0.4,
            "scatter": 0.02,
            "modes_ms": None,
            "verdict": "stable",
            "reasons": [],
        }
        for speedup in result["speedups"]:
            speedup["smallest_difference"] = 0.0123
    shaky = next(result for result in whole["results"] if result["variant"] == "student int8")
    shaky["latency"] |= {"verdict": "contended", "reasons": ["samples have two modes, 0.23 and 0.28 ms"]}
    for where in whole["targets"]:
        where["steps"] = [
            {"step": step, "median_ms": ms, "median_interval_ms": [0.9 * ms, 1.1 * ms], "samples": 200}
            for step, ms in (("preprocess", 0.012), ("postprocess", 0.0011))
        ]
    whole["paths"], whole["triage"] = paths(), triage()
    whole["requirements"] = requirements(whole)
    whole["gains"] = [gain for where in whole["targets"] for gain in gains(whole, where["name"])]
    return whole


def paths() -> dict[str, Any]:
    """Two layers: the first serves all classes alike, the second keeps them apart."""
    classes = ["Sandal", "Sneaker", "Ankle boot"]
    apart = [[0.0 if one == other else 0.75 for other in range(3)] for one in range(3)]
    alike = [[0.0] * 3 for _ in classes]
    return {
        "classes": classes,
        "words": "Customising to these classes can pay: in stages.2, the last layer, classes differ.",
        "layers": [
            {"layer": "stem.0", "channels": 4, "share": 1.0, "sizes": [4, 4, 4], "exclusiveness": alike}
            | {"critical": [[0, 1, 2, 3]] * 3},
            {"layer": "stages.2", "channels": 8, "share": 0.95, "sizes": [2, 2, 2], "exclusiveness": apart}
            | {"critical": [[0, 5], [1, 5], [2, 5]]},
        ],
    }


def triage() -> dict[str, Any]:
    """A block that one layer can stand for, and one that none can."""

    def row(block: str, start: str, swapped: float, local: float, tuned: float | None) -> dict[str, Any]:
        changes = {"latency_change_ms": -0.031, "parameters_change": -2352, "macs_change": -1806336}
        trained = {"global": tuned, "by_labels": tuned, "by_teacher": tuned and tuned - 0.01}
        how = {"block": block, "replaced_by": "one 3×3 convolution, ReLU", "initialisation": start}
        return how | {"swapped": swapped, "local": local, "epochs_to_99": tuned and 2} | trained | changes

    return {
        "accuracy": 0.943,
        "split": "select",
        "target": "any-onnxruntime",
        "blocks": [
            row("stages.0.0", "least-squares", 0.93, 0.938, 0.942),
            row("stages.0.0", "random", 0.21, 0.87, None),
            row("stages.1.0", "least-squares", 0.71, 0.77, 0.925),
        ],
        "pairs": [{"blocks": ["stages.0.0", "stages.1.0"], "measured": 0.69, "added": 0.765}],
        "notes": ["stages.0.0: replaced in the students; with it and all before it 93.80%."],
    }


def measured_beside(result: dict[str, Any]) -> dict[str, Any]:
    middle = result["latency"]["median_ms"]
    eight = result["precision"] == "int8"
    layers = [
        {"name": f"conv{place}", "kind": "Convolution jit_avx2", "median_ms": middle * share, "share": share}
        | {
            "nodes": [f"conv{place}"],
            "channels": 8 << place,
            "macs": 10**6,
            "weight_bits": 8 if eight else 32,
        }
        for place, share in enumerate((0.5, 0.3, 0.15))
    ]
    layers.append({"name": "reorder", "kind": "Reorder", "median_ms": middle * 0.05, "share": 0.05})
    result["accuracy"]["mistakes"] = [
        {"label": LABELS[0], "said": LABELS[1], "count": 22, "images": [PNG, PNG]},
        {"label": LABELS[2], "said": LABELS[1], "count": 1, "images": [PNG]},
    ]
    result["engine"]["flags"] = {"NUM_STREAMS": "1", "INFERENCE_PRECISION_HINT": "f32"}
    return {
        "memory": {"peak_bytes": 64 << 20, "own_bytes": 10 << 20},
        "throughput": {
            "requests": 2,
            "streams": "2 streams",
            "inferences": 5000,
            "per_second": 2e3 / middle,
            "per_second_interval": [1.9e3 / middle, 2.1e3 / middle],
        },
        "energy": {
            "sensor": "INA3221 VDD_IN",
            "millijoules": 7 * middle,
            "above_idle_millijoules": 4 * middle,
            "watts": 7.0,
            "idle_watts": 3.0,
            "inferences": 1000,
        },
        "layers": layers,
        "bits": [
            {"layer": "conv0", "weights_per_channel": 9, "bits": "88888888", "form": None, "reason": ""},
            {
                "layer": "conv1",
                "weights_per_channel": 72,
                "bits": "8844422236658fF8",
                "form": "container",
                "reason": "measured 0.21 ms, split 0.24 ms",
            },
        ]
        if eight
        else [],
    }


def requirements(whole: dict[str, Any]) -> list[dict[str, Any]]:
    """Every timing but one is stable; INT8 pays on the first target alone."""
    found = [
        {
            "kind": "stable",
            "target": result["target"],
            "variant": result["variant"],
            "passed": result["latency"]["verdict"] == "stable",
            "demanded": False,
            "words": f"{result['variant']} is {result['latency']['verdict']}.",
        }
        for result in whole["results"]
    ]
    pays = {
        "x86-avx2-openvino": "student int8 is 2.24× as fast as student fp32: it pays.",
        "any-onnxruntime": "student int8 is 0.88× as fast as student fp32: it does not pay.",
    }
    return found + [
        {
            "kind": "pays",
            "target": target,
            "variant": "student int8",
            "passed": words.endswith("it pays."),
            "demanded": False,
            "words": words,
        }
        for target, words in pays.items()
    ]


def gains(whole: dict[str, Any], target: str) -> list[dict[str, Any]]:
    times = MEDIAN_MS[target]
    steps = (
        ("slim and train student", "teacher fp32", "student fp32", 312.4, -0.0019, [-0.0031, -0.0006]),
        ("quantize student", "student fp32", "student int8", 5.1, -0.0006, None),
    )
    return [
        {
            "target": target,
            "step": step,
            "before": before,
            "after": after,
            "seconds": seconds,
            "accuracy_change": change,
            "accuracy_interval": interval,
            "size_change_bytes": -200_000,
            "speedup": times[before] / times[after],
            "speedup_interval": [0.988 * times[before] / times[after], 1.013 * times[before] / times[after]],
        }
        for step, before, after, seconds, change, interval in steps
    ]
