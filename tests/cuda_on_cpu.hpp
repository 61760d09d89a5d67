// Stands in for CUDA, so that a CPU runs its source unchanged: every thread of a block is a fiber, which runs until it waits for its
// warp or its block. Fibers run in ascending or descending order; a result that depends on it lacks a synchronisation.
#pragma once

#include <setjmp.h>
#include <ucontext.h>

#include <cmath>
#include <cstdint>
#include <cstring>
#include <functional>
#include <memory>
#include <vector>

#define __device__
#define __host__
#define __global__
#define __shared__ static

struct Index {
  unsigned x;
};
inline Index blockIdx, threadIdx, blockDim;

namespace fibers {

enum Wait { NOT, WARP_WAITS, BLOCK_WAITS, DONE };
struct Fiber {
  ucontext_t start;
  jmp_buf here;
  bool begun = false;
  Wait wait = NOT;
  std::unique_ptr<char[]> stack{new char[SIZE]};
  static constexpr size_t SIZE = 256 * 1024;
};

inline std::vector<Fiber> all;
inline jmp_buf scheduler;
inline ucontext_t back;
inline std::function<void()> work;
inline uint64_t slots[1024];
inline bool backwards = false;

inline void wait(Wait what) {
  Fiber &mine = all[threadIdx.x];
  mine.wait = what;
  if (!_setjmp(mine.here)) _longjmp(scheduler, 1);
}

inline void body() {
  work();
  all[threadIdx.x].wait = DONE;
  _longjmp(scheduler, 1);
}

inline void enter(unsigned t) {
  Fiber &fiber = all[t];
  threadIdx.x = t;
  if (_setjmp(scheduler)) return;
  if (fiber.begun) _longjmp(fiber.here, 1);
  fiber.begun = true;
  getcontext(&fiber.start);
  fiber.start.uc_stack.ss_sp = fiber.stack.get(), fiber.start.uc_stack.ss_size = Fiber::SIZE, fiber.start.uc_link = nullptr;
  makecontext(&fiber.start, body, 0);
  swapcontext(&back, &fiber.start);
}

// Lets the threads from `from` to `to` go on if all of them that are left wait for the same.
inline bool release(unsigned from, unsigned to, Wait what) {
  bool any = false;
  for (unsigned t = from; t < to; ++t) {
    if (all[t].wait != what && all[t].wait != DONE) return false;
    any |= all[t].wait == what;
  }
  for (unsigned t = from; t < to; ++t)
    if (all[t].wait == what) all[t].wait = NOT;
  return any;
}

// Runs one block; false where its threads wait for each other for ever.
inline bool run_block(unsigned threads) {
  if (all.size() < threads) all = std::vector<Fiber>(threads);
  for (unsigned t = 0; t < threads; ++t) all[t].begun = false, all[t].wait = NOT;
  while (true) {
    bool moved = false, left = false;
    for (unsigned k = 0; k < threads; ++k) {
      const unsigned t = backwards ? threads - 1 - k : k;
      if (all[t].wait == NOT) enter(t), moved = true;
    }
    for (unsigned w = 0; w < threads; w += 32) moved |= release(w, w + 32 < threads ? w + 32 : threads, WARP_WAITS);
    moved |= release(0, threads, BLOCK_WAITS);
    for (unsigned t = 0; t < threads; ++t) left |= all[t].wait != DONE;
    if (!left) return true;
    if (!moved) return false;
  }
}

template <class T>
T exchange(T value, int lane) {
  static_assert(sizeof(T) <= 8, "one register or two");
  std::memcpy(&slots[threadIdx.x], &value, sizeof value);
  wait(WARP_WAITS);
  std::memcpy(&value, &slots[threadIdx.x / 32 * 32 + lane], sizeof value);
  wait(WARP_WAITS);
  return value;
}

}  // namespace fibers

inline void __syncwarp() { fibers::wait(fibers::WARP_WAITS); }
inline void __syncthreads() { fibers::wait(fibers::BLOCK_WAITS); }
template <class T>
T __shfl_xor_sync(unsigned, T value, int other) {
  return fibers::exchange(value, (threadIdx.x % 32) ^ other);
}
template <class T>
T __shfl_sync(unsigned, T value, int lane) {
  return fibers::exchange(value, lane);
}
template <class T>
T __shfl_up_sync(unsigned, T value, int by) {
  const int lane = threadIdx.x % 32;
  return fibers::exchange(value, lane >= by ? lane - by : lane);
}
inline unsigned __ballot_sync(unsigned, bool here) {
  unsigned found = 0;
  fibers::slots[threadIdx.x] = here;
  fibers::wait(fibers::WARP_WAITS);
  for (int lane = 0; lane < 32; ++lane) found |= unsigned(fibers::slots[threadIdx.x / 32 * 32 + lane]) << lane;
  fibers::wait(fibers::WARP_WAITS);
  return found;
}
inline int __popc(unsigned bits) { return __builtin_popcount(bits); }
inline void sincospif(float x, float *s, float *c) { *s = std::sin(float(M_PI) * x), *c = std::cos(float(M_PI) * x); }
inline void sincospi(double x, double *s, double *c) { *s = std::sin(M_PI * x), *c = std::cos(M_PI * x); }
using std::isfinite;
