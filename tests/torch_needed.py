"""Whether PyTorch is there. Shared by tests."""

from __future__ import annotations

import pytest

from pipesim.interop.torch_runtime import TorchError, check_torch


def has_torch() -> bool:
    """Whether a PyTorch that pipesim can use is installed."""
    try:
        check_torch()
    except TorchError:
        return False
    return True


needs_torch = pytest.mark.skipif(not has_torch(), reason="PyTorch 2.6 or newer is not installed: pip install torch")
