// Triangular attention over pair tokens and its gradient on a GPU; edge_attention.hpp has the equations. Compiled for one width of
// a head and one float type: MDISTILL_WIDTH, MDISTILL_REAL.
//
// A thread has one token and one head, and goes through the token's triples one after another: in `attend` with a running largest
// score, in `attend_back` once for every triple of which its token is the first side (role 0) or the second (role 1). No array over
// triples, no atomics: the order of every sum is fixed. The heads of a token are neighbours in memory and in a warp.

namespace {

using real = MDISTILL_REAL;
constexpr int D = MDISTILL_WIDTH;

__device__ inline float exponential(float x) { return expf(x); }
__device__ inline double exponential(double x) { return exp(x); }
__device__ inline float logarithm(float x) { return logf(x); }
__device__ inline double logarithm(double x) { return log(x); }

// Two other tokens for each triple of a token: in a complete graph at equal steps, elsewhere a list.
struct Walk {
  const int *steps;        // [token][5]: number of triples; first place and step of either token. Null: a list
  const long long *first;  // [token + 1]
  const int *pairs;        // [triple][2]

  // visit(one, other) for every triple of a token.
  template <class Visit>
  __device__ void each(long long token, Visit visit) const {
    if (steps) {
      const int *of = steps + 5 * token;
      for (int t = 0; t < of[0]; ++t) visit((long long)of[1] + (long long)t * of[2], (long long)of[3] + (long long)t * of[4]);
    } else {
      for (long long t = first[token]; t < first[token + 1]; ++t) visit((long long)pairs[2 * t], (long long)pairs[2 * t + 1]);
    }
  }
};

// Arrays in device memory, and a number of tokens, heads and the role.
struct Call {
  long long tokens, heads, role;
  Walk walk;                      // attend: sides a, b of token e; attend_back: e and the other side
  const real *sides, *bias;       // [token][4][head][D] q, k, v, w; [token]
  real *out, *logs;               // [token][head][D]; [token][head] log of the sum of exponentials
  const real *gradient, *along;   // of out; [token][head] its scalar product with out
  real *to_sides, *to_bias;       // gradients; to_bias [token][head], to which role 1 adds

  __device__ const real *side(long long token, long long part, long long head) const {
    return sides + ((token * 4 + part) * heads + head) * D;
  }
  __device__ real *to_side(long long token, long long part, long long head) const {
    return to_sides + ((token * 4 + part) * heads + head) * D;
  }
};

__device__ inline real product(const real *x, const real *y) {
  real sum = 0;
#pragma unroll
  for (int c = 0; c < D; ++c) sum += x[c] * y[c];
  return sum;
}

}  // namespace

extern "C" {

__global__ void attend(Call call) {
  const long long place = (long long)blockIdx.x * blockDim.x + threadIdx.x, token = place / call.heads, head = place % call.heads;
  if (token >= call.tokens) return;
  const real scale = real(1) / real(sqrt(double(D)));
  real top = real(-1e30), total = 0, sum[D];
  for (int c = 0; c < D; ++c) sum[c] = 0;
  call.walk.each(token, [&](long long a, long long b) {
    const real score = product(call.side(a, 0, head), call.side(b, 1, head)) * scale + call.bias[a] + call.bias[b];
    if (score > top) {
      const real less = exponential(top - score);
      total *= less;
#pragma unroll
      for (int c = 0; c < D; ++c) sum[c] *= less;
      top = score;
    }
    const real share = exponential(score - top), *v = call.side(a, 2, head), *w = call.side(b, 3, head);
    total += share;
#pragma unroll
    for (int c = 0; c < D; ++c) sum[c] += share * v[c] * w[c];
  });
  for (int c = 0; c < D; ++c) call.out[place * D + c] = sum[c] / total;
  call.logs[place] = top + logarithm(total);
}

__global__ void attend_back(Call call) {
  const long long place = (long long)blockIdx.x * blockDim.x + threadIdx.x, token = place / call.heads, head = place % call.heads;
  if (token >= call.tokens) return;
  const long long mine = call.role, across = 1 - call.role;
  const real scale = real(1) / real(sqrt(double(D)));
  real asked[D], carried[D], to_asked[D], to_carried[D], to_bias = 0;
  for (int c = 0; c < D; ++c) {
    asked[c] = call.side(token, mine, head)[c], carried[c] = call.side(token, mine + 2, head)[c];
    to_asked[c] = 0, to_carried[c] = 0;
  }
  call.walk.each(token, [&](long long e, long long other) {
    const real *theirs = call.side(other, across, head), *brought = call.side(other, across + 2, head);
    const real *down = call.gradient + (e * call.heads + head) * D;
    const real score = product(asked, theirs) * scale + call.bias[token] + call.bias[other];
    const real share = exponential(score - call.logs[e * call.heads + head]);
    real pull = 0;
#pragma unroll
    for (int c = 0; c < D; ++c) {
      const real part = down[c] * brought[c];
      pull += part * carried[c];
      to_carried[c] += share * part;
    }
    const real slope = share * (pull - call.along[e * call.heads + head]);
    to_bias += slope;
#pragma unroll
    for (int c = 0; c < D; ++c) to_asked[c] += slope * scale * theirs[c];
  });
  for (int c = 0; c < D; ++c) call.to_side(token, mine, head)[c] = to_asked[c], call.to_side(token, mine + 2, head)[c] = to_carried[c];
  call.to_bias[place] = call.role ? call.to_bias[place] + to_bias : to_bias;
}
}
