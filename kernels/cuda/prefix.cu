// Every prefix of a text at once: with k = m the alignment of a text holds those of its prefixes (cpu/prefix.py).
#include "search.cuh"

struct Diagonal {
  int* least_i;
  template <int R>
  __device__ void operator()(int j, int top, const int (&e)[R]) const {
    int wanted = j - 1 - top;
    if ((u32)wanted >= (u32)R) return;
    int value = e[0];
#pragma unroll
    for (int r = 1; r < R; ++r)
      if (r == wanted) value = e[r];
    if (value < ((volatile int*)least_i)[j - 1]) atomicMin(least_i + j - 1, value);
  }
};

// least_i[l] = min(itself, the least E[l + 1, l + 1] or plain cost of the prefix of l + 1 tokens): windows from `warp`
// on, `warps` apart. text: the whole text as one block.
template <bool STAGED>
__device__ __noinline__ void prefix_least(const Problem& s, const Subject& text, const int* tile, long long warp,
                                          long long warps, int* least_i) {
  const int m = text.m;
  if (s.alignment == ALIGN_EDIT) {
    for (long long tau = warp; tau < s.n; tau += warps) {
      const Job job = {text.inverse_i, m, (int)tau, m, text.zero_row, text.row_j};
      const Diagonal step = {least_i};
      walk_strips<STAGED, false>(Single{0}, job, tile, s.n, s.stride, step);
    }
  } else {
    for (long long start = 32 * warp + threadIdx.x % 32; start < s.n; start += 32 * warps) {
      int total = 0, p = (int)start;
      for (int i = 0; i < m; ++i) {  // hot loop
        int at = text.inverse_i[i] * s.stride + p;
        total += STAGED ? shared_memory[at] : tile[at];
        p = p + 1 < s.n ? p + 1 : 0;
        if (total < ((volatile int*)least_i)[i]) atomicMin(least_i + i, total);
      }
    }
  }
}

__device__ inline Subject whole(const Texts& texts, const Members& members, const Room& room) {
  const int m = (int)texts.k[0];
  return {texts.inverse, m, m, members.rows, my_strip(room)};
}

// The prefixes of the only text and one key: least_i int32 [m], NOTHING on entry.
extern "C" __global__ void __launch_bounds__(1024)
    observe_prefixes(Problem s, Texts texts, Members members, CostTable costs, int* least_i, Room room) {
  const long long warp = (blockIdx.x * (long long)blockDim.x + threadIdx.x) / 32;
  const long long warps = (long long)gridDim.x * blockDim.x / 32;
  int* tile = room.staged ? my_tile<true>(room) : my_tile<false>(room);
  fill_gather(s, costs, 0, members.rows, tile);
  __syncthreads();
  const Subject text = whole(texts, members, room);
  if (room.staged)
    prefix_least<true>(s, text, tile, warp, warps, least_i);
  else
    prefix_least<false>(s, text, tile, warp, warps, least_i);
}

// The prefixes under each resample: least_i int32 [r.count, m], NOTHING on entry.
extern "C" __global__ void __launch_bounds__(1024)
    null_prefixes(Problem s, Texts texts, Members members, Resamples r, int* least_i, Room room) {
  const int warp = threadIdx.x / 32, warps = blockDim.x / 32;
  int* tile = room.staged ? my_tile<true>(room) : my_tile<false>(room);
  const Subject text = whole(texts, members, room);
  for (int t = blockIdx.x; t < r.count; t += gridDim.x) {
    fill_resample(s, r, t, members.rows, tile);
    __syncthreads();
    int* mine_i = least_i + (long long)t * text.m;
    if (room.staged)
      prefix_least<true>(s, text, tile, warp, warps, mine_i);
    else
      prefix_least<false>(s, text, tile, warp, warps, mine_i);
    __syncthreads();
  }
}
