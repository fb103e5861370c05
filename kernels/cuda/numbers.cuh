// Key words and the numbers made from them: the steps of cpu/chacha.py, cpu/costs.py and cpu/sample.py, one lane each.
// Every float operation is named (round to nearest, no contraction), so that the results are the CPU's bit for bit.

// Polynomials of cpu/costs.py and cpu/sample.py; tests compare every result with theirs, bit for bit.
#define EXP_P0 1.000012755393982f
#define EXP_P1 -0.4998505115509033f
#define EXP_P2 0.3322587311267853f
#define EXP_P3 -0.2547246515750885f
#define EXP_P4 0.22330068051815033f
#define EXP_P5 -0.1431984156370163f
#define LN2_UNITS 2839.130859375f
#define TOP_UNITS -90852.1875f
#define GUMBEL_R7 0.08734852820634842f
#define GUMBEL_R6 0.1430753916501999f
#define GUMBEL_R5 0.14917977154254913f
#define GUMBEL_R4 0.16570506989955902f
#define GUMBEL_R3 0.19962070882320404f
#define GUMBEL_R2 0.25001755356788635f
#define GUMBEL_R1 0.33333951234817505f
#define GUMBEL_R0 0.49999991059303284f
#define GUMBEL_MAX 23.0f
#define LN_2 0.6931471824645996f
#define LN_2_HIGH 0.693359375f
#define LN_2_LOW -0.00021219444170128554f
#define LOG2_E 1.4426950216293335f
#define EXP_R4 0.001381461275741458f
#define EXP_R3 0.008368710055947304f
#define EXP_R2 0.04166838899254799f
#define EXP_R1 0.1666652113199234f
#define EXP_R0 0.4999999403953552f

#define ALL_LANES 0xffffffffu
#define NOTHING 2147483647  // a statistic that no alignment reaches

__device__ inline u32 rotate_left(u32 x, int count) { return (x << count) | (x >> (32 - count)); }

__device__ inline void quarter(u32& a, u32& b, u32& c, u32& d) {
  a += b;
  d = rotate_left(d ^ a, 16);
  c += d;
  b = rotate_left(b ^ c, 12);
  a += b;
  d = rotate_left(d ^ a, 8);
  c += d;
  b = rotate_left(b ^ c, 7);
}

// x[16] = one ChaCha block. key: 8 words; the counter has 64 bits, the nonce two words.
__device__ inline void chacha_block(const u32* key, u32 low, u32 high, u32 nonce_0, u32 nonce_1, u32* x) {
  const u32 start[16] = {0x61707865u, 0x3320646Eu, 0x79622D32u, 0x6B206574u, key[0], key[1], key[2],  key[3],
                         key[4],      key[5],      key[6],      key[7],      low,    high,   nonce_0, nonce_1};
#pragma unroll
  for (int i = 0; i < 16; ++i) x[i] = start[i];
#pragma unroll
  for (int round = 0; round < ROUNDS / 2; ++round) {  // hot loop
    quarter(x[0], x[4], x[8], x[12]);
    quarter(x[1], x[5], x[9], x[13]);
    quarter(x[2], x[6], x[10], x[14]);
    quarter(x[3], x[7], x[11], x[15]);
    quarter(x[0], x[5], x[10], x[15]);
    quarter(x[1], x[6], x[11], x[12]);
    quarter(x[2], x[7], x[8], x[13]);
    quarter(x[3], x[4], x[9], x[14]);
  }
#pragma unroll
  for (int i = 0; i < 16; ++i) x[i] += start[i];
}

// The exp token cost of a word: round(4096 log(1 - u)), see cpu/costs.py.
__device__ inline int exp_cost(u32 word) {
  float x = __fadd_rn(__uint2float_rn(~word), 0.5f);
  int bits = __float_as_int(x);
  int exponent = (bits - 0x3F3504F3) >> 23;
  float f = __fsub_rn(__int_as_float(bits - exponent * (1 << 23)), 1.0f);
  float p = __fmaf_rn(f, EXP_P5, EXP_P4);
  p = __fmaf_rn(f, p, EXP_P3);
  p = __fmaf_rn(f, p, EXP_P2);
  p = __fmaf_rn(f, p, EXP_P1);
  p = __fmaf_rn(f, p, EXP_P0);
  float log_f = __fmul_rn(__fmul_rn(f, 4096.0f), p);
  float cost = __fadd_rn(__fmaf_rn(__int2float_rn(exponent), LN2_UNITS, log_f), TOP_UNITS);
  return __float2int_rz(__fsub_rn(cost, 0.5f));
}

// -log(2**exponent * (1 - h)), see cpu/sample.py.
__device__ inline float neg_log(int exponent, float h) {
  float r = GUMBEL_R7;
  r = __fmaf_rn(r, h, GUMBEL_R6);
  r = __fmaf_rn(r, h, GUMBEL_R5);
  r = __fmaf_rn(r, h, GUMBEL_R4);
  r = __fmaf_rn(r, h, GUMBEL_R3);
  r = __fmaf_rn(r, h, GUMBEL_R2);
  r = __fmaf_rn(r, h, GUMBEL_R1);
  r = __fmaf_rn(r, h, GUMBEL_R0);
  return __fmaf_rn(__int2float_rn(exponent), -LN_2, __fmaf_rn(__fmul_rn(h, h), r, h));
}

// Positive x = 2**exponent * (1 - h), 1 - h from sqrt(1/2) to sqrt(2).
__device__ inline void split(float x, int& exponent, float& h) {
  int bits = __float_as_int(x) - 0x3F3504F3;
  exponent = bits >> 23;
  h = __fsub_rn(1.0f, __int_as_float((bits & 0x7FFFFF) + 0x3F3504F3));
}

// -log(-log(u)), u = (word + 1/2) / 2**32.
__device__ inline float gumbel(u32 word) {
  int exponent;
  float h;
  split(__fadd_rn(__uint2float_rn(word), 0.5f), exponent, h);
  exponent -= 32;
  float below_one = __fmul_rn(__fadd_rn(__uint2float_rn(~word), 0.5f), 2.3283064365386963e-10f);
  if (exponent >= 0) h = below_one;
  split(neg_log(exponent, h), exponent, h);
  return neg_log(exponent, h);
}

// round(exp(x) * 2**30) for x <= 0 or NaN (0), see cpu/sample.py.
__device__ inline int its_weight(float x) {
  x = x > -30.0f ? x : -30.0f;
  const float power = __fmaf_rn(x, LOG2_E, 12582942.0f);  // its lowest bits are the integer k + 30
  const float k = __fsub_rn(power, 12582942.0f);
  float f = __fmaf_rn(k, -LN_2_HIGH, x);
  f = __fmaf_rn(k, -LN_2_LOW, f);
  float r = EXP_R4;
  r = __fmaf_rn(r, f, EXP_R3);
  r = __fmaf_rn(r, f, EXP_R2);
  r = __fmaf_rn(r, f, EXP_R1);
  r = __fmaf_rn(r, f, EXP_R0);
  u32 mantissa = (u32)__float_as_int(__fadd_rn(__fmaf_rn(__fmul_rn(f, f), r, f), 1.0f));
  float scaled = __int_as_float((int)(mantissa + ((u32)__float_as_int(power) << 23)));
  return __float2int_rz(__fadd_rn(scaled, 8388608.0f > scaled ? 0.5f : 0.0f));
}

// rank / denominator in units of 1 / 65536, rounded to nearest (`eta` of cpu/resample.py).
__device__ inline int eta_of(u32 rank, long long denominator) {
  if (denominator == 0) return 0;
  return (int)(((long long)rank * 65536 + denominator / 2) / denominator);
}
