// Watermarked draws of the next token (the twins are in cpu/sample.py: the same tokens from the same float32 logits).
//
// x: `Logits`, [B, V]; out_b: int64 [B].
// Nothing is allocated, and what must be zero before a launch is left zero after it: fit for a CUDA graph.
#include "resample.cuh"

#define MINUS_INFINITY __int_as_float((int)0xff800000)
#define INFINITY_F __int_as_float(0x7f800000)

template <int TYPE>
__device__ inline float logit(const void* logits, long long at) {
  if (TYPE == 0) return ((const float*)logits)[at];
  const u32 bits = ((const unsigned short*)logits)[at];
  if (TYPE == 2) return __int_as_float((int)(bits << 16));
  const int magnitude = (int)((bits & 0x7fffu) << 13);  // exponents differ by 112; float32 has room for subnormals
  int wide = __float_as_int(__fmul_rn(__int_as_float(magnitude), 5.192296858534828e33f));
  if ((bits & 0x7c00u) == 0x7c00u) wide = magnitude | 0x7f800000;
  return __int_as_float(wide | (int)((bits & 0x8000u) << 16));
}

// Integers in the order of floats: -0 counts as +0, and 0 is below every number.
__device__ inline u32 ordered(float x) {
  u32 bits = (u32)__float_as_int(__fadd_rn(x, 0.0f));
  return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}

__device__ inline float unordered(u32 key) {
  if (key == 0) return MINUS_INFINITY;
  return __int_as_float((int)(key & 0x80000000u ? key & 0x7fffffffu : ~key));
}

// A float above every ~word that lifts over `best` what GUMBEL_MAX lifts to `bound` (`_reach` of cpu/sample.py).
__device__ inline float reach(float bound, float best) {
  best = __fsub_rn(best, __fmul_rn(best < 0.0f ? -best : best, 9.5367431640625e-07f));
  float power = __fmul_rn(__fsub_rn(bound, __fadd_rn(GUMBEL_MAX, best)), LOG2_E);
  power = power > -60.0f ? power : -60.0f;
  power = power < 1.0f ? power : 1.0f;
  int bits = __float2int_rz(__fmaf_rn(power, 8388608.0f, 1333788672.0f));
  return __int_as_float(bits + (1 << 13));
}

// x[w] = the logits of the tokens 256 s + 16 w + lane, -inf past the vocabulary. Returns the greatest that is a number.
template <int TYPE>
__device__ inline float load_16(const void* logits, long long row, int V, int s, int lane, float* x) {
  float top = MINUS_INFINITY;
#pragma unroll
  for (int w = 0; w < 16; ++w) {
    long long v = 256ll * s + 16 * w + lane;
    x[w] = v < V ? logit<TYPE>(logits, row + v) : MINUS_INFINITY;
    top = x[w] > top ? x[w] : top;
  }
  return top;
}

// The best (score, lowest token) of this block's tokens of row b goes to keys_b[b]; the last block of a row writes out.
// A half-warp takes 256 tokens, a lane one ChaCha block: its 16 tokens lie 16 apart. As on the CPU, no words are made
// where no logit can win with the greatest Gumbel number, and no Gumbel number where the word is not large enough. At
// first there is no best to win against: each lane makes that of its greatest logit, and the block's best is the others'.
extern "C" __global__ void __launch_bounds__(256)
    exp_sample(Logits logits, const u32* secret, u32 domain, const long long* rows_b, u64* keys_b, u32* tickets_b,
               long long* out_b) {
  const int V = logits.size;
  u64* block_key = (u64*)shared_memory;
  u32* block_best = (u32*)(block_key + 1);
  const int b = blockIdx.y, lane = threadIdx.x % 16;
  const u32 row = (u32)rows_b[b];
  if (threadIdx.x == 0) {
    *block_key = 0;
    *block_best = (u32)(*(volatile u64*)(keys_b + b) >> 32);
  }
  __syncthreads();
  u64 mine = 0;
  // Score and token of a logit of this lane, if they are the best yet.
  auto take = [&](float x, u32 word, int token) {
    const float score = __fmaf_rn(x, logits.scale, gumbel(word));
    const u64 key = (u64)ordered(score) << 32 | (u32)~token;
    if (score > MINUS_INFINITY && key > mine) mine = key;
  };
  const int at_once = blockDim.x / 16, chunks = (V + 255) / 256, begin = blockIdx.x * at_once;
  for (int from = begin; from < chunks; from += gridDim.x * at_once) {  // hot loop
    const int s = from + threadIdx.x / 16;
    float x[16];
    const float top = logits.dtype == 0   ? load_16<0>(logits.data, b * logits.stride, V, s, lane, x)
                      : logits.dtype == 1 ? load_16<1>(logits.data, b * logits.stride, V, s, lane, x)
                                          : load_16<2>(logits.data, b * logits.stride, V, s, lane, x);
    float best = unordered(*(volatile u32*)block_best);
    const float bound = __fmaf_rn(top, logits.scale, GUMBEL_MAX);
    bool alive = top > MINUS_INFINITY && bound >= best;  // equal scores go on: the lower token wins
    if (from != begin && !__any_sync(ALL_LANES, alive)) continue;
    u32 words[16], least = 0xffffffffu;
    chacha_block(secret, (u32)(16 * s + lane), 0, domain, row, words);
#pragma unroll
    for (int w = 0; w < 16; ++w) least = ~words[w] < least ? ~words[w] : least;
    if (from == begin) {
      u32 word = 0;
      int token = 0;
#pragma unroll
      for (int w = 0; w < 16; ++w) {
        if (x[w] != top) continue;
        word = words[w];
        token = 256 * s + 16 * w + lane;
      }
      if (alive) take(top, word, token);
      if (mine != 0) atomicMax(block_best, (u32)(mine >> 32));
      __syncthreads();
      best = unordered(*(volatile u32*)block_best);
    }
    const float limit = reach(bound, best);
    if (!alive || !(limit > __uint2float_rn(least))) continue;
    const u64 before = mine;
#pragma unroll
    for (int w = 0; w < 16; ++w)
      if (limit > __uint2float_rn(~words[w])) take(x[w], words[w], 256 * s + 16 * w + lane);
    if (mine > before) atomicMax(block_best, (u32)(mine >> 32));
  }
  if (mine != 0) atomicMax(block_key, mine);
  __syncthreads();
  if (threadIdx.x != 0) return;
  if (*block_key != 0) atomicMax(keys_b + b, *block_key);
  __threadfence();
  if (atomicInc(tickets_b + b, gridDim.x - 1) == gridDim.x - 1) {
    __threadfence();
    const u64 key = atomicExch(keys_b + b, 0ull);
    const bool good = key != 0 && unordered((u32)(key >> 32)) < INFINITY_F;
    out_b[b] = good ? (long long)(~(u32)key) : -1;
  }
}

// x[w] = the logits of the tokens from + 256 w + threadIdx.x, -inf past the vocabulary, in row blockIdx.y.
template <int TYPE>
__device__ inline void load_4(const Logits& logits, int from, float* x) {
  const long long at = blockIdx.y * logits.stride + from + (int)threadIdx.x;
  const bool whole = from + 1024 <= logits.size;
#pragma unroll
  for (int w = 0; w < 4; ++w)
    x[w] = whole || from + 256 * w + (int)threadIdx.x < logits.size ? logit<TYPE>(logits.data, at + 256 * w)
                                                                    : MINUS_INFINITY;
}

// take(x, from) for each of this block's runs of 1024 tokens: x as of `load_4`.
template <int TYPE, class Take>
__device__ inline void each_4(const Logits& logits, Take take) {
  for (int from = 1024 * blockIdx.x; from < logits.size; from += 1024 * gridDim.x) {  // hot loop
    float x[4];
    load_4<TYPE>(logits, from, x);
    take(x, from);
  }
}

template <class Take>
__device__ inline void each_4(const Logits& logits, Take take) {
  if (logits.dtype == 0) return each_4<0>(logits, take);
  if (logits.dtype == 1) return each_4<1>(logits, take);
  each_4<2>(logits, take);
}

// its, step 1: top_b[b] = the greatest logit of row b (`ordered`; 0 on entry).
extern "C" __global__ void __launch_bounds__(256) its_top(Logits logits, u32* top_b) {
  float top = MINUS_INFINITY;
  each_4(logits, [&](const float* x, int) {
#pragma unroll
    for (int w = 0; w < 4; ++w) top = x[w] > top ? x[w] : top;
  });
  u32 key = ordered(top);
  for (int step = 16; step > 0; step /= 2) {
    u32 other = __shfl_xor_sync(ALL_LANES, key, step);
    key = other > key ? other : key;
  }
  if (threadIdx.x % 32 == 0) atomicMax(top_b + blockIdx.y, key);
}

// floor(u * total), u = (word + 1/2) / 2**32, exact for total < 2**62.
__device__ inline u64 its_target(u32 word, u64 total) {
  u64 half = total >> 1;
  u64 low = word * (total & 0xffffffffull) + (half & 0xffffffffull);
  return word * (total >> 32) + (half >> 32) + (low >> 32);
}

// The sum of `value` over the threads before this one; total = that of all 256. sums_w: shared, 8 numbers.
__device__ inline u64 sum_before(u64 value, u64* sums_w, u64& total) {
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  u64 sum = value;
  for (int step = 1; step < 32; step *= 2) {
    const u64 other = __shfl_up_sync(ALL_LANES, sum, step);
    if (lane >= step) sum += other;
  }
  __syncthreads();
  if (lane == 31) sums_w[warp] = sum;
  __syncthreads();
  u64 before = 0;
  total = 0;
  for (int w = 0; w < 8; ++w) {
    if (w == warp) before = total;
    total += sums_w[w];
  }
  return before + sum - value;
}

// What the blocks of `its_sample` have in shared memory before their sums.
struct Drawing {
  u64 sums_w[8], before;
  int tile, last;
};

static_assert(sizeof(Drawing) == 80, "_DRAWING of sample.py");

// The first rank of row b whose cumulative weight exceeds u times the sum of all; sums_i: shared, the weights of 256
// ranks each.
__device__ inline void its_draw(const Logits& logits, const Ranks& ranks, float top, u32 word, const u64* sums_i,
                                Drawing* drawing, long long* out) {
  const int each = (ranks.tiles + 255) / 256, first = each * threadIdx.x;
  const int stop = first + each < ranks.tiles ? first + each : ranks.tiles;
  u64 sum = 0, total;
  for (int i = first; i < stop; ++i) sum += sums_i[i];
  u64 before = sum_before(sum, drawing->sums_w, total);
  const u64 target = its_target(word, total);
  if (before <= target && target < before + sum) {
    int i = first;
    for (; before + sums_i[i] <= target; ++i) before += sums_i[i];
    drawing->tile = i;
    drawing->before = before;
  }
  __syncthreads();
  const int rank = 256 * drawing->tile + threadIdx.x;
  u64 weight = 0;
  int token = 0;
  if (rank < logits.size) {
    token = ranks.order[rank];
    const long long at = blockIdx.y * logits.stride + token;
    const float x = logits.dtype == 0   ? logit<0>(logits.data, at)
                    : logits.dtype == 1 ? logit<1>(logits.data, at)
                                        : logit<2>(logits.data, at);
    weight = its_weight(__fmul_rn(__fsub_rn(x, top), logits.scale));
  }
  before = drawing->before + sum_before(weight, drawing->sums_w, total);
  if (before <= target && target < before + weight) *out = token;
}

// its, step 2: ranks.sums[b, i] = the weights of the ranks 256 i .. 256 i + 255, and the last block of a row draws. Tokens
// come in their own order, so that logits are read as they lie; weights are integers, whose sums depend on no order. In
// shared memory a sum of 256 is two words, of 24 bits a weight and of the rest, which only likely tokens have. A row of
// the key outside 0 .. n - 1 has no token: -1. Sums, tops and tickets are zero on entry and afterwards.
extern "C" __global__ void __launch_bounds__(256)
    its_sample(Logits logits, Ranks ranks, const u32* words_j, int n, const long long* rows_b, u32* top_b,
               u32* tickets_b, long long* out_b) {
  const int b = blockIdx.y, tiles = ranks.tiles;
  Drawing* drawing = (Drawing*)shared_memory;
  u64* whole_i = (u64*)(drawing + 1);
  u32 *low_i = (u32*)whole_i, *high_i = low_i + tiles;
  u64* sums_i = ranks.sums + (long long)b * tiles;
  const float top = unordered(top_b[b]);
  const bool good = top > MINUS_INFINITY && top < INFINITY_F;
  if (good) {
    for (int i = threadIdx.x; i < tiles; i += 256) whole_i[i] = 0;
    __syncthreads();
    each_4(logits, [&](const float* x, int from) {
      const unsigned short* tile_v = ranks.tile + from + (int)threadIdx.x;
      u32 tile[4], weight[4];
#pragma unroll
      for (int w = 0; w < 4; ++w) tile[w] = tile_v[256 * w];
#pragma unroll
      for (int w = 0; w < 4; ++w) {
        weight[w] = (u32)its_weight(__fmul_rn(__fsub_rn(x[w], top), logits.scale));
        if (weight[w] != 0) atomicAdd(low_i + tile[w], weight[w] & 0xffffffu);
      }
      if ((weight[0] | weight[1] | weight[2] | weight[3]) >> 24 == 0) return;
#pragma unroll
      for (int w = 0; w < 4; ++w)
        if (weight[w] >> 24 != 0) atomicAdd(high_i + tile[w], weight[w] >> 24);
    });
    __syncthreads();
    for (int i = threadIdx.x; i < tiles; i += 256) {
      const u64 sum = ((u64)high_i[i] << 24) + low_i[i];
      if (sum != 0) atomicAdd(sums_i + i, sum);
    }
  }
  __threadfence();
  __syncthreads();
  if (threadIdx.x == 0) drawing->last = atomicInc(tickets_b + b, gridDim.x - 1) == gridDim.x - 1;
  __syncthreads();
  if (!drawing->last) return;
  __threadfence();
  const long long row = rows_b[b];
  if (threadIdx.x == 0) {
    top_b[b] = 0;
    if (!good || row < 0 || row >= n) out_b[b] = -1;
  }
  if (!good) return;
  for (int i = threadIdx.x; i < tiles; i += 256) whole_i[i] = atomicExch(sums_i + i, 0ull);
  __syncthreads();
  if (row >= 0 && row < n) its_draw(logits, ranks, top, words_j[row], whole_i, drawing, out_b + b);
}
