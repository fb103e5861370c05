"""``python -m wmcore`` is the ``wmcore`` command."""

from wmcore.cli.main import main

if __name__ == "__main__":
    main()
