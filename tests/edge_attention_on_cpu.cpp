// The kernels of edge_attention.cu on a CPU.
#include "cuda_on_cpu.hpp"
#include "edge_attention.cu"

extern "C" {

// Launches kernel number `kernel`; its threads do not wait for each other.
int32_t mdistill_launch(int32_t kernel, int32_t blocks, int32_t threads, int32_t, const Call *call) {
  blockDim.x = threads;
  for (blockIdx.x = 0; blockIdx.x < unsigned(blocks); ++blockIdx.x)
    for (threadIdx.x = 0; threadIdx.x < unsigned(threads); ++threadIdx.x) kernel == 0 ? attend(*call) : attend_back(*call);
  return 1;
}
}
