"""What is compiled for this CPU: when, where it is kept, and what is said where it cannot be."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from downslope.native import build
from downslope.native.build import BuildError, Source
from downslope.rules.sgd import SGD
from downslope.torch.engine import Write
from downslope.torch.native import build as torch_build
from downslope.torch.native import elementwise, finite, polar
from downslope.torch.native.expression import written

WHY = polar.reason(torch.float32)
compiled = pytest.mark.skipif(bool(WHY), reason=WHY)
SOURCE = Source("answer", 'extern "C" int answer() { return 42; }\n', ())
RUN = """
import sys, torch
from downslope.torch import Muon
p = torch.nn.Parameter(torch.ones(8, 16))
p.grad = torch.ones(8, 16)
optimizer = Muon([p], on_nonfinite="ignore")
optimizer.step()
assert p.isfinite().all()
print(" ".join(repr(optimizer).split()))
"""


@pytest.fixture(autouse=True)
def anew() -> Iterator[None]:
    """Compile as if nothing had been asked for yet, and forget it."""
    build.made.cache_clear()
    yield
    build.made.cache_clear()


def run(tmp_path: Path, **environment: str) -> str:
    env = {**os.environ, "XDG_CACHE_HOME": str(tmp_path), **environment}
    return subprocess.run(
        [sys.executable, "-c", RUN], capture_output=True, text=True, check=True, env=env
    ).stdout


def test_without_a_compiler_the_step_is_plain_and_says_why(tmp_path: Path) -> None:
    assert "plain PyTorch (nothing compiled for this CPU: no C++ compiler, install g++)" in run(
        tmp_path, PATH=str(tmp_path), CXX=""
    )
    assert "compiled for this CPU: false fails: it says nothing)" in run(tmp_path, CXX="false")
    assert "No such file or directory: 'none-such'" in run(tmp_path, CXX="none-such")
    assert "compiled for this CPU: true makes nothing)" in run(tmp_path, CXX="true")
    assert "compiled for this CPU: CXX is no command: No closing quotation)" in run(tmp_path, CXX='g++ "')
    babel = tmp_path / "babel"
    babel.write_text("#!/bin/sh\n[ $LC_ALL = C ] && printf 'error: \\374ber alles\\n' >&2; exit 1\n")
    babel.chmod(0o700)
    assert "babel fails: error: \ufffdber alles)" in run(tmp_path, CXX=str(babel))
    assert not list(tmp_path.glob("**/*.so")), "a build that fails leaves nothing behind"


@compiled
def test_what_is_compiled_is_kept(tmp_path: Path) -> None:
    assert "orthogonalised by code compiled for this CPU" in run(tmp_path)
    (kept,) = tmp_path.glob("downslope/*")
    before = kept.stat().st_mtime_ns
    assert "orthogonalised by code compiled for this CPU" in run(tmp_path)
    assert [kept] == list(tmp_path.glob("downslope/*"))
    assert kept.stat().st_mtime_ns == before
    nowhere = tmp_path / "file"
    nowhere.touch()
    assert "orthogonalised by code compiled for this CPU" in run(nowhere), "a folder of its own"


@compiled
def test_what_was_cut_off_is_compiled_anew(tmp_path: Path) -> None:
    """As by a system that went down; loaders of such a file fail, or crash."""
    run(tmp_path)
    (kept,) = tmp_path.glob("downslope/*")
    whole = kept.read_bytes()
    for left in (0, len(whole) - 1, 5000):
        kept.write_bytes(whole[:left])
        assert not build._is_whole(kept)
    cut_off = kept.stat().st_ino
    assert "orthogonalised by code compiled for this CPU" in run(tmp_path)
    assert build._is_whole(kept)
    assert kept.stat().st_ino != cut_off, "a file that other programs may be running is never written to"


def test_what_makes_another_library_has_another_name(monkeypatch: pytest.MonkeyPatch) -> None:
    command = ["g++"]
    own = build._key(SOURCE, command)
    assert build._key(SOURCE, command) == own
    others = [
        build._key(SOURCE._replace(text="int x;"), command),
        build._key(SOURCE._replace(files=("elementwise.h",)), command),
        build._key(SOURCE, [*command, "-O1"]),
    ]
    monkeypatch.setattr(build, "_abilities", lambda: ["flags: of another"])
    others.append(build._key(SOURCE, command))  # processors may share a home
    assert len({own, *others}) == 5
    assert build._command(SOURCE._replace(flags=("-ffp-contract=off",))) != build._command(SOURCE)


@compiled
def test_a_user_without_a_home_has_it_compiled_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(os.path, "expanduser", str)  # which leaves "~" as it is, where it finds no home
    assert build.load(SOURCE).answer() == 42


def test_a_package_in_an_archive_has_nothing_to_compile(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build, "FOLDER", Path(__file__) / "downslope")  # of which the folders are a file
    with pytest.raises(BuildError):
        torch_build.load(polar.SOURCE)


@compiled
def test_a_folder_with_a_strange_name_can_be_included_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "a b'$(c)"
    folder.mkdir()
    (folder / "header.h").write_text("constexpr int THERE = 7;\n")
    monkeypatch.setattr(build, "FOLDER", folder)
    text = '#include "header.h"\nextern "C" int answer() { return THERE; }\n'
    assert build.load(Source("answer", text, ("header.h",))).answer() == 7


@compiled
def test_files_of_the_users_folder_are_not_included(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is compiled comes from a pipe, beside which a compiler looks for quoted files."""
    for name in ("elementwise.h", "finite.cpp", "polar_openmp.cpp"):
        (tmp_path / name).write_text("#error of the user's\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    step = elementwise.source_of(written(SGD(), 1, Write(0.1, 0.0, False)).lines, torch.float32)
    for source in (step, finite.SOURCE, polar.SOURCE):
        torch_build.load(source)


@compiled
def test_a_folder_that_others_may_write_to_is_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They could have put a library there, which would be run."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    kept = tmp_path / "downslope"
    kept.mkdir()

    def is_kept(name: str) -> bool:
        assert build.load(SOURCE._replace(name=name)).answer() == 42
        return bool(list(kept.glob(f"{name}-*")))

    for mode, used in ((0o770, False), (0o707, False), (0o755, True)):
        kept.chmod(mode)
        assert is_kept(f"mode{mode}") is used
    user = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: user + 1)
    assert not is_kept("other")


@compiled
def test_an_error_of_the_compiler_is_told() -> None:
    with pytest.raises(BuildError, match=r"error: .*nonsense"):
        build.load(SOURCE._replace(text="nonsense\n"))


@compiled
def test_the_fingerprint_is_that_of_code_torch_and_vectors(monkeypatch: pytest.MonkeyPatch) -> None:
    """Processes that agree on it take steps to the same last bit."""
    own = polar.fingerprint()
    assert own == polar.fingerprint()
    made = torch_build.made(polar.SOURCE)
    changes = {
        (torch_build, "made"): lambda source: made._replace(digest=bytes(32)),
        (torch, "__version__"): "0.1",
        (torch.backends.cpu, "get_cpu_capability"): lambda: "another",
    }
    for (where, name), other in changes.items():
        with monkeypatch.context() as patch:
            patch.setattr(where, name, other)
            assert polar.fingerprint() != own, name

    def fails(source: Source) -> None:
        raise BuildError("no compiler")

    monkeypatch.setattr(torch_build, "made", fails)
    assert polar.fingerprint() == b""
