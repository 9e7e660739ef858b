"""What a device can do, how to build for it, how to run and time it. Importing needs numpy alone."""

import os

# ONNX Runtime 1.31 keeps a device id and a log of its use in the user's cache, unless told before its import.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
