"""Every kernel compiles for GPUs, without one: the interpreter takes programs that the compiler does not."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.util import find_spec

import pytest

COMPILE = """
import sys

import triton
import triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from downslope.torch.kernels import elementwise, symmetric

FLOATS = {"keep", "take", "rate", "scale", "decay", "beta", "alpha"}
POINTERS = {
    "table": "*i64", "u": "*bf16", "d": "*bf16", "squares": "*fp64", "mu": "*fp32", "lr": "*fp32",
    "ok": "*i1", "flags": "*i1", "a": "*bf16", "b": "*bf16", "c": "*bf16", "out": "*bf16",
}


def compiled(kernel, capability, aligned=True, **constants):
    types = {name: POINTERS.get(name, "fp32" if name in FLOATS else "i32") for name in kernel.arg_names}
    types |= dict.fromkeys(constants, "constexpr")
    divisible = [
        i for i, name in enumerate(kernel.arg_names)
        if aligned and types[name] not in ("constexpr", "fp32", "*i1") and name != "tiles"
    ]
    source = ASTSource(
        fn=kernel, signature=types, constexprs=constants,
        attrs={(i,): [["tt.divisibility", 16]] for i in divisible},
    )
    return triton.compile(source, target=GPUTarget("cuda", capability, 32)).asm["ptx"]


tile = {"ROWS": elementwise._ROWS, "COLUMNS": elementwise._COLUMNS}
for capability in (80, 90):
    for aligned in (True, False):
        steps = {"ALIGNED": aligned, "MASKED": True, **tile}
        made = {
            "momentum": compiled(
                elementwise._momentum, capability, aligned, DTYPE=tl.float32, NESTEROV=True, WARMING=True,
                u_column=1, **steps,
            ),
            "descend": compiled(
                elementwise._descend, capability, aligned, DTYPE=tl.bfloat16, RATE_ON_DEVICE=True,
                CAUTIOUS=True, d_column=1, **steps,
            ),
            "nonfinite": compiled(
                elementwise._nonfinite, capability, aligned, DTYPE=tl.float32, ALIGNED=aligned,
                CHUNK=elementwise.CHUNK, BLOCK=elementwise._BLOCK,
            ),
            "normalise": compiled(elementwise._normalise, capability, aligned, BLOCK=elementwise._BLOCK),
        }
        if aligned:
            for name, ptx in made.items():  # 16 bytes at a time, or memory is read at a quarter of its rate
                assert "global.v4" in ptx, f"{name} reads its elements one by one"
    compiled(
        symmetric._kernel.fn, capability, HAS_C=True, WIDEN=False, BLOCK=128, BLOCK_K=32,
        a_inner=1, b_column=1, c_column=1,
    )
print("compiled")
"""


@pytest.mark.skipif(find_spec("triton") is None, reason="Triton is not installed")
@pytest.mark.skipif(sys.platform != "linux", reason="Triton's compiler runs on Linux")
def test_every_kernel_compiles_for_nvidia_gpus() -> None:
    env = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
    done = subprocess.run([sys.executable, "-c", COMPILE], env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout == "compiled\n"
