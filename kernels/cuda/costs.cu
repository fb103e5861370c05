// Token costs of one exp key (the twins are in cpu/costs.py).
#include "numbers.cuh"

// out[i * n + j] = cost of tokens_i[i] at key row j; out: int32 [U, n].
extern "C" __global__ void exp_costs(const u32* secret, const long long* tokens_i, long long U, int n, int* out_ij) {
  long long step = (long long)gridDim.x * blockDim.x;
  for (long long at = (long long)blockIdx.x * blockDim.x + threadIdx.x; at < U * n; at += step) {  // hot loop
    long long token = tokens_i[at / n];
    u32 x[16];
    chacha_block(secret, (u32)(16 * (token / 256) + token % 16), 0, DOMAIN_EXP, (u32)(at % n), x);
    u32 word = 0;
    int w = (int)(token / 16 % 16);
#pragma unroll
    for (int i = 0; i < 16; ++i)
      if (i == w) word = x[i];
    out_ij[at] = exp_cost(word);
  }
}

// out[v * n + j] = cost of token v, for v below `tokens`, a multiple of 256: every word that is made is used.
extern "C" __global__ void exp_table(const u32* secret, long long tokens, int n, int* out_vj) {
  long long step = (long long)gridDim.x * blockDim.x;
  long long blocks = tokens / 16;
  for (long long at = (long long)blockIdx.x * blockDim.x + threadIdx.x; at < blocks * n; at += step) {  // hot loop
    long long counter = at / n;
    long long j = at % n;
    u32 x[16];
    chacha_block(secret, (u32)counter, 0, DOMAIN_EXP, (u32)j, x);
#pragma unroll
    for (int w = 0; w < 16; ++w) out_vj[(256 * (counter / 16) + 16 * w + counter % 16) * n + j] = exp_cost(x[w]);
  }
}
