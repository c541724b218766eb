"""Models by name, against a hub on this machine."""

from __future__ import annotations

import hashlib
import inspect
import json
import resource
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from llama_cffi import Llama, errors
from llama_cffi.hub import HubName, cached, choose_projector, pull, pull_projector, remove
from llama_cffi.hub import transfer as transfers
from llama_cffi.hub.choice import candidates, choose
from llama_cffi.options import HubOptions, LlamaOptions
from llama_cffi.runtime import demo_path
from tests.cli.test_commands import refused, run
from tests.support.hub_server import Hub, serve

hub_package = pytest.importorskip("huggingface_hub", reason="huggingface_hub is not installed")

REPO = "ann/Tale-GGUF"
FILES = {
    "README.md": b"# Tales",
    "tale-Q4_K_M.gguf": b"GGUF medium" * 3000,
    "tale-Q4_K_S.gguf": b"GGUF small" * 3000,
    "tale-Q8_0.gguf": b"GGUF large" * 6000,
    "mmproj-tale-Q8_0.gguf": b"GGUF eyes",
    "BF16/tale-BF16-00001-of-00002.gguf": b"GGUF one" * 5000,
    "BF16/tale-BF16-00002-of-00002.gguf": b"GGUF two" * 4000,
}


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub with one repository, and an empty cache, for this process and for children."""
    from huggingface_hub import close_session, constants

    for name in ("HF_HUB_OFFLINE", "HF_HUB_CACHE", "HF_TOKEN", "TRANSFORMERS_OFFLINE", "HUGGINGFACE_HUB_CACHE"):
        monkeypatch.delenv(name, raising=False)
    with serve() as server:
        home = tmp_path / "home"
        for name, value in {
            "HF_ENDPOINT": server.url, "HF_HOME": str(home), "NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1",
            "LLAMA_ARG_THREADS": "1", "XDG_CACHE_HOME": str(tmp_path / "cache"),
        }.items():  # fmt: skip
            monkeypatch.setenv(name, value)
        # The package reads its environment when it is imported, which may be long ago.
        monkeypatch.setattr(constants, "ENDPOINT", server.url)
        monkeypatch.setattr(
            constants, "HUGGINGFACE_CO_URL_TEMPLATE", server.url + "/{repo_id}/resolve/{revision}/{filename}"
        )
        monkeypatch.setattr(constants, "HF_URL_HOSTS", frozenset({"127.0.0.1"}))
        monkeypatch.setattr(constants, "HF_HOME", str(home))
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(home / "hub"))
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(home / "token"))
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 4096)
        monkeypatch.setattr(transfers, "_BLOCK", 4096)
        close_session()
        server.add(REPO, dict(FILES))
        yield server
        close_session()


def halves(tmp_path: Path) -> list[Path]:
    """What an interrupted download left behind."""
    return list((tmp_path / "home").rglob("*.incomplete"))


# -- projectors


@pytest.mark.parametrize(
    ("model", "files", "chosen"),
    [
        ("tale-Q4_K_M.gguf", ["tale-Q4_K_M.gguf", "mmproj-tale-Q8_0.gguf"], "mmproj-tale-Q8_0.gguf"),
        ("tale-Q4_K_M.gguf", ["mmproj-F32.gguf", "mmproj-BF16.gguf", "mmproj-F16.gguf"], "mmproj-F16.gguf"),
        ("cat-4b-it-Q8_0.gguf", ["mmproj-dog-4b-f16.gguf", "mmproj-cat-4b-it-q8_0.gguf"], "mmproj-cat-4b-it-q8_0.gguf"),
        ("cat-Q8_0.gguf", ["cat-mmproj.gguf", "mmproj-model-f16.gguf"], "cat-mmproj.gguf"),
        ("cat-Q8_0.gguf", ["mmproj-dog.gguf", "mmproj-cow.gguf"], None),
        ("a/b/cat-00001-of-00002.gguf", ["mmproj-cat.gguf", "a/b/mmproj-model-f16.gguf"], "a/b/mmproj-model-f16.gguf"),
        ("cat.gguf", ["readme.md", "mmproj-cat.txt", "cat.gguf"], None),
    ],
)
def test_the_projector_of_a_model_is_known_by_its_name(model: str, files: list[str], chosen: str | None) -> None:
    assert choose_projector(model, files) == chosen
    assert choose_projector(model, list(reversed(files))) == chosen


def test_a_projector_comes_from_the_repository_of_its_model(hub: Hub) -> None:
    for offline in (False, True):
        path = pull_projector(f"{REPO}:Q4_K_S", offline=offline)
        assert path.read_bytes() == FILES["mmproj-tale-Q8_0.gguf"]
        if not offline:
            pull(f"{REPO}:Q4_K_S")
    hub.add("ann/Blind", {"blind-Q4_K_M.gguf": b"GGUF blind"})
    with pytest.raises(errors.HubNotFoundError, match="there is no projector"):
        pull_projector("ann/Blind")


# -- headers and unfinished downloads


def test_the_next_call_goes_on_where_a_download_ended(hub: Hub) -> None:
    with pytest.raises(errors.HubCancelled):
        pull(f"{REPO}:Q8_0", progress=lambda part: part < 0.4)
    assert cached() == []
    assert pull(f"{REPO}:Q8_0").read_bytes() == FILES["tale-Q8_0.gguf"]
    (_, first), (_, second) = hub.downloads()
    assert first is None
    assert second is not None
    assert int(second[6:-1]) > len(FILES["tale-Q8_0.gguf"]) // 3
    name = "BF16/tale-BF16-00002-of-00002.gguf"
    with pytest.raises(errors.HubCancelled):
        pull(f"{REPO}:BF16", progress=lambda part: part < 0.8)
    before = len(hub.downloads())
    pull(f"{REPO}:BF16")
    assert [file for file, _ in hub.downloads()[before:]] == [name]  # the first part is there


def test_the_header_of_a_model_on_the_hub_is_read_alone(hub: Hub, capsys: pytest.CaptureFixture[str]) -> None:
    from llama_cffi.cli.app import app

    data = Path(demo_path()).read_bytes()
    hub.add("ann/demo", {"demo-Q8_0.gguf": data, "demo-Q4_0.gguf": data[: len(data) // 2]})
    app(["info", "hf:ann/demo:Q8_0", "--json"], standalone_mode=False)
    report = json.loads(capsys.readouterr().out)
    assert (report["path"], report["files"]) == ("hf:ann/demo:Q8_0", ["ann/demo/demo-Q8_0.gguf"])
    assert report["file_size"] == len(data)
    assert report["memory"]["weights"] == report["tensor_bytes"]
    assert hub.downloads() == [("demo-Q8_0.gguf", "bytes=0-1048575")]
    assert cached() == []


# -- names and choices


def test_names() -> None:
    assert HubName.parse("a/b") == HubName("a/b")
    assert HubName.parse("a-1/b.c_d:q4_k_m") == HubName("a-1/b.c_d", quantization="q4_k_m")
    assert HubName.parse("a/b/c/d.GGUF") == HubName("a/b", file="c/d.GGUF")
    for text in ("a/b", "a/b:Q8_0", "a/b/c/d.gguf"):
        assert str(HubName.parse(text)) == text


@pytest.mark.parametrize(
    "text",
    ["", "a", "a/", "/b", "a/b/", "a/b:", "a/b/c.bin", "a/b/../c.gguf", "a/b//c.gguf", "../b", "a/b:Q4/c.gguf",
     "a/b/c\\d.gguf", "a/b/c\n.gguf", "hf:a/b", "https://example.com/a/b.gguf", "a b/c"],
)  # fmt: skip
def test_what_is_no_name(text: str) -> None:
    with pytest.raises(errors.HubNameError):
        HubName.parse(text)


@pytest.mark.parametrize(
    ("name", "chosen"),
    [
        ("", "tale-Q4_K_M.gguf"),
        (":q4_k_m", "tale-Q4_K_M.gguf"),
        (":Q4_K_S", "tale-Q4_K_S.gguf"),
        (":Q8_0", "tale-Q8_0.gguf"),
        (":bf16", "BF16/tale-BF16-00001-of-00002.gguf"),
        ("/BF16/tale-BF16-00002-of-00002.gguf", "BF16/tale-BF16-00001-of-00002.gguf"),
        ("/mmproj-tale-Q8_0.gguf", "mmproj-tale-Q8_0.gguf"),
    ],
)
def test_choices(name: str, chosen: str) -> None:
    assert choose(HubName.parse(REPO + name), FILES, "here").first == chosen


def test_a_quantization_is_a_word_of_its_own() -> None:
    names = ["m-IQ4_NL.gguf", "m-Q4_K_M.gguf", "m.Q4_K.gguf", "m-Q4_0_4_4.gguf", "m-UD-Q4_K_XL.gguf"]
    fitting = {
        word: [c.first for c in candidates(names) if c.is_of(word)] for word in ("Q4_K", "Q4_NL", "Q4_0", "Q4_K_XL")
    }
    assert fitting == {"Q4_K": ["m.Q4_K.gguf"], "Q4_NL": [], "Q4_0": [], "Q4_K_XL": ["m-UD-Q4_K_XL.gguf"]}


def test_the_only_model_needs_no_quantization() -> None:
    files = ["model-Q5_0.gguf", "mmproj-model-f16.gguf", "imatrix.gguf", "model.imatrix.gguf", "config.json"]
    assert choose(HubName("a/b"), files, "here").files == ("model-Q5_0.gguf",)


@pytest.mark.parametrize(
    "name", ["m-imatrix-Q4_K_M.gguf", "m.iMatrix-IQ3_XXS.gguf", "M-F16-imatrix.gguf", "q-imatrix.Q2_K.gguf"]
)
def test_models_quantized_with_an_importance_matrix_are_models(name: str) -> None:
    assert choose(HubName("a/b"), [name, "m-imatrix.gguf", "imatrix-Q8_0.gguf"], "here").first == name


def test_parts_may_be_missing() -> None:
    (found,) = candidates(["m-00003-of-00003.gguf", "m-00001-of-00003.gguf"])
    assert found.files == ("m-00001-of-00003.gguf", "m-00003-of-00003.gguf")
    assert found.missing == ("m-00002-of-00003.gguf",)
    with pytest.raises(errors.HubNotFoundError, match=r"lacks m-00002-of-00003\.gguf"):
        choose(HubName("a/b"), found.files, "here")


# -- fetching


def test_pull(hub: Hub) -> None:
    fractions: list[float] = []
    path = pull(REPO, progress=fractions.append)
    assert path.read_bytes() == FILES["tale-Q4_K_M.gguf"]
    assert fractions == sorted(fractions)
    assert len(fractions) > 3
    assert (fractions[0] < 0.5, fractions[-1]) == (True, 1.0)
    assert hub.downloads() == [("tale-Q4_K_M.gguf", None)]
    assert pull(f"{REPO}:Q4_K_M", recheck=True) == path
    assert len(hub.downloads()) == 1


def test_all_parts_come(hub: Hub) -> None:
    fractions: list[float] = []
    path = pull(f"{REPO}:BF16", progress=fractions.append)
    assert path.name == "tale-BF16-00001-of-00002.gguf"
    for part in (1, 2):
        name = f"tale-BF16-0000{part}-of-00002.gguf"
        assert path.with_name(name).read_bytes() == FILES[f"BF16/{name}"]
    assert fractions == sorted(fractions)
    assert fractions[-1] == 1.0


def test_a_broken_connection_is_taken_up_where_it_broke(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    hub.breaks["tale-Q8_0.gguf"] = [20000, 10000]
    fractions: list[float] = []
    path = pull(f"{REPO}:Q8_0", progress=fractions.append)
    assert path.read_bytes() == FILES["tale-Q8_0.gguf"]
    starts = [int((range or "bytes=0-")[6:-1]) for _, range in hub.downloads()]
    assert len(starts) == 3
    assert starts[0] == 0 < starts[1] <= 20000 < starts[2] + 4096
    assert starts[1] < starts[2]
    assert fractions == sorted(fractions)


def test_a_connection_that_breaks_for_good(hub: Hub, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    hub.breaks["tale-Q4_K_M.gguf"] = [5000] + [0] * 20
    with pytest.raises(errors.HubConnectionError, match="could not be fetched"):
        pull(REPO)
    assert halves(tmp_path) == []
    assert cached() == []
    hub.breaks.clear()
    assert pull(REPO).read_bytes() == FILES["tale-Q4_K_M.gguf"]


def test_a_wrong_checksum(hub: Hub) -> None:
    hub.add(REPO, dict(FILES), claims={"tale-Q4_K_M.gguf": "ab" * 32})
    with pytest.raises(errors.HubChecksumError, match=f"SHA-256 .* instead of {'ab' * 32}"):
        pull(REPO)
    assert cached() == []
    hub.add(REPO, dict(FILES))
    assert pull(REPO).read_bytes() == FILES["tale-Q4_K_M.gguf"]


def test_damage_in_the_cache(hub: Hub) -> None:
    path = pull(REPO)
    content = FILES["tale-Q4_K_M.gguf"]
    path.resolve().write_bytes(content[:-1])
    assert pull(REPO).read_bytes() == content  # another length shows at once
    path.resolve().write_bytes(content[:-1] + b"?")
    assert pull(REPO).read_bytes() != content
    assert pull(REPO, recheck=True).read_bytes() == content
    assert len(hub.downloads()) == 3


def test_what_is_not_there(hub: Hub) -> None:
    with pytest.raises(errors.HubNotFoundError, match="no repository ann/none"):
        pull("ann/none")
    with pytest.raises(errors.HubNotFoundError, match="no revision 'v9'"):
        pull(REPO, revision="v9")
    with pytest.raises(errors.HubNotFoundError, match=r"no Q2_K model; there are:\n  ann/Tale-GGUF/BF16/") as caught:
        pull(f"{REPO}:Q2_K")
    assert f"{REPO}/tale-Q8_0.gguf" in str(caught.value)
    with pytest.raises(errors.HubNotFoundError, match=r"no none\.gguf"):
        pull(f"{REPO}/none.gguf")
    hub.add("ann/text", {"README.md": b"nothing"})
    with pytest.raises(errors.HubNotFoundError, match="no GGUF"):
        pull("ann/text")
    with pytest.raises(errors.HubNameError):
        pull("a--b/c..d")
    assert hub.downloads() == []


def test_several_matches_are_listed(hub: Hub) -> None:
    hub.add("ann/two", {"a-Q8_0.gguf": b"a", "b-Q8_0.gguf": b"b", "mmproj-Q8_0.gguf": b"c"})
    for name in ("ann/two", "ann/two:Q8_0"):
        with pytest.raises(errors.HubChoiceError, match=r"ann/two/a-Q8_0.gguf\n  ann/two/b-Q8_0.gguf") as caught:
            pull(name)
        assert caught.value.matches == ("ann/two/a-Q8_0.gguf", "ann/two/b-Q8_0.gguf")
    assert pull(caught.value.matches[1]).read_bytes() == b"b"


def test_names_that_would_steer_the_terminal_are_not_there(hub: Hub) -> None:
    hub.add("ann/odd", {"a\x1b[2J-Q8_0.gguf": b"a", "b-Q8_0.gguf": b"b"})
    assert pull("ann/odd").read_bytes() == b"b"


def test_revisions(hub: Hub) -> None:
    old = hub.add(REPO, {"tale-Q4_K_M.gguf": b"GGUF old"}, branch="v1")
    assert pull(REPO, revision="v1").read_bytes() == b"GGUF old"
    assert pull(REPO, revision=old).read_bytes() == b"GGUF old"
    assert pull(REPO).read_bytes() == FILES["tale-Q4_K_M.gguf"]
    assert pull(REPO, revision="v1", offline=True).read_bytes() == b"GGUF old"
    assert pull(REPO, offline=True).read_bytes() == FILES["tale-Q4_K_M.gguf"]


def test_offline(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(errors.HubNotFoundError, match="not in the cache"):
        pull(REPO, offline=True)
    path = pull(REPO)
    asked = len(hub.requests)
    assert pull(REPO, offline=True) == path
    with pytest.raises(errors.HubNotFoundError, match="in the cache there is no Q8_0"):
        pull(f"{REPO}:Q8_0", offline=True)
    with pytest.raises(errors.HubNotFoundError, match="revision 'v2'"):
        pull(REPO, revision="v2", offline=True)
    monkeypatch.setattr(hub_package.constants, "HF_HUB_OFFLINE", True)  # as the environment variable sets it
    assert pull(REPO) == path
    assert len(hub.requests) == asked


def test_offline_with_a_part_missing(hub: Hub) -> None:
    pull(f"{REPO}:BF16").with_name("tale-BF16-00002-of-00002.gguf").unlink()
    with pytest.raises(errors.HubNotFoundError, match=r"lacks BF16/tale-BF16-00002-of-00002\.gguf"):
        pull(f"{REPO}:BF16", offline=True)
    pull(f"{REPO}:BF16")
    pull(f"{REPO}:BF16", offline=True)


def test_no_network(monkeypatch: pytest.MonkeyPatch, hub: Hub) -> None:
    monkeypatch.setattr(hub_package.constants, "ENDPOINT", "http://127.0.0.1:1")
    with pytest.raises(errors.HubConnectionError, match=r"could not be fetched from http://127\.0\.0\.1:1"):
        pull(REPO)


def test_no_hub_at_that_address(hub: Hub) -> None:
    hub.nonsense = True
    with pytest.raises(errors.HubConnectionError, match="is not a model hub"):
        pull(REPO)


def test_a_disk_without_room(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(".")._replace(free=10000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(errors.HubStorageError, match="needs 33,000 bytes"):
        pull(REPO)
    assert hub.downloads() == []


def test_a_write_that_fails(hub: Hub, tmp_path: Path) -> None:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (9000, limits[1]))
    try:
        with pytest.raises(errors.HubStorageError, match="could not be stored"):
            pull(REPO)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert halves(tmp_path) == []
    assert pull(REPO).read_bytes() == FILES["tale-Q4_K_M.gguf"]


def test_the_callback_ends_the_download(hub: Hub, tmp_path: Path) -> None:
    with pytest.raises(errors.HubCancelled):
        pull(REPO, progress=lambda fraction: fraction < 0.3)
    error = OSError("the callback's own")

    def fail(fraction: float) -> None:
        raise error

    with pytest.raises(OSError, match="the callback's own") as caught:
        pull(REPO, progress=fail)
    assert caught.value is error
    assert halves(tmp_path) == []
    assert cached() == []


def test_without_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    for call in (pull, cached):
        with pytest.raises(errors.UnsupportedError, match=r"pip install 'llama-cffi\[hub\]'"):
            call("a/b")


# -- the cache


def test_the_cache_lists_and_deletes(hub: Hub, tmp_path: Path) -> None:
    assert cached() == []
    new = pull(f"{REPO}:Q8_0")
    pull(f"{REPO}:BF16")
    hub.add(REPO, {"tale-Q8_0.gguf": FILES["tale-Q8_0.gguf"], "tale-Q4_K_M.gguf": b"GGUF old"}, branch="v1")
    old = pull(f"{REPO}:Q8_0", revision="v1")
    pull(REPO, revision="v1")
    hub_package.hf_hub_download(REPO, "README.md")
    names = [model.name.removeprefix(f"{REPO}/") for model in cached()]
    split = "BF16/tale-BF16-00001-of-00002.gguf"
    assert names == [split, "tale-Q4_K_M.gguf", "tale-Q8_0.gguf", "tale-Q8_0.gguf"]
    assert cached()[0].size == sum(len(data) for path, data in FILES.items() if path.startswith("BF16"))
    assert [len(model.files) for model in cached()] == [2, 1, 1, 1]

    # What another revision still needs stays.
    assert new.resolve() == old.resolve()
    assert remove(model for model in cached(f"{REPO}:Q8_0") if model.files[0] == old) == 0
    assert new.read_bytes() == FILES["tale-Q8_0.gguf"]
    assert remove(cached(f"{REPO}:Q8_0")) == len(FILES["tale-Q8_0.gguf"])
    assert not new.exists()
    assert remove(cached(REPO)) == len(b"GGUF old") + sum(
        len(data) for path, data in FILES.items() if path.startswith("BF16")
    )
    assert cached() == []
    # The file that is no model is not ours.
    left = [path for path in (tmp_path / "home").rglob("*") if path.is_symlink()]
    assert [path.name for path in left] == ["README.md"]
    assert remove([]) == 0


# -- a Llama by name, and the command line


@pytest.fixture
def demo(hub: Hub) -> str:
    hub.add("ann/demo", {"demo-Q8_0.gguf": Path(demo_path()).read_bytes()})
    return "ann/demo:q8_0"


def test_from_hub(hub: Hub, demo: str) -> None:
    with Llama.demo(n_threads=1) as llm:
        expected = llm.generate("Once", temperature=0, max_tokens=8).text
    fractions: list[float] = []
    with Llama.from_hub(demo, n_threads=1, n_seq_max=1, download_progress=fractions.append) as llm:
        assert llm.generate("Once", temperature=0, max_tokens=8).text == expected
    assert fractions[-1] == 1.0
    with Llama.from_hub(demo, offline=True, n_threads=1) as llm:
        assert llm.model.path.name == "demo-Q8_0.gguf"


def test_from_hub_refuses_an_option_before_it_asks(hub: Hub) -> None:
    with pytest.raises(TypeError, match="n_context"):
        Llama.from_hub(REPO, n_context=5)  # type: ignore[call-arg]
    assert hub.requests == []


def test_the_options_are_those_of_llama() -> None:
    # What loading takes, from_hub takes, too: an unknown name is refused before anything is fetched.
    assert list(inspect.signature(Llama).parameters)[1:] == list(LlamaOptions.__annotations__)
    assert set(LlamaOptions.__annotations__) < set(HubOptions.__annotations__)


def test_commands(hub: Hub, demo: str) -> None:
    report = json.loads(run("pull", demo, "--json").stdout)
    assert (report["name"], report["missing"]) == ("ann/demo/demo-Q8_0.gguf", [])
    content = Path(report["files"][0]).read_bytes()
    assert hashlib.sha256(content).digest() == hashlib.sha256(Path(demo_path()).read_bytes()).digest()
    assert json.loads(run("list", "--json").stdout) == {"models": [report]}
    done = run("generate", "Once", "-m", f"hf:{demo}", "-n", "4", "--temp", "0")
    assert (done.returncode, done.stderr) == (0, "")
    done = run("rm", demo, stdin="n\n")
    assert done.returncode == 1
    assert "Delete?" in done.stderr
    assert Path(report["files"][0]).exists()
    done = run("rm", demo, "--yes")
    assert (done.returncode, done.stderr) == (0, "")
    assert "freed" in done.stdout
    assert not Path(report["files"][0]).exists()
    assert "not in the cache" in refused(1, "rm", demo, "-y")


def test_commands_that_fail(hub: Hub) -> None:
    assert "no repository ann/none" in refused(1, "pull", "ann/none")
    assert "not the name of a model" in refused(1, "generate", "x", "-m", "hf:nothing")
