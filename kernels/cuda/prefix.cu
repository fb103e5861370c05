// Every prefix of a text at once: with k = m the alignment of a text holds those of its prefixes (cpu/prefix.py).
#include "search.cuh"

struct Diagonal {
  int* least_i;
  int k;
  template <int R>
  __device__ void operator()(int j, int top, const int (&e)[R]) const {
    int wanted = j - 1 - top;
    if (wanted < 0 || wanted >= R || top + wanted >= k) return;
#pragma unroll
    for (int r = 0; r < R; ++r)
      if (r == wanted && e[r] < ((volatile int*)least_i)[top + r]) atomicMin(least_i + top + r, e[r]);
  }
};

struct NoFinish {
  __device__ void operator()(int, int) const {}
};

// least_i[l] = min(itself, the least E[l + 1, l + 1] or plain cost of the prefix of l + 1 tokens): windows from `warp`
// on, `warps` apart.
template <bool STAGED>
__device__ __noinline__ void prefix_least(const Scheme s, int edits, const int* inverse_i, int m, int zero_row,
                                    const int* tile, int* row_j, long long warp, long long warps, int* least_i) {
  if (edits) {
    for (long long tau = warp; tau < s.n; tau += warps) {
      const Job job = {inverse_i, m, (int)tau, m, zero_row, row_j};
      const Diagonal step = {least_i, m};
      walk_block<STAGED>(Single{0}, job, tile, s.n, s.stride, NoFinish(), step);
    }
  } else {
    for (long long start = 32 * warp + threadIdx.x % 32; start < s.n; start += 32 * warps) {
      int total = 0, p = (int)start;
      for (int i = 0; i < m; ++i) {  // hot loop
        int at = inverse_i[i] * s.stride + p;
        total += STAGED ? shared_memory[at] : tile[at];
        p = p + 1 < s.n ? p + 1 : 0;
        if (total < ((volatile int*)least_i)[i]) atomicMin(least_i + i, total);
      }
    }
  }
}

// The prefixes of one text and one key: least_i int32 [m], NOTHING on entry. costs_rj: int32 [U, width].
extern "C" __global__ void __launch_bounds__(1024)
    observe_prefixes(int edits, int n, int stride, int offset, const int* costs_rj, long long width,
                     const long long* source, const int* inverse, int m, int U, int* least_i, int staged, int* tiles,
                     long long tile_size, int* rows, long long row_size) {
  const Scheme s = {0, n, stride};
  const long long warp = (blockIdx.x * (long long)blockDim.x + threadIdx.x) / 32;
  int* tile = staged ? shared_memory : tiles + blockIdx.x * tile_size;
  fill_gather(s, costs_rj, width, source, U, offset, tile);
  __syncthreads();
  const long long warps = (long long)gridDim.x * blockDim.x / 32;
  if (staged)
    prefix_least<true>(s, edits, inverse, m, U, tile, rows + warp * row_size, warp, warps, least_i);
  else
    prefix_least<false>(s, edits, inverse, m, U, tile, rows + warp * row_size, warp, warps, least_i);
}

// hits_i[l] += the resamples first .. first + count - 1 that reach value_i[l]. least: int32, scratch, m a block.
extern "C" __global__ void __launch_bounds__(1024)
    prefix_hits(int its, int edits, int n, int stride, int offset, const u32* seed, long long first, int count,
                const int* inverse, int m, int U, const int* etas_ti, const int* value_i, u64* hits_i, int* least,
                int staged, int* tiles, long long tile_size, int* rows, long long row_size) {
  const Scheme s = {its, n, stride};
  const int warp = threadIdx.x / 32, warps = blockDim.x / 32;
  int* tile = staged ? shared_memory : tiles + blockIdx.x * tile_size;
  int* row_j = rows + (blockIdx.x * (long long)warps + warp) * row_size;
  int* least_i = least + (long long)blockIdx.x * m;
  for (int t = blockIdx.x; t < count; t += gridDim.x) {
    for (int i = threadIdx.x; i < m; i += blockDim.x) ((volatile int*)least_i)[i] = NOTHING;
    fill_resample(s, seed, first + t, U, etas_ti + (long long)t * U, offset, tile);
    __syncthreads();
    if (staged)
      prefix_least<true>(s, edits, inverse, m, U, tile, row_j, warp, warps, least_i);
    else
      prefix_least<false>(s, edits, inverse, m, U, tile, row_j, warp, warps, least_i);
    __syncthreads();
    for (int i = threadIdx.x; i < m; i += blockDim.x)
      if (((volatile int*)least_i)[i] <= value_i[i]) atomicAdd(hits_i + i, 1ull);
    __syncthreads();
  }
}
