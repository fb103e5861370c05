"""Ways to run the CUDA sources on the host: tiles in shared memory and beside it, blocks and lanes forwards and
backwards, DPX and what replaces it."""

SHIMS = {
    "shared": {},
    "beside": {"shared_bytes": 128, "threads": 32, "processors": 2, "memory": 1 << 17},
    "reverse": {"threads": 96, "processors": 5, "reverse": True},
    "dpx": {"arch": 900},
}
