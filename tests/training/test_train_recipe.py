"""Training recipes: the shipped ones are the published runs; what nobody reads is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from metaclip.errors import MetaclipError
from metaclip.training.train_recipe import DataRecipe, TrainOptions, TrainRecipe, read_recipe

FOLDER = Path(__file__).parents[2] / "training"
SHIPPED = sorted(FOLDER.glob("*.toml"))
STANDARD = [2_000, 0.9, 0.98, 1e-6, 0.2, "bf16", 0.9]

# Model, samples, batch, lr, then as STANDARD: warm-up, beta1, beta2, eps, weight decay, precision, smallest crop.
PUBLISHED = {
    "b32_400m": ["ViT-B-32-quickgelu", 12_800_000_000, 32_768, 5e-4, *STANDARD],
    "b16_400m": ["ViT-B-16-quickgelu", 12_800_000_000, 32_768, 5e-4, *STANDARD],
    "l14_400m": ["ViT-L-14-quickgelu", 12_800_000_000, 32_768, 4e-4, *STANDARD],
    "h14_fullcc": ["ViT-H-14-quickgelu", 12_800_000_000, 32_768, 4e-4, *STANDARD],
    "h14_worldwide": ["ViT-H-14-worldwide-quickgelu", 29_400_000_000, 75_264, 4e-4, *STANDARD],
    "datacomp_small": ["ViT-B-32", 12_800_000, 4_096, 5e-4, 500, *STANDARD[1:]],
    "datacomp_medium": ["ViT-B-32", 128_000_000, 4_096, 5e-4, 500, *STANDARD[1:]],
    "datacomp_large": ["ViT-B-16", 1_280_000_000, 8_192, 5e-4, 500, *STANDARD[1:]],
    "datacomp_xlarge": ["ViT-L-14", 12_800_000_000, 90_112, 1e-3, 10_000, 0.9, 0.95, *STANDARD[3:]],
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_runs(name: str) -> None:
    """A shipped recipe has the published figures."""
    r = read_recipe(FOLDER / f"{name}.toml")
    found = [
        r.model,
        r.samples,
        r.batch,
        r.lr,
        r.warmup,
        r.beta1,
        r.beta2,
        r.eps,
        r.weight_decay,
        r.precision,
        r.crop,
    ]
    assert found == PUBLISHED[name]
    assert r.data == DataRecipe()


def test_all_recipes_are_known() -> None:
    """Every shipped recipe is held to its figures, but for our own small ones, which are published nowhere."""
    assert {path.stem for path in SHIPPED} - {"toy", "icons_rn", "icons_vit"} == set(PUBLISHED)
    assert read_recipe(FOLDER / "b32_400m.toml").steps == 390_625


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_headers(path: Path) -> None:
    """Each recipe says how it is run, what it costs, what comes out and where that is from."""
    head = path.read_text(encoding="utf-8").partition("\n[train]")[0].splitlines()
    assert all(line.startswith("#") or not line for line in head)
    assert any(f"metaclip train training/{path.name}" in line for line in head)
    assert all(
        any(line.startswith(f"# {word}: ") for line in head) for word in ("Cost", "Expected", "Source")
    )


def test_paths_are_beside_the_recipe(tmp_path: Path) -> None:
    """Paths in a recipe are relative to its folder; a flag's is as given."""
    path = tmp_path / "r.toml"
    path.write_text('[train]\nmodel = "m.json"\n[train.data]\ntars = "pairs"\nbalance = "run"\n')
    made = read_recipe(path)
    assert (made.model, made.data.balance) == (str(tmp_path / "m.json"), str(tmp_path / "run"))
    over = read_recipe(path, tars="tars", t=None)
    assert (over.data.tars, over.data.balance) == ("tars", str(tmp_path / "run"))
    path.write_text('[train.data]\ntars = "s3://bucket/tars"\n')
    assert read_recipe(path).data.tars == "s3://bucket/tars"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "[train]\nbatchsize = 3",
            r"r\.toml, \[train\]: unknown key 'batchsize' \(did you mean 'batch'\?\)",
        ),
        ("[trian]\nbatch = 3", r"r\.toml: no verb reads 'trian' \(did you mean 'train'\?\)"),
        ("[train]\nbatch = 1.5", r"\[train\], batch is 1\.5, must be int"),
        ("[train.data]\ntar = 'x'", r"\[train\], data: unknown key 'tar' \(did you mean 'tars'\?\)"),
        ("[train]\nprecision = 'fp16'", "precision is 'fp16', must be one of 'bf16', 'fp32'"),
        ("[train]\nlr = 0", "lr is 0.0, must be above 0"),
        ("[train]\nbatch = 1", "batch is 1, must be at least 2"),
        ("[train]\nsamples = 10", "samples is 10, below one batch of 32,768"),
        ("[train]\nbeta2 = 1.0", "beta2 is 1.0, must be at least 0 and below 1"),
        ("[train]\ncrop = 0.0", "crop is 0.0, must be above 0 and at most 1"),
        ("[train]\nweight_decay = nan", "weight_decay is nan"),
        ("[train.data]\nsubset = 'x'\nbalance = 'y'", "subset .* and balance .* are both given"),
        ("[train.data]\nt = 3.0", "t is given without balance"),
        ("[train.data]\nleast = 0.5", "least is given without balance"),
        ("[train.data]\nbalance = 'y'\nleast = 1.5", "least is 1.5, must be a probability, from 0 to 1"),
        ("", r"has no table \[train\]; tables: none"),
        ("[train", "cannot be read"),
    ],
)
def test_refused(text: str, message: str, tmp_path: Path) -> None:
    """A recipe with a typo, a wrong type or a value that cannot be meant is refused in one line."""
    path = tmp_path / "r.toml"
    path.write_text(text)
    with pytest.raises(MetaclipError, match=message) as raised:
        read_recipe(path)
    assert "\n" not in str(raised.value)


def test_flags_against_the_recipe(tmp_path: Path) -> None:
    """A flag that contradicts the recipe is refused like a key that does."""
    path = tmp_path / "r.toml"
    path.write_text('[train.data]\nbalance = "run"\n')
    with pytest.raises(MetaclipError, match=r"r\.toml with the flags: subset .* are both given"):
        read_recipe(path, subset="x.npy")


def test_steps_and_work() -> None:
    """What is left after the last whole batch is not seen; work has its limits."""
    assert TrainRecipe(samples=100, batch=32).steps == 3
    with pytest.raises(ValueError, match="accumulate is 0, must be at least 1"):
        TrainOptions(accumulate=0)
