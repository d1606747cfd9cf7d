"""How kernels are compiled: by numba, in the process that uses them, when they are first used.

numba's cache on disk is not used: it is not safe with several processes.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Mapping
from typing import Any

from numba import njit

inner: Any = njit(no_cpython_wrapper=True, no_cfunc_wrapper=True)  # type: ignore[call-overload]  # not in numba's stubs
"""For what only kernels call: without the wrappers for Python it compiles in two thirds of the time."""


def on_first_use(kernels: Mapping[str, tuple[Any, Any]]) -> Callable[[str], Any]:
    """Give what compiles one of some kernels (name: function, signature) by name, once (0.2 to 1 s each)."""
    compiling = threading.Lock()  # the cache alone would let two threads that come at once both compile

    @functools.cache
    def compile_once(name: str) -> Any:
        function, signature = kernels[name]
        return njit(signature, nogil=True)(function)

    def compiled(name: str) -> Any:
        with compiling:
            return compile_once(name)

    return compiled
