// Which resamples may reach a text's statistic? One int16 alignment with free ends in the key bounds all its windows,
// for two resamples a lane (the twin is cpu/bound.py; the bound itself differs, what is decided after it does not).
//
// Nothing saturates here. Values start at `base` and only fall. A sum that wrapped would need a value below `guard`
// before it, and as values never rise along a row or a column, the last one would be below it too: then the resample
// is left open. base and guard are chosen so that no sum can leave int16 otherwise (see `bound_range` of groups.py).
#include "search.cuh"

// open_tg[t, g] = 1 where resample first + t (first even) may reach level_g: int32, in units of 2**shift.
template <bool STAGED>
__device__ inline void bound_body(const Scheme s, long long gamma, int offset, int shift, int base, int guard,
                                  const u32* seed, long long first, int count, const int* inverse,
                                  const long long* offsets_a, const long long* k_a, const int* level_g,
                                  const long long* members_g, int members, int U, const int* etas_ti,
                                  unsigned char* open_tg, int* tile, int* row_j) {
  const int share = (members + gridDim.y - 1) / gridDim.y;
  const int from = blockIdx.y * share, to = from + share < members ? from + share : members;
  const int warps = blockDim.x / 32;
  for (int pair = blockIdx.x; pair < count / 2; pair += gridDim.x) {
    fill_pair(s, seed, first / 2 + pair, U, etas_ti + 2ll * pair * U, U, offset, shift, tile);
    __syncthreads();
    for (int g = from + threadIdx.x / 32; g < to; g += warps) {
      const long long a = members_g[g];
      const int k = (int)k_a[a], blocks = (int)(offsets_a[a + 1] - offsets_a[a]) - k + 1;
      int open = 0;
      for (int b = 0; b < blocks && open != 3; ++b) {
        int even = base, odd = base, last = 0;
        const Job job = {inverse + offsets_a[a] + b, k, 0, s.n + k - 1, U, row_j};
        walk_block<STAGED>(Pair{gamma, shift, base}, job, tile, s.n, s.stride, [&](int j, int value) {
          last = value;
          if (gamma != 0) {
            int back = (int)((gamma * j) >> shift);
            int x = (short)value + back, y = (value >> 16) + back;
            even = x < even ? x : even;
            odd = y < odd ? y : odd;
          }
        }, NoStep());
        if (gamma == 0) {
          even = (short)last;
          odd = last >> 16;
        }
        if ((short)last < guard || even - base <= level_g[g]) open |= 1;
        if ((last >> 16) < guard || odd - base <= level_g[g]) open |= 2;
        open = __shfl_sync(ALL_LANES, open, 31);
      }
      if (threadIdx.x % 32 == 0) {
        open_tg[2ll * pair * members + g] = open & 1;
        open_tg[(2ll * pair + 1) * members + g] = open >> 1;
      }
    }
    __syncthreads();
  }
}

extern "C" __global__ void __launch_bounds__(1024)
    bound(int its, int n, int stride, long long gamma, int offset, int shift, int base, int guard, const u32* seed,
          long long first, int count, const int* inverse, const long long* offsets_a, const long long* k_a,
          const int* level_g, const long long* members_g, int members, int U, const int* etas_ti,
          unsigned char* open_tg, int staged, int* tiles, long long tile_size, int* rows, long long row_size) {
  const Scheme s = {its, n, stride};
  const long long block = blockIdx.y * (long long)gridDim.x + blockIdx.x;
  int* row_j = rows + (block * (blockDim.x / 32) + threadIdx.x / 32) * row_size;
  if (staged)
    bound_body<true>(s, gamma, offset, shift, base, guard, seed, first, count, inverse, offsets_a, k_a, level_g,
                     members_g, members, U, etas_ti, open_tg, shared_memory, row_j);
  else
    bound_body<false>(s, gamma, offset, shift, base, guard, seed, first, count, inverse, offsets_a, k_a, level_g,
                      members_g, members, U, etas_ti, open_tg, tiles + block * tile_size, row_j);
}

// etas_ti[t, i] = eta of the i-th distinct random rank of resample first + t, a warp for each (cpu/resample.py).
// seen: uint32, ceil(V / 32) for each warp of the grid: which ranks were drawn.
extern "C" __global__ void its_etas(const u32* seed, long long first, int count, int U, long long V,
                                    long long denominator, u32* seen, int* etas_ti) {
  const int lane = threadIdx.x % 32;
  const long long warp = (blockIdx.x * (long long)blockDim.x + threadIdx.x) / 32;
  const long long warps = (long long)gridDim.x * blockDim.x / 32;
  const long long size = (V + 31) / 32;
  volatile u32* mine = seen + warp * size;
  for (long long t = warp; t < count; t += warps) {
    for (long long i = lane; i < size; i += 32) mine[i] = 0;
    __syncwarp();
    int done = 0;
    for (u32 draw = 0; done < U; draw += 256) {
      u32 x[16];
      chacha_block(seed, draw / 16 + lane % 16, 0, DOMAIN_NULL_RANK, (u32)(first + t), x);
#pragma unroll
      for (int w = 0; w < 16; w += 2) {  // hot loop
        u32 word = lane < 16 ? x[w] : x[w + 1];
        u32 rank = (u32)((u64)word * (u64)V >> 32);
        bool fresh = (mine[rank / 32] >> (rank % 32) & 1) == 0;
        u32 same = __match_any_sync(ALL_LANES, rank);
        fresh = fresh && __ffs((int)same) - 1 == lane;
        u32 accepted = __ballot_sync(ALL_LANES, fresh);
        int place = done + __popc(accepted & ((1u << lane) - 1));
        if (fresh) {
          atomicOr((u32*)mine + rank / 32, 1u << (rank % 32));
          if (place < U) etas_ti[t * U + place] = eta_of(rank, denominator);
        }
        done += __popc(accepted);
        __syncwarp();
      }
    }
  }
}
