// Plain alignment (the twin is cpu/plain.py).
#include "resample.cuh"

// The same answer in every lane of a warp.
__device__ inline bool uniform(bool answer) { return __shfl_sync(ALL_LANES, (int)answer, 0) != 0; }

// Plain alignment: lanes are neighbouring diagonals, along which totals slide from block to block (cpu/align.py).
template <bool STAGED, class Visit>
__device__ inline void search_plain(const int* inverse_i, int m, int k, int start, const int* tile, const Problem& s,
                                    const Visit& visit) {
  const bool live = start < s.n;
  const int first = live ? start : 0;
  int total = 0, p = first;
  for (int i = 0; i < k; ++i) {  // hot loop
    int at = inverse_i[i] * s.stride + p;
    total += STAGED ? shared_memory[at] : tile[at];
    p = p + 1 < s.n ? p + 1 : 0;
  }
  int out = first;
  for (int b = 0;; ++b) {
    if (live && visit.wants(total)) visit.found(total, (long long)b * s.n + out);
    if (b == m - k || (b % 32 == 31 && uniform(visit.skip((b + 1ll) * s.n)))) break;
    int gone = inverse_i[b] * s.stride + out, come = inverse_i[b + k] * s.stride + p;
    total += STAGED ? shared_memory[come] - shared_memory[gone] : tile[come] - tile[gone];
    p = p + 1 < s.n ? p + 1 : 0;
    out = out + 1 < s.n ? out + 1 : 0;
  }
}
