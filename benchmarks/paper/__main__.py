"""``python -m benchmarks.paper`` is ``wmcore bench``."""

import sys

from wmcore.cli.main import main

main(["bench", *sys.argv[1:]])
