"""Which commit is measured, told also where git is not: by a note that was made of the same sources.

python3 benchmarks/gpu/provenance.py .gpu/commit.json     # write the note; needs no package
"""

import hashlib
import json
import shutil
import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]
NOTE = REPOSITORY / ".gpu" / "commit.json"
MADE_HERE = ("benchmarks/results", "docs", "README.md")  # what results change


def sources() -> str:
    """Return the sha256 of all code that is measured, or measures."""
    digest = hashlib.sha256()
    for folder in ("src/openddpm", "benchmarks"):
        for path in sorted((REPOSITORY / folder).rglob("*.py")):
            digest.update(str(path.relative_to(REPOSITORY)).encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()


def commit() -> str:
    """Return the commit, from git or else from prepare.sh's note, if that was made of the same sources."""
    if (REPOSITORY / ".git").exists() and shutil.which("git") and (found := _git("describe", "--always")):
        changed = _git("status", "--porcelain", "--", ".", *(f":!{path}" for path in MADE_HERE))
        return found + ("-dirty" if changed else "")
    told = json.loads(NOTE.read_text("utf-8")) if NOTE.exists() else {}
    return str(told["commit"]) if told.get("sources") == sources() else "unknown"


def _git(*arguments: str) -> str:
    command = ["git", "-C", str(REPOSITORY), *arguments]
    return subprocess.run(command, capture_output=True, text=True).stdout.strip()


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(json.dumps({"sources": sources(), "commit": commit()}) + "\n", encoding="utf-8")
