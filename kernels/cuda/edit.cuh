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
  long long gamma;  // of the border: row 0 holds -gamma j
  __device__ int zero() const { return 0; }
  __device__ int border(int j) const { return gamma == 0 ? 0 : (int)(-gamma * j); }
  __device__ static int fit(int diagonal, int cost, int left) {
#if DPX
    return __viaddmin_s32(diagonal, cost, left);
#else
    int sum = diagonal + cost;
    return sum < left ? sum : left;
#endif
  }
  __device__ static int least(int a, int b) { return a < b ? a : b; }
};

// Two alignments a lane, int16 each, in units of 2**shift. Values start at `base`, so that both signs are used.
struct Pair {
  long long gamma;
  int shift, base;
  __device__ int zero() const { return pack_16(base, base); }
  __device__ int border(int j) const {
    if (gamma == 0) return zero();
    int value = base + (int)((-gamma * j) >> shift);
    return pack_16(value, value);
  }
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

// A cost of the tile, at a byte offset: one addition a load.
template <bool STAGED>
__device__ inline int cost_at(const int* tile, u32 offset) {
  return *(const int*)((const char*)(STAGED ? shared_memory : tile) + offset);
}

// Calls finish(j, E[k, j]) in lane 31 for j = 1 .. length, and step(j, row, e) after column j of a lane's rows row ..
// row + R - 1 (from 0), e[r] = E[row + r + 1, j]. ALONE: the block fits in one strip, k <= 32 R.
template <int R, bool ALONE, bool STAGED, class Cells, class Finish, class Step>
__device__ inline void walk(const Cells cells, const Job& job, const int* tile, int n, int stride, Finish finish,
                            Step step) {
  const int lane = threadIdx.x % 32;
  const int steps = job.length + 31;
  const u32 round = 4u * (u32)n;
  for (int first = 0; first < job.k; first += 32 * R) {
    int e[R];
    u32 at[R];
#pragma unroll
    for (int r = 0; r < R; ++r) {
      int i = first + lane * R + r;
      at[r] = 4u * (u32)(i < job.k ? job.inverse_i[i] : job.zero_row) * (u32)stride;
      e[r] = cells.zero();
    }
    int diagonal = cells.zero(), bottom = cells.zero(), ahead = 0;
    u32 p = 4u * (u32)job.start;
#pragma unroll 1
    for (int s = 0; s < steps; ++s) {  // hot loop
      const int j = s - lane + 1;
      int up = __shfl_up_sync(ALL_LANES, bottom, 1);
      if (ALONE || first == 0) {
        if (lane == 0) up = cells.border(j);
      } else {  // the row above, 32 columns at a time
        if (s % 32 == 0) ahead = s + lane + 1 <= job.length ? job.row_j[s + lane + 1] : 0;
        int above = __shfl_sync(ALL_LANES, ahead, s % 32);
        if (lane == 0) up = above;
      }
      if (j >= 1 && j <= job.length) {
        int corner = diagonal, v = up;
        diagonal = up;
#pragma unroll
        for (int r = 0; r < R; ++r) {
          int best = Cells::fit(corner, cost_at<STAGED>(tile, at[r] + p), e[r]);
          corner = e[r];
          v = Cells::least(best, v);
          e[r] = v;
        }
        bottom = v;
        p = p + 4 < round ? p + 4 : 0;
        if (lane == 31) {
          if (ALONE || first + 32 * R >= job.k)
            finish(j, v);
          else
            job.row_j[j] = v;
        }
        step(j, first + lane * R, e);
      }
    }
    __syncwarp();
  }
}

struct NoStep {
  template <int R>
  __device__ void operator()(int, int, const int (&)[R]) const {}
};

// As few lanes without a token as possible: 32 R tokens in one strip, or strips of 160 or of 256.
template <bool STAGED, class Cells, class Finish, class Step>
__device__ inline void walk_block(const Cells cells, const Job& job, const int* tile, int n, int stride, Finish finish,
                                  Step step) {
  switch ((job.k + 31) / 32) {
    case 1: return walk<1, true, STAGED>(cells, job, tile, n, stride, finish, step);
    case 2: return walk<2, true, STAGED>(cells, job, tile, n, stride, finish, step);
    case 3: return walk<3, true, STAGED>(cells, job, tile, n, stride, finish, step);
    case 4: return walk<4, true, STAGED>(cells, job, tile, n, stride, finish, step);
    case 5: return walk<5, true, STAGED>(cells, job, tile, n, stride, finish, step);
    case 6: return walk<6, true, STAGED>(cells, job, tile, n, stride, finish, step);
    case 7: return walk<7, true, STAGED>(cells, job, tile, n, stride, finish, step);
    case 8: return walk<8, true, STAGED>(cells, job, tile, n, stride, finish, step);
  }
  if ((job.k + 159) / 160 * 160 < (job.k + 255) / 256 * 256)
    walk<5, false, STAGED>(cells, job, tile, n, stride, finish, step);
  else
    walk<8, false, STAGED>(cells, job, tile, n, stride, finish, step);
}
