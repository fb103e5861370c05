// Numbers of resamples that are made before the kernels that use them (the twin is in cpu/resample.py).
#include "resample.cuh"

// r.etas[t, i] = eta of the i-th distinct random rank of resample first + t, a warp for each (cpu/resample.py).
// seen: uint32, ceil(V / 32) for each warp of the grid: which ranks were drawn.
extern "C" __global__ void its_etas(Problem s, Resamples r, int U, u32* seen) {
  const int lane = threadIdx.x % 32;
  const long long warp = (blockIdx.x * (long long)blockDim.x + threadIdx.x) / 32;
  const long long warps = (long long)gridDim.x * blockDim.x / 32;
  const long long size = (s.vocab_size + 31) / 32;
  volatile u32* mine = seen + warp * size;
  for (long long t = warp; t < r.count; t += warps) {
    for (long long i = lane; i < size; i += 32) mine[i] = 0;
    __syncwarp();
    int done = 0;
    for (u32 draw = 0; done < U; draw += 256) {
      u32 x[16];
      chacha_block(r.seed, draw / 16 + lane % 16, 0, DOMAIN_NULL_RANK, (u32)(r.first + t), x);
#pragma unroll
      for (int w = 0; w < 16; w += 2) {  // hot loop
        u32 word = lane < 16 ? x[w] : x[w + 1];
        u32 rank = (u32)((u64)word * (u64)s.vocab_size >> 32);
        bool fresh = (mine[rank / 32] >> (rank % 32) & 1) == 0;
        u32 same = __match_any_sync(ALL_LANES, rank);
        fresh = fresh && __ffs((int)same) - 1 == lane;
        u32 accepted = __ballot_sync(ALL_LANES, fresh);
        int place = done + __popc(accepted & ((1u << lane) - 1));
        if (fresh) {
          atomicOr((u32*)mine + rank / 32, 1u << (rank % 32));
          if (place < U) r.etas[t * U + place] = eta_of(rank, s.denominator);
        }
        done += __popc(accepted);
        __syncwarp();
      }
    }
  }
}
