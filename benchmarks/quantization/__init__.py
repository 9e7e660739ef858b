"""Quantization against its peers on three real ImageNet networks: `python -m benchmarks.quantization`."""
