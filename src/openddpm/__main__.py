"""`python -m openddpm`."""

import sys

from openddpm.cli.main import main

sys.exit(main())
