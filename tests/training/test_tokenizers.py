"""Tokenizers of the Hugging Face Hub: models for many languages train with them; one that cannot be had is refused at once."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="needs torch: pip install '.[train]'")
pytest.importorskip("transformers", reason="needs transformers: pip install '.[dev]'")
pytest.importorskip("tokenizers", reason="needs tokenizers: pip install '.[dev]'")

import tokenizers
import transformers

from metaclip.training import models
from metaclip.training.train import train
from metaclip.training.train_recipe import TrainOptions, read_recipe
from tests.training import tiny

pytestmark = [pytest.mark.extra, pytest.mark.filterwarnings("ignore:This DataLoader will create")]

RECIPE = Path(__file__).parents[2] / "training" / "h14_worldwide.toml"
WORDS = ["<s>", "<pad>", "</s>", "<unk>", "red", "rot", "赤", "circle"]


def write_tokenizer(folder: Path) -> Path:
    """Write a tokenizer of a few words in the form of the Hub's, with the special tokens of XLM-V."""
    made = tokenizers.Tokenizer(
        tokenizers.models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="<unk>")
    )
    made.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    made.post_processor = tokenizers.processors.TemplateProcessing(
        "<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    special = {"bos_token": "<s>", "pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
    transformers.PreTrainedTokenizerFast(tokenizer_object=made, **special).save_pretrained(folder)
    return folder


def test_a_model_is_trained_with_a_tokenizer_of_its_own(tmp_path: Path) -> None:
    """A run's model has the tokenizer that its description names; the tokens are those of the texts."""
    text_cfg = {
        "hf_tokenizer_name": str(write_tokenizer(tmp_path / "words")), "vocab_size": len(WORDS), "pool_type": "eos", "eos_id": 2,
    }  # fmt: skip
    made = tiny.recipe(tmp_path, tiny.write_pairs(tmp_path / "pairs", 64), steps=2)
    made = dataclasses.replace(made, model=tiny.write_model(tmp_path, "tiny_words", text_cfg=text_cfg))
    run = train(made, tmp_path / "run", options=TrainOptions(device="cpu"))
    clip = models.open_clip_of(run.path)
    assert clip.tokenizer(["rot 赤 circle blue"]).tolist() == [[0, 5, 6, 7, 3, 2, 1, 1]]


def test_a_tokenizer_that_cannot_be_reached_is_refused(tmp_path: Path) -> None:
    """One line that names the tokenizer and the next step, before a model of 1.8 G weights is made or a folder written."""
    tars, out = tiny.write_pairs(tmp_path / "pairs", 64), tmp_path / "run"
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "metaclip", "train", str(RECIPE), "--tars", tars, "--out", str(out), "--device", "cpu"],
        env={**os.environ, "HF_ENDPOINT": "http://127.0.0.1:9", "HF_HOME": str(tmp_path / "cache")},
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 2, done.stderr
    last = done.stderr.strip().splitlines()[-1]
    assert "the tokenizer of ViT-H-14-worldwide-quickgelu is facebook/xlm-v-base" in last
    assert last.endswith("run: hf download facebook/xlm-v-base")
    assert "Traceback" not in done.stderr
    assert not (out / "manifest.json").exists()
    assert time.monotonic() - began < 60


def test_the_recipe_names_the_words_of_its_tokenizer() -> None:
    """The model of the recipe has a text tower of 901,629 words, as published."""
    model = read_recipe(RECIPE).model
    assert models.import_open_clip().get_model_config(model)["text_cfg"]["vocab_size"] == 901_629
