// Triangular attention over pair tokens and its gradient, one head at a time; no array over triples.
//
// o_e = sum_t p_t v_a * w_b,   p_t = exp(s_t) / sum_t' exp(s_t'),   s_t = q_a . k_b + g_a + g_b,   t = (a, b) over the triples of e
//
// e = (i, j): token   a = (i, l), b = (l, j): the other two sides of a triangle; q (with 1/sqrt(d)), k, v, w: of its tokens
// g: log of their envelopes   p * (1: product number by number)
//
// Two forms. In a complete graph the triples of (i, j) are all l: row i of the first sides meets row j of the second ones, which
// are stored with l in the lanes, so that neither sums nor weights cross lanes; scores of a token are a row that stays in the first
// cache. Elsewhere triples are a list; the width is in the lanes, and sums over it end in a transposition of as many products as a
// register has numbers.
#pragma once

#include <limits>
#include <vector>

#include "lanes.hpp"

namespace mdistill {

template <class real>
inline Lanes<real> folded(Lanes<real> *parts) {  // sums of as many vectors as each has numbers
  transpose<real>(parts);
  Lanes<real> total = parts[0];
  MDISTILL_UNROLL
  for (int k = 1; k < LANES<real>; ++k) total += parts[k];
  return total;
}

template <class real>
inline real largest(Lanes<real> v) {
  real top = v[0];
  for (int k = 1; k < LANES<real>; ++k) top = std::max<real>(top, v[k]);
  return top;
}

template <class real>
inline void zeros(Array<real> &array, int64_t n) {  // at least n of them
  if (int64_t(array.size()) < n) array.resize(n);
  else std::fill(array.begin(), array.begin() + n, real(0));
}

// Where the numbers of one head lie in the arrays of the network, [token, 4, heads, D]: q, k, v, w.
template <class real, int D>
struct Layout {
  int heads, head;
  int64_t at(int64_t token, int part) const { return ((token * 4 + part) * heads + head) * D; }
  static real scale(int part) { return part == 0 ? real(1 / std::sqrt(double(D))) : real(1); }
};

// One complete graph of n atoms, whose token (i, j) has number start + i n + j.
template <class real, int D>
class CompleteHead {
 public:
  using V = Lanes<real>;
  static constexpr int W = LANES<real>, P = padded<real>(D);
  static constexpr real NEVER = real(-1e30);

  void take(const real *all, const real *envelope, int64_t first, int64_t atoms, Layout<real, D> where) {
    layout = where, start = first, n = atoms, blocks = (n + W - 1) / W, row = blocks * 2 * D * W;
    for (auto *side : {&left, &right}) zeros(*side, n * row);
    for (auto *side : {&left_bias, &right_bias}) zeros(*side, n * blocks * W);
    zeros(scores, 2 * blocks * W);
    for (int64_t i = 0; i < n; ++i)
      for (int64_t l = 0; l < blocks * W; ++l) {
        left_bias[i * blocks * W + l] = l < n ? envelope[start + i * n + l] : NEVER;
        right_bias[i * blocks * W + l] = l < n ? envelope[start + l * n + i] : NEVER;
        if (l >= n) continue;
        for (int part = 0; part < 2; ++part) {
          const real *from = all + layout.at(start + i * n + l, 2 * part), *other = all + layout.at(start + i * n + l, 2 * part + 1);
          real *to = left.begin() + i * row + spot(l, part), *across = right.begin() + l * row + spot(i, part);
          const real scale = layout.scale(2 * part);
          for (int c = 0; c < D; ++c) to[c * W] = from[c] * scale, across[c * W] = other[c];
        }
      }
  }

  // Writes o and the log of the sum of exponentials of all tokens; two rows share what they read of the other side.
  void forward(real *out, real *log_sums) {
    for (int64_t i = 0; i < n; i += 2)
      for (int64_t j = 0; j < n; ++j) {
        if (i + 1 < n) forward_rows<2>(i, j, out, log_sums);
        else forward_rows<1>(i, j, out, log_sums);
      }
  }

  void backward(const real *out, const real *log_sums, const real *gradient) {
    for (auto *side : {&to_left, &to_right}) zeros(*side, n * row);
    for (auto *side : {&to_left_bias, &to_right_bias}) zeros(*side, n * blocks * W);
    for (int64_t i = 0; i < n; ++i)
      for (int64_t j = 0; j < n; ++j) {
        const int64_t e = start + i * n + j, at = (e * layout.heads + layout.head) * D;
        backward_row(i, j, out + at, log_sums[e], gradient + at);
      }
  }

  void give(real *all, real *to_bias) const {
    for (int64_t i = 0; i < n; ++i)
      for (int64_t l = 0; l < n; ++l) {
        const int64_t token = start + i * n + l;
        to_bias[token] = to_left_bias[i * blocks * W + l] + to_right_bias[l * blocks * W + i];
        for (int part = 0; part < 2; ++part) {
          const real *from = to_left.begin() + i * row + spot(l, part), *other = to_right.begin() + l * row + spot(i, part);
          real *to = all + layout.at(token, 2 * part), *across = all + layout.at(token, 2 * part + 1);
          const real scale = layout.scale(2 * part);
          for (int c = 0; c < D; ++c) to[c] = from[c * W] * scale, across[c] = other[c * W];
        }
      }
  }

 private:
  Layout<real, D> layout{};
  int64_t start = 0, n = 0, blocks = 0, row = 0;
  Array<real> left, right, to_left, to_right, left_bias, right_bias, to_left_bias, to_right_bias, scores;

  // Of l in a row: block of lanes, then part (q or v, k or w), width, lane.
  static int64_t spot(int64_t l, int part) { return (l / W * 2 + part) * D * W + l % W; }

  template <int B>
  void score_rows(int64_t i, int64_t j) {
    const real *x = left.begin() + i * row, *y = right.begin() + j * row;
    const real *g = left_bias.begin() + i * blocks * W, *h = right_bias.begin() + j * blocks * W;
    for (int64_t l = 0; l < blocks; ++l, x += 2 * D * W, y += 2 * D * W) {
      V total[B];
      for (int b = 0; b < B; ++b) total[b] = load(g + (b * blocks + l) * W) + load(h + l * W);
      MDISTILL_UNROLL
      for (int c = 0; c < D; ++c) {
        const V other = load(y + c * W);
        for (int b = 0; b < B; ++b) total[b] += load(x + b * row + c * W) * other;
      }
      for (int b = 0; b < B; ++b) store<real>(scores.begin() + (b * blocks + l) * W, total[b]);
    }
  }

  template <int B>
  void forward_rows(int64_t i, int64_t j, real *out, real *log_sums) {
    constexpr int CHUNK = D % 4 == 0 ? 4 : 1;
    score_rows<B>(i, j);
    real tops[B], sums[B];
    for (int b = 0; b < B; ++b) {
      real *mine = scores.begin() + b * blocks * W;
      V most = load(mine), total = V{};
      for (int64_t l = 1; l < blocks; ++l) most = larger<real>(most, load(mine + l * W));
      tops[b] = largest<real>(most);
      for (int64_t l = 0; l < blocks; ++l) {
        const V p = exponential<real>(load(mine + l * W) - tops[b]);
        store<real>(mine + l * W, p), total += p;
      }
      sums[b] = sum<real>(total);
    }
    V parts[B][P] = {};
    MDISTILL_UNROLL
    for (int from = 0; from < D; from += CHUNK) {
      const real *v = left.begin() + i * row + (D + from) * W, *w = right.begin() + j * row + (D + from) * W;
      V total[B][CHUNK] = {};
      for (int64_t l = 0; l < blocks; ++l, v += 2 * D * W, w += 2 * D * W) {
        V p[B];
        for (int b = 0; b < B; ++b) p[b] = load(scores.begin() + (b * blocks + l) * W);
        MDISTILL_UNROLL
        for (int c = 0; c < CHUNK; ++c) {
          const V other = load(w + c * W);
          for (int b = 0; b < B; ++b) total[b][c] += p[b] * load(v + b * row + c * W) * other;
        }
      }
      for (int b = 0; b < B; ++b)
        for (int c = 0; c < CHUNK; ++c) parts[b][from + c] = total[b][c];
    }
    for (int b = 0; b < B; ++b) {
      const int64_t e = start + (i + b) * n + j;
      alignas(REGISTER_BYTES) real answer[P];
      for (int c = 0; c < P; c += W) store<real>(answer + c, folded<real>(parts[b] + c) * (1 / sums[b]));
      std::copy(answer, answer + D, out + (e * layout.heads + layout.head) * D);
      log_sums[e] = tops[b] + std::log(sums[b]);
    }
  }

  void backward_row(int64_t i, int64_t j, const real *out, real log_sum, const real *gradient) {
    score_rows<1>(i, j);
    real through = 0;
    for (int c = 0; c < D; ++c) through += gradient[c] * out[c];
    const real *x = left.begin() + i * row, *y = right.begin() + j * row;
    real *to_x = to_left.begin() + i * row, *to_y = to_right.begin() + j * row;
    real *to_g = to_left_bias.begin() + i * blocks * W, *to_h = to_right_bias.begin() + j * blocks * W;
    for (int64_t l = 0; l < blocks; ++l) {
      const V p = exponential<real>(load(scores.begin() + l * W) - log_sum);
      V change = V{}, more = V{};
      MDISTILL_UNROLL
      for (int c = 0; c < D; c += 2) {
        change += gradient[c] * load(x + (D + c) * W) * load(y + (D + c) * W);
        if (c + 1 < D) more += gradient[c + 1] * load(x + (D + c + 1) * W) * load(y + (D + c + 1) * W);
      }
      const V slope = p * (change + more - through);
      store<real>(to_g + l * W, load(to_g + l * W) + slope), store<real>(to_h + l * W, load(to_h + l * W) + slope);
      MDISTILL_UNROLL
      for (int c = 0; c < D; ++c) {
        const int q = c * W, v = (D + c) * W;
        const V weighted = p * gradient[c];
        store<real>(to_x + q, load(to_x + q) + slope * load(y + q));
        store<real>(to_y + q, load(to_y + q) + slope * load(x + q));
        store<real>(to_x + v, load(to_x + v) + weighted * load(y + v));
        store<real>(to_y + v, load(to_y + v) + weighted * load(x + v));
      }
      x += 2 * D * W, y += 2 * D * W, to_x += 2 * D * W, to_y += 2 * D * W;
    }
  }
};

struct Triples {
  const int32_t *pairs;  // [count, 2]
  int64_t count;
  int64_t a(int64_t l) const { return pairs[2 * l]; }
  int64_t b(int64_t l) const { return pairs[2 * l + 1]; }
};

// Tokens with listed triples.
template <class real, int D>
class ListedHead {
 public:
  using V = Lanes<real>;
  static constexpr int W = LANES<real>, P = padded<real>(D), R = P / W;

  // Sides of the tokens of one head: [token, (q, v, k, w), P].
  void take(const real *all, const real *envelope, int64_t tokens, Layout<real, D> where) {
    layout = where, count = tokens, bias = envelope;
    if (int64_t(sides.size()) < tokens * 4 * P) sides.resize(tokens * 4 * P);
    for (int64_t t = 0; t < tokens; ++t)
      for (int part = 0; part < 4; ++part) {
        const real *from = all + layout.at(t, part), scale = layout.scale(part);
        real *to = sides.begin() + (t * 4 + PLACE[part]) * P;
        for (int c = 0; c < D; ++c) to[c] = from[c] * scale;
      }
  }

  // Writes o_e and the log of the sum of exponentials.
  void forward(const Triples &triples, real *out, real *log_sum) {
    score(triples);
    const int64_t n = triples.count;
    V most = every<real>(-std::numeric_limits<real>::infinity());
    for (int64_t l = 0; l < n; l += W) most = larger<real>(most, load(scores.begin() + l));
    const real top = largest<real>(most);
    V total = V{};
    for (int64_t l = 0; l < n; l += W) {
      const V p = exponential<real>(load(scores.begin() + l) - top);
      store<real>(scores.begin() + l, p);
      if (l + W <= n) total += p;
      else for (int64_t k = l; k < n; ++k) total[0] += scores[k];
    }
    const real whole = sum<real>(total), share = 1 / whole;
    V sums[R] = {}, more[R] = {};
    for (int64_t l = 0; l + 1 < n; l += 2) add_value(triples, l, sums), add_value(triples, l + 1, more);
    if (n % 2) add_value(triples, n - 1, sums);
    alignas(REGISTER_BYTES) real row[P];
    for (int r = 0; r < R; ++r) store<real>(row + r * W, (sums[r] + more[r]) * share);
    std::copy(row, row + D, out);
    *log_sum = top + std::log(whole);
  }

  void begin_gradient() {
    zeros(gradients, count * 4 * P);
    to_bias.assign(count, 0);
  }

  // Adds to the gradients of the sides from that of o_e.
  void backward(const Triples &triples, const real *out, real log_sum, const real *gradient) {
    score(triples);
    const int64_t n = triples.count;
    alignas(REGISTER_BYTES) real row[P] = {};
    std::copy(gradient, gradient + D, row);
    real through = 0;
    for (int c = 0; c < D; ++c) through += gradient[c] * out[c];
    V down[R];
    for (int r = 0; r < R; ++r) down[r] = load(row + r * W);
    for (int64_t l = 0; l < n; l += W) {
      V parts[W];
      MDISTILL_UNROLL
      for (int k = 0; k < W; ++k) {
        const int64_t at = std::min(l + k, n - 1);
        const real *v = left(triples.a(at)) + P, *w = right(triples.b(at)) + P;
        parts[k] = down[0] * load(v) * load(w);
        MDISTILL_UNROLL
        for (int r = 1; r < R; ++r) parts[k] += down[r] * load(v + r * W) * load(w + r * W);
      }
      const V p = exponential<real>(load(scores.begin() + l) - log_sum);
      store<real>(scores.begin() + l, p);
      store<real>(slopes.begin() + l, p * (folded<real>(parts) - through));
    }
    for (int64_t l = 0; l < n; ++l) {
      const int64_t a = triples.a(l), b = triples.b(l);
      const real *q = left(a), *k = right(b);
      real *to_q = gradients.begin() + (a * 4) * P, *to_k = gradients.begin() + (b * 4 + 2) * P;
      const V p = every<real>(scores[l]), slope = every<real>(slopes[l]);
      MDISTILL_UNROLL
      for (int r = 0; r < R; ++r) {
        const int c = r * W;
        const V weighted = p * down[r];
        store<real>(to_q + c, load(to_q + c) + slope * load(k + c));
        store<real>(to_q + P + c, load(to_q + P + c) + weighted * load(k + P + c));
        store<real>(to_k + c, load(to_k + c) + slope * load(q + c));
        store<real>(to_k + P + c, load(to_k + P + c) + weighted * load(q + P + c));
      }
      to_bias[a] += slopes[l], to_bias[b] += slopes[l];
    }
  }

  void give(real *all, real *out_bias) const {
    std::copy(to_bias.begin(), to_bias.end(), out_bias);
    for (int64_t t = 0; t < count; ++t)
      for (int part = 0; part < 4; ++part) {
        const real *from = gradients.begin() + (t * 4 + PLACE[part]) * P, scale = layout.scale(part);
        real *to = all + layout.at(t, part);
        for (int c = 0; c < D; ++c) to[c] = from[c] * scale;
      }
  }

 private:
  static constexpr int PLACE[4] = {0, 2, 1, 3};
  Layout<real, D> layout{};
  Array<real> sides, gradients, scores, slopes;
  std::vector<real> to_bias;
  const real *bias = nullptr;
  int64_t count = 0;

  const real *left(int64_t token) const { return sides.begin() + token * 4 * P; }
  const real *right(int64_t token) const { return sides.begin() + (token * 4 + 2) * P; }

  void add_value(const Triples &triples, int64_t l, V *sums) const {
    const real *v = left(triples.a(l)) + P, *w = right(triples.b(l)) + P;
    const V p = every<real>(scores[l]);
    MDISTILL_UNROLL
    for (int r = 0; r < R; ++r) sums[r] += p * load(v + r * W) * load(w + r * W);
  }

  // Scores of all triples; those that fill the last register are copies of the last one.
  void score(const Triples &triples) {
    const int64_t n = triples.count;
    if (int64_t(scores.size()) < n + W) scores.resize(2 * n + W), slopes.resize(2 * n + W);
    for (int64_t l = 0; l < n; l += W) {
      V parts[W], more;
      alignas(REGISTER_BYTES) real envelopes[W];
      MDISTILL_UNROLL
      for (int k = 0; k < W; ++k) {
        const int64_t at = std::min(l + k, n - 1), a = triples.a(at), b = triples.b(at);
        const real *x = left(a), *y = right(b);
        parts[k] = load(x) * load(y);
        MDISTILL_UNROLL
        for (int r = 1; r < R; ++r) parts[k] += load(x + r * W) * load(y + r * W);
        envelopes[k] = bias[a] + bias[b];
      }
      more = load(envelopes);
      store<real>(scores.begin() + l, folded<real>(parts) + more);
    }
  }
};

}  // namespace mdistill
