"""Tasks small enough to train in milliseconds, and some that are broken."""

import itertools
import multiprocessing
import os
import time
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional

from downslope.tasks import Task

WEIGHT = torch.linspace(-1.0, 1.0, 12).reshape(3, 4)


def network(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 3))


def batches(seed: int):
    generator = torch.Generator().manual_seed(seed)
    while True:
        x = torch.randn(16, 4, generator=generator)
        yield x, x @ WEIGHT.T + 0.1 * torch.randn(16, 3, generator=generator)


def loss(model: nn.Module, batch):
    x, y = batch
    return functional.mse_loss(model(x), y)


def evaluate(model: nn.Module) -> float:
    return float(loss(model, next(batches(10**6))))


def slow_loss(model: nn.Module, batch):
    time.sleep(0.02)
    return loss(model, batch)


def batches_of_a_process(seed: int):
    """Fork, as a DataLoader with workers does, and raise where that process does not end."""
    child = multiprocessing.get_context("fork").Process(target=int)
    child.start()
    child.join(20)
    if child.is_alive():
        child.kill()
        raise RuntimeError("the process hangs")
    yield from batches(seed)


def leaves_a_process(model: nn.Module, batch):
    """Break, and leave a process behind that writes its number to a file."""
    if torch.initial_seed() == 2 and os.fork() == 0:
        Path("left.txt").write_text(str(os.getpid()))
        time.sleep(60)
        os._exit(0)
    while torch.initial_seed() == 2:
        if Path("left.txt").exists():
            raise RuntimeError("broken")
    return loss(model, batch)


def breaks_on_seed_2(model: nn.Module, batch):
    if torch.initial_seed() == 2:
        raise RuntimeError("seed 2")
    return loss(model, batch)


def refuses_nan(model: nn.Module, batch):
    x, y = batch
    predicted = model(x)
    if not bool(predicted.isfinite().all()):
        raise ValueError("the prediction is not finite")
    return functional.mse_loss(predicted, y)


parts = {"build": network, "batches": batches, "loss": loss, "evaluate": evaluate}
regression = Task("regression", **parts, steps=12, metric="squared error")
slow = Task("slow", **{**parts, "loss": slow_loss}, steps=12)
forks = Task("forks", **{**parts, "batches": batches_of_a_process}, steps=12)
leaves = Task("leaves", **{**parts, "loss": leaves_a_process}, steps=12)
late = Task("late", **{**parts, "loss": breaks_on_seed_2}, steps=12)
touchy = Task("touchy", **{**parts, "loss": refuses_nan}, steps=12, learning_rates={"sgd": (1e20, 1e30)})
never = Task(
    "never",
    **parts,
    steps=12,
    learning_rates={"sgd": (1e25, 1e30), "adamw": (1e25, 1e30), "muon": (1e25, 1e30)},
)
nan_loss = Task("nan_loss", **{**parts, "loss": lambda model, batch: loss(model, batch) * float("nan")})
nan_gradient = Task(
    "nan_gradient", **{**parts, "loss": lambda model, batch: (loss(model, batch) * 0.0).sqrt()}
)
nan_value = Task("nan_value", **{**parts, "evaluate": lambda model: float("nan")})
no_scalar = Task("no_scalar", **{**parts, "loss": lambda model, batch: model(batch[0])})
no_gradient = Task("no_gradient", **{**parts, "loss": lambda model, batch: torch.tensor(1.0)})
raises = Task("raises", **{**parts, "loss": lambda model, batch: batch["missing"]})
misfit = Task("misfit", **{**parts, "loss": lambda model, batch: functional.mse_loss(model(batch[0]), None)})
no_stream = Task("no_stream", **{**parts, "batches": lambda seed: None})
text_value = Task("text_value", **{**parts, "evaluate": lambda model: "good"})
no_model = Task("no_model", **{**parts, "build": lambda seed: 3})
frozen = Task("frozen", **{**parts, "build": lambda seed: network(seed).requires_grad_(False)})
short = Task("short", **{**parts, "batches": lambda seed: itertools.islice(batches(seed), 5)}, steps=12)
empty = Task("empty", **{**parts, "batches": lambda seed: iter(())})
not_a_task = 3


def made() -> Task:
    return regression
