"""Step times against each framework's own optimizers, each framework in a process of its own.

    python benchmarks/frameworks.py [--only jax] [--repeats 15] [--json FILE]

Every part (`frameworks_<name>.py`) prints its table, and hands over its figures as JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent


def parts() -> list[str]:
    return sorted(path.stem.removeprefix("frameworks_") for path in FOLDER.glob("frameworks_*.py"))


def run(part: str, repeats: int) -> dict[str, Any]:
    """Run one framework's part; return its figures."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "figures.json"
        command = [sys.executable, str(FOLDER / f"frameworks_{part}.py"), "--repeats", str(repeats)]
        subprocess.run(
            [*command, "--json", str(file)], check=True, env={**os.environ, "JAX_PLATFORMS": "cpu"}
        )
        figures: dict[str, Any] = json.loads(file.read_text())
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", choices=parts(), action="append", help="a framework; all by default")
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--json", type=Path, help="where to write all figures")
    args = parser.parse_args()
    results = {part: run(part, args.repeats) for part in args.only or parts()}
    if args.json:
        args.json.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
