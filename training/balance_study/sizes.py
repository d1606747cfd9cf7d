"""What a study is made of, by size.

The pool of `small` and `gpu`: with the shipped list, captions of several words stay through all of their entries, so t has
to be far below the counts of the classes to level them. Of 4,000 and 126 pairs of the first and the last class a t of 30
keeps 656 and 79, 100 keeps 1,724 and 126, 300 keeps 3,076 and 126.
Cost of `small`: 1.5 to 2 ms of processor a sample on a busy machine, 32,768 samples an arm, 24 arms.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from pathlib import Path
from typing import Any, Final, Literal

from metaclip.storage.files import atomic_write
from training.balance_study.pool import PoolSettings

Size = Literal["tiny", "small", "gpu"]


@dataclasses.dataclass(frozen=True)
class Study:
    """All that determines a study's figures."""

    pool: PoolSettings
    ts: tuple[float, ...]
    seeds: int
    samples: int
    batch: int
    lr: float
    warmup: int
    side: int
    """Of the model: width of both towers, of whose heads each has 32."""
    layers: int
    patch: int
    precision: Literal["fp32", "bf16"] = "fp32"

    @property
    def model(self) -> dict[str, Any]:
        """The model in open_clip's form: a ViT with QuickGELU for 32-pixel images, and a small text tower."""
        return {
            "embed_dim": self.side,
            "quick_gelu": True,
            "vision_cfg": {
                "image_size": 32, "layers": self.layers, "width": self.side, "head_width": 32, "patch_size": self.patch,
            },
            "text_cfg": {
                "context_length": 16, "vocab_size": 49408, "width": self.side // 2, "heads": max(1, self.side // 64),
                "layers": 1,
            },
        }  # fmt: skip


STUDIES: Final[dict[Size, Study]] = {
    "tiny": Study(PoolSettings(24, 1.0), (6.0,), 2, 64, 32, 1e-3, 1, 32, 1, 16),
    "small": Study(PoolSettings(4_000), (30.0, 100.0, 300.0), 3, 32_768, 128, 1e-3, 20, 128, 3, 8),
    "gpu": Study(
        PoolSettings(5_000), (30.0, 100.0, 300.0), 3, 1_000_000, 1_024, 1e-3, 100, 256, 6, 4, "bf16"
    ),
}


def write_model(study: Study, folder: Path) -> Path:
    """Write the model's description where metaclip train reads it."""
    text = json.dumps(study.model, indent=2) + "\n"
    # One process may know several: each has a name of its own.
    path = folder / f"balance_study_vit_{hashlib.sha256(text.encode()).hexdigest()[:8]}.json"
    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return path
