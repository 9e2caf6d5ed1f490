"""A process that runs what it is told, one run at a time: `python -m downslope.compare.worker`.

It speaks JSON, a line a message. First comes the work order (task, plan, threads), then one run
after the other; back go progress, records, and what went wrong. Its own standard output is turned
to standard error, so that a task that prints cannot break the conversation; its standard input is
empty. It ends when the orders do, which is also what happens when the process that started it is killed.
"""

from __future__ import annotations

import json
import os
import signal
import threading
from queue import SimpleQueue
from typing import Any, TextIO

from downslope.compare.plan import Plan, RunSpec
from downslope.errors import UsageError


def main() -> None:
    """Serve until standard input ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that started this one
    out = os.fdopen(os.dup(1), "w", encoding="utf-8", buffering=1)
    os.dup2(2, 1)
    # Not sys.stdin: a process that the task forks, as a DataLoader does, closes its copy of it, and would
    # wait for ever for the lock that the listening thread held when it was forked.
    given = os.fdopen(os.dup(0), encoding="utf-8")
    with open(os.devnull) as nothing:
        os.dup2(nothing.fileno(), 0)
    orders: SimpleQueue[dict[str, Any]] = SimpleQueue()
    threading.Thread(target=_listen, args=(given, orders), daemon=True).start()
    try:
        _serve(orders, out)
    except UsageError as error:
        _say(out, error=str(error))


def _listen(given: TextIO, orders: SimpleQueue[dict[str, Any]]) -> None:
    for line in given:
        orders.put(json.loads(line))
    # Nobody is left to tell the result to: stop, even in the middle of a run.
    os._exit(0)


def _serve(orders: SimpleQueue[dict[str, Any]], out: TextIO) -> None:
    order = orders.get()
    from downslope.compare.run import execute, trainer_of
    from downslope.compare.torch import threads
    from downslope.tasks import load

    task = load(order["task"])
    plan = Plan.from_dict(order["plan"])
    if task.fingerprint != plan.fingerprint:
        raise UsageError(
            f"task {order['task']} changed while the comparison was starting: run the command again"
        )
    with threads(order["threads"]):
        while True:
            spec = RunSpec(**orders.get())
            record = execute(
                plan,
                spec,
                trainer_of(task, plan, spec),
                lambda steps: _say(out, progress=steps),
                threads=order["threads"],
                jobs=order["jobs"],
            )
            _say(out, record=record.to_dict())


def _say(out: TextIO, **message: Any) -> None:
    out.write(json.dumps(message) + "\n")


if __name__ == "__main__":
    main()
