"""The recorded cases: {file: {name: function}}, shared by `make.py` and `tests/test_recorded.py`.

A case takes nothing and returns JSON-able values. It uses the public API alone, so that it outlives a rebuilding of
what is inside, and passes every setting on which its answer depends, so that a default may change. Floats are kept
exactly and compared with ==.
"""

from recorded import detection, foreign, scanning, writing

FILES = {**detection.FILES, **writing.FILES, **foreign.FILES, **scanning.FILES}
