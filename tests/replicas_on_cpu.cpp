// The kernels of replicas.cu on a CPU.
#include "cuda_on_cpu.hpp"
#include "replicas.cu"

extern "C" {

// Launches kernel number `kernel`; 0 where threads of a block waited for ever.
int32_t mdistill_launch(int32_t kernel, int32_t blocks, int32_t threads, int32_t backwards, const Batch *batch) {
  fibers::backwards = backwards;
  fibers::work = [=] {
    if (kernel == 0) sizes(*reinterpret_cast<long long *const *>(batch));
    if (kernel == 1) advance(*batch);
    if (kernel == 2) search(*batch);
    if (kernel == 3) evaluate(*batch);
    if (kernel == 4) gather(*batch);
    if (kernel == 5) finish(*batch);
  };
  blockDim.x = threads;
  for (blockIdx.x = 0; blockIdx.x < unsigned(blocks); ++blockIdx.x)
    if (!fibers::run_block(threads)) return 0;
  return 1;
}
}
