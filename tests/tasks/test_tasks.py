"""The tasks that come along: their data is what it is said to be, their models are sound."""

import itertools
import math
import sys

import numpy as np
import pytest
import torch

from downslope.tasks import KNOWN, Task, digits, load, text
from downslope.torch import partition

PARTS = (lambda seed: None, lambda seed: iter(()), lambda model, batch: 0.0, lambda model: 0.0)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"metric": None}, "metric = None in task 'mine': expected a string"),
        ({"description": 3}, "description = 3"),
        ({"learning_rates": {"sgd": 0.1}}, r"learning_rates\['sgd'\] = 0.1 .*: expected \(low, high\)"),
        ({"learning_rates": [("sgd", (0.1, 1.0))]}, r"expected {optimizer: \(low, high\)}"),
    ],
)
def test_what_a_task_is_given_wrongly_is_named(given, words):
    with pytest.raises(TypeError, match=words):
        Task("mine", *PARTS, **given)


@pytest.fixture(scope="module", params=list(KNOWN))
def task(request):
    return load(request.param)


def first(task, seed, count=3):
    return list(itertools.islice(task.batches(seed), count))


def test_equal_seeds_give_equal_models_and_batches(task):
    one, again, other = (task.build(seed).state_dict() for seed in (0, 0, 1))
    assert all(torch.equal(one[k], again[k]) for k in one)
    assert any(not torch.equal(one[k], other[k]) for k in one)
    for (x0, y0), (x1, y1) in zip(first(task, 5), first(task, 5), strict=True):
        assert torch.equal(x0, x1)
        assert torch.equal(y0, y1)
    assert not torch.equal(first(task, 5)[0][0], first(task, 6)[0][0])


def test_evaluation_is_the_same_every_time_and_a_new_model_knows_nothing(task):
    model = task.build(0).eval()
    with torch.no_grad():
        assert task.evaluate(model) == task.evaluate(model)
        classes = {"digits": 10, "text": 256}[task.name]
        assert task.evaluate(model) == pytest.approx(math.log(classes), rel=0.1)


def test_a_few_steps_of_training_help(task):
    model = task.build(0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    start = task.evaluate(model.eval())
    for batch in first(task, 0, 8):
        optimizer.zero_grad()
        task.loss(model.train(), batch).backward()
        optimizer.step()
    with torch.no_grad():
        assert task.evaluate(model.eval()) < 0.95 * float(start)


def test_muon_gets_the_hidden_matrices_and_nothing_else(task):
    model = task.build(0)
    found = partition(model, *task.inputs(first(task, 0, 1)[0]))
    muon = {a.name for a in found if a.rule == "muon"}
    outside = {"stem.weight", "head.weight", "embed.weight"}
    assert muon == {n for n, p in model.named_parameters() if p.ndim >= 2 and n not in outside}
    assert not any(a.warning for a in found)


def test_digits_are_split_once_and_for_all():
    data, again = digits.load(), digits.load()
    assert np.array_equal(data.validation_images, again.validation_images)
    assert data.train_images.shape == (1297, 1, 8, 8)
    assert data.validation_images.shape == (500, 1, 8, 8)
    assert data.train_images.mean() == pytest.approx(0, abs=1e-5)
    assert data.train_images.std() == pytest.approx(1, abs=1e-5)
    assert set(data.validation_labels) == set(data.train_labels) == set(range(10))


def test_digits_move_by_one_pixel_at_most_and_the_noise_is_what_it_is_said_to_be():
    data = digits.load()
    seen = digits.augment(data.train_images, np.random.default_rng(0))
    padded = np.pad(
        data.train_images, ((0, 0), (0, 0), (1, 1), (1, 1)), constant_values=data.train_images.min()
    )
    offsets = [(y, x) for y in range(3) for x in range(3)]
    errors = np.stack(
        [((padded[:, :, y : y + 8, x : x + 8] - seen) ** 2).mean((1, 2, 3)) for y, x in offsets]
    )
    best = errors.argmin(0)
    assert errors.min(0).mean() == pytest.approx(digits.NOISE**2, rel=0.02)
    # Each of nine shifts for a ninth of 1297 digits: 144, standard deviation 11.
    assert np.bincount(best, minlength=9) == pytest.approx([1297 / 9] * 9, abs=50)


def test_an_epoch_shows_each_digit_at_most_once():
    data = digits.load()
    labels = [y for _, y in itertools.islice(digits.batches(data, 64, 0), 20)]
    counts = np.bincount(np.concatenate(labels), minlength=10)
    assert counts.sum() == 1280
    assert (counts <= np.bincount(data.train_labels)).all()


def test_text_is_split_without_overlap():
    data = text.load()
    assert data.origin == "Python's help topics"
    assert len(data.validation) / (len(data.train) + len(data.validation)) == pytest.approx(0.1, abs=0.01)
    train, validation = data.train.tobytes(), data.validation.tobytes()
    pieces = [validation[i : i + 100] for i in range(0, len(validation) - 100, 100)]
    # 1.4 % in Python 3.11, the rules of tables; half before repeated paragraphs were left out.
    assert sum(p in train for p in pieces) < 0.03 * len(pieces)


def test_a_repeated_paragraph_is_left_out():
    assert text.without_repeats("a b\n\nc\n\n  a\nb\n\nd") == "a b\n\nc\n\nd"


def test_targets_are_the_bytes_that_follow():
    for x, y in first(load("text"), 0):
        assert torch.equal(x[:, 1:], y[:, :-1])
        assert x.shape == (16, 128)


def test_source_stands_in_where_the_help_topics_are_missing(monkeypatch):
    topics = text.load().digest()
    monkeypatch.setitem(sys.modules, "pydoc_data", None)
    data = text.load()
    assert data.origin == "the standard library's source"
    assert b"import" in data.train.tobytes()
    assert len(data.train) > 300_000
    assert data.digest() != topics


def test_transformer_has_about_a_million_parameters_and_does_not_look_ahead():
    task = load("text")
    model = task.build(0).eval()
    assert 0.9e6 < sum(p.numel() for p in model.parameters()) < 1.2e6
    tokens = first(task, 0, 1)[0][0][:2]
    changed = tokens.clone()
    changed[:, 64:] = 255 - changed[:, 64:]
    with torch.no_grad():
        a, b = model(tokens), model(changed)
    assert torch.equal(a[:, :64], b[:, :64])
    assert not torch.allclose(a[:, 64:], b[:, 64:])


def test_transformer_knows_positions():
    model = load("text").build(0).eval()
    tokens = torch.tensor([[65, 66, 65, 66, 65], [66, 65, 65, 66, 65]])
    with torch.no_grad():
        a, b = model(tokens)[:, -1]
    # The same bytes in another order; without positions attention could not tell.
    assert not torch.allclose(a, b, rtol=1e-4, atol=1e-6)
