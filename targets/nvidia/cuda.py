"""NVIDIA's driver through ctypes: which GPU this is, and the memory and streams an engine runs on.

The driver's own library is used, not the CUDA runtime: it comes with every driver, on Jetson too, and needs
no package. Functions and their meaning: CUDA Driver API reference.
"""

from __future__ import annotations

import ctypes
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Mapping, NamedTuple

from targets.errors import ModelError, ToolchainMissing

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

LIBRARY = "libcuda.so.1"
# CUdevice_attribute: CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR and _MINOR.
MAJOR, MINOR = 75, 76


class Gpu(NamedTuple):
    """The first GPU.

    Args:
        name: as the driver has it.
        compute_capability: as in "8.9".
        driver: newest CUDA version the driver serves, as in "13.0".
    """

    name: str
    compute_capability: str
    driver: str


@lru_cache(maxsize=None)
def gpu() -> Gpu | None:
    """Return the first GPU; None without a driver or a GPU."""
    try:
        driver = Driver()
    except ToolchainMissing:
        return None
    return driver.gpu


class Driver:
    """The driver, initialised, with the first GPU's primary context current on this thread.

    Raises:
        ToolchainMissing: there is no driver, or no GPU it can use.
    """

    def __init__(self) -> None:
        try:
            self._library: Any = ctypes.CDLL(LIBRARY)
        except OSError as error:
            raise ToolchainMissing(
                f"there is no NVIDIA driver: {LIBRARY} does not load",
                mend="run this on a machine with an NVIDIA GPU and its driver",
            ) from error
        device, context = ctypes.c_int(), ctypes.c_void_p()
        try:
            self._call("cuInit", 0)
            self._call("cuDeviceGet", ctypes.byref(device), 0)
            self._call("cuDevicePrimaryCtxRetain", ctypes.byref(context), device)
            self._call("cuCtxSetCurrent", context)
            self.gpu = self._describe(device)
        except ModelError as error:
            raise ToolchainMissing(
                f"the NVIDIA driver finds no GPU it can use: {error.what}",
                mend="see what nvidia-smi says; in a container, pass the GPU on (--gpus all)",
            ) from error

    def stream(self) -> int:
        """Return a new stream."""
        handle = ctypes.c_void_p()
        self._call("cuStreamCreate", ctypes.byref(handle), 0)
        return handle.value or 0

    def synchronize(self, stream: int) -> None:
        """Wait until everything given to a stream is done."""
        self._call("cuStreamSynchronize", ctypes.c_void_p(stream))

    def allocate(self, size_bytes: int) -> int:
        """Return the address of new device memory."""
        address = ctypes.c_uint64()
        self._call("cuMemAlloc_v2", ctypes.byref(address), ctypes.c_size_t(max(1, size_bytes)))
        return address.value

    def free(self, address: int) -> None:
        """Give device memory back."""
        self._call("cuMemFree_v2", ctypes.c_uint64(address))

    def to_device(self, address: int, array: NDArray[np.generic], stream: int) -> None:
        """Copy a C-contiguous array to the device."""
        self._call(
            "cuMemcpyHtoDAsync_v2",
            ctypes.c_uint64(address),
            ctypes.c_void_p(array.ctypes.data),
            ctypes.c_size_t(array.nbytes),
            ctypes.c_void_p(stream),
        )

    def to_host(self, array: NDArray[np.generic], address: int, stream: int) -> None:
        """Copy from the device into a C-contiguous array."""
        self._call(
            "cuMemcpyDtoHAsync_v2",
            ctypes.c_void_p(array.ctypes.data),
            ctypes.c_uint64(address),
            ctypes.c_size_t(array.nbytes),
            ctypes.c_void_p(stream),
        )

    def _describe(self, device: ctypes.c_int) -> Gpu:
        name = ctypes.create_string_buffer(256)
        self._call("cuDeviceGetName", name, len(name), device)
        major, minor, version = ctypes.c_int(), ctypes.c_int(), ctypes.c_int()
        self._call("cuDeviceGetAttribute", ctypes.byref(major), MAJOR, device)
        self._call("cuDeviceGetAttribute", ctypes.byref(minor), MINOR, device)
        self._call("cuDriverGetVersion", ctypes.byref(version))
        # 13020 stands for 13.2 (CUDA Driver API, cuDriverGetVersion).
        driver = f"{version.value // 1000}.{version.value % 1000 // 10}"
        return Gpu(name.value.decode(errors="replace"), f"{major.value}.{minor.value}", driver)

    def _call(self, function: str, *arguments: Any) -> None:
        status = getattr(self._library, function)(*arguments)
        if status:
            text = ctypes.c_char_p()
            self._library.cuGetErrorString(status, ctypes.byref(text))
            reason = (text.value or b"unknown").decode(errors="replace")
            raise ModelError(f"{function} failed with {status}: {reason}")


def gpu_fingerprint() -> Mapping[str, str]:
    """Return what an engine depends on: the GPU, what it can do, and the driver; {} without one."""
    found = gpu()
    if found is None:
        return {}
    return {"gpu": found.name, "compute_capability": found.compute_capability, "driver_cuda": found.driver}
