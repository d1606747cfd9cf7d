"""Model FLOPs: the cost of a sample, and the share of the peak of the GPUs that a run reaches (MFU).

MFU = samples/s x FLOPs per sample / (GPUs x peak). A sample costs three forward passes (one forward, two backward);
activations that are computed again do not count ("PaLM", arXiv 2204.02311, appendix B).
"""

from __future__ import annotations

from typing import Any, Final

PEAKS: Final = {
    "B200": 2250e12, "H200": 989e12, "H100 PCIE": 756e12, "H100 NVL": 835e12, "H100": 989e12, "GH200": 989e12,
    "A100": 312e12, "L40S": 362e12, "L40": 181e12, "L4": 121e12, "A10G": 70e12, "A10": 125e12, "A40": 150e12, "A30": 165e12,
    "RTX 4090": 165e12, "RTX A6000": 155e12,
}  # fmt: skip
"""Dense bf16 matrix products, FLOP/s, by a part of the device's name, more specific names first; from the data sheets."""


def peak(device_name: str) -> float | None:
    """Return the peak of a GPU by the name that torch reports; None if it is not known."""
    words = f" {device_name.upper().replace('-', ' ')} "
    return next((flops for name, flops in PEAKS.items() if f" {name} " in words), None)


def sample_flops(model: Any, device: Any) -> float:
    """Return the FLOPs of training on one pair: matrix products and convolutions, forward and backward."""
    import torch
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    size = model.visual.image_size
    height, width = size if isinstance(size, tuple) else (size, size)
    image = torch.zeros(1, 3, height, width, device=device)
    tokens = torch.zeros(1, model.context_length, dtype=torch.int64, device=device)
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), counter:
        model(image, tokens)
    return 3.0 * counter.get_total_flops()
