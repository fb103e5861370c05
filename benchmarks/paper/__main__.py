"""``python -m benchmarks.paper`` is ``wmcore bench``."""

import sys

from wmcore.cli.main import main

if __name__ == "__main__":  # not in the processes that it starts
    main(["bench", *sys.argv[1:]])
