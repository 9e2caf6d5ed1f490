"""From plan to result: what is kept, what is resumed, and what the result says."""

import errno
import itertools
import json
import math
import os
import signal
from dataclasses import replace
from pathlib import Path

import optuna
import pytest

from downslope.compare import compare
from downslope.compare.folder import RunFolder
from downslope.compare.plan import Plan
from downslope.compare.prepare import default_folder, prepare
from downslope.compare.results import build
from downslope.compare.session import Silent, share
from downslope.errors import UsageError
from downslope.tasks import Task

from . import tiny
from .conftest import TINY

SPEC = f"{TINY}:regression"
SMALL = {"optimizers": ["sgd", "adamw"], "trials": 3, "seeds": 2, "jobs": 1, "threads": 1}


class Count(Silent):
    """Counts the runs that end, and may press Ctrl-C."""

    def __init__(self, interrupt_after=math.inf):
        self.ended_runs = []
        self.interrupt_after = interrupt_after

    def ended(self, record):
        self.ended_runs.append(record)
        if len(self.ended_runs) >= self.interrupt_after:
            raise KeyboardInterrupt


def without_times(value):
    """Return a result without what differs from one run to the next: times and when it was made."""
    timed = ("seconds", "seconds_per_step", "seconds_to_target", "created", "notes")
    if isinstance(value, dict):
        return {k: without_times(v) for k, v in value.items() if k not in timed}
    return [without_times(v) for v in value] if isinstance(value, list) else value


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The result of a comparison that nothing disturbed."""
    return compare(SPEC, out=tmp_path_factory.mktemp("whole"), **SMALL)


def test_every_optimizer_has_its_budget_and_the_seeds_are_fresh(whole):
    for entry in whole["optimizers"]:
        assert len(entry["trials"]) == whole["plan"]["trials"] == 3
        assert [c["seed"] for c in entry["curves"]] == whole["plan"]["seeds"] == [1, 2]
        assert whole["plan"]["tuning_seed"] not in whole["plan"]["seeds"]
        tried = {(t["lr"], t["weight_decay"]): t["final"] for t in entry["trials"]}
        assert tried[entry["best"]["lr"], entry["best"]["weight_decay"]] == min(tried.values())


def test_result_follows_the_contract(whole):
    assert json.loads(json.dumps(whole, allow_nan=False)) == whole
    assert whole["schema"] == 1
    assert {"sentence", "winners", "tied", "complete"} <= whole["verdict"].keys()
    assert whole["verdict"]["complete"] is True
    assert {"name", "description", "metric", "steps", "goal", "parameters"} == whole["task"].keys()
    assert {"trials", "seeds", "steps", "schedule", "warmup", "optimizers", "jobs", "threads"} <= whole[
        "plan"
    ].keys()
    assert {"downslope", "python", "torch", "platform", "cpu", "cores"} <= whole["environment"].keys()
    assert {"value", "origin"} == whole["target"].keys()
    ranks = [entry["rank"] for entry in whole["optimizers"]]
    assert ranks == sorted(ranks)
    assert ranks[0] == 1
    for entry in whole["optimizers"]:
        assert {"median", "low", "high", "values"} == entry["final"].keys()
        assert entry["final"]["low"] <= entry["final"]["median"] <= entry["final"]["high"]
        for key in ("steps_to_target", "seconds_to_target"):
            assert {"median", "reached", "of", "values"} == entry[key].keys()
            assert entry[key]["of"] == 2
        assert {"lr", "weight_decay", "final", "diverged", "seconds"} == entry["trials"][0].keys()
        assert {"seed", "steps", "seconds", "loss"} == entry["curves"][0].keys()
        assert [c["loss"][-1] for c in entry["curves"]] == entry["final"]["values"]
        assert entry["sensitivity"]["within_10_percent_decades"] >= 0


def test_the_same_command_again_runs_nothing_and_says_the_same(tmp_path):
    first = compare(SPEC, out=tmp_path / "run", **SMALL)
    counter = Count()
    assert compare(SPEC, out=tmp_path / "run", observer=counter, **SMALL) == first
    assert counter.ended_runs == []


def test_ctrl_c_while_a_record_is_written_waits_until_it_is_kept_everywhere(tmp_path, monkeypatch):
    write = RunFolder.append

    def pressed_meanwhile(folder, record):
        write(folder, record)
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(RunFolder, "append", pressed_meanwhile)
    session = prepare(SPEC, out=tmp_path / "run", **SMALL)
    found = session.run()
    assert session.interrupted
    assert found["verdict"]["runs_done"] == len(session.folder.read_records()) == 1
    study = optuna.get_all_study_summaries(f"sqlite:///{tmp_path}/run/study.db")
    assert sum(s.n_trials for s in study) == 1


@pytest.mark.parametrize("after", [1, 4, 7])
def test_interrupted_and_resumed_equals_undisturbed(tmp_path, whole, after):
    session = prepare(SPEC, out=tmp_path / "run", **SMALL)
    session.observer = Count(interrupt_after=after)
    partial = session.run()
    assert session.interrupted
    assert partial["verdict"]["complete"] is False
    assert partial["verdict"]["sentence"].startswith(f"Not finished ({after} of 10 runs)")
    assert json.loads((tmp_path / "run/result.json").read_text()) == partial
    counter = Count()
    resumed = compare(SPEC, out=tmp_path / "run", observer=counter, **SMALL)
    assert len(counter.ended_runs) == 10 - after
    assert without_times(resumed) == without_times(whole)


def test_two_workers_find_what_one_process_does(tmp_path, whole):
    found = compare(SPEC, out=tmp_path / "run", **{**SMALL, "jobs": 2})
    assert found["plan"]["jobs"] == 2
    ignoring_jobs = [without_times({**r, "plan": {**r["plan"], "jobs": 0}}) for r in (found, whole)]
    assert ignoring_jobs[0] == ignoring_jobs[1]


def test_half_a_last_line_is_that_run_again_and_nothing_more(tmp_path, whole):
    out = tmp_path / "run"
    compare(SPEC, out=out, **SMALL)
    (out / "study.db").unlink()
    file = out / "trials.jsonl"
    file.write_bytes(file.read_bytes()[:-40])
    counter = Count()
    resumed = compare(SPEC, out=out, observer=counter, **SMALL)
    assert len(counter.ended_runs) == 1
    assert len(file.read_text().splitlines()) == 10
    assert without_times(resumed) == without_times(whole)


@pytest.mark.parametrize(
    "change",
    [
        {"kind": None}, {"lr": "0.1"}, {"seed": []}, {"diverged": 2}, {"seconds": None}, {"curve": {}},
        {"curve": {"steps": [], "seconds": [], "loss": []}},
        {"curve": {"steps": [1], "seconds": [1], "loss": []}},
    ],
)  # fmt: skip
def test_a_damaged_line_is_named_and_the_folder_left_as_it_was(change, tmp_path):
    out = tmp_path / "run"
    compare(SPEC, out=out, **SMALL)
    file = out / "trials.jsonl"
    lines = file.read_text().splitlines(keepends=True)
    file.write_text("".join([lines[0], json.dumps(json.loads(lines[1]) | change) + "\n", *lines[2:]]))
    before = file.read_bytes()
    with pytest.raises(UsageError, match=r"trials.jsonl, line 2, is no record"):
        compare(SPEC, out=out, **SMALL)
    assert file.read_bytes() == before


def test_a_folder_of_another_comparison_is_refused_and_left_as_it_was(tmp_path):
    out = tmp_path / "run"
    compare(SPEC, out=out, **SMALL)
    before = {p.name: p.read_bytes() for p in out.iterdir()}
    with pytest.raises(UsageError, match=r"another comparison .*trials 3 there, 4 now.*--out"):
        compare(SPEC, out=out, **{**SMALL, "trials": 4})
    assert {p.name: p.read_bytes() for p in out.iterdir()} == before


def test_an_edited_task_file_is_another_comparison(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(TINY.read_text())
    one = prepare(f"{file}:regression", **SMALL)
    file.write_text(TINY.read_text() + "\n# edited\n")
    assert prepare(f"{file}:regression", **SMALL).folder.path != one.folder.path
    assert one.folder.path.parts[0] == "runs"


def test_two_processes_do_not_share_a_folder(tmp_path):
    out = tmp_path / "run"
    with RunFolder(out).locked(), pytest.raises(UsageError, match="another process is at work"):
        compare(SPEC, out=out, **SMALL)


def test_trials_are_optuna_studies(tmp_path, whole):
    out = tmp_path / "run"
    compare(SPEC, out=out, **SMALL)
    names = optuna.get_all_study_names(f"sqlite:///{out}/study.db")
    assert sorted(name.rpartition("-")[2] for name in names) == ["adamw", "sgd"]
    for name in names:
        study = optuna.load_study(study_name=name, storage=f"sqlite:///{out}/study.db")
        entry = next(e for e in whole["optimizers"] if e["name"] == name.rpartition("-")[2])
        assert len(study.trials) == 3
        assert study.best_params == entry["best"]


def test_trials_of_a_lost_folder_come_back_from_the_storage(tmp_path, whole):
    storage = f"sqlite:///{tmp_path}/server.db"
    compare(SPEC, out=tmp_path / "lost", storage=storage, **SMALL)
    assert not (tmp_path / "lost/study.db").exists()
    counter = Count()
    found = compare(SPEC, out=tmp_path / "new", storage=storage, observer=counter, **SMALL)
    assert {r.kind for r in counter.ended_runs} == {"final"}
    assert without_times(found) == without_times(whole)


def test_a_storage_that_does_not_open_is_named(tmp_path):
    with pytest.raises(UsageError, match="storage 'nosuch://x' cannot be opened"):
        compare(SPEC, out=tmp_path / "run", storage="nosuch://x", **SMALL)
    assert not (tmp_path / "run/trials.jsonl").exists()


@pytest.mark.parametrize("name", ["a?x=1#b", "100%41", "{braces}"])
def test_signs_of_urls_in_the_name_of_a_folder(name, tmp_path):
    compare(SPEC, out=tmp_path / name, **SMALL | {"trials": 1, "seeds": 1})
    assert (tmp_path / name / "study.db").stat().st_size > 0
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_a_damaged_trial_of_a_storage_is_told(tmp_path):
    storage = f"sqlite:///{tmp_path}/server.db"
    compare(SPEC, out=tmp_path / "lost", storage=storage, **SMALL)
    name = optuna.get_all_study_names(storage)[0]
    study = optuna.load_study(study_name=name, storage=storage)
    record = {**json.loads(study.trials[0].user_attrs["record"]), "lr": "0.1"}
    trial = optuna.trial.create_trial(value=1.0, user_attrs={"record": json.dumps(record)})
    study.add_trial(trial)
    with pytest.raises(UsageError, match=r"trial 3 of \w+ in the storage .* is no record of a run"):
        compare(SPEC, out=tmp_path / "new", storage=storage, **SMALL)


def test_an_optimizer_that_always_diverges_is_last_and_said_to(tmp_path):
    ranges = {"sgd": (1e25, 1e30)}
    found = compare(SPEC, out=tmp_path / "run", learning_rates=ranges, **SMALL)
    good, bad = found["optimizers"]
    assert (good["name"], bad["name"]) == ("adamw", "sgd")
    assert (bad["best"], bad["final"]["median"], bad["rank"]) == (None, None, 2)
    assert all(t["diverged"] and t["final"] is None for t in bad["trials"])
    assert found["verdict"]["winners"] == ["adamw"]
    assert "every other optimizer diverged" in found["verdict"]["sentence"]
    assert any("all 3 tuning trials diverged" in note for note in found["notes"])
    assert found["verdict"]["complete"]


def test_when_everything_diverges_nobody_wins(tmp_path):
    found = compare(f"{TINY}:never", out=tmp_path / "run", **SMALL)
    assert found["verdict"]["winners"] == []
    assert found["verdict"]["complete"]
    assert "Every run diverged" in found["verdict"]["sentence"]
    assert found["target"] is None


def test_a_goal_out_of_reach_is_missed_by_all(tmp_path):
    found = compare(SPEC, out=tmp_path / "run", goal=-1.0, **SMALL)
    assert found["target"] == {"value": -1.0, "origin": "the goal of the task"}
    for entry in found["optimizers"]:
        expected = {"median": None, "reached": 0, "of": 2, "values": [None, None]}
        assert entry["steps_to_target"] == entry["seconds_to_target"] == expected


def test_one_seed_settles_nothing(tmp_path):
    found = compare(SPEC, out=tmp_path / "run", **{**SMALL, "seeds": 1})
    assert "Nothing is settled by one seed" in found["verdict"]["sentence"]
    assert found["verdict"]["tied"]
    assert found["optimizers"][0]["final"]["low"] is None


def test_another_task_object_of_the_same_name_is_another_comparison():
    small = {**SMALL, "trials": 1, "seeds": 1}

    def halved(factor):
        return replace(tiny.regression, loss=lambda model, batch: factor * tiny.loss(model, batch))

    counter = Count()
    compare(halved(0.5), observer=counter, **small)
    compare(halved(0.5), observer=counter, **small)
    assert len(counter.ended_runs) == 4  # the second found them done
    compare(halved(1e-3), observer=counter, **small)
    assert len(counter.ended_runs) == 8
    compare(replace(tiny.regression, build=lambda seed: tiny.network(seed)), observer=counter, **small)
    assert len(counter.ended_runs) == 12


def test_seeds_that_change_nothing_are_noted(tmp_path):
    fixed = replace(tiny.regression, build=lambda s: tiny.network(0), batches=lambda s: tiny.batches(0))
    found = compare(fixed, out=tmp_path / "run", **{**SMALL, "optimizers": ["sgd"]})
    assert any("SGD: every seed gave the same run" in note for note in found["notes"])


@pytest.mark.parametrize("jobs", [1, 2])
def test_a_comparison_at_the_top_level_of_its_own_file_is_told_where_to_stand(jobs, tmp_path):
    file = tmp_path / "own.py"
    call = f"compare('{file}:regression', out='run', jobs={jobs}, steps=12)"
    file.write_text(f"{TINY.read_text()}\nfrom downslope.compare import compare\n{call}\n")
    said = r"own\.py compares while it is imported.*if __name__ == '__main__':"
    with pytest.raises(UsageError, match=said):
        prepare(f"{file}:regression")
    assert not Path("run").exists()


@pytest.mark.parametrize("part", ["build", "batches", "one stream for all", None])
def test_a_seed_that_does_not_decide_the_start_is_noted(part, tmp_path):
    drawn = itertools.count(100)
    stream = tiny.batches(0)
    changes = {
        "build": {"build": lambda seed: tiny.network(next(drawn))},
        "batches": {"batches": lambda seed: tiny.batches(next(drawn))},
        "one stream for all": {"batches": lambda seed: stream},
        None: {},
    }
    task = replace(tiny.regression, **changes[part])
    found = compare(task, out=tmp_path / "run", **{**SMALL, "optimizers": ["sgd"]})
    assert any("One seed gave two different starts" in note for note in found["notes"]) == (part is not None)


def test_runs_that_stay_where_they_began_are_noted_as_that(tmp_path):
    level = replace(tiny.regression, evaluate=lambda model: 0.5)
    found = compare(level, out=tmp_path / "run", **{**SMALL, "optimizers": ["sgd"]})
    assert not any("every seed gave the same run" in note for note in found["notes"])
    assert any("SGD: the final runs end no lower than they began" in note for note in found["notes"])


def test_a_measure_that_grows_as_the_model_learns_is_noted(tmp_path):
    upside_down = replace(tiny.regression, evaluate=lambda model: -tiny.evaluate(model))
    found = compare(upside_down, out=tmp_path / "run", **SMALL)
    (note,) = [note for note in found["notes"] if "no lower than they began" in note]
    assert "or evaluate(model) returns more where the model is better" in note


def test_a_full_disk_is_told_and_the_comparison_goes_on_when_there_is_room(whole, tmp_path, monkeypatch):
    out = tmp_path / "run"

    def full(error, after, real):
        calls = itertools.count()

        def call(*arguments):
            if next(calls) >= after:
                raise error
            return real(*arguments)

        return call

    taking = full(optuna.exceptions.StorageInternalError("full"), 2, optuna.study.Study.add_trial)
    with monkeypatch.context() as patched:
        patched.setattr(optuna.study.Study, "add_trial", taking)
        with pytest.raises(
            UsageError, match=r"storage '.*study.db' does not take a trial: StorageInternalError: full"
        ):
            compare(SPEC, out=out, **SMALL)
    with monkeypatch.context() as patched:
        patched.setattr("os.fsync", full(OSError(errno.ENOSPC, "No space left on device"), 3, os.fsync))
        with pytest.raises(
            UsageError, match="run cannot be written: No space left on device; what is done is"
        ):
            compare(SPEC, out=out, **SMALL)
    counter = Count()
    found = compare(SPEC, out=out, observer=counter, **SMALL)
    assert 0 < len(counter.ended_runs) < found["verdict"]["runs_done"]
    assert without_times(found) == without_times(whole)


def test_a_task_that_exits_is_told(tmp_path):
    def exits(model, batch):
        raise SystemExit(0)

    with pytest.raises(UsageError, match=r"loss\(model, batch\) of task 'regression' raised SystemExit"):
        compare(replace(tiny.regression, loss=exits), out=tmp_path / "run", **SMALL)


def test_a_long_name_makes_a_folder_all_the_same():
    plan = replace(prepare(SPEC, **SMALL).plan, task="n" * 300)
    default_folder(plan).mkdir(parents=True)


def test_a_folder_that_cannot_be_made_is_named():
    with (
        pytest.raises(UsageError, match="cannot be a run folder: No such file or directory"),
        RunFolder(Path("/proc/x")).locked(),
    ):
        pass


def test_an_error_within_a_folder_is_not_said_of_the_folder(tmp_path):
    with pytest.raises(PermissionError), RunFolder(tmp_path / "run").locked():
        raise PermissionError(13, "Permission denied")


def test_a_task_object_needs_no_file(tmp_path):
    found = compare(tiny.regression, out=tmp_path / "run", **SMALL)
    assert found["verdict"]["complete"]
    with pytest.raises(UsageError, match="worker processes load the task by name"):
        compare(tiny.regression, **{**SMALL, "jobs": 2})


def test_a_task_that_breaks_in_a_worker_is_told_and_what_ended_is_kept(tmp_path):
    with pytest.raises(
        UsageError, match=r"loss.* of task 'late' raised RuntimeError: seed 2.*tiny.py, line \d+"
    ):
        compare(f"{TINY}:late", out=tmp_path / "run", **{**SMALL, "jobs": 2})
    kept = RunFolder(tmp_path / "run").read_records()
    assert len(kept) >= 6
    assert all(r.kind == "tune" or r.seed == 1 for r in kept)


def test_a_worker_that_dies_is_told_with_its_log(tmp_path):
    file = tmp_path / "dies.py"
    file.write_text(
        TINY.read_text()
        + "\nimport os, sys\n"
        + "def deadly(model, batch):\n"
        + "    if 'downslope.compare.worker' in ' '.join(sys.orig_argv):\n"
        + "        os.kill(os.getpid(), 9)\n"
        + "    return loss(model, batch)\n"
        + "deadly = Task('deadly', **{**parts, 'loss': deadly}, steps=12)\n"
    )
    with pytest.raises(
        UsageError, match=r"ended during (sgd|adamw), tuning trial 0: killed by SIGKILL.*worker-\d.log"
    ):
        compare(f"{file}:deadly", out=tmp_path / "run", **{**SMALL, "jobs": 2})


def test_a_task_may_have_processes_of_its_own_in_a_worker(tmp_path):
    options = {**SMALL, "trials": 1, "seeds": 1, "jobs": 2}
    assert compare(f"{TINY}:forks", out=tmp_path / "run", **options)["verdict"]["complete"]


def test_a_process_that_a_task_leaves_behind_holds_nobody_up(tmp_path):
    with pytest.raises(UsageError, match="RuntimeError: broken"):
        compare(f"{TINY}:leaves", out=tmp_path / "run", **{**SMALL, "trials": 1, "jobs": 2})
    os.kill(int((tmp_path / "left.txt").read_text()), signal.SIGKILL)  # is there still


def test_cores_are_shared_out_and_never_twice(monkeypatch):
    monkeypatch.setattr("downslope.compare.session.cores", lambda: 8)
    assert share(None, None, 39) == (4, 2)
    assert share(2, None, 39) == (2, 4)
    assert share(None, 4, 39) == (2, 4)
    assert share(None, None, 1) == (1, 8)
    for jobs, threads in ((9, None), (0, None), (2, 5), (1, 0), (None, 9)):
        with pytest.raises(UsageError):
            share(jobs, threads, 39)


def test_result_is_made_again_from_the_records(tmp_path):
    out = tmp_path / "run"
    result = compare(SPEC, out=out, **SMALL)
    folder = RunFolder(out)
    assert build(folder.read_run(), folder.read_records()) == result
    assert Plan.from_dict(folder.read_run()["plan"]).trials == 3


def test_a_model_without_hidden_matrices_makes_muon_adamw_and_that_is_said(tmp_path):
    import torch

    def linear(seed):
        torch.manual_seed(seed)
        return torch.nn.Linear(4, 3)

    task: Task = replace(tiny.regression, build=linear)
    options = {**SMALL, "optimizers": ["adamw", "muon"]}
    found = compare(task, out=tmp_path / "run", **options)
    assert any("Muon found no hidden matrix" in note for note in found["notes"])
    finals = {e["name"]: e["final"]["values"] for e in found["optimizers"]}
    assert finals["muon"] == pytest.approx(finals["adamw"])
