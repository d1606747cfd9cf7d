"""CLIP models: open_clip's, by name or by a JSON file in its form, with tokenizer, transforms and weights.

A name that ends in .json is a file of ours; open_clip knows it from then on by the file's name, so the same code makes,
saves and opens both. Weights are read by torch.load(weights_only=True): tensors and plain values, nothing that runs.
"""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import json
import logging
import os
import pickle
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

from metaclip.errors import MetaclipError, one_line
from metaclip.storage.files import read_json, write_json
from metaclip.training.vision import import_torchvision

WEIGHTS: Final = "model.pth"
"""The weights of a finished run. open_clip finds this name in a folder ("local-dir:run/")."""
CONFIG: Final = "open_clip_config.json"
CHECKPOINTS: Final = "checkpoints"
"""The folder of a run's checkpoints."""
_NEEDED: Final = ("embed_dim", "vision_cfg", "text_cfg")


@dataclasses.dataclass(frozen=True)
class Clip:
    """A model with what its inputs need."""

    name: str
    model: Any
    """open_clip's CLIP: a torch module with encode_image(images, normalize=), encode_text(tokens, normalize=)."""
    transform: Callable[[Any], Any]
    """A PIL image to float32[3, size, size], as open_clip evaluates."""
    tokenizer: Callable[[Any], Any]
    """Texts to int64[n, context]."""


def import_open_clip() -> Any:
    """Import open_clip. Raise MetaclipError where it is not installed."""
    try:
        import_torchvision()
        import open_clip
    except ImportError:
        raise MetaclipError(
            "CLIP needs open_clip and torch; install them with: pip install 'metaclip[train]'"
        ) from None
    return open_clip


def known(model: str) -> str:
    """Give the name by which open_clip knows a model; make it known where `model` is a JSON file.

    Raise MetaclipError for a name that it does not know, and for a file that is no model or has another one's name.
    """
    open_clip = import_open_clip()
    if not model.endswith(".json"):
        if model in open_clip.list_models():
            return model
        near = difflib.get_close_matches(model, open_clip.list_models(), 1)
        raise MetaclipError(
            f"open_clip knows no model {model!r}{f' (did you mean {near[0]!r}?)' if near else ''}; "
            "open_clip.list_models() has all, or give a .json file of a model"
        )
    path = Path(model)
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise MetaclipError(f"there is no model file {model}; check the path") from None
    except (OSError, ValueError) as error:
        raise MetaclipError(f"the model file {model} cannot be read ({one_line(error)})") from None
    if not isinstance(found, dict) or (missing := [key for key in _NEEDED if key not in found]):
        what = f"without {missing[0]}" if isinstance(found, dict) else "no table"
        raise MetaclipError(f"the model file {model} is {what}; it needs {', '.join(_NEEDED)}, as open_clip's have")
    if path.stem not in open_clip.list_models():
        open_clip.add_model_config(path)
    elif open_clip.get_model_config(path.stem) != found:
        raise MetaclipError(
            f"{path} describes another model than the {path.stem} that open_clip knows; rename the file"
        )
    return path.stem


def create(name: str) -> Any:
    """Make a model with first weights, drawn from torch's generator. Raise MetaclipError where the description is bad."""
    open_clip = import_open_clip()
    with _quiet():
        try:
            return open_clip.create_model(name)
        except (ArithmeticError, AssertionError, KeyError, OSError, RuntimeError, TypeError, ValueError) as error:
            raise MetaclipError(f"the model {name} cannot be made ({one_line(error)}); mend its description") from error


def evaluation_transform(model: Any) -> Callable[[Any], Any]:
    """Give open_clip's transform for evaluation: a PIL image to float32[3, size, size]."""
    transform: Callable[[Any], Any] = _transform(model, is_train=False)
    return transform


def training_crop(model: Any, least: float) -> tuple[Callable[[Any], Any], tuple[float, ...], tuple[float, ...]]:
    """Give open_clip's transform for training up to the tensor, and mean and standard deviation of what follows there.

    A PIL image becomes another, cropped to at least the part `least` of its area and resized. What is left to do, x / 255
    less the mean by the deviation, is done on the device (`metaclip.training.feed`).
    """
    *steps, to_tensor, normalise = _transform(model, is_train=True, aug_cfg={"scale": (least, 1.0)}).transforms
    assert "ToTensor" in type(to_tensor).__name__
    return type(_transform(model, is_train=True))(steps), tuple(normalise.mean), tuple(normalise.std)


def _transform(model: Any, **more: Any) -> Any:
    open_clip = import_open_clip()
    cfg = open_clip.transform.PreprocessCfg(**model.visual.preprocess_cfg)
    return open_clip.transform.image_transform_v2(cfg, **more)


def tokenizer(name: str) -> Callable[[Any], Any]:
    """Give a model's tokenizer: texts to int64[n, context]."""
    made: Callable[[Any], Any] = import_open_clip().get_tokenizer(name)
    return made


def load_tensors(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read a file of torch.save. Raise MetaclipError for one that cannot be read, or holds more than plain values."""
    import torch

    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise MetaclipError(f"there is no checkpoint {os.fspath(path)}; check the path") from None
    except (OSError, RuntimeError, EOFError, ValueError, KeyError, AttributeError, pickle.UnpicklingError) as error:
        raise MetaclipError(
            f"{os.fspath(path)} cannot be read as a checkpoint ({one_line(error, 120)}); it is damaged, or holds code"
        ) from None
    if not isinstance(found, dict):
        raise MetaclipError(f"{os.fspath(path)} holds a {type(found).__name__}, no checkpoint of a model")
    return found


def load_weights(name: str, model: Any, path: str | os.PathLike[str]) -> None:
    """Read weights into a model, from a run's model.pth, a checkpoint of ours or one of open_clip's trainer.

    Raise MetaclipError for weights of another model, naming the first that is missing, more, or of another shape.
    """
    found = load_tensors(path)
    put_weights(name, model, found.get("state_dict", found), os.fspath(path))


def put_weights(name: str, model: Any, state: Any, where: str) -> None:
    """Put weights into a model; `where` they are from stands in the error, as of `load_weights`."""
    wanted = model.state_dict()
    state = {key.removeprefix("module."): value for key, value in dict(state).items()}
    for key in wanted:
        if key not in state:
            raise MetaclipError(f"{where} is not of the model {name}: it has no {key}; give a checkpoint of {name}")
        one, other = list(getattr(state[key], "shape", ())), list(wanted[key].shape)
        if one != other:
            raise MetaclipError(
                f"{where} is not of the model {name}: {key} is {one}, must be {other}; give a checkpoint of {name}"
            )
    if more := sorted(state.keys() - wanted.keys()):
        raise MetaclipError(f"{where} is not of the model {name}: it has a {more[0]}; give a checkpoint of {name}")
    model.load_state_dict(state)


def write_config(folder: Path, name: str, model: Any) -> None:
    """Write what open_clip needs to make the model again: from the folder, and by its name where its wheel has it not."""
    config = import_open_clip().get_model_config(name)
    write_json(_described(folder, name), config)
    write_json(folder / CONFIG, {"model_cfg": config, "preprocess_cfg": model.visual.preprocess_cfg, "model": name})


def _described(folder: Path, name: str) -> Path:
    """Give the file by whose name open_clip knows a model (`open_clip.add_model_config`)."""
    return folder / "model" / f"{name}.json"


def open_clip_of(path: str | os.PathLike[str], *, device: str = "cpu", checkpoint: str | None = None) -> Clip:
    """Open the model of a run's folder (its model.pth, else its last checkpoint), in evaluation mode.

    `checkpoint` names another file of weights for the same model. Raise MetaclipError for a folder that is no training
    run, for one without weights yet, and for weights of another model, naming what differs.
    """
    folder = Path(path)
    config = read_json(folder / CONFIG)
    if config is None or not isinstance(config.get("model_cfg"), dict) or not isinstance(config.get("model"), str):
        raise MetaclipError(f"{folder} is no training run: it has no {CONFIG}; give the --out of metaclip train")
    saved = sorted((folder / CHECKPOINTS).glob("*.pt"))
    found = checkpoint or next((p for p in (folder / WEIGHTS, *reversed(saved)) if p.exists()), None)
    if found is None:
        raise MetaclipError(f"{folder} has no weights yet; wait for its first checkpoint, or train on")
    name: str = config["model"]
    if name not in import_open_clip().list_models():
        known(os.fspath(_described(folder, name)))
    elif import_open_clip().get_model_config(name) != config["model_cfg"]:
        raise MetaclipError(f"{folder / CONFIG} describes another model than the {name} that open_clip knows")
    model = create(name)
    load_weights(name, model, found)
    return Clip(name, model.to(device).eval(), evaluation_transform(model), tokenizer(name))


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep open_clip from warning, on the root logger, that a new model has no weights yet."""

    def passes(record: logging.LogRecord) -> bool:
        return record.levelno > logging.WARNING

    root = logging.getLogger()
    root.addFilter(passes)
    try:
        yield
    finally:
        root.removeFilter(passes)
