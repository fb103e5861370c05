"""The CPU backend: Numba kernels, one file a topic; `backend.py` runs them on threads."""
