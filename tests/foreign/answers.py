"""A program that answers points, and behaves as its first argument says."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path


def main() -> None:
    how, *rest = sys.argv[1:]
    count = 0
    if how == "chatty":
        print("hello, I am ready", flush=True)
    for line in sys.stdin:
        x = json.loads(line)["x"]
        value = sum((v - i) ** 2 for i, v in enumerate(x))
        answer = {"value": value, "gradient": [2 * (v - i) for i, v in enumerate(x)], "pid": os.getpid()}
        count += 1
        if how == "value":
            del answer["gradient"]
        elif how == "slow":
            time.sleep(0.3)
        elif how == "stalls":
            time.sleep(60)
        elif how == "dies":
            print("out of luck\nat line 7", file=sys.stderr)
            sys.exit(3)
        elif how == "crashes" and (count == 3 or x[0] == 13):
            os.kill(os.getpid(), signal.SIGSEGV)
        elif how == "once" and not Path(rest[0]).exists():
            Path(rest[0]).write_text("was here")
            sys.exit(1)
        elif how == "parent":
            child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
            answer["value"] = child.pid
        elif how == "deaf":
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            answer["value"] = os.getpid()
            print(json.dumps(answer), flush=True)
            while True:
                time.sleep(1)
        elif how == "says":
            print(rest[0], flush=True)
            continue
        elif how == "twice":
            print(json.dumps(answer))
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
