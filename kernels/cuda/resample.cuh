// A tile: the costs of one key (or one resample, or a pair of them) for a text's distinct tokens, made by a whole block
// in shared memory, or in global memory where they do not fit. Row i is the i-th distinct token, column j the key row;
// row U is zeros, for lanes without a token. The stride is a multiple of 32, so that a warp that walks a wavefront
// (lane l at row r + l, column j - l) meets 32 banks. Edit alignments look for the end of the key once in UNROLL columns
// only: there the first UNROLL - 1 columns are repeated behind the last.
//
// Numbers of resample t are those of cpu/resample.py: a function of (seed, t, i, j) alone. The functions below are not
// inlined: one compiled copy serves every kernel.

#include "numbers.cuh"

extern __shared__ __align__(16) int shared_memory[];

// The columns behind the last, and the row of zeros.
__device__ inline void finish_tile(const Problem& s, int U, int* tile_ij) {
  for (int j = threadIdx.x; j < s.stride; j += blockDim.x) tile_ij[(long long)U * s.stride + j] = 0;
  if (s.alignment != ALIGN_EDIT) return;
  __syncthreads();
  for (int at = threadIdx.x; at < U * (UNROLL - 1); at += blockDim.x) {
    int* row_j = tile_ij + (long long)(at / (UNROLL - 1)) * s.stride;
    row_j[s.n + at % (UNROLL - 1)] = row_j[at % (UNROLL - 1) % s.n];
  }
}

// tile[i][j] = exact cost - 2 gamma of resample first + t, for U distinct tokens.
__device__ __noinline__ void fill_resample(const Problem& s, const Resamples& r, int at_t, int U, int* tile_ij) {
  const int offset = (int)(-2 * s.gamma);
  const u32* seed = r.seed;
  const long long t = r.first + at_t;
  const int* etas_i = r.etas + (long long)at_t * U;
  int run = (s.n + 15) / 16;
  u32 pair = (u32)(t / 2);
  int half = (int)(t % 2) * 16;
  if (s.cost != COST_ITS) {
    for (long long at = threadIdx.x; at < (long long)U * run; at += blockDim.x) {  // hot loop
      int i = (int)(at / run), b = (int)(at % run);
      u32 x[16], y[16];
      chacha_block(seed, b, i, DOMAIN_NULL_HIGH, pair, x);
      chacha_block(seed, b, i, DOMAIN_NULL_LOW, pair, y);
#pragma unroll
      for (int w = 0; w < 16; ++w) {
        u32 word = ((x[w] >> half) << 16) | ((y[w] >> half) & 0xFFFFu);
        int j = w * run + b;
        if (j < s.n) tile_ij[(long long)i * s.stride + j] = exp_cost(word) + offset;
      }
    }
  } else {
    int* u_j = tile_ij + (long long)U * s.stride;  // kept where the zeros will be
    for (int b = threadIdx.x; b < run; b += blockDim.x) {
      u32 x[16];
      chacha_block(seed, b, 0, DOMAIN_NULL_UNIFORM, pair, x);
#pragma unroll
      for (int w = 0; w < 16; ++w)
        if (w * run + b < s.n) u_j[w * run + b] = (x[w] >> half) & 0xFFFFu;
    }
    __syncthreads();
    for (long long at = threadIdx.x; at < (long long)U * s.n; at += blockDim.x) {
      int i = (int)(at / s.n), j = (int)(at % s.n);
      int d = u_j[j] - etas_i[i];
      tile_ij[(long long)i * s.stride + j] = (d < 0 ? -d : d) + offset;
    }
    __syncthreads();
  }
  finish_tile(s, U, tile_ij);
}

// Two int16 in one word: resample 2 pair in the low half.
__device__ inline int pack_16(int low, int high) { return (int)(((u32)low & 0xFFFFu) | ((u32)high << 16)); }

// tile[i][j] = (lower bound of cost - 2 gamma) >> shift of the resamples first + at_t (even) and the next.
// exp: from the high halves alone; the least cost of a high half has all low bits set, less 1 for the rounding of logs.
__device__ __noinline__ void fill_pair(const Problem& s, const Resamples& r, int at_t, int U, int shift, int* tile_ij) {
  const int offset = (int)(-2 * s.gamma);
  const u32* seed = r.seed;
  const long long pair = (r.first + at_t) / 2;
  const int* etas_i = r.etas + (long long)at_t * U;
  int run = (s.n + 15) / 16;
  if (s.cost != COST_ITS) {
    for (long long at = threadIdx.x; at < (long long)U * run; at += blockDim.x) {  // hot loop
      int i = (int)(at / run), b = (int)(at % run);
      u32 x[16];
      chacha_block(seed, b, i, DOMAIN_NULL_HIGH, (u32)pair, x);
#pragma unroll
      for (int w = 0; w < 16; ++w) {
        int even = (exp_cost((x[w] << 16) | 0xFFFFu) - 1 + offset) >> shift;
        int odd = (exp_cost(x[w] | 0xFFFFu) - 1 + offset) >> shift;
        int j = w * run + b;
        if (j < s.n) tile_ij[(long long)i * s.stride + j] = pack_16(even, odd);
      }
    }
  } else {
    int* u_j = tile_ij + (long long)U * s.stride;
    for (int b = threadIdx.x; b < run; b += blockDim.x) {
      u32 x[16];
      chacha_block(seed, b, 0, DOMAIN_NULL_UNIFORM, (u32)pair, x);
#pragma unroll
      for (int w = 0; w < 16; ++w)
        if (w * run + b < s.n) u_j[w * run + b] = (int)x[w];
    }
    __syncthreads();
    for (long long at = threadIdx.x; at < (long long)U * s.n; at += blockDim.x) {
      int i = (int)(at / s.n), j = (int)(at % s.n);
      int even = (int)((u32)u_j[j] & 0xFFFFu) - etas_i[i];
      int odd = (int)((u32)u_j[j] >> 16) - etas_i[U + i];
      even = ((even < 0 ? -even : even) + offset) >> shift;
      odd = ((odd < 0 ? -odd : odd) + offset) >> shift;
      tile_ij[(long long)i * s.stride + j] = pack_16(even, odd);
    }
    __syncthreads();
  }
  finish_tile(s, U, tile_ij);
}

// tile[i][j] = costs of the distinct tokens from `first` on, less 2 gamma.
__device__ __noinline__ void fill_gather(const Problem& s, const CostTable& costs, long long first, int U, int* tile_ij) {
  const int offset = (int)(-2 * s.gamma);
  for (long long at = threadIdx.x; at < (long long)U * s.n; at += blockDim.x) {
    int i = (int)(at / s.n), j = (int)(at % s.n);
    tile_ij[(long long)i * s.stride + j] = costs.matrix[costs.source[first + i] * costs.width + j] + offset;
  }
  finish_tile(s, U, tile_ij);
}

// The tile and the strip of this block and warp.
template <bool STAGED>
__device__ inline int* my_tile(const Room& room) {
  if (STAGED) return shared_memory;
  return room.tiles + (blockIdx.y * (long long)gridDim.x + blockIdx.x) * room.tile_size;
}

__device__ inline int* my_strip(const Room& room) {
  const long long block = blockIdx.y * (long long)gridDim.x + blockIdx.x;
  return room.strips + (block * (blockDim.x / 32) + threadIdx.x / 32) * room.strip_size;
}

// Of the members that the blocks of one column of the grid share, those of this block: [from, to).
struct Share {
  int from, to;
  __device__ explicit Share(const Members& members) {
    const int size = (members.count + gridDim.y - 1) / gridDim.y;
    from = blockIdx.y * size;
    to = from + size < members.count ? from + size : members.count;
  }
};
