"""What TensorRT and TensorRT-RTX share: they have one interface, one kind of plan and one driver below."""
