"""Post-training INT8 in both conventions: ours against ONNX Runtime's and NNCF's, on three ImageNet networks.

    python -m benchmarks.quantization --images FOLDER [--cache FOLDER] [--networks A B] [--methods …]

Every method runs in a process of its own. Every finished cell is a line of OUT.jsonl; a second call goes on
where the first one stopped. OUT.json, OUT.md and OUT.svg are written from all lines.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.quantization.child import run_method
from benchmarks.quantization.images import HELP, Images, load_images
from benchmarks.quantization.measure import as_written, logits, quality
from benchmarks.quantization.methods import METHODS
from benchmarks.quantization.networks import NETWORKS, Network, float_model
from benchmarks.quantization.report import write_report

CACHE = Path.home() / ".cache" / "edgewright" / "networks"


def main() -> None:
    """Run the cells that are missing and write the report."""
    arguments = _arguments()
    lines = arguments.out.with_suffix(".jsonl")
    done = [json.loads(line) for line in lines.read_text().splitlines()] if lines.exists() else []
    keys = {(cell["network"], cell["method"], cell["convention"]) for cell in done}
    for name in arguments.networks:
        wanted = [(m, c) for c in ("u8", "s8") for m in arguments.methods if (name, m, c) not in keys]
        if not wanted:
            continue
        network = NETWORKS[name]
        images = load_images(arguments.images, network, arguments.cache)
        reference = logits(float_model(network, arguments.cache), images.evaluation, optimised=True)
        for method, convention in wanted:
            python = arguments.peer_python if METHODS[method].peer else Path(sys.executable)
            cell = run_cell(python, network, method, convention, images, reference, arguments.cache)
            done.append(cell)
            with lines.open("a", encoding="utf-8") as stream:
                stream.write(json.dumps(cell) + "\n")
            print(
                f"{name} {method} {convention}: KL {cell['kl']:.4f}, top-1 {cell['top1']:.1f} %", flush=True
            )
    write_report(done, arguments.out)


def run_cell(
    python: Path,
    network: Network,
    method: str,
    convention: str,
    images: Images,
    reference: NDArray[np.float32],
    cache: Path,
) -> dict[str, Any]:
    """Quantize a network one way and measure it on images used neither for calibration nor for choice.

    Args:
        python: interpreter that has what the method needs.
        network: of `NETWORKS`.
        method: of `METHODS`.
        convention: "u8" or "s8".
        images: the split.
        reference: logits of the float model on the evaluation images.
        cache: folder of the models.
    """
    out = cache / f"{network.name}.{method.replace(' ', '-')}.{convention}"
    made = run_method(python, cache, network.name, method, convention, 8, out)
    written = quality(reference, as_written(Path(made.pop("path")), images.evaluation), images.labels)
    return {
        "network": network.name,
        "method": method,
        "convention": convention,
        "float_top1": quality(reference, reference, images.labels).top1,
        "top1": written.top1,
        "kl": written.kl,
        "agreement": written.agreement,
        "calibration_images": len(images.calibration),
        "evaluation_images": len(images.evaluation),
        **made,
    }


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--images", type=Path, required=True, help=HELP)
    parser.add_argument(
        "--cache", type=Path, default=CACHE, help="where the packages' files lie and models go"
    )
    parser.add_argument(
        "--peer-python", type=Path, default=Path(sys.executable), help="interpreter with NNCF"
    )
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "int8", help="without suffix")
    return parser.parse_args()


if __name__ == "__main__":
    main()
