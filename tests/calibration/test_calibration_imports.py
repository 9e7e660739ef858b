"""What importing costs."""

from __future__ import annotations

import pkgutil
import subprocess
import sys

import calibration


def test_no_module_imports_torch() -> None:
    modules = [f"calibration.{module.name}" for module in pkgutil.iter_modules(calibration.__path__)]
    assert len(modules) > 5
    script = f"import sys, {', '.join(modules)}; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", script], check=True)


def test_the_package_alone_needs_nothing() -> None:
    script = "import sys, calibration; sys.exit(bool({'onnx', 'onnxruntime', 'numpy'} & set(sys.modules)))"
    subprocess.run([sys.executable, "-c", script], check=True)
