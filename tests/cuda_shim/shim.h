// CUDA's built-ins on one host thread, for tests of kernel logic: grids, blocks, barriers, warps, atomics.
//
// Every CUDA thread of a block is a fiber that runs until a barrier or a warp operation; fibers take turns, in a fixed
// order or its reverse. A warp operation that lanes reach with different ones, after a lane has ended, or that some lane
// never reaches is reported. Data races between barriers are not found.
#include <csetjmp>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <tuple>
#include <ucontext.h>
#include <utility>

#define __global__
#define __device__
#define __shared__
#define __align__(n) __attribute__((aligned(n)))
#define __launch_bounds__(n)
#define __noinline__ __attribute__((noinline))

namespace shim {

struct Dim {
  unsigned x, y, z;
};
Dim grid, block, block_index;

constexpr int MOST = 1024, STACK = 1 << 17, SHARED_INTS = 1 << 16;
enum State { READY, AT_WARP, AT_BLOCK, DONE };

struct Fiber {
  Dim index;
  State state;
  unsigned waiting_for, operations;
  jmp_buf at;
  ucontext_t first;
  char* stack;
};

struct Warp {
  int arrived, ended;
  unsigned generation, votes[2];
  const char* operation;
  unsigned long long slots[2][32];
};

Fiber fibers[MOST];
Warp warps[MOST / 32];
Fiber* current;
int made, threads, block_arrived, block_done, block_votes[2], direction = 1;
unsigned block_generation;
jmp_buf home;
ucontext_t maker;
void (*body)(void*);
void* body_arguments;
const char* error;

inline int place(const Fiber* f) { return (int)(f - fibers); }
inline Warp& warp() { return warps[place(current) / 32]; }

[[noreturn]] inline void fail(const char* message) {
  error = message;
  made = 0;  // fibers are in the middle of something: make new ones
  _longjmp(home, 1);
}

inline bool runnable(const Fiber& f) {
  if (f.state == AT_WARP) return warps[place(&f) / 32].generation != f.waiting_for;
  if (f.state == AT_BLOCK) return block_generation != f.waiting_for;
  return f.state == READY;
}

inline void turn_to(Fiber* next) {
  if (next == current) return;
  if (_setjmp(current->at) == 0) {
    current = next;
    _longjmp(next->at, 1);
  }
}

// Hand over to the next fiber that can go on: of this warp, else of another.
inline void yield() {
  const int me = place(current), base = me / 32 * 32;
  for (int step = 1; step <= 32; ++step) {
    Fiber& f = fibers[base + (me - base + direction * step + 64) % 32];
    if (runnable(f)) return turn_to(&f);
  }
  for (int step = 1; step <= threads; ++step) {
    Fiber& f = fibers[(me + direction * step + 2 * threads) % threads];
    if (runnable(f)) return turn_to(&f);
  }
  if (block_done == threads) {
    if (_setjmp(current->at) == 0) _longjmp(home, 1);
    return;
  }
  fail("deadlock: a barrier or warp operation that not every thread reaches");
}

inline void entry() {
  Fiber* me = current;
  if (_setjmp(me->at) == 0) swapcontext(&me->first, &maker);
  for (;;) {
    body(body_arguments);
    Warp& w = warp();
    current->state = DONE;
    ++w.ended;
    ++block_done;
    if (w.arrived > 0) fail("a lane ended while others of its warp wait at a warp operation");
    if (block_arrived > 0 && block_arrived + block_done == threads) {
      block_arrived = 0;
      ++block_generation;
    }
    yield();
  }
}

inline void make_fibers() {
  for (; made < threads; ++made) {
    Fiber& f = fibers[made];
    if (!f.stack) f.stack = (char*)std::malloc(STACK);
    getcontext(&f.first);
    f.first.uc_stack.ss_sp = f.stack;
    f.first.uc_stack.ss_size = STACK;
    f.first.uc_link = &maker;
    makecontext(&f.first, entry, 0);
    current = &f;
    swapcontext(&maker, &f.first);
  }
}

inline void run_block() {
  for (int i = 0; i < threads; ++i) {
    fibers[i].index = Dim{(unsigned)i, 0, 0};
    fibers[i].state = READY;
    fibers[i].operations = 0;
  }
  std::memset(warps, 0, sizeof warps);
  block_arrived = block_done = 0;
  if (_setjmp(home) == 0) {
    current = &fibers[direction > 0 ? 0 : threads - 1];
    _longjmp(current->at, 1);
  }
}

// All lanes of the warp meet here; `before` runs as each arrives. Returns which of two buffers this operation uses.
template <class Before>
inline int meet(const char* operation, Before before) {
  Warp& w = warp();
  const int buffer = current->operations++ & 1;
  if (w.ended > 0) fail("a warp operation after a lane of the warp has ended");
  if (w.arrived == 0) {
    w.operation = operation;
    w.votes[buffer] = 0;
  } else if (w.operation != operation && std::strcmp(w.operation, operation) != 0) {
    fail("lanes of one warp meet at different warp operations");
  }
  before(w, buffer);
  if (++w.arrived == 32) {
    w.arrived = 0;
    ++w.generation;
    return buffer;
  }
  current->state = AT_WARP;
  current->waiting_for = w.generation;
  yield();
  current->state = READY;
  return buffer;
}

inline int lane() { return place(current) % 32; }

template <class T>
inline T exchange(const char* operation, T value, int from) {
  static_assert(sizeof(T) <= 8, "a lane's value has at most 8 bytes");
  const int buffer = meet(operation, [&](Warp& w, int b) { std::memcpy(&w.slots[b][lane()], &value, sizeof(T)); });
  T other;
  std::memcpy(&other, &warp().slots[buffer][from], sizeof(T));
  return other;
}

inline int block_meet(int vote) {
  const unsigned generation = block_generation;
  const int buffer = generation & 1;
  if (block_arrived == 0) block_votes[buffer] = 0;
  block_votes[buffer] |= vote != 0;
  if (++block_arrived + block_done == threads) {
    block_arrived = 0;
    ++block_generation;
  } else {
    current->state = AT_BLOCK;
    current->waiting_for = generation;
    yield();
    current->state = READY;
  }
  return block_votes[buffer];
}

template <class T>
inline T swap_in(T* address, T value) {
  T old = *address;
  *address = value;
  return old;
}

template <class... A, std::size_t... I>
inline void call(void (*kernel)(A...), void** arguments, std::index_sequence<I...>) {
  kernel(*static_cast<std::remove_reference_t<A>*>(arguments[I])...);
}

template <class... A>
inline const char* run(void (*kernel)(A...), unsigned x, unsigned y, int size, int reverse, void** arguments) {
  static void (*chosen)(A...);
  chosen = kernel;
  grid = Dim{x, y, 1};
  block = Dim{(unsigned)size, 1, 1};
  threads = size;
  direction = reverse ? -1 : 1;
  error = nullptr;
  body_arguments = arguments;
  body = [](void* given) { call(chosen, static_cast<void**>(given), std::index_sequence_for<A...>()); };
  if (size < 32 || size > MOST || size % 32) return "threads must be a multiple of 32, at most 1024";
  for (unsigned b = 0; b < x * y && !error; ++b) {
    const unsigned at = reverse ? x * y - 1 - b : b;
    block_index = Dim{at % x, at / x, 0};
    make_fibers();
    run_block();
  }
  return error;
}

}  // namespace shim

#define threadIdx (shim::current->index)
#define blockIdx (shim::block_index)
#define blockDim (shim::block)
#define gridDim (shim::grid)

inline void __syncthreads() { shim::block_meet(0); }
inline int __syncthreads_or(int vote) { return shim::block_meet(vote); }
inline void __syncwarp() { shim::meet("__syncwarp", [](shim::Warp&, int) {}); }
inline void __threadfence() {}

template <class T>
inline T __shfl_sync(unsigned, T value, int from) { return shim::exchange("__shfl_sync", value, from & 31); }
template <class T>
inline T __shfl_up_sync(unsigned, T value, int step) {
  const int me = shim::lane();
  return shim::exchange("__shfl_up_sync", value, me >= step ? me - step : me);
}
template <class T>
inline T __shfl_xor_sync(unsigned, T value, int mask) {
  return shim::exchange("__shfl_xor_sync", value, shim::lane() ^ mask);
}
inline unsigned __ballot_sync(unsigned, int vote) {
  const int b = shim::meet("__ballot_sync",
                           [&](shim::Warp& w, int buffer) { w.votes[buffer] |= (unsigned)(vote != 0) << shim::lane(); });
  return shim::warp().votes[b];
}
inline int __any_sync(unsigned mask, int vote) { return __ballot_sync(mask, vote) != 0; }
inline unsigned __match_any_sync(unsigned, unsigned value) {
  const int b = shim::meet("__match_any_sync",
                           [&](shim::Warp& w, int buffer) { w.slots[buffer][shim::lane()] = value; });
  unsigned same = 0;
  for (int i = 0; i < 32; ++i) same |= (unsigned)((unsigned)shim::warp().slots[b][i] == value) << i;
  return same;
}

template <class T>
inline T atomicMin(T* address, T value) { return shim::swap_in(address, value < *address ? value : *address); }
template <class T>
inline T atomicMax(T* address, T value) { return shim::swap_in(address, value > *address ? value : *address); }
template <class T>
inline T atomicAdd(T* address, T value) { return shim::swap_in(address, *address + value); }
template <class T>
inline T atomicOr(T* address, T value) { return shim::swap_in(address, *address | value); }
template <class T>
inline T atomicExch(T* address, T value) { return shim::swap_in(address, value); }
inline unsigned atomicInc(unsigned* address, unsigned most) {
  return shim::swap_in(address, *address >= most ? 0u : *address + 1);
}

inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline int __ffs(int x) { return __builtin_ffs(x); }
inline float __fmaf_rn(float a, float b, float c) { return std::fmaf(a, b, c); }
inline float __fadd_rn(float a, float b) { return a + b; }
inline float __fsub_rn(float a, float b) { return a - b; }
inline float __fmul_rn(float a, float b) { return a * b; }
inline float __uint2float_rn(unsigned x) { return (float)x; }
inline float __int2float_rn(int x) { return (float)x; }
inline int __float2int_rz(float x) { return (int)x; }
inline int __float_as_int(float x) {
  int bits;
  std::memcpy(&bits, &x, 4);
  return bits;
}
inline float __int_as_float(int bits) {
  float x;
  std::memcpy(&x, &bits, 4);
  return x;
}

inline unsigned __byte_perm(unsigned a, unsigned b, unsigned which) {
  const unsigned long long bytes = (unsigned long long)b << 32 | a;
  unsigned made = 0;
  for (int i = 0; i < 4; ++i) made |= (unsigned)(bytes >> 8 * (which >> 4 * i & 7) & 0xff) << 8 * i;
  return made;
}
inline unsigned shim_pair(int low, int high) { return ((unsigned)low & 0xffffu) | (unsigned)high << 16; }
inline unsigned __vadd2(unsigned a, unsigned b) {
  return shim_pair((int)(a & 0xffffu) + (int)(b & 0xffffu), (int)(a >> 16) + (int)(b >> 16));
}
inline unsigned __vmins2(unsigned a, unsigned b) {
  const short al = (short)a, bl = (short)b, ah = (short)(a >> 16), bh = (short)(b >> 16);
  return shim_pair(al < bl ? al : bl, ah < bh ? ah : bh);
}
inline int __viaddmin_s32(int a, int b, int c) {
  const int sum = (int)((unsigned)a + (unsigned)b);
  return sum < c ? sum : c;
}
inline unsigned __viaddmin_s16x2(unsigned a, unsigned b, unsigned c) { return __vmins2(__vadd2(a, b), c); }
