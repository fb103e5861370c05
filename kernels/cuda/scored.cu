// Free and local alignments with scores from a table: a warp aligns one text with 32 resamples, one a lane. The twin,
// cpu/scored.py, says what is aligned and in which order sums saturate.
//
// Values of a key row lie side by side, those of a lane 32 apart. All have 16 bits and gamma is not negative, so a sum is
// held only at the end that it can pass and that no minimum with such a value holds after it.
#include "edit.cuh"

#define AHEAD 8  // key rows whose values are asked for together; 16 would take twice the registers

#define LEAST_16 -32768
#define MOST_16 32767

// level of resample 32 g + l of r, number row i, key row j: levels[((g rows + i) n + j) 32 + l]. Both costs take numbers
// from the same words: exp one row for each distinct token, its one row for all.
extern "C" __global__ void scored_levels(Problem s, Resamples r, int rows, const unsigned char* level_of,
                                         unsigned char* levels) {
  const int run = (s.n + 15) / 16;
  const u32 domain = s.cost == COST_ITS ? DOMAIN_NULL_UNIFORM : DOMAIN_NULL_HIGH;
  const long long work = (long long)(r.count / 2) * rows * run, step = (long long)gridDim.x * blockDim.x;
  for (long long at = (long long)blockIdx.x * blockDim.x + threadIdx.x; at < work; at += step) {  // hot loop
    const int l = (int)(at % 16), b = (int)(at / 16 % run);
    const long long row = at / 16 / run;
    u32 x[16];
    chacha_block(r.seed, b, (u32)(row % rows), domain, (u32)(r.first / 2 + row / rows * 16 + l), x);
#pragma unroll
    for (int w = 0; w < 16; ++w) {
      const int j = w * run + b;
      if (j < s.n) {
        unsigned char* pair = levels + (row * s.n + j) * 32 + 2 * l;
        pair[0] = level_of[x[w] & 0xFFFFu];
        pair[1] = level_of[x[w] >> 16];
      }
    }
  }
}

// One alignment: D + gamma of each key row and, of a free one, the cost without gaps, 32 apart.
struct Lane {
  short* state_j;
  short* plain_j;
};

__device__ inline int not_below(int sum) { return sum > LEAST_16 ? sum : LEAST_16; }

// No token yet.
template <bool LOCAL>
__device__ inline void scored_start(const Lane& lane, int n, int gamma) {
  for (int j = 0; j < n; ++j) {
    lane.state_j[32 * j] = (short)gamma;
    if (!LOCAL) lane.plain_j[32 * j] = 0;
  }
}

// What goes from row to row of the key: D + gamma of the row before, for the next token and for this one, its cost without
// gaps, and the least D.
template <bool LOCAL>
struct Sweep {
  int gamma, diagonal, before, left, best;

  // The next row; its cost has gamma taken off; up and here: what the token before left there.
  __device__ void row(short* state, short* plain, int cost, int up, int here) {
    int value = Single::fit(diagonal, cost, up);
    if (LOCAL) value = Single::least(value, 0);
    value = not_below(Single::least(value, left));
    if (LOCAL) best = Single::least(best, value);
    left = Single::fit(value, gamma, MOST_16);
    *state = (short)left;
    diagonal = up;
    if (!LOCAL) {
      *plain = (short)Single::fit(not_below(before + cost), gamma, MOST_16);
      before = here;
    }
  }
};

// One token more, its cost at row j cost_l[level_j[32 j]], gamma taken off. Returns the least D of a local alignment.
template <bool LOCAL>
__device__ inline int scored_step(const Lane& lane, const unsigned char* level_j, const short* cost_l, int n,
                                  int gamma) {
  const int last = 32 * (n - 1);
  Sweep<LOCAL> sweep = {gamma, lane.state_j[last], LOCAL ? 0 : lane.plain_j[last], MOST_16, 0};
  short *state = lane.state_j, *plain = lane.plain_j;
  const unsigned char* next = level_j;  // levels come from afar: they are asked for a round ahead
  int level[AHEAD], left_rows = n;
  if (n >= AHEAD) {
#pragma unroll
    for (int r = 0; r < AHEAD; ++r) level[r] = next[32 * r];
  }
#pragma unroll 1
  for (; left_rows >= AHEAD; left_rows -= AHEAD) {  // hot loop
    int cost[AHEAD], up[AHEAD], here[AHEAD];
#pragma unroll
    for (int r = 0; r < AHEAD; ++r) {
      cost[r] = cost_l[level[r]];
      up[r] = state[32 * r];
      here[r] = LOCAL ? 0 : plain[32 * r];
    }
    next += 32 * AHEAD;
    if (left_rows >= 2 * AHEAD) {
#pragma unroll
      for (int r = 0; r < AHEAD; ++r) level[r] = next[32 * r];
    }
#pragma unroll
    for (int r = 0; r < AHEAD; ++r) sweep.row(state + 32 * r, plain + 32 * r, cost[r], up[r], here[r]);
    state += 32 * AHEAD;
    plain += 32 * AHEAD;
  }
#pragma unroll 1
  for (int r = 0; r < left_rows; ++r)
    sweep.row(state + 32 * r, plain + 32 * r, cost_l[next[32 * r]], state[32 * r], LOCAL ? 0 : plain[32 * r]);
  int left = sweep.left;
#pragma unroll 1
  for (int j = 0; j < n; ++j) {  // row gaps, round the end of the key
    const int old = lane.state_j[32 * j];
    left = Single::fit(left, gamma, old);
    if (!__any_sync(ALL_LANES, left < old)) break;
    lane.state_j[32 * j] = (short)left;
  }
  return sweep.best;
}

// The statistic of a free alignment after its last token.
__device__ inline int free_value(const Lane& lane, int n, int gamma, int bonus) {
  int best = MOST_16, plain = MOST_16;
  for (int j = 0; j < n; ++j) {
    best = Single::least(best, lane.state_j[32 * j]);
    plain = Single::least(plain, lane.plain_j[32 * j]);
  }
  return Single::least(best - gamma, not_below(plain - bonus));
}

// finish(a, t, value): the statistic of each member text a under each resample first + t, in the lane that has it.
template <bool STAGED, bool LOCAL, class Finish>
__device__ inline void scored_body(const Problem& s, const Texts& texts, const Members& members, const Resamples& r,
                                   const Scores& scores, const Room& room, Finish finish) {
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, warps = blockDim.x / 32;
  const int n = s.n, gamma = (int)s.gamma, table_size = STAGED ? scores.bin_count * LEVELS : 0;
  short* mine = (short*)my_tile<STAGED>(room);
  const short* costs = STAGED ? mine : scores.costs;
  for (int at = threadIdx.x; at < table_size; at += blockDim.x) mine[at] = scores.costs[at];
  __syncthreads();
  short* state_j = mine + table_size + warp * (LOCAL ? 1ll : 2ll) * 32 * n + lane;
  const Lane state = {state_j, state_j + 32ll * n};
  // Warps of a block take the texts of one group of resamples in turn: they read the same levels.
  const long long tasks = (long long)(r.count / 32) * members.count;
  for (long long task = (long long)blockIdx.x * warps + warp; task < tasks; task += (long long)gridDim.x * warps) {
    const long long group = task / members.count, a = members.index[task % members.count];
    const unsigned char* level_ij = scores.levels + group * scores.rows * n * 32 + lane;
    int best = 0;
    scored_start<LOCAL>(state, n, gamma);
    for (long long i = texts.offsets[a]; i < texts.offsets[a + 1]; ++i) {
      const long long row = s.cost == COST_ITS ? 0 : texts.inverse[i];
      const short* cost_l = costs + scores.bins[i] * LEVELS;
      best = Single::least(best, scored_step<LOCAL>(state, level_ij + row * n * 32, cost_l, n, gamma));
    }
    if (!LOCAL) best = free_value(state, n, gamma, scores.bonus[a]);
    finish(a, 32 * group + lane, best);
  }
}

template <class Finish>
__device__ inline void scored_texts(const Problem& s, const Texts& texts, const Members& members, const Resamples& r,
                                    const Scores& scores, const Room& room, Finish finish) {
  if (s.alignment == ALIGN_LOCAL) {
    if (room.staged)
      scored_body<true, true>(s, texts, members, r, scores, room, finish);
    else
      scored_body<false, true>(s, texts, members, r, scores, room, finish);
  } else {
    if (room.staged)
      scored_body<true, false>(s, texts, members, r, scores, room, finish);
    else
      scored_body<false, false>(s, texts, members, r, scores, room, finish);
  }
}

// found.found[a * width + t] = 1 where resample first + t reaches value_a, for the member texts.
extern "C" __global__ void __launch_bounds__(1024)
    scored_hits(Problem s, Texts texts, Members members, Resamples r, Scores scores, const int* value_a, Found found,
                Room room) {
  scored_texts(s, texts, members, r, scores, room, [&](long long a, long long t, int value) {
    found.found[a * found.width + t] = value <= value_a[a];
  });
}

// value_t[t] = the statistic of the only member under resample first + t.
extern "C" __global__ void __launch_bounds__(1024)
    scored_values(Problem s, Texts texts, Members members, Resamples r, Scores scores, int* value_t, Room room) {
  scored_texts(s, texts, members, r, scores, room,
               [&](long long, long long t, int value) { value_t[t] = value; });
}
