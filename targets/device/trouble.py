"""What an operating system says of a device's disk, in the project's words."""

from __future__ import annotations

import errno

from targets.errors import DeviceError

REASONS = {
    errno.ENOSPC: ("the device's disk is full", "free some space on the device"),
    errno.EDQUOT: ("the disk quota on the device is used up", "free some space on the device"),
    errno.EROFS: (
        "the device's disk is read-only",
        "set XDG_CACHE_HOME on the device to a folder that is not",
    ),
    errno.EACCES: ("no permission to write on the device", "give the user on the device a home it can write"),
    errno.ENOMEM: ("the device is out of memory", "end other programs on the device"),
}


def from_system(error: OSError) -> DeviceError:
    """Return the error to tell of one that the operating system raised on the device."""
    what, mend = REASONS.get(error.errno or 0, (f"the device fails: {error}", None))
    return DeviceError(what, where=error.filename and str(error.filename), mend=mend)
