// Resamples that reach a text's statistic, null statistics, and the statistic itself (the twins are in cpu/null.py).
// Statistics here are E, the cost less 2 gamma k (cpu/edit.py): the host adds that.
#include "search.cuh"

// Text a of the batch.
__device__ inline Subject subject(const Texts& texts, long long a, int zero_row, const Room& room) {
  return {texts.inverse + texts.offsets[a], (int)(texts.offsets[a + 1] - texts.offsets[a]), (int)texts.k[a], zero_row,
          my_strip(room)};
}

// found.found[a * width + t] = 1 where resample first + t reaches value_a, for the member texts.
template <bool STAGED>
__device__ inline void hits_body(const Problem& s, const Texts& texts, const Members& members, const Resamples& r,
                                 const int* value_a, const Found& found, const Room& room) {
  int* tile = my_tile<STAGED>(room);
  const Share share(members);
  const int lane = threadIdx.x % 32;
  for (int t = blockIdx.x; t < r.count; t += gridDim.x) {
    const unsigned char* open_g = found.open == 0 ? 0 : found.open + (long long)t * members.count;
    int any = open_g == 0 && share.from < share.to;
    if (open_g != 0)
      for (int g = share.from + threadIdx.x; g < share.to; g += blockDim.x) any |= open_g[g];
    if (!__syncthreads_or(any)) continue;
    fill_resample(s, r, t, members.rows, tile);
    __syncthreads();
    Turns turns = {0};
    for (int base = share.from; base < share.to; base += 32) {
      bool mine = base + lane < share.to && (open_g == 0 || open_g[base + lane]);
      for (u32 left = __ballot_sync(ALL_LANES, mine); left; left &= left - 1) {
        const long long a = members.index[base + __ffs((int)left) - 1];
        Decide visit = {value_a[a], found.found + a * found.width + t};
        search<STAGED>(s, subject(texts, a, members.rows, room), tile, turns, visit);
      }
    }
    __syncthreads();
  }
}

extern "C" __global__ void __launch_bounds__(1024)
    hits(Problem s, Texts texts, Members members, Resamples r, const int* value_a, Found found, Room room) {
  if (room.staged)
    hits_body<true>(s, texts, members, r, value_a, found, room);
  else
    hits_body<false>(s, texts, members, r, value_a, found, room);
}

// least_t[t] = the statistic of the only member under resample first + t; on entry NOTHING.
template <bool STAGED>
__device__ inline void null_body(const Problem& s, const Texts& texts, const Members& members, const Resamples& r,
                                 int* least_t, const Room& room) {
  int* tile = my_tile<STAGED>(room);
  for (int t = blockIdx.x; t < r.count; t += gridDim.x) {
    fill_resample(s, r, t, members.rows, tile);
    __syncthreads();
    Turns turns = {0};
    Least visit = {NOTHING, least_t + t};
    search<STAGED>(s, subject(texts, members.index[0], members.rows, room), tile, turns, visit);
    __syncthreads();
  }
}

extern "C" __global__ void __launch_bounds__(1024)
    null_values(Problem s, Texts texts, Members members, Resamples r, int* least_t, Room room) {
  if (room.staged)
    null_body<true>(s, texts, members, r, least_t, room);
  else
    null_body<false>(s, texts, members, r, least_t, room);
}

// With place_a null: least_a[a] = the least alignment of text a with the key, if it is <= best_a[a] (NOTHING on entry).
// Else: place_a[a] = the first block * n + window where it is (the greatest u64 on entry).
template <bool STAGED>
__device__ inline void observe_body(const Problem& s, const Texts& texts, const Members& members,
                                    const CostTable& costs, const int* best_a, int* least_a, u64* place_a,
                                    const Room& room) {
  int* tile = my_tile<STAGED>(room);
  for (int g = blockIdx.x; g < members.count; g += gridDim.x) {
    const long long a = members.index[g], first = texts.distinct_offsets[a];
    if (place_a != 0 && least_a[a] == NOTHING) continue;
    const int U = (int)(texts.distinct_offsets[a + 1] - first);
    fill_gather(s, costs, first, U, tile);
    __syncthreads();
    Turns turns = {0};
    if (place_a != 0)
      search<STAGED>(s, subject(texts, a, U, room), tile, turns, Place{least_a[a], place_a + a});
    else
      search<STAGED>(s, subject(texts, a, U, room), tile, turns, Least{best_a[a], least_a + a});
    __syncthreads();
  }
}

extern "C" __global__ void __launch_bounds__(1024)
    observe(Problem s, Texts texts, Members members, CostTable costs, const int* best_a, int* least_a, u64* place_a,
            Room room) {
  if (room.staged)
    observe_body<true>(s, texts, members, costs, best_a, least_a, place_a, room);
  else
    observe_body<false>(s, texts, members, costs, best_a, least_a, place_a, room);
}

// hits_a, used_a [a] += those of the next `columns` resamples of each text, in order, up to limit_a[a] hits in all: a
// block of one warp for each text. found.found: 1 where a resample fits (the twin is null.tally).
extern "C" __global__ void tally(Found found, Members members, long long columns, const long long* limit_a,
                                 long long* hits_a, long long* used_a) {
  const int lane = threadIdx.x;
  for (int g = blockIdx.x; g < members.count; g += gridDim.x) {
    const long long a = members.index[g], limit = limit_a[a];
    const unsigned char* row_t = found.found + a * found.width;
    long long hits = hits_a[a], used = used_a[a];
    for (long long t = 0; t < columns && hits < limit; t += 32) {  // hot loop
      const u32 mask = __ballot_sync(ALL_LANES, t + lane < columns && row_t[t + lane] != 0);
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
