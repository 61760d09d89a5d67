// Triangular attention over pair tokens for Python; see edge_attention.hpp. Compiled for one width of a head and one float type.
#include "crew.hpp"
#include "edge_attention.hpp"

using real = MDISTILL_REAL;
constexpr int D = MDISTILL_WIDTH;
using Complete = mdistill::CompleteHead<real, D>;
using Listed = mdistill::ListedHead<real, D>;

namespace {

// Tokens of complete graphs of `sizes` atoms, one after another, or (structs = 0) with listed triples from `first[e]` on.
struct Tokens {
  int64_t count, structs;
  const int64_t *sizes, *first;
  const int32_t *pairs;

  mdistill::Triples triples(int64_t e) const { return {pairs + 2 * first[e], first[e + 1] - first[e]}; }
};

// Calls work(head, its layout) for every head, on threads.
template <class Work>
void each_head(int heads, int threads, const Work &work) {
  mdistill::Crew::split(heads, std::max(1, std::min(threads, heads)), [&](int64_t from, int64_t to) {
    for (int64_t h = from; h < to; ++h) work(h, mdistill::Layout<real, D>{heads, static_cast<int>(h)});
  });
}

Complete &complete() {
  static thread_local Complete head;
  return head;
}
Listed &listed() {
  static thread_local Listed head;
  return head;
}

}  // namespace

extern "C" {

// sides: [token, 4, heads, D] as q, k, v, w. bias: [token]. out: [token, heads, D]. log_sums: [heads, token].
void mdistill_attend(const Tokens *tokens, int32_t heads, int32_t threads, const void *sides, const void *bias, void *out, void *log_sums) {
  const auto *all = static_cast<const real *>(sides), *envelope = static_cast<const real *>(bias);
  auto *result = static_cast<real *>(out);
  const int64_t n = tokens->count;
  each_head(heads, threads, [&](int64_t h, auto layout) {
    real *logs = static_cast<real *>(log_sums) + h * n;
    for (int64_t s = 0, start = 0; s < tokens->structs; start += tokens->sizes[s] * tokens->sizes[s], ++s) {
      complete().take(all, envelope, start, tokens->sizes[s], layout);
      complete().forward(result, logs);
    }
    if (tokens->structs) return;
    listed().take(all, envelope, n, layout);
    for (int64_t e = 0; e < n; ++e) listed().forward(tokens->triples(e), result + (e * heads + h) * D, logs + e);
  });
}

// Writes the gradients of the sides, [token, 4, heads, D], and of the bias per head, [heads, token].
void mdistill_attend_back(const Tokens *tokens, int32_t heads, int32_t threads, const void *sides, const void *bias, const void *out, const void *log_sums, const void *gradient, void *to_sides, void *to_bias) {
  const auto *all = static_cast<const real *>(sides), *envelope = static_cast<const real *>(bias);
  const auto *result = static_cast<const real *>(out), *down = static_cast<const real *>(gradient);
  const int64_t n = tokens->count;
  each_head(heads, threads, [&](int64_t h, auto layout) {
    const real *logs = static_cast<const real *>(log_sums) + h * n;
    real *back = static_cast<real *>(to_sides), *back_bias = static_cast<real *>(to_bias) + h * n;
    for (int64_t s = 0, start = 0; s < tokens->structs; start += tokens->sizes[s] * tokens->sizes[s], ++s) {
      complete().take(all, envelope, start, tokens->sizes[s], layout);
      complete().backward(result, logs, down);
      complete().give(back, back_bias);
    }
    if (tokens->structs) return;
    listed().take(all, envelope, n, layout);
    listed().begin_gradient();
    for (int64_t e = 0; e < n; ++e) listed().backward(tokens->triples(e), result + (e * heads + h) * D, logs[e], down + (e * heads + h) * D);
    listed().give(back, back_bias);
  });
}
}
