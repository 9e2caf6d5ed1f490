"""Which optimizer, and which learning rate: comparisons with equal budgets and honest verdicts.

The parts, from the outside in: `compare` prepares a `session`, which has the runs of a `plan` done
by `runners` and keeps their records in a `folder` (and in Optuna's `storage`); `run` is one run,
`torch` what of it belongs to a framework; `verdict` is the statistics, `words` the sentence,
`results` the JSON. `optimizers` lists who can take part.
"""

from downslope.compare.prepare import compare

__all__ = ["compare"]
