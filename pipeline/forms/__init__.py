"""The form a target needs a network in: opset, static shapes, fp16 written into the graph."""
