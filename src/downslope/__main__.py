"""`downslope` and `python -m downslope`: Ctrl-C may come while Python still imports the rest."""

import sys


def main() -> None:
    """Run the command line of this process."""
    try:
        from downslope.cli import main as command

        command()
    except KeyboardInterrupt:
        print("Interrupted.", file=sys.stderr)
        sys.exit(130)


if __name__ == "__main__":
    main()
