"""What a device can do, how to build for it, how to run and time it. Importing needs numpy alone."""
