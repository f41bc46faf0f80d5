"""Prints the table of docs/reliability.md from what the tests of tests/faults have counted.

OPENDDPM_FAULTS_TABLE=faults.jsonl make test-slow
python benchmarks/faults_table.py faults.jsonl
"""

import json
import sys
from pathlib import Path

COUNTS = ("tries", "corrupted", "lost", "identical")


def main(path: Path) -> None:
    """Print a row a fault, in the order of their first tries."""
    rows: dict[str, list[int]] = {}
    for line in path.read_text("utf-8").splitlines():
        row = json.loads(line)
        known = rows.setdefault(row["fault"], [0] * len(COUNTS))
        rows[row["fault"]] = [count + row[name] for count, name in zip(known, COUNTS, strict=True)]
    print(f"| fault | {' | '.join(COUNTS)} |\n|---|{'---|' * len(COUNTS)}")
    for fault, counts in rows.items():
        print(f"| {fault} | {' | '.join(map(str, counts))} |")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
