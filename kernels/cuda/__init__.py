"""The CUDA backend: kernels compiled at run time by CuPy. `backend.py` launches them."""
