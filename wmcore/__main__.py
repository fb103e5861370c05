"""``python -m wmcore`` is the ``wmcore`` command."""

from wmcore.cli import main

if __name__ == "__main__":
    main()
