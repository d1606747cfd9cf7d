"""torchvision, where torch comes without CUDA: its wheel is a CUDA build and fails to import there.

The failure is "operator torchvision::nms does not exist": torchvision describes operators that its compiled part, which
it could not load, would have registered. With their schemas declared, the import succeeds; images need neither of them.
"""

from __future__ import annotations

import functools
import importlib
import sys
from typing import Any


@functools.cache
def import_torchvision() -> Any:
    """Import torchvision (and so make `import open_clip` possible); nothing is changed where that works by itself."""
    try:
        return importlib.import_module("torchvision")
    except RuntimeError as error:
        if "torchvision::nms" not in str(error):
            raise
    import torch

    for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
        del sys.modules[name]
    make: Any = torch.library.Library  # it has no annotations
    library = make("torchvision", "FRAGMENT")
    library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    _kept.append(library)
    return importlib.import_module("torchvision")


_kept: list[Any] = []
"""A library's operators go when it does."""
