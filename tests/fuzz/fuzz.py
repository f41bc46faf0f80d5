"""Throws damaged files at the readers: python tests/fuzz/fuzz.py images --count 20000 --seed 0

Case N of a seed is always the same. Cases run in a child process with a limit on its memory, and a watchdog ends it
when one takes too long, so that a crash or a hang is named and the next case goes on. Needs Linux. Findings are
printed, one a line:

    images seed 0 case 1234: what was wrong

The case alone again: python tests/fuzz/fuzz.py images --seed 0 --first 1234 --count 1. Exit status 1 if there were any.
"""

import argparse
import importlib
import os
import random
import resource
import select
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

START_SECONDS = 60.0  # for imports
CHILD_BYTES = 6 * 2**30  # of address space, torch's libraries included
DONE, RUNNING = -1, "running"
HERE = Path(__file__).parent


def run_cases(options: argparse.Namespace) -> None:
    """Run cases in this process, telling on standard output which one begins and what was wrong with it."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    told = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    run = importlib.import_module(f"{options.kind}_cases").cases()
    resource.setrlimit(resource.RLIMIT_AS, (CHILD_BYTES, CHILD_BYTES))
    forget_peak = Path("/proc/self/clear_refs")
    for case in range(options.first, options.first + options.count):
        print(case, RUNNING, file=told)
        forget_peak.write_text("5")  # see proc(5)
        fault = run(random.Random(f"{options.seed}/{case}"))
        if (peak := _peak_gigabytes()) > options.gigabytes:
            fault = f"took {peak:.1f} GiB; {fault}"
        if fault:
            print(case, fault.encode("unicode_escape").decode("ascii"), file=told)
    print(DONE, RUNNING, file=told)


def _peak_gigabytes() -> float:
    lines = Path("/proc/self/status").read_text("ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:")) / 2**20


def findings(options: argparse.Namespace) -> Iterator[tuple[int, str]]:
    """Yield the number of each case that went wrong, and how."""
    first, stop = options.first, options.first + options.count
    while first < stop:
        case = first
        for case, said in _told(options, first, stop - first):
            if case == DONE:
                return
            if said != RUNNING:
                yield case, said
        first = case + 1  # the child ended before its time


def _told(options: argparse.Namespace, first: int, count: int) -> Iterator[tuple[int, str]]:
    """Yield what a child tells, and at last how it ended if that was not of itself."""
    numbers = {"seed": options.seed, "first": first, "count": count, "gigabytes": options.gigabytes}
    words = [word for name, number in numbers.items() for word in (f"--{name}", str(number))]
    command = [sys.executable, str(HERE / "fuzz.py"), options.kind, "--child", *words]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=_environment()) as process:
        assert process.stdout is not None
        case, torn, limit, has_begun = first, b"", START_SECONDS, False
        while case != DONE:
            if not select.select([process.stdout], [], [], limit)[0]:
                process.kill()
                yield case, f"still at it after {limit:.0f} seconds"
                return
            received = os.read(process.stdout.fileno(), 2**16)
            if not received and not has_begun:
                raise SystemExit(f"ended before any case began: status {process.wait()}")
            if not received:
                yield case, f"ended the process: status {process.wait()}"
                return
            *lines, torn = (torn + received).split(b"\n")
            for line in lines:
                number, said = line.decode().split(" ", 1)
                case, limit, has_begun = int(number), options.seconds, True
                yield case, said


def _environment() -> dict[str, str]:
    support = HERE.parent / "support"
    return {**os.environ, "PYTHONPATH": str(support), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}


def main() -> int:
    """Print findings and how many cases there were; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=["images", "records", "planted"])
    parser.add_argument("--count", type=int, default=1000, help="cases to run (default: 1000)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0, help="number of the first case (default: 0)")
    parser.add_argument("--seconds", type=float, default=30.0, help="that a case may take (default: 30)")
    parser.add_argument(
        "--gigabytes", type=float, default=3.0, help="of memory, imports included, that it may take (default: 3)"
    )
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        run_cases(options)
        return 0
    start, num_findings = time.monotonic(), 0
    for case, fault in findings(options):
        num_findings += 1
        print(f"{options.kind} seed {options.seed} case {case}: {fault}", flush=True)
    seconds = time.monotonic() - start
    print(f"{options.count} cases of seed {options.seed} in {seconds:.0f} s: {num_findings} findings")
    return 1 if num_findings else 0


if __name__ == "__main__":
    sys.exit(main())
