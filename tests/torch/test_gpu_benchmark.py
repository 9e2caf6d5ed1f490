"""The benchmark for GPUs, its logic run on a CPU with small matrices."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import gpu

    return gpu


def test_without_a_gpu_it_says_so() -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a CUDA GPU here")
    done = subprocess.run([sys.executable, str(BENCHMARKS / "gpu.py")], capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("no CUDA GPU")
    assert len(done.stderr.splitlines()) == 1


def test_its_logic_on_a_cpu(gpu: Any, capsys: pytest.CaptureFixture[str], monkeypatch: Any) -> None:
    monkeypatch.setattr(gpu, "PEERS", {"torch.optim": gpu.PEERS["torch.optim"], "absent": _absent})
    sets = {"matrices": [(12, 8), (8, 12)], "convolutions": [(8, 4, 3, 3)], "experts": [(3, 12, 8)]}
    results = gpu.report("cpu", sets, repeats=2, size=32, peers=list(gpu.PEERS))
    shown = capsys.readouterr().out
    assert "absent: not installed" in shown
    for title in sets:
        assert title in shown
        muon = results[title]["muon"]["candidates"]
        assert set(muon) == {"ours", "ours, Keller's 5 steps", "ours, kernels off", "torch.optim"}
        for name, figures in muon.items():
            low, high = figures["singular values"]
            # within the bands of the sets, Keller's [.471, 1.202] the widest, and bfloat16's rounding
            assert 0.4 < low <= 1.01, name
            assert 0.99 <= high < 1.6, name
        assert set(results[title]["adamw"]) == {"ours", "ours, no check", "torch, fused"}


def _absent(params: Any) -> Any:
    raise ImportError


def test_peers_step_the_same_matrices(gpu: Any) -> None:
    shapes = [(6, 4), (4, 2, 3, 3), (3, 5, 4)]
    whole, apart = gpu.parameters(shapes, "cpu"), gpu.parameters(shapes, "cpu", matrices=True)
    assert [tuple(p.shape) for p in apart] == [(6, 4), (4, 18), (5, 4), (5, 4), (5, 4)]
    assert sum(p.numel() for p in whole) == sum(p.numel() for p in apart)
    assert torch.equal(whole[2].grad[1], apart[3].grad)


def test_operations_are_those_of_the_cheaper_form(gpu: Any) -> None:
    # wide matrices are multiplied whole fewer times in the Gram form: less than 2 m n m a step each way
    square, wide = gpu.flops([(64, 64)]), gpu.flops([(64, 4096)])
    assert square == gpu.flops([(1, 64, 64)])
    assert gpu.flops([(8, 64, 64)]) == 8 * square
    assert gpu.flops([(64, 64, 8, 8)]) == wide
    assert math.isfinite(wide)
    assert wide > 10 * square
