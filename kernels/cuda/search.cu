// Resamples that reach a text's statistic, null statistics, and the statistic itself (the twins are in cpu/null.py).
//
// tiles: int32, scratch for tiles that are not staged in shared memory, tile_size for each block of the grid.
// rows: int32, scratch for strips, row_size for each warp of the grid (0: no block of text needs one).
#include "search.cuh"

__device__ inline int* my_tile(int* tiles, long long tile_size) {
  return tiles + (blockIdx.y * (long long)gridDim.x + blockIdx.x) * tile_size;
}

__device__ inline int* my_row(int* rows, long long row_size) {
  long long block = blockIdx.y * (long long)gridDim.x + blockIdx.x;
  return rows + (block * (blockDim.x / 32) + threadIdx.x / 32) * row_size;
}

// hits_at[a * width + t] = 1 where resample first + t reaches value_a, for the texts members_g.
// open_tg: uint8 [count, members], the resamples to look at, or null for all. etas_ti: int32 [count, U] (its).
template <bool STAGED>
__device__ inline void hits_body(const Scheme s, int edits, long long gamma, int offset, int wide, const u32* seed,
                                 long long first, int count, const int* inverse, const long long* offsets_a,
                                 const long long* k_a, const int* value_a, const long long* members_g, int members,
                                 int U, const int* etas_ti, const unsigned char* open_tg, unsigned char* hits_at,
                                 long long width, int* tile, int* row_j) {
  const int share = (members + gridDim.y - 1) / gridDim.y;
  const int from = blockIdx.y * share, to = from + share < members ? from + share : members;
  const int lane = threadIdx.x % 32;
  for (int t = blockIdx.x; t < count; t += gridDim.x) {
    int any = open_tg == 0 && from < to;
    if (open_tg != 0)
      for (int g = from + threadIdx.x; g < to; g += blockDim.x) any |= open_tg[(long long)t * members + g];
    if (!__syncthreads_or(any)) continue;
    fill_resample(s, seed, first + t, U, etas_ti + (long long)t * U, offset, tile);
    __syncthreads();
    Turns turns = {0};
    for (int base = from; base < to; base += 32) {
      bool mine = base + lane < to && (open_tg == 0 || open_tg[(long long)t * members + base + lane]);
      for (u32 left = __ballot_sync(ALL_LANES, mine); left; left &= left - 1) {
        const long long a = members_g[base + __ffs((int)left) - 1];
        Decide visit = {value_a[a], hits_at + a * width + t};
        search<STAGED>(s, edits, gamma, wide, inverse + offsets_a[a], (int)(offsets_a[a + 1] - offsets_a[a]),
                       (int)k_a[a], U, row_j, tile, turns, visit);
      }
    }
    __syncthreads();
  }
}

extern "C" __global__ void __launch_bounds__(1024)
    hits(int its, int edits, int n, int stride, long long gamma, int offset, int wide, const u32* seed, long long first,
         int count, const int* inverse, const long long* offsets_a, const long long* k_a, const int* value_a,
         const long long* members_g, int members, int U, const int* etas_ti, const unsigned char* open_tg,
         unsigned char* hits_at, long long width, int staged, int* tiles, long long tile_size, int* rows,
         long long row_size) {
  const Scheme s = {its, n, stride};
  int* row_j = my_row(rows, row_size);
  if (staged)
    hits_body<true>(s, edits, gamma, offset, wide, seed, first, count, inverse, offsets_a, k_a, value_a, members_g,
                    members, U, etas_ti, open_tg, hits_at, width, shared_memory, row_j);
  else
    hits_body<false>(s, edits, gamma, offset, wide, seed, first, count, inverse, offsets_a, k_a, value_a, members_g,
                     members, U, etas_ti, open_tg, hits_at, width, my_tile(tiles, tile_size), row_j);
}

// least_t[t] = the statistic of one text under resample first + t; on entry NOTHING.
template <bool STAGED>
__device__ inline void null_body(const Scheme s, int edits, long long gamma, int offset, int wide, const u32* seed,
                                 long long first, int count, const int* inverse, int m, int k, int U,
                                 const int* etas_ti, int* least_t, int* tile, int* row_j) {
  for (int t = blockIdx.x; t < count; t += gridDim.x) {
    fill_resample(s, seed, first + t, U, etas_ti + (long long)t * U, offset, tile);
    __syncthreads();
    Turns turns = {0};
    Least visit = {NOTHING, least_t + t};
    search<STAGED>(s, edits, gamma, wide, inverse, m, k, U, row_j, tile, turns, visit);
    __syncthreads();
  }
}

extern "C" __global__ void __launch_bounds__(1024)
    null_values(int its, int edits, int n, int stride, long long gamma, int offset, int wide, const u32* seed,
                long long first, int count, const int* inverse, int m, int k, int U, const int* etas_ti, int* least_t,
                int staged, int* tiles, long long tile_size, int* rows, long long row_size) {
  const Scheme s = {its, n, stride};
  int* row_j = my_row(rows, row_size);
  if (staged)
    null_body<true>(s, edits, gamma, offset, wide, seed, first, count, inverse, m, k, U, etas_ti, least_t,
                    shared_memory, row_j);
  else
    null_body<false>(s, edits, gamma, offset, wide, seed, first, count, inverse, m, k, U, etas_ti, least_t,
                     my_tile(tiles, tile_size), row_j);
}

// With place 0: least_a[a] = the least alignment of text a with the key, if it is <= best_a[a] (NOTHING on entry).
// With place 1: place_a[a] = the first block * n + window where it is (the greatest u64 on entry).
template <bool STAGED>
__device__ inline void observe_body(const Scheme s, int place, int edits, long long gamma, int offset, int wide,
                                    const int* costs_rj, long long width, const long long* source,
                                    const int* inverse, const long long* offsets_a, const long long* distinct_a,
                                    const long long* k_a, const long long* members_g, int members, const int* best_a,
                                    int* least_a, u64* place_a, int* tile, int* row_j) {
  for (int g = blockIdx.x; g < members; g += gridDim.x) {
    const long long a = members_g[g];
    if (place && least_a[a] == NOTHING) continue;
    const int U = (int)(distinct_a[a + 1] - distinct_a[a]);
    fill_gather(s, costs_rj, width, source + distinct_a[a], U, offset, tile);
    __syncthreads();
    const int m = (int)(offsets_a[a + 1] - offsets_a[a]);
    Turns turns = {0};
    if (place)
      search<STAGED>(s, edits, gamma, wide, inverse + offsets_a[a], m, (int)k_a[a], U, row_j, tile, turns,
                     Place{least_a[a], place_a + a});
    else
      search<STAGED>(s, edits, gamma, wide, inverse + offsets_a[a], m, (int)k_a[a], U, row_j, tile, turns,
                     Least{best_a[a], least_a + a});
    __syncthreads();
  }
}

extern "C" __global__ void __launch_bounds__(1024)
    observe(int place, int edits, int n, int stride, long long gamma, int offset, int wide, const int* costs_rj,
            long long width, const long long* source, const int* inverse, const long long* offsets_a,
            const long long* distinct_a, const long long* k_a, const long long* members_g, int members,
            const int* best_a, int* least_a, u64* place_a, int staged, int* tiles, long long tile_size, int* rows,
            long long row_size) {
  const Scheme s = {0, n, stride};
  int* row_j = my_row(rows, row_size);
  if (staged)
    observe_body<true>(s, place, edits, gamma, offset, wide, costs_rj, width, source, inverse, offsets_a, distinct_a,
                       k_a, members_g, members, best_a, least_a, place_a, shared_memory, row_j);
  else
    observe_body<false>(s, place, edits, gamma, offset, wide, costs_rj, width, source, inverse, offsets_a, distinct_a,
                        k_a, members_g, members, best_a, least_a, place_a, my_tile(tiles, tile_size), row_j);
}

// hits_a, used_a [a] += those of the next `columns` resamples of each text, in order, up to limit_a[a] hits in all: a
// block of one warp for each text. found_at: [texts, stride], 1 where a resample fits (the twin is null.tally).
extern "C" __global__ void tally(const unsigned char* found_at, const long long* members_g, int members,
                                 long long stride, long long columns, const long long* limit_a, long long* hits_a,
                                 long long* used_a) {
  const int lane = threadIdx.x;
  for (int g = blockIdx.x; g < members; g += gridDim.x) {
    const long long a = members_g[g], limit = limit_a[a];
    long long hits = hits_a[a], used = used_a[a];
    for (long long t = 0; t < columns && hits < limit; t += 32) {  // hot loop
      const u32 mask = __ballot_sync(ALL_LANES, t + lane < columns && found_at[a * stride + t + lane] != 0);
      if (hits + __popc(mask) < limit) {
        hits += __popc(mask);
        used += columns - t < 32 ? columns - t : 32;
        continue;
      }
      u32 rest = mask;
      while (++hits < limit) rest &= rest - 1;  // the lowest bit left is hit number `limit`
      used += __popc(rest ^ (rest - 1));
    }
    __syncwarp();
    if (lane == 0) {
      hits_a[a] = hits;
      used_a[a] = used;
    }
  }
}
