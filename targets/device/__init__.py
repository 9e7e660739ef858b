"""What runs on a device: the program edgewright-device.pyz, and the agent it becomes over SSH."""
