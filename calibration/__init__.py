"""From a float ONNX model to a quantized one. Needs numpy, onnx and onnxruntime; never torch."""

import targets as _targets  # noqa: F401  before ONNX Runtime is imported: it keeps the runtime's telemetry off
