"""The recorded set: what the public functions answered before the wiring inside was rebuilt.

`cases` has every case, `make.py` writes what they answer to `*.json`, tests/test_recorded.py asks again and compares
exactly. Cases use the public interface alone, so that any version of the package can be asked.
"""
