"""Exceptions cross processes and are copied with all that they say."""

from __future__ import annotations

import copy
import inspect
import multiprocessing
import pickle
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest

from llama_cffi import Completion, FinishReason, Timings, Usage, errors
from llama_cffi.errors import HubStorageError, IncompleteOutput, LlamaCffiError, ModelNotFoundError, SchemaError
from tests.support.processes import raise_error

SAMPLES: dict[str, Any] = {
    "str": "a name",
    "int": 17,
    "float": 2.5,
    "Sequence[str]": ("one line", "another"),
    "Sequence[Mapping[str, Any]]": [{"role": "user", "content": "Hello"}],
    "Any": Completion(
        "{", (5, 6), FinishReason.LENGTH, None, Usage(1, 0, 2), Timings(0.1, 0.2, 1, 2), seed=3, parsed={"a": [1]}
    ),
}
"""A value for each annotation of a constructor's keyword arguments."""


def classes(kind: type[LlamaCffiError] = LlamaCffiError) -> Iterator[type[LlamaCffiError]]:
    yield kind
    for one in kind.__subclasses__():
        if one.__module__ == errors.__name__:
            yield from classes(one)


CLASSES = sorted(set(classes()), key=lambda kind: kind.__name__)


def full(kind: type[LlamaCffiError]) -> LlamaCffiError:
    """An error of a class with a value for every argument; one without a sample fails the test."""
    parameters = list(inspect.signature(kind).parameters.values())
    assert [one.name for one in parameters if one.kind is not one.KEYWORD_ONLY] == ["message"]
    return kind("what happened", **{one.name: SAMPLES[one.annotation] for one in parameters[1:]})


def same(error: BaseException, twin: BaseException) -> None:
    assert type(twin) is type(error)
    assert twin is not error
    assert (str(twin), twin.args, vars(twin)) == (str(error), error.args, vars(error))


def through_pickle(value: Any, protocol: int) -> Any:
    return pickle.loads(pickle.dumps(value, protocol))


WAYS: dict[str, Callable[[Any], Any]] = {
    **{f"pickle-{protocol}": partial(through_pickle, protocol=protocol) for protocol in range(6)},
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
}


def test_the_classes_are_those_of_the_module() -> None:
    assert [kind.__name__ for kind in CLASSES] == sorted(errors.__all__)


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
@pytest.mark.parametrize("kind", CLASSES)
def test_every_error_pickles_and_copies_with_its_fields(kind: type[LlamaCffiError], way: Callable[[Any], Any]) -> None:
    same(error := full(kind), way(error))


def test_every_error_comes_out_of_a_pool() -> None:
    # A pool whose result cannot be unpickled never answers: the time limit is what fails.
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        for kind in CLASSES:
            error = full(kind)
            with pytest.raises(kind) as caught:
                pool.apply_async(raise_error, (error,)).get(timeout=60)
            same(error, caught.value)


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
@pytest.mark.parametrize("kind", [HubStorageError, ModelNotFoundError])
def test_what_a_builtin_base_keeps_is_kept(kind: type[OSError], way: Callable[[Any], Any]) -> None:
    error = kind("the disk is full")
    error.errno, error.filename = 28, "/tmp/model.gguf"
    twin = way(error)
    same(error, twin)
    assert (twin.errno, twin.strerror, twin.filename) == (28, None, "/tmp/model.gguf")


def test_classes_of_a_user_need_no_constructor_of_a_certain_form() -> None:
    error = OwnError(5, "what happened")
    for way in WAYS.values():
        same(error, way(error))


class OwnError(SchemaError, OSError):
    __slots__ = ("level",)

    def __init__(self, level: int, /, message: str) -> None:
        super().__init__(message, pointer="/a", keyword="b")
        self.level = level
        self.remark = "own"


def test_the_place_in_a_schema_is_said_once() -> None:
    error = SchemaError("is not supported", pointer="/items", keyword="not")
    for way in WAYS.values():
        assert str(way(error)) == "schema at /items: 'not' is not supported"


def test_a_field_that_cannot_be_pickled_becomes_none() -> None:
    class Local:
        """Found by no name."""

    def restored() -> None:
        raise AssertionError

    class Trap:
        """Pickles, and does not unpickle: in a pool, nobody would hear of it."""

        def __reduce__(self) -> Any:
            return divmod, (1, 0)

    for value in (Local(), restored, Trap(), [Local()]):
        error = IncompleteOutput("cut", completion=SAMPLES["Any"], partial=value, log=["a line"])
        twin = pickle.loads(pickle.dumps(error))
        assert twin.partial is None
        assert (str(twin), twin.completion, twin.log) == (str(error), error.completion, error.log)
        assert copy.copy(error).partial is value
