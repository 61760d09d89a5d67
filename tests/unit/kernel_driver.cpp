// Energy and forces of one structure by the kernel, for processors that Python does not run on here. Reads from the standard input
// float64 numbers: species, atoms, threads, how many weights, weights, species of each atom, positions, cell; writes energy, forces, virial.
#include "../../src/mdistill/kernels/moment.cpp"

#include <cstdio>

int main() {
  auto read = [](size_t count) {
    std::vector<double> numbers(count);
    if (std::fread(numbers.data(), sizeof(double), count, stdin) != count) std::exit(1);
    return numbers;
  };
  const std::vector<double> head = read(4), weights = read(size_t(head[3])), kinds = read(size_t(head[1]));
  const std::vector<double> positions = read(3 * kinds.size()), cell = read(9);
  const std::vector<int32_t> species(kinds.begin(), kinds.end());
  const int32_t pbc[3] = {1, 1, 1};
  std::vector<double> out(1 + positions.size() + 9);
  Net *net = mdistill_net(int32_t(head[0]), weights.data());
  Engine *engine = mdistill_engine(net, int64_t(kinds.size()), species.data(), int32_t(head[2]), 0.3);
  out[0] = mdistill_evaluate(engine, positions.data(), cell.data(), pbc, &out[1], &out[1 + positions.size()], nullptr);
  std::fwrite(out.data(), sizeof(double), out.size(), stdout);
}
