"""ONNX models as files: read with care, described, counted, and run as they are written."""
