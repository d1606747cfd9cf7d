"""The arithmetic of a step: gradients in parts, pixels, the learning rate, what decays, FLOPs."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch", reason="needs torch: pip install '.[train]'")
pytest.importorskip("PIL", reason="needs Pillow: pip install '.[train]'")

import torch

from metaclip.training import batches, flops, models, optimiser
from metaclip.training.loop import add_gradients
from metaclip.training.stream import Sample
from metaclip.training.train_recipe import TrainRecipe
from tests.training import tiny
from training import shapes

pytestmark = pytest.mark.extra


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    models.import_open_clip()
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def model_of(folder: Path, name: str, **changes: Any) -> Any:
    """Make a tiny model, in float64: what differs then is not rounding."""
    torch.manual_seed(0)
    return models.create(models.known(tiny.write_model(folder, name, **changes))).double().train()


def gradients(model: Any) -> list[Any]:
    found = [parameter.grad.clone() for parameter in model.parameters()]
    model.zero_grad()
    return found


@pytest.mark.parametrize("dropped", [0.0, 0.5])
@pytest.mark.parametrize("sizes", [(12,), (6, 6), (4, 4, 4), (7, 5)])
def test_gradients_in_parts(sizes: tuple[int, ...], dropped: float, tmp_path: Path) -> None:
    """In parts the gradients and the loss are those of one graph over all parts, with patches dropped at random too."""
    from open_clip.loss import ClipLoss

    # Eight patches would be too few to drop from: a larger image.
    model = model_of(
        tmp_path, f"tiny_drop_{dropped:g}", vision_cfg={"image_size": 32, "patch_dropout": dropped}
    )
    images, tokens = torch.randn(12, 3, 32, 32, dtype=torch.float64), torch.randint(1, 49000, (12, 8))
    parts = list(zip(images.split(sizes), tokens.split(sizes), strict=True))

    torch.manual_seed(1)
    features = [model(*part) for part in parts]
    oracle = ClipLoss()(
        torch.cat([f[0] for f in features]), torch.cat([f[1] for f in features]), features[0][2]
    )
    oracle.backward()
    expected, left = gradients(model), torch.get_rng_state()

    torch.manual_seed(1)
    functions = [lambda part=part: part for part in parts]
    loss = add_gradients(model, ClipLoss(cache_labels=True), functions, torch.device("cpu"), bf16=False)
    assert loss.item() == pytest.approx(oracle.item(), rel=1e-12)
    assert not loss.requires_grad
    found = gradients(model)
    assert all(torch.allclose(a, b, rtol=1e-9, atol=1e-12) for a, b in zip(found, expected, strict=True))
    assert sum(float(g.abs().sum()) > 0 for g in found) >= len(found) - 1
    assert torch.equal(torch.get_rng_state(), left)
    if dropped:
        model(*parts[0])
        assert not torch.equal(torch.get_rng_state(), left), "nothing was drawn, so nothing was tested"


def test_a_part_alone_is_not_the_batch(tmp_path: Path) -> None:
    """The law can fail: gradients of parts contrasted apart are others."""
    from open_clip.loss import ClipLoss

    model = model_of(tmp_path, "tiny_apart")
    images, tokens = torch.randn(8, 3, 16, 16, dtype=torch.float64), torch.randint(1, 49000, (8, 8))
    ClipLoss()(*model(images, tokens)).backward()
    whole = gradients(model)
    for part in (slice(0, 4), slice(4, 8)):
        (ClipLoss()(*model(images[part], tokens[part])) / 2).backward()
    assert not all(
        torch.allclose(a, b, rtol=1e-3, atol=1e-6) for a, b in zip(gradients(model), whole, strict=True)
    )


def test_pixels_are_open_clips(tmp_path: Path) -> None:
    """Crop, carried as bytes and made numbers afterwards, is what open_clip's own training transform gives, to the bit."""
    open_clip = models.import_open_clip()
    model = models.create(models.known(tiny.write_model(tmp_path)))
    crop, mean, deviation = models.training_crop(model, 0.4)
    images = [shapes.draw(3, n, side=40)[0] for n in range(6)]
    cfg = open_clip.transform.PreprocessCfg(**model.visual.preprocess_cfg)
    theirs = open_clip.transform.image_transform_v2(cfg, is_train=True, aug_cfg={"scale": (0.4, 1.0)})
    torch.manual_seed(0)
    expected = torch.stack([theirs(image) for image in images])
    torch.manual_seed(0)
    samples = [
        Sample(f"{n:032x}", "a dog", batches.crop_to_bytes(crop, image)) for n, image in enumerate(images)
    ]
    part = batches.collate(lambda texts: torch.zeros(len(texts), 8), samples)
    assert part.images.dtype == torch.uint8
    assert part.uids[1] == f"{1:032x}"
    made = batches.to_floats(
        part.images, torch.tensor(mean).view(3, 1, 1), torch.tensor(deviation).view(3, 1, 1)
    )
    assert torch.equal(made, expected)
    assert made.is_contiguous(memory_format=torch.channels_last)


def test_the_learning_rate_is_open_clips() -> None:
    """Warm-up and cosine are those of open_clip's trainer, at every step."""
    from open_clip_train.scheduler import cosine_lr

    for recipe in (
        TrainRecipe(samples=3200, batch=32, warmup=10),
        TrainRecipe(samples=64, batch=32, warmup=0),
    ):
        holder = torch.optim.SGD([torch.zeros(1)], lr=1.0)
        adjust = cosine_lr(holder, recipe.lr, recipe.warmup, recipe.steps)
        rates = [optimiser.learning_rate(recipe, step) for step in range(recipe.steps)]
        assert rates == [adjust(step) for step in range(recipe.steps)]
        assert max(rates) == recipe.lr


def test_what_decays(tmp_path: Path) -> None:
    """Groups are those of open_clip's trainer: no decay of gains, biases and the logit scale."""

    def excluded(name: str, parameter: Any) -> bool:  # as open_clip_train.main has it
        return parameter.ndim < 2 or any(part in name for part in ("bn", "ln", "bias", "logit_scale"))

    model = models.create(models.known(tiny.write_model(tmp_path)))
    made = optimiser.make_optimiser(TrainRecipe(), model)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    still, decaying = ({names[id(p)] for p in group["params"]} for group in made.param_groups)
    assert still == {name for name, p in model.named_parameters() if excluded(name, p)}
    assert decaying == set(names.values()) - still
    assert [group["weight_decay"] for group in made.param_groups] == [0.0, 0.2]
    assert {"logit_scale", "visual.ln_post.weight"} <= still
    assert {"visual.conv1.weight", "token_embedding.weight"} <= decaying
    assert made.defaults["betas"] == (0.9, 0.98)
    assert made.defaults["eps"] == 1e-6


def test_the_scale_is_bounded(tmp_path: Path) -> None:
    """The logit scale begins at ln(1/0.07) and never leaves [0, ln 100]."""
    model = models.create(models.known(tiny.write_model(tmp_path)))
    assert model.logit_scale.item() == pytest.approx(math.log(1 / 0.07))
    for value, expected in ((7.0, math.log(100)), (-1.0, 0.0), (3.0, 3.0)):
        model.logit_scale.data.fill_(value)
        optimiser.bound_scale(model)
        assert model.logit_scale.item() == pytest.approx(expected)


def by_hand(config: dict[str, Any]) -> float:
    """Count the FLOPs of a forward pass by the formula: per token 24 w^2 a layer, 4 n w for attention, then projections."""
    vision, text, embed = config["vision_cfg"], config["text_cfg"], config["embed_dim"]
    patches = (vision["image_size"] // vision["patch_size"]) ** 2

    def tower(tokens: int, width: int, layers: int) -> float:
        return layers * tokens * (24 * width**2 + 4 * tokens * width) + 2 * width * embed

    stem = 2 * patches * 3 * vision["patch_size"] ** 2 * vision["width"]
    return (
        stem
        + tower(patches + 1, vision["width"], vision["layers"])
        + tower(text["context_length"], text["width"], text["layers"])
    )


def test_flops(tmp_path: Path) -> None:
    """What is counted is what the formula gives, three times: forward, and twice as much backward."""
    model = models.create(models.known(tiny.write_model(tmp_path)))
    assert flops.sample_flops(model, torch.device("cpu")) == 3 * by_hand(tiny.MODEL)


@pytest.mark.slow
def test_flops_of_a_published_model() -> None:
    """ViT-B-32-quickgelu takes the 14.78 GFLOPs that open_clip's table of models gives."""
    model = models.create(models.known("ViT-B-32-quickgelu"))
    assert flops.sample_flops(model, torch.device("cpu")) / 3e9 == pytest.approx(14.78, abs=0.005)


@pytest.mark.parametrize(
    ("name", "peak"),
    [
        ("NVIDIA A100-SXM4-80GB", 312e12), ("NVIDIA H100 80GB HBM3", 989e12), ("NVIDIA H100 PCIe", 756e12),
        ("NVIDIA H200", 989e12), ("NVIDIA GH200 480GB", 989e12), ("NVIDIA L4", 121e12), ("NVIDIA A10G", 70e12),
        ("NVIDIA GeForce RTX 4090", 165e12), ("Tesla K80", None), ("AMD Instinct MI300X", None),
    ],
)  # fmt: skip
def test_peaks(name: str, peak: float | None) -> None:
    """A GPU is known by the name that torch gives it, and one that is not has no MFU."""
    assert flops.peak(name) == peak


# Models and weights ---------------------------------------------------------------------------------------------------


def test_models_that_are_none(tmp_path: Path) -> None:
    """A name that open_clip has not, a file that is no model, and one with another model's name are refused."""
    (tmp_path / "list.json").write_text("[]")
    (tmp_path / "half.json").write_text('{"embed_dim": 3}')
    (tmp_path / "text.json").write_text("{")
    other = tmp_path / "ViT-B-32.json"
    other.write_text(json.dumps(tiny.MODEL))
    for given, message in (
        (
            "ViT-B-32-quikgelu",
            r"open_clip knows no model 'ViT-B-32-quikgelu' \(did you mean 'ViT-B-32-quickgelu'\?\)",
        ),
        (str(tmp_path / "none.json"), "there is no file"),
        (str(tmp_path / "list.json"), "is no table; it needs embed_dim"),
        (str(tmp_path / "half.json"), "is without vision_cfg; it needs"),
        (str(tmp_path / "text.json"), "cannot be read"),
        (str(other), "describes another model than the ViT-B-32 that open_clip knows"),
    ):
        with pytest.raises(models.MetaclipError, match=message):
            models.known(given)
    broken = models.known(tiny.write_model(tmp_path, "tiny_broken", vision_cfg={"head_width": 0}))
    with pytest.raises(models.MetaclipError, match="the model tiny_broken cannot be made"):
        models.create(broken)


def test_weights_of_another_model(tmp_path: Path) -> None:
    """What differs is named: a weight that is missing, one too many, or another shape."""
    name = models.known(tiny.write_model(tmp_path))
    model = models.create(name)
    state = model.state_dict()
    path = tmp_path / "w.pt"
    torch.save(
        {"state_dict": {f"module.{key}": value for key, value in state.items()}}, path
    )  # as open_clip's trainer
    models.put_weights(name, model, models.load_tensors(path), "w.pt")
    for change, message in (
        (
            {"visual.conv1.weight": torch.zeros(2, 3)},
            r"size mismatch for visual\.conv1\.weight: .*\[2, 3\].*\[32, 3, 8, 8\]",
        ),
        ({"visual.other": torch.zeros(2)}, r'Unexpected key.*"visual\.other"'),
        (
            {"visual.conv1.weight": None},
            r'Missing key.*"visual\.conv1\.weight".*; give a checkpoint of tiny',
        ),
    ):
        torch.save({key: value for key, value in {**state, **change}.items() if value is not None}, path)
        with pytest.raises(models.MetaclipError, match=message):
            models.put_weights(name, model, models.load_tensors(path), "w.pt")


class Evil:
    """What runs when it is unpickled."""

    def __reduce__(self) -> Any:
        return Path.touch, (Path("evil"),)


def test_nothing_is_unpickled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A checkpoint with code in it is refused, and the code does not run."""
    monkeypatch.chdir(tmp_path)
    torch.save({"state_dict": {}, "x": Evil()}, tmp_path / "evil.pt")
    for name, content in (("text.pt", b"nothing"), ("empty.pt", b"")):
        (tmp_path / name).write_bytes(content)
    for name in ("evil.pt", "text.pt", "empty.pt"):
        with pytest.raises(models.MetaclipError, match="cannot be read as a checkpoint") as raised:
            models.load_tensors(tmp_path / name)
        assert "\n" not in str(raised.value)
    assert not (tmp_path / "evil").exists()
    with pytest.raises(models.MetaclipError, match="there is no checkpoint"):
        models.load_tensors(tmp_path / "none.pt")
    torch.save([1], tmp_path / "list.pt")
    with pytest.raises(models.MetaclipError, match="holds a list, no checkpoint"):
        models.load_tensors(tmp_path / "list.pt")
