// The least alignment of one text with one tile, by the warps of a block: every block of the text, every key window.
// What counts as found is the visitor's: whether a threshold is met, the least value, or where it is.
#include "edit.cuh"
#include "plain.cuh"

// hit = 1 if some value is <= threshold.
struct Decide {
  int threshold;
  unsigned char* hit;
  __device__ bool skip(long long) const { return *(volatile unsigned char*)hit != 0; }
  __device__ bool wants(int bound) const { return bound <= threshold && !skip(0); }
  __device__ void found(int value, long long) const {
    if (value <= threshold) *(volatile unsigned char*)hit = 1;
  }
};

// out = the least value, if it is <= most.
struct Least {
  int most;
  int* out;
  __device__ bool skip(long long) const { return false; }
  __device__ bool wants(int bound) const { return bound <= most && bound < *(volatile int*)out; }
  __device__ void found(int value, long long) const {
    if (value <= most) atomicMin(out, value);
  }
};

// out = the least position (block * n + window) of the value.
struct Place {
  int value;
  u64* out;
  __device__ bool skip(long long position) const { return (u64)position > *(volatile u64*)out; }
  __device__ bool wants(int bound) const { return bound <= value; }
  __device__ void found(int found_value, long long position) const {
    if (found_value == value) atomicMin(out, (u64)position);
  }
};

// min over j of E[k, j] + gamma (j - k): a lower bound of E[k, k] of every window that starts in the first
// length - k + 1 rows (see cpu/edit.py, `edit_bounds`); with gamma 0 and length k, E[k, k] itself.
// Not inlined: one compiled copy serves every kernel, and a call costs nothing beside what it does.
template <bool STAGED>
__device__ __noinline__ int edit_least(const Job job, const int* tile, int n, int stride, long long gamma) {
  const Ends ends = walk_block<STAGED>(Single{(int)gamma}, gamma != 0, job, tile, n, stride, NoStep());
  return __shfl_sync(ALL_LANES, ends.least, 31) - (int)gamma * job.k;
}

// How many neighbouring windows one bound covers at first: 1, 4 or 16. No more than ceil(n / 16), since int32 has room
// for the gaps of that many (`Problem.largest_gamma`).
__device__ inline int widest(int n) { return n > 240 ? 16 : n > 48 ? 4 : 1; }

// Bounds for super-windows of `wide` windows, then of a quarter as many, down to single windows.
template <bool STAGED, class Visit>
__device__ inline void search_edits(Job job, const int* tile, const Problem& s, long long block, int lo,
                                    const Visit& visit) {
  const int wide = widest(s.n);
  const int end = lo + wide < s.n ? lo + wide : s.n;
  const int begin = lo;
  int span = wide;
  while (lo < end) {
    int here = lo + span < end ? span : end - lo;
    job.start = lo;
    job.length = here + job.k - 1;
    if (uniform(visit.skip(block * s.n + lo))) return;
    int value = edit_least<STAGED>(job, tile, s.n, s.stride, span == 1 ? 0 : s.gamma);
    if (span == 1) {
      if (threadIdx.x % 32 == 0) visit.found(value, block * s.n + lo);
    } else if (uniform(visit.wants(value))) {
      span /= 4;
      continue;
    }
    lo += span;
    while (span < wide && (lo - begin) % (4 * span) == 0) span *= 4;
  }
}

// How a block's warps share the pieces of one text after another: piece g of all goes to warp g % warps.
struct Turns {
  long long before;
  __device__ long long first() const {
    int warps = blockDim.x / 32, warp = threadIdx.x / 32;
    return (warp + warps - before % warps) % warps;
  }
};

// A text of m tokens in blocks of k, with a tile whose row `zero_row` is zeros; row_j: the warp's strip.
struct Subject {
  const int* inverse_i;
  int m, k, zero_row;
  int* row_j;
};

template <bool STAGED, class Visit>
__device__ inline void search(const Problem& s, const Subject& text, const int* tile, Turns& turns, const Visit& visit) {
  const int warps = blockDim.x / 32, lane = threadIdx.x % 32, m = text.m, k = text.k;
  if (s.alignment == ALIGN_EDIT) {
    const int wide = widest(s.n);
    const long long nodes = (s.n + wide - 1) / wide;
    const long long pieces = (m - k + 1) * nodes;
    for (long long piece = turns.first(); piece < pieces; piece += warps) {
      long long b = piece / nodes;
      int lo = (int)(piece % nodes) * wide;
      if (uniform(visit.skip(b * s.n + lo))) continue;
      Job job = {text.inverse_i + b, k, lo, 0, text.zero_row, text.row_j};
      search_edits<STAGED>(job, tile, s, b, lo, visit);
    }
    turns.before += pieces;
  } else {
    const int groups = (s.n + 31) / 32;
    for (long long group = turns.first(); group < groups; group += warps) {
      if (uniform(visit.skip(0))) continue;
      search_plain<STAGED>(text.inverse_i, m, k, (int)group * 32 + lane, tile, s, visit);
    }
    turns.before += groups;
  }
}
