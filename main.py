"""The seed command line: `python main.py --dataset … ` is `openddpm train --dataset …`."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "src"))  # works from a checkout without installing

from openddpm.cli.main import main

sys.exit(main(["train", *sys.argv[1:]]))
