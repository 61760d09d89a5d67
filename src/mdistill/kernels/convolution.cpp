// One convolution of an equivariant network (NequIP's) and its gradient, edge by edge, in float32; nothing is stored per edge.
//
// y_i[p, c, u] = s Σ_j w_p(r_ij)[u] Σ_a m_p[c, a] x_j[a, u],   m_p[c, a] = Σ_b C^p_cab Y_b(r̂_ij)
//
// x: features of the sender (block of equal angular momentum: component a, channel u)   p: path, from one block to one output
// Both have channels last. w: radial functions   C: Clebsch–Gordan coefficients   Y: spherical harmonics   s: scale
// Radial functions are cubic polynomials of t, the place between two of equidistant knots.
#include <vector>

#include "crew.hpp"
#include "lanes.hpp"

using mdistill::Crew, mdistill::LANES, mdistill::load, mdistill::store, mdistill::padded;
using V = mdistill::Lanes<float>;
constexpr int W = LANES<float>;

namespace {

struct Block {
  int channels, components, start;
};

struct Term {  // m[ca] gets value · Y[b]
  int ca, b;
  float value;
};

struct Path {
  int block, components, weight, start, stride;  // components of the output; first weight; first number and row length there
  std::vector<Term> terms;
};

struct Edges {
  const int64_t *first;
  const int64_t *sender;
  const float *length, *harmonics;
};

class Convolution {
 public:
  std::vector<Block> blocks;
  std::vector<Path> paths;
  int harmonics, inputs = 0, outputs = 0, weights = 0, intervals;
  float scale, lowest, spacing;
  std::vector<float> table;  // [interval, power of t, weight]

  void radial(float length, float *to, float *slope) const {
    const float place = (length - lowest) / spacing, per_length = 1 / spacing;
    const int interval = std::min(std::max(static_cast<int>(place), 0), intervals - 1);
    const float t = place - interval;
    const float *a = table.data() + int64_t(interval) * 4 * weights, *b = a + weights, *c = b + weights, *d = c + weights;
    for (int k = 0; k < weights; k += W) {
      const V first = load(b + k), second = load(c + k), third = load(d + k);
      store<float>(to + k, load(a + k) + t * (first + t * (second + t * third)));
      if (slope) store<float>(slope + k, (first + t * (2.0f * second + 3.0f * t * third)) * per_length);
    }
  }

  void mix(const Path &path, const float *y, float *m) const {
    const int size = path.components * blocks[path.block].components;
    std::fill(m, m + size, 0.0f);
    for (const Term &t : path.terms) m[t.ca] += t.value * y[t.b];
  }
};

constexpr int MOST = 7;  // components: angular momentum up to 3

template <int C, int A>
void add_message(int channels, int stride, const float *m, const float *w, const float *x, float *out) {
  for (int u = 0; u < channels; u += W) {
    V source[A];
    MDISTILL_UNROLL
    for (int a = 0; a < A; ++a) source[a] = load(x + a * channels + u);
    const V weight = load(w + u);
    MDISTILL_UNROLL
    for (int c = 0; c < C; ++c) {
      V part = m[c * A] * source[0];
      MDISTILL_UNROLL
      for (int a = 1; a < A; ++a) part += m[c * A + a] * source[a];
      float *to = out + c * stride + u;
      store<float>(to, load(to) + part * weight);
    }
  }
}

// Adds to the gradients of the features and of the length; `mixed` gets those of m, one vector each.
template <int C, int A>
V add_gradient(int channels, int stride, const float *m, const float *w, const float *slope, const float *x, const float *g, float *gx, V *mixed) {
  V length = V{};
  V total[C * A];
  MDISTILL_UNROLL
  for (int k = 0; k < C * A; ++k) total[k] = V{};
  for (int u = 0; u < channels; u += W) {
    V source[A], back[A], dot = V{};
    MDISTILL_UNROLL
    for (int a = 0; a < A; ++a) source[a] = load(x + a * channels + u), back[a] = load(gx + a * channels + u);
    const V weight = load(w + u);
    MDISTILL_UNROLL
    for (int c = 0; c < C; ++c) {
      const V down = load(g + c * stride + u), weighted = down * weight;
      V part = m[c * A] * source[0];
      MDISTILL_UNROLL
      for (int a = 1; a < A; ++a) part += m[c * A + a] * source[a];
      dot += part * down;
      MDISTILL_UNROLL
      for (int a = 0; a < A; ++a) {
        back[a] += m[c * A + a] * weighted;
        total[c * A + a] += weighted * source[a];
      }
    }
    length += dot * load(slope + u);
    MDISTILL_UNROLL
    for (int a = 0; a < A; ++a) store<float>(gx + a * channels + u, back[a]);
  }
  MDISTILL_UNROLL
  for (int k = 0; k < C * A; ++k) mixed[k] = total[k];
  return length;
}

using Forward = void (*)(int, int, const float *, const float *, const float *, float *);
using Backward = V (*)(int, int, const float *, const float *, const float *, const float *, const float *, float *, V *);

template <int C>
Forward forward_of(int a) {
  return a == 1 ? add_message<C, 1> : a == 3 ? add_message<C, 3> : a == 5 ? add_message<C, 5> : add_message<C, 7>;
}
template <int C>
Backward backward_of(int a) {
  return a == 1 ? add_gradient<C, 1> : a == 3 ? add_gradient<C, 3> : a == 5 ? add_gradient<C, 5> : add_gradient<C, 7>;
}
Forward forward_of(int c, int a) {
  return c == 1 ? forward_of<1>(a) : c == 3 ? forward_of<3>(a) : c == 5 ? forward_of<5>(a) : forward_of<7>(a);
}
Backward backward_of(int c, int a) {
  return c == 1 ? backward_of<1>(a) : c == 3 ? backward_of<3>(a) : c == 5 ? backward_of<5>(a) : backward_of<7>(a);
}

}  // namespace

extern "C" {

// blocks: [n, 2] channels and components. paths: [n, 6] block, components, first weight, first output and stride, terms.
// terms: [n, 2] place in m, harmonic, with their values. table: as above. numbers: scale, lowest, spacing.
Convolution *mdistill_convolution(int32_t block_count, const int32_t *blocks, int32_t path_count, const int32_t *paths, const int32_t *terms, const double *values, int32_t harmonics, int32_t intervals, const float *table, const double *numbers) {
  auto *net = new Convolution;
  for (int k = 0; k < block_count; ++k) {
    net->blocks.push_back({blocks[2 * k], blocks[2 * k + 1], net->inputs});
    net->inputs += blocks[2 * k] * blocks[2 * k + 1];
  }
  for (int k = 0; k < path_count; ++k, paths += 6) {
    Path path{paths[0], paths[1], paths[2], paths[3], paths[4], {}};
    for (int t = 0; t < paths[5]; ++t, terms += 2) path.terms.push_back({terms[0], terms[1], static_cast<float>(*values++)});
    net->weights += net->blocks[path.block].channels;
    net->outputs += net->blocks[path.block].channels * path.components;
    net->paths.push_back(std::move(path));
  }
  net->harmonics = harmonics, net->intervals = intervals;
  net->table.assign(table, table + int64_t(intervals) * 4 * net->weights);
  net->scale = numbers[0], net->lowest = numbers[1], net->spacing = numbers[2];
  return net;
}

void mdistill_convolution_free(Convolution *net) { delete net; }
int32_t mdistill_lanes() { return W; }

void mdistill_convolve(const Convolution *net, int64_t atoms, int32_t threads, const Edges *edges, const float *features, float *result) {
  Crew::split(atoms, threads, [&](int64_t from, int64_t to) {
    std::vector<float> w(net->weights), out(net->outputs);
    float m[MOST * MOST];
    for (int64_t i = from; i < to; ++i) {
      std::fill(out.begin(), out.end(), 0.0f);
      for (int64_t e = edges->first[i]; e < edges->first[i + 1]; ++e) {
        net->radial(edges->length[e], w.data(), nullptr);
        const float *source = features + edges->sender[e] * net->inputs, *y = edges->harmonics + e * net->harmonics;
        for (const Path &path : net->paths) {
          const Block &block = net->blocks[path.block];
          net->mix(path, y, m);
          forward_of(path.components, block.components)(block.channels, path.stride, m, w.data() + path.weight, source + block.start, out.data() + path.start);
        }
      }
      for (int k = 0; k < net->outputs; ++k) result[i * net->outputs + k] = out[k] * net->scale;
    }
  });
}

// Gradients of features, harmonics and lengths from those of the result.
void mdistill_convolve_back(const Convolution *net, int64_t atoms, int32_t threads, const Edges *edges, const float *features, const float *gradient, float *to_features, float *to_harmonics, float *to_lengths) {
  const int parts = std::max(threads, 1);
  std::vector<std::vector<float>> backs(parts, std::vector<float>(atoms * net->inputs, 0.0f));
  Crew::run(parts, [&](int part) {
    std::vector<float> w(net->weights), slope(net->weights), g(net->outputs);
    float m[MOST * MOST];
    V mixed[MOST * MOST], harmonic[16];
    float *back = backs[part].data();
    for (int64_t i = atoms * part / parts; i < atoms * (part + 1) / parts; ++i) {
      for (int k = 0; k < net->outputs; ++k) g[k] = gradient[i * net->outputs + k] * net->scale;
      for (int64_t e = edges->first[i]; e < edges->first[i + 1]; ++e) {
        net->radial(edges->length[e], w.data(), slope.data());
        const int64_t j = edges->sender[e] * net->inputs;
        const float *y = edges->harmonics + e * net->harmonics;
        V length = V{};
        for (int b = 0; b < net->harmonics; ++b) harmonic[b] = V{};
        for (const Path &path : net->paths) {
          const Block &block = net->blocks[path.block];
          net->mix(path, y, m);
          length += backward_of(path.components, block.components)(block.channels, path.stride, m, w.data() + path.weight, slope.data() + path.weight,
                                                                   features + j + block.start, g.data() + path.start, back + j + block.start, mixed);
          for (const Term &t : path.terms) harmonic[t.b] += t.value * mixed[t.ca];
        }
        to_lengths[e] = mdistill::sum<float>(length);
        for (int b = 0; b < net->harmonics; ++b) to_harmonics[e * net->harmonics + b] = mdistill::sum<float>(harmonic[b]);
      }
    }
  });
  for (int part = 1; part < parts; ++part)
    for (size_t k = 0; k < backs[0].size(); ++k) backs[0][k] += backs[part][k];
  std::copy(backs[0].begin(), backs[0].end(), to_features);
}
}
