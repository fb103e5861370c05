"""The ``wmcore`` command: `main` is the program, the other modules are its parts."""
