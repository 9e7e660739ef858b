"""The one tree of errors: what happened, where, and how to mend it, with an exit code for scripts."""

from __future__ import annotations

from typing import Any, Mapping


class EdgewrightError(Exception):
    """Something the user can understand and mend.

    Args:
        what: one sentence saying what is wrong, with the value found.
        where: file, configuration key, tensor or device it is about.
        mend: one sentence saying what to do.
    """

    exit_code = 2

    def __init__(self, what: str, *, where: str | None = None, mend: str | None = None) -> None:
        super().__init__(what)
        self.what = what
        self.where = where
        self.mend = mend

    def __str__(self) -> str:
        """Return what, where and how to mend, one line each."""
        lines = [self.what]
        if self.where:
            lines.append(f"  where: {self.where}")
        if self.mend:
            lines.append(f"  mend:  {self.mend}")
        return "\n".join(lines)


class ConfigError(EdgewrightError):
    """A build file, option or device file says something impossible."""


class DataError(EdgewrightError):
    """A data set is missing, unreadable or does not fit the task."""


class ModelError(EdgewrightError):
    """A checkpoint or ONNX model is missing, unreadable, hostile or unsupported."""


class CapabilityError(EdgewrightError):
    """The device cannot do what the build asks of it."""


class StoreError(EdgewrightError):
    """The store cannot be read or written."""


class StageError(EdgewrightError):
    """A stage's child process died or failed in a way no other error describes."""


class GateFailed(EdgewrightError):
    """A model or engine does not do what the one before it did."""

    exit_code = 1


class BundleError(EdgewrightError):
    """A bundle or key that is not to be trusted: changed, cut short, signed by somebody else."""

    exit_code = 1


class ReleaseRefused(EdgewrightError):
    """A build that is not fit for release, and nobody said to release it all the same."""

    exit_code = 1


class ToolchainMissing(EdgewrightError):
    """A package or program this build needs is not installed."""

    exit_code = 3


class DeviceError(EdgewrightError):
    """A device cannot be reached, or fails at what it is asked to do."""


class LinkLost(DeviceError):
    """The connection to a device broke off; what was sent so far is kept there."""


class DeviceBusy(DeviceError):
    """Somebody else is using the device."""


def described(error: EdgewrightError) -> dict[str, Any]:
    """Return an error as JSON values, for another process to raise again.

    A subclass from elsewhere becomes the nearest one of this module.
    """
    known = next(kind for kind in type(error).__mro__ if kind.__module__ == EdgewrightError.__module__)
    return {
        "type": known.__name__,
        "what": error.what,
        "where": error.where,
        "mend": error.mend,
        "exit_code": error.exit_code,
    }


def revived(document: Mapping[str, Any]) -> EdgewrightError:
    """Return the error that another process described."""
    kind = globals().get(document["type"], EdgewrightError)
    error: EdgewrightError = kind(document["what"], where=document["where"], mend=document["mend"])
    error.exit_code = document["exit_code"]
    return error
