"""Machine code where it cannot be kept on disk."""

from __future__ import annotations

import pytest
from numba import njit

from pipesim.jit import inlined, jit


@pytest.mark.parametrize("compiled", [jit, inlined])
def test_a_function_that_cannot_be_kept_is_compiled_all_the_same(compiled):
    """As in an installation where nothing may be written: numba refuses to cache, here for want of a file."""
    namespace = {}
    exec("def double(x):\n    return 2 * x", namespace)
    with pytest.raises(RuntimeError, match="no locator"):
        njit(cache=True)(namespace["double"])
    assert compiled(namespace["double"])(21) == 42
