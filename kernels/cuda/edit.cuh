// Edit alignment by one warp: rows of the text lie across the lanes, which walk the key as a wavefront.
//
// The recurrence is that of cpu/edit.py, E = min(up, left, diagonal + cost - 2 gamma) with a border of zeros, three
// operations a cell. E never rises along the key or the text. A text longer than 32 R rows takes several strips, whose
// last rows go through `row`.

#include "resample.cuh"

#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
#define DPX 1
#else
#define DPX 0
#endif

// One alignment a lane, int32.
struct Single {
  int gamma;
  __device__ int zero() const { return 0; }
  __device__ int start(int) const { return 0; }
  __device__ int slope(int lane) const { return lane == 0 ? -gamma : gamma; }
  __device__ static int way(int sum) { return sum; }
  __device__ static int fit(int diagonal, int cost, int left) {
#if DPX
    return __viaddmin_s32(diagonal, cost, left);
#else
    int sum = (int)((u32)diagonal + (u32)cost);
    return sum < left ? sum : left;
#endif
  }
  __device__ static int least(int a, int b) { return a < b ? a : b; }
};

// Two alignments a lane, int16 each, in units of 2**shift. Values start at `base`, so that both signs are used. A gap is
// no whole number of units: it is added up with 16 more bits, rounded up for the border, which falls, and down for the
// way back. So both ways are below what they stand for, by less than a unit.
struct Pair {
  int base, fall, rise;
  __device__ int zero() const { return pack_16(base, base); }
  __device__ int start(int lane) const { return lane == 0 ? base << 16 : 0; }
  __device__ int slope(int lane) const { return lane == 0 ? -fall : rise; }
  __device__ static int way(int sum) { return (int)__byte_perm((u32)sum, 0, 0x3232); }
  __device__ static int fit(int diagonal, int cost, int left) {
#if DPX
    return (int)__viaddmin_s16x2((u32)diagonal, (u32)cost, (u32)left);
#else
    return (int)__vmins2(__vadd2((u32)diagonal, (u32)cost), (u32)left);
#endif
  }
  __device__ static int least(int a, int b) { return (int)__vmins2((u32)a, (u32)b); }
};

// What a warp is told about one alignment: which key rows (start, start + 1, .. mod n, `length` of them), which tokens.
struct Job {
  const int* inverse_i;
  int k, start, length;
  int zero_row;
  int* row_j;  // int32 [length + 1], scratch of this warp; used when k > 256
};

// What a warp's last lane has in the end, with j the column of the key: E[k, length], and the least E[k, j] + gamma j,
// from `zero`, which is E[k, 0]. Without gaps these are the same, since E never rises.
struct Ends {
  int last, least;
};

// A row's costs from a byte offset on.
template <bool STAGED>
__device__ inline const int* costs_at(const int* tile, u32 offset) {
  return (const int*)((const char*)(STAGED ? shared_memory : tile) + offset);
}

// Calls step(j, row, e) after column j of a lane's rows row .. row + R - 1 (from 0), e[r] = E[row + r + 1, j].
// ALONE: the block fits in one strip, k <= 32 R. GAPS: gamma is not 0.
//
// Lane l is l columns behind lane 0. So in the first 31 steps, and in the last 31, some lanes have no column; between
// them all have, nothing is asked, and UNROLL columns follow each other without a look at the end of the key: the tile's
// rows go on beyond it (resample.cuh).
template <int R, bool ALONE, bool STAGED, bool GAPS, class Cells, class Step>
__device__ inline Ends walk(const Cells cells, const Job& job, const int* tile, int n, int stride, Step step) {
  const int lane = threadIdx.x % 32, length = job.length;
  const int whole = n < UNROLL ? 0 : length - UNROLL;  // from later steps on lane 0 has no UNROLL columns left
  const u32 round = 4u * (u32)n;
  Ends ends = {cells.zero(), cells.zero()};
  for (int first = 0; first < job.k; first += 32 * R) {
    const bool top = ALONE || first == 0, bottom = ALONE || first + 32 * R >= job.k;
    int e[R];
    u32 at[R];
#pragma unroll
    for (int r = 0; r < R; ++r) {
      int i = first + lane * R + r;
      at[r] = 4u * (u32)(i < job.k ? job.inverse_i[i] : job.zero_row) * (u32)stride;
      e[r] = cells.zero();
    }
    int diagonal = cells.zero(), handed = cells.zero(), least = cells.zero(), ahead = 0;
    // Lane 0 goes along the border, -gamma j; the others know the way back from column j, gamma j.
    int sum = cells.start(lane);
    const int slope = cells.slope(lane);
    u32 p = 4u * (u32)job.start;
    // What comes from above in step s: the last row of the lane before or, for lane 0, of the strip before, whose columns
    // are read 32 at a time.
    auto from_above = [&](int s, bool may_read) {
      int up = __shfl_up_sync(ALL_LANES, handed, 1);
      if (top) return up;
      if (may_read && s % 32 == 0) ahead = s + lane + 1 <= length ? job.row_j[s + lane + 1] : 0;
      int above = __shfl_sync(ALL_LANES, ahead, s % 32);
      return lane == 0 ? above : up;
    };
    auto column = [&](int up, int j, int beyond) {
      if (GAPS) sum += slope;
      if (top && lane == 0) up = GAPS ? Cells::way(sum) : cells.zero();
      int corner = diagonal, v = up;
      diagonal = up;
#pragma unroll
      for (int r = 0; r < R; ++r) {
        int best = Cells::fit(corner, costs_at<STAGED>(tile, at[r] + p)[beyond], e[r]);
        corner = e[r];
        v = Cells::least(best, v);
        e[r] = v;
      }
      handed = v;
      if (GAPS) least = Cells::fit(v, Cells::way(sum), least);
      if (!bottom && lane == 31) job.row_j[j] = v;
      step(j, first + lane * R, e);
    };
#pragma unroll 1
    for (int s = 0; s < length + 31; ++s) {
      if (s == 32) {
#pragma unroll 1
        for (; s <= whole; s += UNROLL) {  // hot loop
#pragma unroll
          for (int u = 0; u < UNROLL; ++u) column(from_above(s + u, u == 0), s + u - lane + 1, u);
          p += 4 * UNROLL;
          p = p < round ? p : p - round;
        }
      }
      const int up = from_above(s, true), j = s - lane + 1;
      if (j >= 1 && j <= length) {
        column(up, j, 0);
        p = p + 4 < round ? p + 4 : 0;
      }
    }
    ends = {handed, GAPS ? least : handed};
    __syncwarp();
  }
  return ends;
}

struct NoStep {
  template <int R>
  __device__ void operator()(int, int, const int (&)[R]) const {}
};

// As few lanes without a token as possible: 32 R tokens in one strip, or strips of 160 or of 256.
template <bool STAGED, bool GAPS, class Cells, class Step>
__device__ inline Ends walk_strips(const Cells cells, const Job& job, const int* tile, int n, int stride, Step step) {
#define CASE(R) \
  case R: return walk<R, true, STAGED, GAPS>(cells, job, tile, n, stride, step)
  const int rows = (job.k + 31) / 32;
  switch (STAGED ? rows : rows + rows % 2) {  // beside shared memory warps wait for loads: half of the sizes will do
    CASE(2);
    CASE(4);
    CASE(6);
    CASE(8);
  }
  if constexpr (STAGED) {
    switch (rows) {
      CASE(1);
      CASE(3);
      CASE(5);
      CASE(7);
    }
  }
#undef CASE
  if ((job.k + 159) / 160 * 160 < (job.k + 255) / 256 * 256)
    return walk<5, false, STAGED, GAPS>(cells, job, tile, n, stride, step);
  return walk<8, false, STAGED, GAPS>(cells, job, tile, n, stride, step);
}

// A whole block of a text; gaps: whether gamma is not 0.
template <bool STAGED, class Cells, class Step>
__device__ inline Ends walk_block(const Cells cells, bool gaps, const Job& job, const int* tile, int n, int stride,
                                  Step step) {
  if (STAGED && !gaps) return walk_strips<STAGED, false>(cells, job, tile, n, stride, step);
  return walk_strips<STAGED, true>(cells, job, tile, n, stride, step);  // right for gaps of 0, too
}
