"""Policy gradients as a task: equal seeds play equal episodes, so runs are repeated and resumed."""

import sys
from pathlib import Path

import pytest
import torch

from downslope.compare import compare
from downslope.compare.folder import RunFolder
from downslope.compare.session import Silent
from downslope.tasks import load

pytest.importorskip("gymnasium", reason="Gymnasium is not installed: pip install 'downslope[control]'")

POLICY = Path(__file__).parents[2] / "examples/policy.py"


class Once(Silent):
    """Presses Ctrl-C after the first run."""

    def ended(self, record):
        raise KeyboardInterrupt


def curves(folder):
    return {r.key: (r.lr, r.final, r.curve.loss) for r in RunFolder(folder).read_records()}


def test_interrupted_and_resumed_equals_undisturbed(tmp_path):
    few = {"optimizers": ["sgd", "muon"], "trials": 1, "seeds": 1, "steps": 2, "jobs": 1, "threads": 1}
    with pytest.raises(KeyboardInterrupt):
        compare(str(POLICY), out=tmp_path / "stopped", observer=Once(), **few)
    assert len(curves(tmp_path / "stopped")) == 1
    found = compare(str(POLICY), out=tmp_path / "stopped", **few)
    assert found["verdict"]["complete"]
    assert not [note for note in found["notes"] if "seed" in note and "does not decide" in note]
    compare(str(POLICY), out=tmp_path / "whole", **few)
    assert curves(tmp_path / "stopped") == curves(tmp_path / "whole")


def test_the_loss_descends_towards_more_reward():
    """What ended well becomes likelier, told by a policy of three odds in place of a played one."""
    task = load(str(POLICY))
    policy = torch.nn.Linear(4, 2)
    torch.nn.init.zeros_(policy.weight)
    torch.nn.init.zeros_(policy.bias)
    seed = next(batch[1] for batch in task.batches(0))
    with pytest.MonkeyPatch.context() as patch:
        module = sys.modules[task.build.__module__]
        said = torch.tensor([0.3, 0.4, 0.5]).log().requires_grad_()
        patch.setattr(module, "play", lambda policy, seed: (said, torch.tensor([1.0, 1.0, 1.0])))
        task.loss(policy, (None, seed)).backward()
    # The rewards that follow are 3, 2 and 1, less their mean 1, 0 and -1: a mean over three steps.
    torch.testing.assert_close(said.grad, torch.tensor([-1.0, 0.0, 1.0]) / 3)
    assert -200 <= task.evaluate(policy) < 0
