"""A bad disk for every process that starts with this folder in PYTHONPATH; FAULT is "kind|folder|number".

slow: each file operation below the folder takes so many seconds. vanish: the folder is gone after so many
operations of one process, as a network file system or a stick is that somebody pulls.
"""

import os
import sys
import time

KIND, FOLDER, NUMBER = os.environ["FAULT"].split("|")
seen = 0


def trouble(event, arguments):
    global seen
    if event != "open" and not event.startswith("os."):
        return
    if not (arguments and isinstance(arguments[0], str) and arguments[0].startswith(FOLDER + "/")):
        return
    if KIND == "slow":
        time.sleep(float(NUMBER))
        return
    seen += 1
    if seen == int(NUMBER) and os.path.exists(FOLDER):  # noqa: PTH110 (pathlib is not loaded yet)
        os.rename(FOLDER, FOLDER + ".gone")  # noqa: PTH104


sys.addaudithook(trouble)
