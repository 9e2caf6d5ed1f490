"""What kind of file a shared library is: enough of ELF, Mach-O and PE to say why it cannot be loaded."""

from __future__ import annotations

import platform
import struct
import sys
from pathlib import Path

from downslope.errors import UsageError

MACHINES = {3: "x86", 8: "MIPS", 20: "PowerPC", 21: "ppc64le", 22: "s390x", 40: "arm"}
MACHINES |= {62: "x86_64", 183: "aarch64", 243: "riscv64", 258: "loongarch64"}
OBJECT, EXECUTABLE = 1, 2
MACH_O = {b"\xcf\xfa\xed\xfe", b"\xce\xfa\xed\xfe", b"\xca\xfe\xba\xbe"}


def check(path: Path) -> None:
    """Raise `UsageError` where a file is certainly no library that this Python can load."""
    if path.is_dir():
        raise UsageError(f"{path} is a folder: expected a shared library, as in ./libf.so")
    try:
        with path.open("rb") as file:
            head = file.read(64)
    except FileNotFoundError:
        raise UsageError(f"no library {str(path)!r}: expected the path of a shared library") from None
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}") from None
    kind = format_of(head)
    here = {"linux": "ELF", "darwin": "Mach-O", "win32": "PE"}.get(sys.platform, kind)
    if kind is None:
        raise UsageError(f"{path} is not a shared library{_guess(path, head)}")
    if kind != here:
        raise UsageError(f"{path} is a {kind} file: this system loads {here} libraries; compile it here")
    if kind == "ELF":
        _check_elf(path, head)


def format_of(head: bytes) -> str | None:
    r"""Return the format that the first bytes of a file announce.

    >>> format_of(b"\x7fELF\x02"), format_of(b"MZ"), format_of(b"#include")
    ('ELF', 'PE', None)

    """
    if head[:4] == b"\x7fELF":
        return "ELF"
    if head[:4] in MACH_O:
        return "Mach-O"
    return "PE" if head[:2] == b"MZ" else None


def elf(head: bytes) -> tuple[int, int, int]:
    """Return the bits (32 or 64), the type and the machine of an ELF header."""
    order = "<" if head[5] == 1 else ">"
    kind, machine = struct.unpack_from(f"{order}HH", head, 16)
    return (64 if head[4] == 2 else 32), kind, machine


def _length(head: bytes) -> int:
    """Return the bytes an ELF file has at least: to the end of its table of sections."""
    order = "<" if head[5] == 1 else ">"
    wide = head[4] == 2
    (start,) = struct.unpack_from(f"{order}{'Q' if wide else 'I'}", head, 40 if wide else 32)
    size, count = struct.unpack_from(f"{order}HH", head, 58 if wide else 46)
    return int(start + size * count)


def _check_elf(path: Path, head: bytes) -> None:
    size = path.stat().st_size
    if size < 64 or size < _length(head):
        # To load it would kill this process: its pages are mapped, and the last ones are not there.
        raise UsageError(f"{path} is cut short, to {size} bytes: compile it again")
    bits, kind, machine = elf(head)
    with open(sys.executable, "rb") as file:
        own = file.read(64)
    if format_of(own) == "ELF" and elf(own)[::2] != (bits, machine):
        name = MACHINES.get(machine, f"machine {machine}")
        raise UsageError(
            f"{path} is built for {name} ({bits} bits); this Python runs on {platform.machine()} "
            f"({elf(own)[0]} bits): compile it for this machine"
        )
    if kind == OBJECT:
        raise UsageError(f"{path} is an object file: link it into a library with -shared")
    if kind == EXECUTABLE:
        raise UsageError(
            f"{path} is a program, not a library: compile it with -shared -fPIC, or use --program"
        )


def _guess(path: Path, head: bytes) -> str:
    if head[:7] == b"!<arch>":
        return ": it is a static archive; link it with -shared"
    if path.suffix in (".c", ".cc", ".cpp", ".cxx", ".zig", ".rs", ".f90"):
        return ": it is source; compile it with -shared -fPIC"
    return f" (it begins with {head[:8]!r})" if head else ": it is empty"


def symbols(path: Path) -> list[str]:
    """Return the functions that an ELF library of 64 bits exports; nothing for other files."""
    try:
        data = path.read_bytes()
        return _exported(data) if data[:6] == b"\x7fELF\x02\x01" else []
    except (OSError, struct.error, UnicodeDecodeError):
        return []


def _exported(data: bytes) -> list[str]:
    start, size, count = *struct.unpack_from("<Q", data, 40), *struct.unpack_from("<HH", data, 58)
    sections = [struct.unpack_from("<IIQQQQIIQQ", data, start + i * size) for i in range(count)]
    names = []
    for section in sections:
        if section[1] != 11:  # SHT_DYNSYM
            continue
        offset, length, link = section[4], section[5], section[6]
        table = sections[link][4]
        for at in range(offset, offset + length, 24):
            name, info, _, where = struct.unpack_from("<IBBH", data, at)
            if where and info & 15 == 2 and info >> 4 in (1, 2):  # defined, a function, global or weak
                text = data[table + name : data.index(b"\0", table + name)].decode()
                if not text.startswith(("_init", "_fini", "_ZNSt", "_ZSt", "_ZNKSt")):
                    names.append(text)
    return names
