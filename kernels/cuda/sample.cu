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

__device__ inline float logit_at(const Logits& x, int b, int v) {
  const long long at = b * x.stride + v;
  return x.dtype == 0 ? logit<0>(x.data, at) : x.dtype == 1 ? logit<1>(x.data, at) : logit<2>(x.data, at);
}

// its, step 1: top_b[b] = the greatest logit of row b (`ordered`; 0 on entry).
extern "C" __global__ void its_top(Logits logits, u32* top_b) {
  float top = MINUS_INFINITY;
  const int b = blockIdx.y;
  for (int v = blockIdx.x * blockDim.x + threadIdx.x; v < logits.size; v += gridDim.x * blockDim.x) {
    float x = logit_at(logits, b, v);
    top = x > top ? x : top;
  }
  u32 key = ordered(top);
  for (int step = 16; step > 0; step /= 2) {
    u32 other = __shfl_xor_sync(ALL_LANES, key, step);
    key = other > key ? other : key;
  }
  if (threadIdx.x % 32 == 0) atomicMax(top_b + b, key);
}

// The weight of the token of rank r in row b.
__device__ inline int weight_at(const Logits& x, const Ranks& ranks, int b, int r, float top) {
  return its_weight(__fmul_rn(__fsub_rn(logit_at(x, b, ranks.order[r]), top), x.scale));
}

// its, step 2: ranks.sums[b, i] = the weights of ranks 256 i .. 256 i + 255, a warp for each.
extern "C" __global__ void its_tiles(Logits logits, Ranks ranks, const u32* top_b) {
  const int b = blockIdx.y, lane = threadIdx.x % 32, warps = blockDim.x / 32;
  const float top = unordered(top_b[b]);
  if (!(top > MINUS_INFINITY && top < INFINITY_F)) return;
  for (int i = blockIdx.x * warps + threadIdx.x / 32; i < ranks.tiles; i += gridDim.x * warps) {
    long long sum = 0;
    for (int r = 256 * i + lane; r < logits.size && r < 256 * i + 256; r += 32)  // hot loop
      sum += weight_at(logits, ranks, b, r, top);
    for (int step = 16; step > 0; step /= 2) sum += __shfl_xor_sync(ALL_LANES, sum, step);
    if (lane == 0) ranks.sums[(long long)b * ranks.tiles + i] = sum;
  }
}

// floor(u * total), u = (word + 1/2) / 2**32, exact for total < 2**62.
__device__ inline long long its_target(u32 word, u64 total) {
  u64 half = total >> 1;
  u64 low = word * (total & 0xffffffffull) + (half & 0xffffffffull);
  return (long long)(word * (total >> 32) + (half >> 32) + (low >> 32));
}

// The running sum of `value` up to and including each lane.
__device__ inline long long running(long long value) {
  const int lane = threadIdx.x % 32;
  for (int step = 1; step < 32; step *= 2) {
    long long other = __shfl_up_sync(ALL_LANES, value, step);
    if (lane >= step) value += other;
  }
  return value;
}

// its, step 3, a warp for each row: the first rank whose cumulative weight exceeds the target. Leaves top_b zero. A row
// of the key outside 0 .. n - 1 has no token: -1.
extern "C" __global__ void its_draw(Logits logits, Ranks ranks, const u32* words_j, int n, const long long* rows_b,
                                    int B, u32* top_b, long long* out_b) {
  const int tiles = ranks.tiles, V = logits.size;
  const int lane = threadIdx.x % 32;
  const int b = (blockIdx.x * blockDim.x + threadIdx.x) / 32;
  if (b >= B) return;
  const float top = unordered(top_b[b]);
  __syncwarp();
  if (lane == 0) top_b[b] = 0;
  const long long row = rows_b[b];
  if (!(top > MINUS_INFINITY && top < INFINITY_F) || row < 0 || row >= n) {
    if (lane == 0) out_b[b] = -1;
    return;
  }
  const long long* sums_i = ranks.sums + (long long)b * tiles;
  long long total = 0;
  for (int i = lane; i < tiles; i += 32) total += sums_i[i];
  for (int step = 16; step > 0; step /= 2) total += __shfl_xor_sync(ALL_LANES, total, step);
  const long long target = its_target(words_j[row], (u64)total);
  long long before = 0;
  int tile = 0;
  for (int from = 0; from < tiles; from += 32) {
    long long here = from + lane < tiles ? sums_i[from + lane] : 0;
    long long sum = before + running(here);
    u32 above = __ballot_sync(ALL_LANES, sum > target);
    if (above) {
      int found = __ffs((int)above) - 1;
      tile = from + found;
      before = __shfl_sync(ALL_LANES, sum - here, found);
      break;
    }
    before = __shfl_sync(ALL_LANES, sum, 31);
  }
  for (int from = 256 * tile; from < V; from += 32) {
    long long here =
        from + lane < V ? weight_at(logits, ranks, b, from + lane, top) : 0;
    long long sum = before + running(here);
    u32 above = __ballot_sync(ALL_LANES, sum > target);
    if (above) {
      if (lane == __ffs((int)above) - 1) out_b[b] = ranks.order[from + lane];
      break;
    }
    before = __shfl_sync(ALL_LANES, sum, 31);
  }
}
