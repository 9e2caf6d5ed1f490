"""Compile C++ for this CPU once, and keep what came of it in the user's cache."""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import NamedTuple

FOLDER = Path(__file__).parent
FLAGS = ("-O3", "-march=native", "-std=c++17", "-shared", "-fPIC")
_PATIENCE = 120.0  # seconds, where compiling takes three
_DIGEST = 32  # bytes of SHA-256 at the end of a file, where loaders do not look


class BuildError(Exception):
    """Why there is no library, in words that end a sentence."""


class Source(NamedTuple):
    """What a library is compiled from.

    Attributes:
        name: what its file is called.
        text: the C++, which may include files of this folder.
        files: those files; others by their whole paths.
        flags: of the compiler, beside `FLAGS`.
        links: what is linked to it.

    """

    name: str
    text: str
    files: tuple[str, ...]
    flags: tuple[str, ...] = ()
    links: tuple[str, ...] = ()


class Made(NamedTuple):
    """A library, and the digest of its file."""

    code: ctypes.CDLL
    digest: bytes


def load(source: Source) -> ctypes.CDLL:
    """Return the library that `made` makes."""
    return made(source).code


@cache
def made(source: Source) -> Made:
    """Return what is compiled for this CPU.

    Raises:
        BuildError: a system other than Linux, no compiler, or one that fails.

    """
    if sys.platform != "linux":
        raise BuildError(f"it is done on Linux alone, this is {platform.system()}")
    try:
        command = _command(source)
        name = f"{source.name}-{_key(source, command)}.so"
        with _folder() as folder:
            path = folder / name
            if not _is_whole(path):
                _compile(source, command, path)
            return Made(ctypes.CDLL(str(path)), path.read_bytes()[-_DIGEST:])
    except OSError as error:
        raise BuildError(str(error)) from None


def _command(source: Source) -> list[str]:
    """Return the command that compiles what it is given as input."""
    return [*compiler(), *FLAGS, *source.flags, "-x", "c++", "-", "-x", "none", *source.links]


def compiler() -> list[str]:
    """Return the command of a C++ compiler: `CXX` where it is set, or the first one found."""
    try:
        if asked := shlex.split(os.environ.get("CXX", "")):
            return asked
    except ValueError as error:
        raise BuildError(f"CXX is no command: {error}") from None
    for name in ("g++", "c++", "clang++"):
        if shutil.which(name):
            return [name]
    raise BuildError("no C++ compiler, install g++")


def _key(source: Source, command: list[str]) -> str:
    """Return a name for all that the outcome depends on; a home may be shared between machines."""
    whole = hashlib.sha256(b"".join((FOLDER / name).read_bytes() for name in source.files))
    system = (platform.machine(), *platform.libc_ver())
    about = [source.text, *command, str(shutil.which(command[0])), *system, *_abilities()]
    whole.update("\0".join(about).encode())
    return whole.hexdigest()[:16]


def _abilities() -> list[str]:
    """Return what /proc/cpuinfo says about the first processor's instructions."""
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return []
    found = (re.search(rf"^{name}\s*:.*$", text, re.M) for name in ("model name", "flags", "Features"))
    return [match[0] for match in found if match]


@contextmanager
def _folder() -> Iterator[Path]:
    """Give the folder that libraries are kept in, or one for this program where that is not to be used."""
    kept = None
    with suppress(OSError, RuntimeError):  # RuntimeError: a user without a home
        kept = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "downslope"
        kept.mkdir(mode=0o700, parents=True, exist_ok=True)
    if kept and os.access(kept, os.W_OK | os.X_OK) and _is_own(kept):
        yield kept
        return
    with tempfile.TemporaryDirectory() as made:  # what was loaded from it stays
        yield Path(made)


def _is_own(folder: Path) -> bool:
    """Whether nobody else may write to a folder: what lies there is run."""
    about = folder.stat()
    return about.st_uid == os.geteuid() and not about.st_mode & 0o022


def _is_whole(path: Path) -> bool:
    """Whether a file is all of what `_compile` wrote: a library that was cut off crashes whoever loads it."""
    try:
        held = path.read_bytes()
    except OSError:
        return False
    return held[-_DIGEST:] == hashlib.sha256(held[:-_DIGEST]).digest()


def _compile(source: Source, command: list[str], path: Path) -> None:
    """Compile to a path, which holds all of it or nothing: another process may compile the same."""
    handle, name = tempfile.mkstemp(dir=path.parent, suffix=".so")
    os.close(handle)
    written = Path(name)
    try:
        done = subprocess.run(
            [*command, "-I", str(FOLDER), "-o", name],
            input=source.text,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_PATIENCE,
            check=False,
            env={**os.environ, "LC_ALL": "C"},  # in which errors are called so
        )
        if done.returncode:
            lines = [line for line in done.stderr.splitlines() if "error" in line] or ["it says nothing"]
            raise BuildError(f"{command[0]} fails: {lines[0].strip()}")
        if not (held := written.read_bytes()):
            raise BuildError(f"{command[0]} makes nothing")
        written.write_bytes(held + hashlib.sha256(held).digest())
        written.replace(path)
    except subprocess.TimeoutExpired:
        raise BuildError(f"{command[0]} takes longer than {_PATIENCE:.0f} s") from None
    finally:
        written.unlink(missing_ok=True)
