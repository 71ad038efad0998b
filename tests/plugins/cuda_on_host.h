// Enough of CUDA for the project's kernels to run on the CPU: a thread for every thread of a block, barriers, shuffles.
#pragma once
#include <barrier>
#include <cstdint>
#include <memory>
#include <thread>
#include <vector>

struct Dim3 {
  unsigned x = 1, y = 1;
};
inline thread_local Dim3 threadIdx, blockIdx, blockDim, gridDim;
inline std::unique_ptr<std::barrier<>> block_barrier;
inline std::vector<float> shuffled;

#define __global__
#define __launch_bounds__(threads)
#define __shared__ static

inline void __syncthreads() { block_barrier->arrive_and_wait(); }

// All threads of a block call it equally often, so the block's barrier does for the warp's.
inline float __shfl_down_sync(unsigned, float value, int offset) {
  shuffled[threadIdx.x] = value;
  __syncthreads();
  const unsigned lane = threadIdx.x % 32;
  const float other = lane + offset < 32 ? shuffled[threadIdx.x + offset] : value;
  __syncthreads();
  return other;
}

inline int atomicOr(int* address, int value) { return __sync_fetch_and_or(address, value); }

// Run a kernel on a grid, one block after the other.
template <class Kernel, class... Arguments>
void launch(Dim3 grid, unsigned threads, Kernel kernel, Arguments... arguments) {
  shuffled.assign(threads, 0.0f);
  for (unsigned y = 0; y < grid.y; ++y) {
    for (unsigned x = 0; x < grid.x; ++x) {
      block_barrier = std::make_unique<std::barrier<>>(threads);
      std::vector<std::thread> block;
      for (unsigned thread = 0; thread < threads; ++thread) {
        block.emplace_back([=] {
          threadIdx = {thread, 0};
          blockIdx = {x, y};
          blockDim = {threads, 1};
          gridDim = grid;
          kernel(arguments...);
        });
      }
      for (auto& one : block) one.join();
    }
  }
}
