"""Rules under torch.compile: one graph, and none on step two."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch._dynamo.testing import CompileCounter

from downslope.ops.torch import TorchOps
from downslope.rules.descent import step
from downslope.torch import SGD, AdamW, Muon
from tests.parity.cases import CASES, Case, gradients, start

X = TorchOps()


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_rule_is_one_graph_and_none_on_step_two(case: Case) -> None:
    torch._dynamo.reset()
    counter = CompileCounter()

    def update(p: Any, g: Any, state: Any, t: Any, lr: Any) -> tuple[Any, Any]:
        d, state = case.rule.direction(X, g, state, p, t)
        return p + step(X, p, d, lr=lr, weight_decay=case.weight_decay, cautious=case.cautious), state

    compiled = torch.compile(update, backend=counter, fullgraph=True, dynamic=False)
    name = "table" if "table" in case.shapes else "wide"
    lr = torch.tensor(case.lr, dtype=torch.float64)
    plain = quick = torch.tensor(start(case)[name])
    states = [case.rule.init(X, plain), case.rule.init(X, plain)]
    with torch.no_grad():
        for t, g in enumerate(gradients(case)[:4], start=1):
            g, now = torch.tensor(g[name]), torch.tensor(t)
            quick, states[0] = compiled(quick, g, states[0], now, lr)
            plain, states[1] = update(plain, g, states[1], now, lr)
            assert counter.frame_count == 1
            assert torch.equal(quick, plain)


WHOLE_STEPS = {
    "adamw": lambda m: AdamW(m.parameters(), lr=0.01),
    "adamw-capturable": lambda m: AdamW(m.parameters(), lr=torch.tensor(0.01), capturable=True),
    "sgd-skip": lambda m: SGD(m.parameters(), lr=0.01, momentum=0.9, on_nonfinite="skip"),
    "muon": lambda m: Muon(m, torch.zeros(2, 8), lr=0.01),
    "muon-capturable": lambda m: Muon(m, torch.zeros(2, 8), lr=torch.tensor(0.01), capturable=True),
    "muon-variants": lambda m: Muon(m, torch.zeros(2, 8), lr=0.01, normuon=True, momentum_warmup=3),
}


@pytest.mark.parametrize("name", WHOLE_STEPS)
def test_a_compiled_training_step(name: str) -> None:
    """The user compiles the whole step; the optimizer runs inside, and nothing is compiled anew.

    Dynamo itself ends a graph at `zero_grad`, at `backward` and at the `step` of every optimizer, so
    the one graph is the loss.
    """
    make = WHOLE_STEPS[name]
    torch._dynamo.reset()
    counter = CompileCounter()
    results = []
    for compiled in (False, True):
        torch.manual_seed(0)
        model = torch.nn.Sequential(
            torch.nn.Linear(8, 8), torch.nn.ReLU(), torch.nn.Linear(8, 8), torch.nn.Linear(8, 1)
        )
        optimizer = make(model)

        def train(batch: torch.Tensor, model: Any = model, optimizer: Any = optimizer) -> None:
            optimizer.zero_grad()
            model(batch).square().mean().backward()
            optimizer.step()

        run = torch.compile(train, backend=counter) if compiled else train
        seen = []
        for k in range(5):
            run(torch.randn(4, 8, generator=torch.Generator().manual_seed(k)))
            seen.append(counter.frame_count)
        results.append([p.detach().clone() for p in model.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))
    assert seen == [1] * 5, "something but the loss was compiled, or compiled anew"
