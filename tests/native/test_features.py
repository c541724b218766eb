"""Capabilities: each function has one feature, and what is missing says since when llama.cpp has it."""

from __future__ import annotations

from collections.abc import Mapping
from types import SimpleNamespace

import pytest

from llama_cffi import _native
from llama_cffi._native import abi, features
from llama_cffi._native.features import Feature, Features
from llama_cffi.errors import UnsupportedError


class Old:
    """A binding of the oldest known generation, without a library."""

    generation = abi.generations()[0]

    def has(self, name: str) -> bool:
        return self.generation.has(name)


@pytest.fixture
def old(monkeypatch: pytest.MonkeyPatch) -> Features:
    monkeypatch.setattr(features, "bound", SimpleNamespace(binding=Old()))
    return Features()


def test_the_pinned_library_can_do_everything() -> None:
    assert features.features.missing() == ()
    assert all(features.features.values())
    assert repr(features.features) == f"<Features: {len(features.features)} of {len(features.features)}>"


def test_every_declared_function_belongs_to_one_feature() -> None:
    named = [need for feature in features.features.values() for need in feature.needs]
    assert len(named) == len(set(named))
    declared = set(abi.pinned_functions()) - features._IN_BACKEND - features._OF_TESTS
    assert declared <= set(named)
    # What remains are constants and fields, and the pinned release has every one; libmtmd's are not of llama.h.
    media = features.features["media"].needs
    assert {"mtmd_init_from_file", "mtmd_helper_bitmap_init_from_buf"} <= set(media)
    assert all(abi.generations()[-1].has(need) for need in set(named) - set(media))
    assert all(feature.needs and feature.since for feature in features.features.values())


def test_what_the_backend_is_asked_for_is_no_function_of_the_library() -> None:
    assert not any(_native.binding.has(name) for name in features._IN_BACKEND)
    assert set(abi.pinned_functions()) >= features._IN_BACKEND


def test_it_is_a_mapping(old: Features) -> None:
    assert isinstance(old, Mapping)
    assert len(old) == len(list(old)) == len(features._TABLE) + 1
    assert "adapter_lora" in old
    with pytest.raises(KeyError, match="telepathy"):
        old["telepathy"]


def test_an_older_library(old: Features) -> None:
    lora = old["adapter_lora"]
    assert not lora
    assert lora.missing == ("llama_set_adapters_lora",)
    assert lora.since == "b8095"
    assert lora in old.missing()
    with pytest.raises(
        UnsupportedError, match=r"adapter_lora: it has no llama_set_adapters_lora.* since b8095"
    ) as caught:
        lora.require()
    assert caught.value.since == "b8095"


def test_fields_and_constants_count(old: Features) -> None:
    assert old["no_host"].missing == ("llama_model_params.no_host",)
    assert old["split_tensors"].missing == ("LLAMA_SPLIT_MODE_TENSOR",)
    assert old["flash_attn_auto"].since == "b6431"


def test_what_is_there_can_be_required(old: Features) -> None:
    vocab = old["vocab"]
    assert vocab
    assert vocab.missing == ()
    vocab.require()


def test_readable(old: Features) -> None:
    lines = str(old).splitlines()
    assert len(lines) == len(old)
    assert "memory               yes                  what a context remembers, by sequence" in lines
    assert "adapter_lora         no, since b8095      LoRA adapters, several at once" in lines


def test_a_feature_names_its_release_only_where_one_is_known() -> None:
    assert str(Feature("new", "something", ("llama_new",), ("llama_new",), "")) == f"{'new':20} {'no':20} something"
