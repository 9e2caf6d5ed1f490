"""The compiled step of an element-wise rule on ARM, by a cross compiler and an emulator: the same bits."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from pathlib import Path

import pytest
import torch
from torch import Tensor

from downslope.native import build
from downslope.rules.rule import Rule
from downslope.torch.element_step import step_elementwise
from downslope.torch.engine import Write
from downslope.torch.native import build as torch_build
from downslope.torch.native import elementwise, finite, polar
from downslope.torch.native.expression import written
from tests.torch.test_native_elementwise import RULES, columns_of, copied

COMPILER, EMULATOR = shutil.which("aarch64-linux-gnu-g++"), shutil.which("qemu-aarch64")
WHY = elementwise.reason(RULES["sgd"], torch.float32, Write(0.1, 0.0, False))
needs_arm = pytest.mark.skipif(
    not (COMPILER and EMULATOR), reason="needs g++-aarch64-linux-gnu and qemu-user, Debian's packages"
)
needs_own = pytest.mark.skipif(bool(WHY), reason=WHY)
FLAGS = [
    flag for flag in (*build.FLAGS, *torch_build.FLAGS) if flag not in ("-march=native", "-shared", "-fPIC")
]

# Reads all columns of one tensor from a file, takes a step, and writes them back.
STEP = """
#include <stdio.h>
#include <stdlib.h>

int main(int words, char** word) {  // FILE COUNT THREADS MANY NUMBER... WIDTH...
    long count = atol(word[2]), many = atol(word[4]), columns = words - 5 - many;
    double numbers[64];
    for (long i = 0; i < many; i++) numbers[i] = strtod(word[5 + i], nullptr);
    void *start[16], **table[16];
    FILE* file = fopen(word[1], "r+b");
    for (long i = 0; i < columns; i++) {
        const long bytes = count * atol(word[5 + many + i]);
        start[i] = malloc(bytes);
        table[i] = &start[i];
        if (fread(start[i], 1, bytes, file) != size_t(bytes)) return 1;
    }
    step(table, &count, 1, numbers, atol(word[3]));
    rewind(file);
    for (long i = 0; i < columns; i++) fwrite(start[i], atol(word[5 + many + i]), count, file);
    return fclose(file);
}
"""
LANES = """
#include <stdio.h>
int main() { printf("%d %d\\n", lanes(), has_bfloat16()); }
"""


def cross_compiled(source: build.Source, main: str, folder: Path) -> Path:
    """Return a program for ARM, of a source and a `main` that calls it."""
    program = folder / "program"
    command = [str(COMPILER), *FLAGS, *source.flags, "-static", "-x", "c++", "-", "-I", str(build.FOLDER)]
    text = source.text + main
    done = subprocess.run([*command, "-o", str(program)], input=text, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return program


def stepped_on_arm(
    rule: Rule, columns: list[list[Tensor]], t: int, how: Write, folder: Path
) -> list[list[Tensor]]:
    """Return what the program for ARM makes of columns."""
    made = written(rule, t, how)
    source = elementwise.source_of(made.lines, columns[0][0].dtype)
    program = cross_compiled(source, STEP, folder)
    flat = [torch.cat([p.flatten() for p in column]) for column in columns]
    file = folder / "columns"
    file.write_bytes(b"".join(ctypes.string_at(t.data_ptr(), t.nbytes) for t in flat))
    numbers = [number.hex() for number in made.numbers]
    words = [str(file), str(len(flat[0])), "2", str(len(numbers)), *numbers]
    words += [str(column.element_size()) for column in flat]
    subprocess.run([str(EMULATOR), str(program), *words], check=True)
    held, start, found = bytearray(file.read_bytes()), 0, []
    for old, column in zip(flat, columns, strict=True):
        new = torch.frombuffer(held, dtype=old.dtype, count=len(old), offset=start)
        start += old.nbytes
        parts = new.split([p.numel() for p in column])
        found.append([part.view(p.shape) for part, p in zip(parts, column, strict=True)])
    return found


@needs_arm
@needs_own
@pytest.mark.parametrize(
    ("name", "dtype", "cautious"),
    [
        ("nesterov", torch.float32, False),
        ("adam", torch.float32, True),
        ("amsgrad", torch.float64, False),
        ("adagrad", torch.bfloat16, True),
        ("rmsprop, all", torch.float16, False),
    ],
    ids=str,
)
def test_a_step_on_arm_is_this_processors(
    name: str, dtype: torch.dtype, cautious: bool, tmp_path: Path
) -> None:
    """Every operation rounds once, there and here; more numbers than one thread takes."""
    rule, how = RULES[name], Write(0.1, 0.1, cautious)
    columns = columns_of(rule, dtype)
    assert sum(p.numel() for p in columns[0]) > 2 << 15
    found = stepped_on_arm(rule, columns, 2, how, tmp_path)
    before = copied(columns)
    step_elementwise(rule, columns, 2, how)
    for one, other, old in zip(found, columns, before, strict=True):
        assert all(map(torch.equal, one, other))
        assert old is before[1] or not torch.equal(old[-1], other[-1])


@needs_arm
def test_what_else_is_compiled_compiles_for_arm(tmp_path: Path) -> None:
    program = cross_compiled(polar.SOURCE, LANES, tmp_path)
    said = subprocess.run([str(EMULATOR), str(program)], capture_output=True, text=True, check=True).stdout
    assert said == "4 0\n"  # vectors too short for Muon's products to be faster than torch's
    cross_compiled(finite.SOURCE, "int main() {}", tmp_path)
