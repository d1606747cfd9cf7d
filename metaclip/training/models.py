"""CLIP models: open_clip's, by name, JSON file or run folder, with tokenizer, transforms and weights.

A name that ends in .json is a file in open_clip's form; open_clip then knows it by the file's name, so the same code makes,
saves and opens both kinds. Weights are read by torch.load(weights_only=True): tensors and plain values, nothing that runs.
Cost: 0.6 s of processor time for the digest of ViT-B-32's 151 M weights.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import importlib
import json
import logging
import os
import pickle
import re
import sys
import warnings
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final, Literal

from metaclip.errors import MetaclipError, did_you_mean, install_hint, one_line
from metaclip.storage.files import read_bytes, read_json, write_json

WEIGHTS: Final = "model.pth"
"""The weights of a finished run. open_clip finds this name in a folder ("local-dir:run/")."""
CONFIG: Final = "open_clip_config.json"
CHECKPOINTS: Final = "checkpoints"
"""The folder of a run's checkpoints."""
Precision = Literal["fp32", "bf16", "fp16"]
"""Of an evaluation; bf16 and fp16 by autocast."""
_NEEDED: Final = ("embed_dim", "vision_cfg", "text_cfg")
_MODEL_KEYS: Final = {*_NEEDED, "quick_gelu", "custom_text", "init_logit_scale", "init_logit_bias"}
_TOKENIZER_KEYS: Final = {"clean", "context_length", "language", "strip_sep_token"}
"""The arguments of open_clip's own tokenizers; it hands all others to transformers, where one can make it run code."""


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


@functools.cache
def import_torchvision() -> Any:
    """Import torchvision, which open_clip imports too, also beside a torch without CUDA.

    torchvision's wheel is a CUDA build. Without CUDA it cannot load its compiled part, and then fails to describe operators
    which that part would have registered ("operator torchvision::nms does not exist"). With their schemas declared, the
    import succeeds; images need neither operator.
    """
    try:
        return importlib.import_module("torchvision")
    except RuntimeError as error:
        if "torchvision::nms" not in str(error):
            raise
    import torch

    for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
        del sys.modules[name]
    torch.library.define(
        "torchvision::nms", "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
    )
    torch.library.define(
        "torchvision::qnms", "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
    )
    return importlib.import_module("torchvision")


def import_open_clip() -> Any:
    """Import open_clip. Raise MetaclipError if it is not installed."""
    try:
        import_torchvision()
        import open_clip
    except ImportError:
        raise MetaclipError(f"CLIP needs open_clip and torch; {install_hint('train')}") from None
    return open_clip


def known(model: str) -> str:
    """Return the name by which open_clip knows a model; register it there if `model` is a JSON file.

    Raise MetaclipError for a name that open_clip does not know, and for a file that is no model or has the name of another.
    """
    open_clip = import_open_clip()
    if not model.endswith(".json"):
        if model in open_clip.list_models():
            return model
        raise MetaclipError(
            f"open_clip knows no model {model!r}{did_you_mean(model, open_clip.list_models())}; "
            "open_clip.list_models() has all, or give a .json file of a model"
        )
    path = Path(model)
    try:
        found = json.loads(read_bytes(model, "the model"))
    except (ValueError, RecursionError) as error:
        raise MetaclipError(f"the model file {model} cannot be read ({one_line(error)})") from None
    check_description(found, f"the model file {model}")
    if path.stem not in open_clip.list_models():
        open_clip.add_model_config(path)
    elif open_clip.get_model_config(path.stem) != found:
        raise MetaclipError(
            f"{path} describes another model than the {path.stem} that open_clip knows; rename the file"
        )
    return path.stem


def check_description(config: Any, where: str) -> None:
    """Raise MetaclipError for a model's description that lacks a key, or has one that is unknown.

    open_clip hands keys that it does not know on to other libraries, and some of those would run code of a model's author.
    """
    open_clip = import_open_clip()
    if not isinstance(config, dict) or (missing := [key for key in _NEEDED if key not in config]):
        what = f"without {missing[0]}" if isinstance(config, dict) else "no table"
        raise MetaclipError(f"{where} is {what}; it needs {', '.join(_NEEDED)}, as open_clip's have")
    vision, text = (
        {field.name for field in dataclasses.fields(kind)}
        for kind in (open_clip.CLIPVisionCfg, open_clip.CLIPTextCfg)
    )
    text_cfg = config["text_cfg"]
    tokenizer = text_cfg.get("tokenizer_kwargs") if isinstance(text_cfg, dict) else None
    for name, table, known_keys in (
        ("the description", config, _MODEL_KEYS),
        ("vision_cfg", config["vision_cfg"], vision),
        ("text_cfg", text_cfg, text),
        ("tokenizer_kwargs", {} if tokenizer is None else tokenizer, _TOKENIZER_KEYS),
    ):
        if not isinstance(table, dict):
            raise MetaclipError(f"{where}: {name} is {table!r:.80}, must be a table")
        if unknown := sorted(table.keys() - known_keys):
            raise MetaclipError(
                f"{where}: {name} has a key {unknown[0]!r}, which may make other libraries run code and is not read; "
                f"known keys: {', '.join(sorted(known_keys))}"
            )


def create(name: str) -> Any:
    """Create a model whose weights are drawn from torch's generator. Raise MetaclipError if its description is wrong."""
    open_clip = import_open_clip()
    with _without_warnings():
        try:
            return open_clip.create_model(name)
        except (
            ArithmeticError,
            AssertionError,
            KeyError,
            OSError,
            RuntimeError,
            TypeError,
            ValueError,
        ) as error:
            raise MetaclipError(
                f"the model {name} cannot be made ({one_line(error)}); correct its description"
            ) from error


def tokenizer_of(name: str) -> Callable[[Any], Any]:
    """Return the tokenizer of a model that open_clip knows. Raise MetaclipError if it is of the Hub and cannot be had.

    CLIP's own comes with open_clip. Others, such as that of 901,629 words for many languages, are the Hub's: their files are
    fetched once, and transformers reads them.
    """
    open_clip = import_open_clip()
    page = (open_clip.get_model_config(name) or {}).get("text_cfg", {}).get("hf_tokenizer_name")
    if not page:
        return open_clip.get_tokenizer(name)  # type: ignore[no-any-return]
    try:
        from huggingface_hub import HfApi

        with contextlib.suppress(OSError):  # it is not cached
            return open_clip.get_tokenizer(name, local_files_only=True)  # type: ignore[no-any-return]
        HfApi().model_info(page, timeout=10)  # transformers would try for most of a minute
        return open_clip.get_tokenizer(name)  # type: ignore[no-any-return]
    except ImportError as error:
        raise MetaclipError(
            f"the tokenizer of {name}, {page}, needs another package ({one_line(error)}); pip install transformers sentencepiece"
        ) from None
    except Exception as error:  # transformers and the Hub raise exceptions of any kind
        raise MetaclipError(
            f"the tokenizer of {name} is {page} of the Hugging Face Hub, which is neither in the cache nor reached "
            f"({one_line(error)}); connect this machine once and run: hf download {page}"
        ) from None


@contextlib.contextmanager
def _without_warnings() -> Iterator[None]:
    """Keep open_clip from warning, on the root logger, that a new model has no weights yet."""

    def is_error(record: logging.LogRecord) -> bool:
        return record.levelno > logging.WARNING

    root = logging.getLogger()
    root.addFilter(is_error)
    try:
        yield
    finally:
        root.removeFilter(is_error)


def training_crop(
    model: Any, least: float
) -> tuple[Callable[[Any], Any], tuple[float, ...], tuple[float, ...]]:
    """Return open_clip's transform for training up to its tensor, and the mean and standard deviation of its last step.

    The transform crops a PIL image to at least the share `least` of its area and resizes it. The rest, (x / 255 - mean) /
    deviation, is computed on the device (`metaclip.training.batches.to_floats`).
    """
    transform = _transform(model, is_train=True, aug_cfg={"scale": (least, 1.0)})
    *steps, _, normalise = transform.transforms  # the last but one is the conversion to a tensor
    return type(transform)(steps), tuple(normalise.mean), tuple(normalise.std)


def _transform(model: Any, **options: Any) -> Any:
    open_clip = import_open_clip()
    cfg = open_clip.transform.PreprocessCfg(**model.visual.preprocess_cfg)
    return open_clip.transform.image_transform_v2(cfg, **options)


def load_tensors(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read a file of torch.save. Raise MetaclipError if it cannot be read, is damaged, or holds more than plain values.

    Cost of comparing its checksums, which torch.load does not: 0.3 s per GB.
    """
    import torch

    try:
        if zipfile.is_zipfile(path):  # an old form is none, and has no checksums
            with zipfile.ZipFile(path) as members:
                if (member := members.testzip()) is not None:
                    raise ValueError(f"{member} has another CRC-32 than was written")
        found = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise MetaclipError(f"there is no checkpoint {os.fspath(path)}; check the path") from None
    except MemoryError:
        raise
    # Of bytes that are no pickle, torch's reader raises what happens to happen.
    except Exception as error:
        raise MetaclipError(
            f"{os.fspath(path)} cannot be read as a checkpoint ({_reason(error)}); it is damaged, or holds code"
        ) from None
    if not isinstance(found, dict):
        raise MetaclipError(f"{os.fspath(path)} holds a {type(found).__name__}, no checkpoint of a model")
    return found


def _reason(error: BaseException) -> str:
    """Return the reason why weights cannot be read, without torch's advice to load them in a way that runs code."""
    if isinstance(error, pickle.UnpicklingError) or "weights_only" in str(error):
        return "it holds other objects than tensors and plain values"
    return one_line(error, 120)


def put_weights(name: str, model: Any, found: Any, where: str) -> None:
    """Put weights into a model: those of a run's model.pth, of a checkpoint of ours, or of one of open_clip's trainer.

    Raise MetaclipError for weights of another model, naming `where` they are from and what is missing, not expected, or of
    another shape.
    """
    state = {
        key.removeprefix("module."): value for key, value in dict(found.get("state_dict", found)).items()
    }
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        raise MetaclipError(
            f"{where} is not of the model {name} ({one_line(error, 200)}); give a checkpoint of {name}"
        ) from None


def write_config(folder: Path, name: str, model: Any) -> None:
    """Write what open_clip needs to make the model again: from the folder, or by its name if open_clip does not have it."""
    config = import_open_clip().get_model_config(name)
    write_json(folder / "model" / f"{name}.json", config)
    write_json(
        folder / CONFIG,
        {"model_cfg": config, "preprocess_cfg": model.visual.preprocess_cfg, "model": name},
    )


def open_clip_of(
    path: str | os.PathLike[str], *, device: str = "cpu", checkpoint: str | None = None
) -> Clip:
    """Open the model of a run's folder (its model.pth, else its last checkpoint), in evaluation mode.

    `checkpoint` names another file of weights for the same model. Raise MetaclipError for a folder that is no training
    run, for one without weights yet, and for weights of another model, naming what differs.
    """
    open_clip, folder = import_open_clip(), Path(path)
    config = read_json(folder / CONFIG)
    if (
        config is None
        or not isinstance(config.get("model_cfg"), dict)
        or not isinstance(config.get("model"), str)
    ):
        raise MetaclipError(
            f"{folder} is no training run: it has no {CONFIG}; give the folder that metaclip train wrote"
        )
    saved = sorted((folder / CHECKPOINTS).glob("*.pt"))
    found = checkpoint or next((p for p in (folder / WEIGHTS, *reversed(saved)) if p.exists()), None)
    if found is None:
        raise MetaclipError(f"{folder} has no weights yet; wait for its first checkpoint, or train on")
    name: str = config["model"]
    check_description(config["model_cfg"], os.fspath(folder / CONFIG))
    if name not in open_clip.list_models():
        known(os.fspath(folder / "model" / f"{name}.json"))
    elif open_clip.get_model_config(name) != config["model_cfg"]:
        raise MetaclipError(
            f"{folder / CONFIG} describes another model than the {name} that open_clip knows"
        )
    model = create(name)
    put_weights(name, model, load_tensors(found), os.fspath(found))
    return Clip(name, model.to(device).eval(), _transform(model, is_train=False), tokenizer_of(name))


def open_model(
    model: str, *, pretrained: str | None = None, checkpoint: str | None = None, device: str = "cpu"
) -> Clip:
    """Open a training run's folder, or a model of open_clip by name or JSON file, in evaluation mode.

    `pretrained` is a tag that open_clip knows, or a file of weights, for a name; `checkpoint` is another file of weights of
    a run. Raise MetaclipError for a model that does not exist, and for weights of another one.
    """
    open_clip = import_open_clip()
    if Path(model).is_dir():
        if pretrained is not None:
            raise MetaclipError(
                f"{model} is a run's folder and has its weights; name other ones with `checkpoint=...`"
            )
        return open_clip_of(model, device=device, checkpoint=checkpoint)
    if checkpoint is not None:
        raise MetaclipError(
            f"there is no run {model}; for a model of open_clip name its weights with `pretrained=...`"
        )
    if (
        open_clip.factory.parse_model_name(model)[0] is not None
    ):  # a folder or a page of the Hub, with weights
        name, pretrained = model, None
    else:
        if os.sep in model and not model.endswith(".json"):
            raise MetaclipError(
                f"there is no run {model}; give the folder that metaclip train wrote, or open_clip's name of a model"
            )
        name = known(model)
        if pretrained is None:
            tags = ", ".join(open_clip.list_pretrained_tags_by_model(name)) or "-"
            raise MetaclipError(
                f"{model} has no weights yet; name a file or a tag of them with `pretrained=...`: {tags}"
            )
    with warnings.catch_warnings():
        # With the other activation everything runs, and every score is wrong.
        warnings.filterwarnings("error", message="QuickGELU mismatch")
        try:
            if pretrained is None:
                check_description(open_clip.get_model_config(name), name)
            made, _, transform = open_clip.create_model_and_transforms(
                name, pretrained=pretrained, device=device
            )
            tokenizer = open_clip.get_tokenizer(name)
        except MetaclipError:
            raise
        except Exception as error:  # torch, pickle and the Hub raise exceptions of any kind
            raise MetaclipError(
                f"{name} with the weights {pretrained or 'of its folder'}: {_reason(error)}"
            ) from None
    return Clip(name, made.eval(), transform, tokenizer)


def model_digest(clip: Clip) -> str:
    """Return the sha256 of a model, as hex digits: of its weights, its modules, its transform and its tokenizer's context.

    So a model with another activation has another digest, and the file that its weights came from does not matter.
    """
    import torch

    digest = hashlib.sha256()
    context = getattr(clip.tokenizer, "context_length", None)
    described = f"{clip.model!r}\n{clip.transform!r}\n{type(clip.tokenizer).__name__} {context}"
    digest.update(re.sub(r" at 0x[0-9a-f]+", "", described).encode())
    weights: dict[str, Any] = clip.model.state_dict()
    for name in sorted(weights):
        tensor = weights[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
        digest.update(tensor.flatten().view(torch.uint8).numpy())
    return digest.hexdigest()
