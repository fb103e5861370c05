// Which resamples may reach a text's statistic? One int16 alignment with free ends in the key bounds all its windows,
// for two resamples a lane (the twin is cpu/bound.py; the bound itself differs, what is decided after it does not).
//
// Nothing saturates here. Values start at `base` and only fall. A sum that wrapped would need a value below `guard`
// before it, and as values never rise along a row or a column, the last one would be below it too: then the resample
// is left open. base and guard are chosen so that no sum can leave int16 otherwise (see `bound_range` of groups.py).
#include "search.cuh"

// open_tg[t, g] = 1 where resample first + t (first even) may reach level.level[g], in units of 2**shift.
template <bool STAGED>
__device__ inline void bound_body(const Problem& s, const Texts& texts, const Members& members, const Resamples& r,
                                  const Level& level, unsigned char* open_tg, const Room& room) {
  int* tile = my_tile<STAGED>(room);
  int* row_j = my_strip(room);
  const Share share(members);
  const int base = level.base, guard = level.guard, warps = blockDim.x / 32;
  const Pair cells = {base, level.fall, level.rise};
  for (int t = 2 * blockIdx.x; t + 1 < r.count; t += 2 * gridDim.x) {
    fill_pair(s, r, t, members.rows, level.shift, tile);
    __syncthreads();
    for (int g = share.from + threadIdx.x / 32; g < share.to; g += warps) {
      const long long a = members.index[g];
      const int k = (int)texts.k[a], blocks = (int)(texts.offsets[a + 1] - texts.offsets[a]) - k + 1;
      int open = 0;
      for (int b = 0; b < blocks && open != 3; ++b) {
        const Job job = {texts.inverse + texts.offsets[a] + b, k, 0, s.n + k - 1, members.rows, row_j};
        const Ends ends = walk_block<STAGED>(cells, level.fall != 0, job, tile, s.n, s.stride, NoStep());
        if ((short)ends.last < guard || (short)ends.least - base <= level.level[g]) open |= 1;
        if ((ends.last >> 16) < guard || (ends.least >> 16) - base <= level.level[g]) open |= 2;
        open = __shfl_sync(ALL_LANES, open, 31);
      }
      if (threadIdx.x % 32 == 0) {
        open_tg[(long long)t * members.count + g] = open & 1;
        open_tg[(t + 1ll) * members.count + g] = open >> 1;
      }
    }
    __syncthreads();
  }
}

extern "C" __global__ void __launch_bounds__(1024)
    bound(Problem s, Texts texts, Members members, Resamples r, Level level, unsigned char* open_tg, Room room) {
  if (room.staged)
    bound_body<true>(s, texts, members, r, level, open_tg, room);
  else
    bound_body<false>(s, texts, members, r, level, open_tg, room);
}
