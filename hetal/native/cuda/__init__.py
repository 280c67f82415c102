"""The native engine on a GPU: rings whose polynomials live on a device."""

from __future__ import annotations

from hetal.errors import DeviceError


def device_count() -> int:
    """GPUs that this process may use; 0 where there is no driver."""
    from hetal.native.cuda import nvidia

    try:
        return nvidia.device_count()
    except DeviceError:
        return 0
