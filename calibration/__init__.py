"""From a float ONNX model to a quantized one. Needs numpy, onnx and onnxruntime; never torch."""
