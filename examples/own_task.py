"""A task of your own, to be compared on: copy this file and put your model and data in.

    downslope compare examples/own_task.py:tumours

It trains a small network to tell malign from benign tumours by 30 measurements of a cell
(scikit-learn's breast cancer data: 569 cases, 171 of them kept for validation).
"""

import torch
from sklearn.datasets import load_breast_cancer
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import StandardScaler
from torch import nn
from torch.nn import functional

from downslope.tasks import Task

measured, malign = load_breast_cancer(return_X_y=True)
x_train, x_held_out, y_train, y_held_out = train_test_split(
    measured, malign, test_size=0.3, random_state=0, stratify=malign
)
scale = StandardScaler().fit(x_train)
x_train, x_held_out = (torch.tensor(scale.transform(x), dtype=torch.float32) for x in (x_train, x_held_out))
y_train, y_held_out = torch.tensor(y_train), torch.tensor(y_held_out)


def build(seed):
    """Return a new model; its parameters depend on the seed alone."""
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Linear(30, 64), nn.ReLU(), nn.Dropout(0.1), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 2)
    )


def batches(seed):
    """Yield batches without end; the same seed gives the same ones."""
    generator = torch.Generator().manual_seed(seed)
    while True:
        for chosen in torch.randperm(len(x_train), generator=generator).split(32):
            yield x_train[chosen], y_train[chosen]


def loss(model, batch):
    """Return what training minimises."""
    x, y = batch
    return functional.cross_entropy(model(x), y)


def evaluate(model):
    """Return what the model is judged by; lower is better."""
    return functional.cross_entropy(model(x_held_out), y_held_out).item()


tumours = Task(
    name="tumours",
    build=build,
    batches=batches,
    loss=loss,
    evaluate=evaluate,
    steps=150,
    description="a network of 64-64 units on scikit-learn's breast cancer data",
    metric="validation loss (nats)",
)
