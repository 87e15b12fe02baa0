"""A model comes from a name, a file or a mapping, and bad ones are told apart."""

from __future__ import annotations

import json

import pytest

from pipesim.errors import ConfigError
from pipesim.workload.build import build_model

GPT2 = {
    "model_type": "gpt2",
    "n_embd": 768,
    "n_layer": 12,
    "n_head": 12,
    "vocab_size": 50257,
    "n_positions": 1024,
}


def test_a_string_is_a_catalog_name():
    assert build_model("gpt3-175b").layers == 96


def test_a_path_is_a_hugging_face_config_named_after_its_folder(tmp_path):
    path = tmp_path / "config.json"
    path.write_text(json.dumps(GPT2))
    model = build_model(str(path))
    assert (model.name, model.hidden) == (tmp_path.name, 768)


def test_a_mapping_is_our_own_fields_or_hugging_faces():
    own = build_model({"layers": 2, "hidden": 64, "heads": 4, "vocab": 100, "sequence": 32})
    assert (own.layers, own.name) == (2, "custom")
    assert build_model({**GPT2, "sequence": 512}).sequence == 512


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{", "is not JSON"),
        (b"[1]", "is not a JSON object"),
        (b"\xff\xfe", "is not UTF-8"),
        (None, "cannot be read"),
    ],
)
def test_a_bad_file_says_what_is_wrong(tmp_path, content, message):
    path = tmp_path / "config.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigError, match=message):
        build_model(str(path))


def test_anything_else_is_refused():
    with pytest.raises(ConfigError, match="a catalog name, a path"):
        build_model(7)
