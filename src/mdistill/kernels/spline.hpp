// The spline student (nets/spline.py holds its equations): energy and its derivatives in the edge vectors, for a few atoms of
// one species at a time. Knows nothing of cells, engines or threads.
//
// Vectors run over the harmonics lm of one edge where sums over neighbours are taken, over channels where these are mixed
// and made into invariants, over hidden units in the MLP, over edges in the geometry.
#pragma once

#include <algorithm>
#include <cstdlib>
#include <memory>
#include <vector>

#include "lanes.hpp"

namespace mdistill {

struct Free {
  void operator()(void *p) const { std::free(p); }
};

// An array aligned for vectors, filled with zeros.
template <class T>
class Array {
 public:
  Array() = default;
  explicit Array(size_t n) { resize(n); }
  void resize(size_t n) {
    const size_t bytes = (n * sizeof(T) + 127) / 128 * 128;
    data.reset(static_cast<T *>(std::aligned_alloc(128, std::max<size_t>(bytes, 128))));
    std::memset(static_cast<void *>(data.get()), 0, std::max<size_t>(bytes, 128));
    count = n;
  }
  T &operator[](size_t i) { return data.get()[i]; }
  const T &operator[](size_t i) const { return data.get()[i]; }
  T *begin() { return data.get(); }
  const T *begin() const { return data.get(); }
  size_t size() const { return count; }

 private:
  std::unique_ptr<T, Free> data;
  size_t count = 0;
};

constexpr int BLOCK = 4;  // atoms worked on together

template <class real, int RADIAL, int DEGREE, int CHANNELS, int HIDDEN>
struct Spline {
  using real_type = real;
  using V = Lanes<real>;
  static constexpr int LM = (DEGREE + 1) * (DEGREE + 1);
  static constexpr int CV = padded(CHANNELS) / LANES, CP = CV * LANES;  // channels in vectors
  static constexpr int GROUPS = DEGREE + 3;                             // first order, squares per degree, cubes
  static constexpr int HV = padded(HIDDEN > 0 ? HIDDEN : 1) / LANES, HP = HV * LANES;
  static constexpr int POINTS = DEGREE < 3 ? 13 : 19;  // of the sphere, one of each antipodal pair
  static constexpr int degree_of(int lm) { return lm < 1 ? 0 : lm < 4 ? 1 : lm < 9 ? 2 : 3; }

  // ---- weights ----------------------------------------------------------------------------------------------------------
  int species = 0;
  double cutoff = 0, freeze = 0, scale = 0;
  std::vector<double> reference, rest;               // E0; MLP of an isolated atom, per species
  std::vector<double> strength, decay, charge, outer;  // core repulsion per pair
  Array<real> closest, inverse_range, met;           // per pair
  Array<real> mix, unmix;                            // [species][l][sk][CP], [species][sk][c][16]
  Array<real> first, first_back, second, second_back, last, bias1, bias2;
  Array<real> sphere, sphere_weight;

  // Read from one list of float64 in the order that kernels/spline.py writes.
  explicit Spline(int n_species, const double *w) : species(n_species) {
    const int n = species, pairs = n * n, basis = n * RADIAL;
    auto take = [&w] { return *w++; };
    auto take_list = [&w](std::vector<double> &to, int count) { to.assign(w, w + count), w += count; };
    cutoff = take(), freeze = take(), scale = take();
    take_list(reference, n);
    take_list(rest, n);
    closest.resize(pairs), inverse_range.resize(pairs), met.resize(pairs);
    for (int p = 0; p < pairs; ++p) {
      const double r0 = take();
      closest[p] = real(r0);
      inverse_range[p] = real(1.0 / std::max(cutoff - r0, freeze));
      met[p] = r0 < cutoff ? 1 : 0;
    }
    take_list(charge, 4);
    take_list(strength, pairs);
    take_list(decay, 4 * pairs);
    take_list(outer, pairs);
    mix.resize(static_cast<size_t>(n) * (DEGREE + 1) * basis * CP);
    unmix.resize(static_cast<size_t>(n) * basis * CHANNELS * LANES);
    for (int s = 0; s < n; ++s)
      for (int l = 0; l <= DEGREE; ++l)
        for (int b = 0; b < basis; ++b)
          for (int c = 0; c < CHANNELS; ++c) {
            const real value = real(take());
            mix[((static_cast<size_t>(s) * (DEGREE + 1) + l) * basis + b) * CP + c] = value;
            for (int lm = 0; lm < LM; ++lm)
              if (degree_of(lm) == l) unmix[((static_cast<size_t>(s) * basis + b) * CHANNELS + c) * LANES + lm] = value;
          }
    if constexpr (HIDDEN > 0) {
      matrix(w, n, GROUPS * CHANNELS, HIDDEN, CHANNELS, first, first_back);
      vector(w, n, bias1);
      matrix(w, n, HIDDEN, HIDDEN, HIDDEN, second, second_back);
      vector(w, n, bias2);
      vector(w, n, last);
    } else {
      last.resize(static_cast<size_t>(n) * GROUPS * CP);
      for (int s = 0; s < n; ++s)
        for (int f = 0; f < GROUPS * CHANNELS; ++f)
          last[(static_cast<size_t>(s) * GROUPS + f / CHANNELS) * CP + f % CHANNELS] = real(*w++);
    }
    sphere.resize(POINTS * LANES), sphere_weight.resize(POINTS);
    for (int p = 0; p < POINTS; ++p) {
      sphere_weight[p] = real(take());
      for (int lm = 0; lm < LM; ++lm) sphere[p * LANES + lm] = real(take());
    }
  }

  // ---- room for one block -----------------------------------------------------------------------------------------------
  struct Edges {  // of one atom, sorted by species of the neighbour; `size` is a multiple of 16, `count` are real
    int count = 0, size = 0, capacity = 0;
    std::vector<int> ends;  // per species
    std::vector<int32_t> sender;
    Array<real> x, y, z, inverse;                    // edge vector (Å), then direction; 1/length
    Array<real> r0, range, met, near;
    Array<real> radial, slope;                       // [k][edge]
    Array<real> harmonic, turned;                    // [lm][edge], [edge][lm]
    Array<real> gx, gy, gz;                          // energy's derivative in the edge vector
    bool any_near = false;                           // whether one is within the core or a limit
    double closest = 0, core = 0;                    // smallest of length / allowed length; energy of the core

    void reserve(int wanted, int n_species) {
      if (wanted < capacity) return;
      capacity = padded(wanted + wanted / 4 + LANES);
      ends.assign(n_species, 0);
      sender.assign(capacity, 0);
      for (auto *a : {&x, &y, &z, &inverse, &r0, &range, &met, &near, &gx, &gy, &gz}) a->resize(capacity);
      radial.resize(static_cast<size_t>(RADIAL) * capacity), slope.resize(static_cast<size_t>(RADIAL) * capacity);
      harmonic.resize(static_cast<size_t>(LANES) * capacity), turned.resize(static_cast<size_t>(LANES) * capacity);
    }
  };

  struct Workspace {
    Edges edges[BLOCK];
    double energy[BLOCK];
    Array<real> sums, pull;  // [BLOCK][sk][16]
    alignas(128) V moments[BLOCK][LANES][CV], slopes[BLOCK][LANES][CV];
    alignas(128) real features[BLOCK][GROUPS * CP], hidden1[BLOCK][HP], hidden2[BLOCK][HP], rate1[BLOCK][HP], rate2[BLOCK][HP];
    alignas(128) V mixed[BLOCK][CP];
    std::vector<double> limit;  // closest distance per pair that is still allowed; 0: none
    Array<real> near;           // edges shorter than this are looked at one by one
    explicit Workspace(const Spline &net)
        : sums(BLOCK * net.species * RADIAL * LANES), pull(sums.size()), limit(net.outer.size(), 0.0), near(limit.size()) {
      set_limits(net, limit.data());
    }
    void set_limits(const Spline &net, const double *distances) {
      for (size_t p = 0; p < limit.size(); ++p) {
        limit[p] = distances[p];
        near[p] = real(std::max(net.outer[p], limit[p]));
      }
    }
  };

  // ---- the block --------------------------------------------------------------------------------------------------------
  // Energies and edge derivatives of `atoms` ≤ BLOCK atoms of species s whose edges (x, y, z, sender, ends, count) are set.
  void evaluate(int s, int atoms, Workspace &work) const {
    for (int b = 0; b < atoms; ++b) {
      complete(s, work.near, work.edges[b]);
      expand(work.edges[b]);
      accumulate(work.edges[b], &work.sums[static_cast<size_t>(b) * species * RADIAL * LANES]);
      project(s, &work.sums[static_cast<size_t>(b) * species * RADIAL * LANES], work.moments[b]);
      invariants(work.moments[b], work.features[b], work.slopes[b]);
    }
    for (int b = atoms; b < BLOCK; ++b) std::memset(work.features[b], 0, sizeof work.features[b]);
    if constexpr (HIDDEN > 0) {
      head(s, work);
    } else {
      linear_head(s, work);
    }
    for (int b = 0; b < atoms; ++b) {
      work.energy[b] = reference[s] + scale * (work.energy[b] - rest[s]);
      back_invariants(work.moments[b], work.features[b], work.slopes[b], work.mixed[b]);
    }
    back_project(s, work);
    for (int b = 0; b < atoms; ++b) {
      Edges &edges = work.edges[b];
      contract(edges, &work.pull[static_cast<size_t>(b) * species * RADIAL * LANES]);
      edges.closest = 1e30, edges.core = 0;
      if (edges.any_near) add_core(s, work.limit, edges);
      work.energy[b] += edges.core;
    }
  }

 private:
  void vector(const double *&w, int n, Array<real> &to) {
    to.resize(static_cast<size_t>(n) * HP);
    for (int s = 0; s < n; ++s)
      for (int h = 0; h < HIDDEN; ++h) to[static_cast<size_t>(s) * HP + h] = real(*w++);
  }

  // [species][in][out] with rows in groups of `group` that are padded to whole vectors, and the transpose of each.
  void matrix(const double *&w, int n, int rows, int columns, int group, Array<real> &plain, Array<real> &turned) {
    const int wide = padded(group), in = rows / group * wide, out = padded(columns);
    plain.resize(static_cast<size_t>(n) * in * out), turned.resize(static_cast<size_t>(n) * in * out);
    for (int s = 0; s < n; ++s)
      for (int r = 0; r < rows; ++r)
        for (int c = 0; c < columns; ++c) {
          const real value = real(*w++);
          const int row = r / group * wide + r % group;
          plain[(static_cast<size_t>(s) * in + row) * out + c] = value;
          turned[(static_cast<size_t>(s) * out + c) * in + row] = value;
        }
  }

  // Pair parameters of each edge, and filler edges at the cutoff up to a whole vector.
  void complete(int s, const Array<real> &near, Edges &e) const {
    e.size = padded(e.count);
    int from = 0;
    for (int t = 0; t < species; ++t) {
      const int pair = s * species + t;
      for (int m = from; m < e.ends[t]; ++m) {
        e.r0[m] = closest[pair], e.range[m] = inverse_range[pair], e.met[m] = met[pair], e.near[m] = near[pair];
      }
      from = e.ends[t];
    }
    for (int m = e.count; m < e.size; ++m) {
      e.x[m] = real(cutoff), e.y[m] = e.z[m] = 0, e.r0[m] = 0, e.range[m] = 0, e.met[m] = 0, e.near[m] = 0;
    }
  }

  // Lengths, directions, radial functions with slopes, harmonics.
  void expand(Edges &e) const {
    const real rc = real(cutoff), width = real(freeze);
    bool any_near = false;
    for (int m = 0; m < e.size; m += LANES) {
      V x = load(&e.x[m]), y = load(&e.y[m]), z = load(&e.z[m]);
      const V r = root<real>(x * x + y * y + z * z + real(1e-18)), inverse = real(1) / r;
      x *= inverse, y *= inverse, z *= inverse;
      store<real>(&e.x[m], x), store<real>(&e.y[m], y), store<real>(&e.z[m], z), store<real>(&e.inverse[m], inverse);
      const V r0 = load(&e.r0[m]), range = load(&e.range[m]), zero = every<real>(0), one = every<real>(1);
      const auto close = r < load(&e.near[m]);
      for (int i = 0; i < LANES; ++i) any_near |= close[i] != 0;
      const V beyond = r - r0, u = smaller<real>(larger<real>(beyond * (real(1) / width) + real(1), zero), one);
      const V felt = r0 + width * (u * u * u * (real(1) - real(0.5) * u) - real(0.5)) + larger<real>(beyond, zero);
      const V rate = u * u * (real(3) - real(2) * u);
      const V left = larger<real>(real(1) - felt * felt * (real(1) / (rc * rc)), zero), met = load(&e.met[m]);
      const V envelope = left * left * left * met, fall = felt * left * left * rate * met * (real(-6) / (rc * rc));
      V sine, cosine;
      sine_cosine<real>((felt - r0) * range * real(0.5 * 3.14159265358979323846), sine, cosine);
      const V s1 = real(2) * sine * cosine, c1 = one - real(2) * sine * sine, twice = c1 + c1;
      const V frequency = range * real(3.14159265358979323846) * envelope * rate;
      V s_before = zero, s_now = s1, c_before = one, c_now = c1;
      store<real>(&e.radial[m], envelope), store<real>(&e.slope[m], fall);
      for (int k = 1; k < RADIAL; ++k) {
        const size_t at = static_cast<size_t>(k) * e.capacity + m;
        store<real>(&e.radial[at], c_now * envelope);
        store<real>(&e.slope[at], c_now * fall - real(k) * s_now * frequency);
        const V s_next = twice * s_now - s_before, c_next = twice * c_now - c_before;
        s_before = s_now, s_now = s_next, c_before = c_now, c_now = c_next;
      }
      harmonics(x, y, z, m, e);
    }
    e.any_near = any_near;
  }

  static constexpr double A0 = 0.28209479177387814, A1 = 0.4886025119029199, A2 = 1.0925484305920792;
  static constexpr double B2 = 0.31539156525252005, C2 = 0.5462742152960396;
  static constexpr double A3 = 0.5900435899266435, B3 = 2.890611442640554, C3 = 0.4570457994644658;
  static constexpr double D3 = 0.3731763325901154, E3 = 1.445305721320277;

  void harmonics(V x, V y, V z, int m, Edges &e) const {
    V Y[LANES];
    Y[0] = every<real>(real(A0));
    Y[1] = real(A1) * y, Y[2] = real(A1) * z, Y[3] = real(A1) * x;
    const V xx = x * x, yy = y * y, zz = z * z;
    if constexpr (DEGREE >= 2) {
      Y[4] = real(A2) * x * y, Y[5] = real(A2) * y * z, Y[7] = real(A2) * x * z;
      Y[6] = real(B2) * (real(2) * zz - xx - yy), Y[8] = real(C2) * (xx - yy);
    }
    if constexpr (DEGREE >= 3) {
      const V around = real(4) * zz - xx - yy;
      Y[9] = real(A3) * y * (real(3) * xx - yy), Y[15] = real(A3) * x * (xx - real(3) * yy);
      Y[10] = real(B3) * x * y * z, Y[14] = real(E3) * z * (xx - yy);
      Y[11] = real(C3) * y * around, Y[13] = real(C3) * x * around;
      Y[12] = real(D3) * z * (real(2) * zz - real(3) * xx - real(3) * yy);
    }
    for (int lm = LM; lm < LANES; ++lm) Y[lm] = every<real>(0);
    for (int lm = 0; lm < LM; ++lm) store<real>(&e.harmonic[static_cast<size_t>(lm) * e.capacity + m], Y[lm]);
    transpose<real>(Y);
    for (int i = 0; i < LANES; ++i) store<real>(&e.turned[static_cast<size_t>(m + i) * LANES], Y[i]);
  }

  // sums[sk] = Σ over the edges to species s of R_k Y.
  void accumulate(const Edges &e, real *sums) const {
    int from = 0;
    for (int t = 0; t < species; ++t) {
      V total[RADIAL] = {};
      for (int m = from; m < e.ends[t]; ++m) {
        const V Y = load(&e.turned[static_cast<size_t>(m) * LANES]);
#pragma GCC unroll 64
        for (int k = 0; k < RADIAL; ++k) total[k] += e.radial[static_cast<size_t>(k) * e.capacity + m] * Y;
      }
      for (int k = 0; k < RADIAL; ++k) store<real>(sums + (t * RADIAL + k) * LANES, total[k]);
      from = e.ends[t];
    }
  }

  // moments[lm] = Σ_sk sums[sk][lm] mix[l][sk], vectors over channels.
  void project(int s, const real *sums, V (*moments)[CV]) const {
    const int basis = species * RADIAL;
    const real *weights = &mix[static_cast<size_t>(s) * (DEGREE + 1) * basis * CP];
    for (int v = 0; v < CV; ++v) {
      V total[LM] = {};
      for (int b = 0; b < basis; ++b) {
        V w[DEGREE + 1];
        for (int l = 0; l <= DEGREE; ++l) w[l] = load(weights + (static_cast<size_t>(l) * basis + b) * CP + v * LANES);
#pragma GCC unroll 16
        for (int lm = 0; lm < LM; ++lm) total[lm] += sums[b * LANES + lm] * w[degree_of(lm)];
      }
      for (int lm = 0; lm < LM; ++lm) moments[lm][v] = total[lm];
    }
  }

  // Features, and the derivatives of the cubes in the moments.
  void invariants(const V (*moments)[CV], real *features, V (*slopes)[CV]) const {
    for (int v = 0; v < CV; ++v) {
      V A[LM], D[LM] = {}, square[DEGREE + 1] = {}, cube = {};
      for (int lm = 0; lm < LM; ++lm) A[lm] = moments[lm][v];
#pragma GCC unroll 16
      for (int lm = 0; lm < LM; ++lm) square[degree_of(lm)] += A[lm] * A[lm];
      for (int p = 0; p < POINTS; ++p) {  // f = even + odd; f(n)³ + f(−n)³ = 2 even³ + 6 even odd²
        const real *Y = &sphere[p * LANES];
        const real w = sphere_weight[p];
        V even = {}, odd = {};
#pragma GCC unroll 16
        for (int lm = 0; lm < LM; ++lm) (degree_of(lm) % 2 ? odd : even) += Y[lm] * A[lm];
        const V ee = even * even, oo = odd * odd;
        cube += w * even * (real(2) * ee + real(6) * oo);
        const V by_even = real(6) * w * (ee + oo), by_odd = real(12) * w * even * odd;
#pragma GCC unroll 16
        for (int lm = 0; lm < LM; ++lm) D[lm] += Y[lm] * (degree_of(lm) % 2 ? by_odd : by_even);
      }
      store<real>(features + v * LANES, A[0]);
      for (int l = 0; l <= DEGREE; ++l) store<real>(features + (1 + l) * CP + v * LANES, square[l]);
      store<real>(features + (DEGREE + 2) * CP + v * LANES, cube);
      for (int lm = 0; lm < LM; ++lm) slopes[lm][v] = D[lm];
    }
  }

  // y[b][out] = Σ_in x[b][in] w[in][out] (+ bias), rows of w in groups of which the first `used` count.
  template <int GROUP, int USED, int COUNT, int OUT>
  static void product(const real (*x)[COUNT * GROUP], const real *w, const real *bias, real (*y)[OUT]) {
    constexpr int OV = OUT / LANES, TILE = OV % 4 == 0 ? 4 : OV % 3 == 0 ? 3 : OV % 2 == 0 ? 2 : 1;
    for (int v = 0; v < OV; v += TILE) {
      V total[BLOCK][TILE];
      for (int b = 0; b < BLOCK; ++b)
        for (int t = 0; t < TILE; ++t) total[b][t] = bias ? load(bias + (v + t) * LANES) : every<real>(0);
      for (int g = 0; g < COUNT; ++g)
        for (int u = 0; u < USED; ++u) {
          const int row = g * GROUP + u;
          V weight[TILE];
#pragma GCC unroll 4
          for (int t = 0; t < TILE; ++t) weight[t] = load(w + static_cast<size_t>(row) * OUT + (v + t) * LANES);
#pragma GCC unroll 4
          for (int b = 0; b < BLOCK; ++b)
#pragma GCC unroll 4
            for (int t = 0; t < TILE; ++t) total[b][t] += x[b][row] * weight[t];
        }
      for (int b = 0; b < BLOCK; ++b)
        for (int t = 0; t < TILE; ++t) store<real>(&y[b][(v + t) * LANES], total[b][t]);
    }
  }

  // silu in place; its derivative besides.
  static void activate(real (*x)[HP], real (*rate)[HP]) {
    for (int b = 0; b < BLOCK; ++b)
      for (int v = 0; v < HV; ++v) {
        const V a = load(&x[b][v * LANES]), gate = real(1) / (real(1) + exponential<real>(-a));
        store<real>(&x[b][v * LANES], a * gate);
        store<real>(&rate[b][v * LANES], gate * (real(1) + a * (real(1) - gate)));
      }
  }

  // The MLP and its gradient: work.energy and, in place of the features, their weights in the energy.
  void head(int s, Workspace &work) const {
    constexpr int IN = GROUPS * CP;
    const size_t at = static_cast<size_t>(s);
    product<CP, CHANNELS, GROUPS, HP>(work.features, &first[at * IN * HP], &bias1[at * HP], work.hidden1);
    activate(work.hidden1, work.rate1);
    product<HP, HIDDEN, 1, HP>(work.hidden1, &second[at * HP * HP], &bias2[at * HP], work.hidden2);
    activate(work.hidden2, work.rate2);
    for (int b = 0; b < BLOCK; ++b) {
      V total = {};
      for (int v = 0; v < HV; ++v) {
        const V w = load(&last[at * HP + v * LANES]);
        total += w * load(&work.hidden2[b][v * LANES]);
        store<real>(&work.hidden2[b][v * LANES], real(scale) * w * load(&work.rate2[b][v * LANES]));
      }
      work.energy[b] = sum<real>(total);
    }
    product<HP, HIDDEN, 1, HP>(work.hidden2, &second_back[at * HP * HP], nullptr, work.hidden1);
    for (int b = 0; b < BLOCK; ++b)
      for (int h = 0; h < HP; h += LANES)
        store<real>(&work.hidden1[b][h], load(&work.hidden1[b][h]) * load(&work.rate1[b][h]));
    product<HP, HIDDEN, 1, IN>(work.hidden1, &first_back[at * HP * IN], nullptr, work.features);
  }

  // Without an MLP the gradient is the weights themselves.
  void linear_head(int s, Workspace &work) const {
    const real *w = &last[static_cast<size_t>(s) * GROUPS * CP];
    for (int b = 0; b < BLOCK; ++b) {
      double energy = 0;
      for (int f = 0; f < GROUPS * CP; f += LANES) {
        energy += double(sum<real>(load(w + f) * load(&work.features[b][f])));
        store<real>(&work.features[b][f], real(scale) * load(w + f));
      }
      work.energy[b] = energy;
    }
  }

  // From weights of the features to weights of the moments, one vector over lm per channel.
  void back_invariants(const V (*moments)[CV], const real *g, const V (*slopes)[CV], V *mixed) const {
    for (int v = 0; v < CV; ++v) {
      V G[LANES] = {}, square[DEGREE + 1];
      for (int l = 0; l <= DEGREE; ++l) square[l] = real(2) * load(g + (1 + l) * CP + v * LANES);
      const V cube = load(g + (DEGREE + 2) * CP + v * LANES);
#pragma GCC unroll 16
      for (int lm = 0; lm < LM; ++lm) G[lm] = square[degree_of(lm)] * moments[lm][v] + cube * slopes[lm][v];
      G[0] += load(g + v * LANES);
      transpose<real>(G);
      for (int c = 0; c < LANES; ++c) mixed[v * LANES + c] = G[c];
    }
  }

  // pull[sk] = Σ_c unmix[sk][c] mixed[c], vectors over lm.
  void back_project(int s, Workspace &work) const {
    const int basis = species * RADIAL;
    const real *weights = &unmix[static_cast<size_t>(s) * basis * CHANNELS * LANES];
    constexpr int TILE = RADIAL % 5 == 0 ? 5 : RADIAL % 4 == 0 ? 4 : RADIAL % 3 == 0 ? 3 : RADIAL % 2 == 0 ? 2 : 1;
    for (int k = 0; k < basis; k += TILE) {
      V total[TILE][BLOCK] = {};
      for (int c = 0; c < CHANNELS; ++c) {
        V G[BLOCK];
#pragma GCC unroll 4
        for (int b = 0; b < BLOCK; ++b) G[b] = work.mixed[b][c];
#pragma GCC unroll 8
        for (int t = 0; t < TILE; ++t) {
          const V w = load(weights + (static_cast<size_t>(k + t) * CHANNELS + c) * LANES);
#pragma GCC unroll 4
          for (int b = 0; b < BLOCK; ++b) total[t][b] += w * G[b];
        }
      }
      for (int t = 0; t < TILE; ++t)
        for (int b = 0; b < BLOCK; ++b) store<real>(&work.pull[(static_cast<size_t>(b) * basis + k + t) * LANES], total[t][b]);
    }
  }

  // g = u (P'·Y) + (w − u (u·w)) / r with P = Σ_k pull R_k, P' = Σ_k pull R_k', w = Σ P ∇Y.
  void contract(Edges &e, const real *pull) const {
    int t = 0;
    for (int m = 0; m < e.size; m += LANES) {
      V P[LANES], Q[LANES];
      for (int i = 0; i < LANES; ++i) {
        while (t < species - 1 && m + i >= e.ends[t]) ++t;
        const real *G = pull + t * RADIAL * LANES;
        V p = {}, q = {};
#pragma GCC unroll 64
        for (int k = 0; k < RADIAL; ++k) {
          const V g = load(G + k * LANES);
          p += e.radial[static_cast<size_t>(k) * e.capacity + m + i] * g;
          q += e.slope[static_cast<size_t>(k) * e.capacity + m + i] * g;
        }
        P[i] = p, Q[i] = q;
      }
      transpose<real>(P);
      transpose<real>(Q);
      V along = {};
#pragma GCC unroll 16
      for (int lm = 0; lm < LM; ++lm) along += Q[lm] * load(&e.harmonic[static_cast<size_t>(lm) * e.capacity + m]);
      const V x = load(&e.x[m]), y = load(&e.y[m]), z = load(&e.z[m]), inverse = load(&e.inverse[m]);
      V wx = real(A1) * P[3], wy = real(A1) * P[1], wz = real(A1) * P[2];
      if constexpr (DEGREE >= 2) {
        const V p4 = real(A2) * P[4], p5 = real(A2) * P[5], p7 = real(A2) * P[7], p6 = real(2 * B2) * P[6], p8 = real(2 * C2) * P[8];
        wx += y * p4 + z * p7 + x * (p8 - p6);
        wy += x * p4 + z * p5 - y * (p8 + p6);
        wz += y * p5 + x * p7 + real(2) * z * p6;
      }
      if constexpr (DEGREE >= 3) {
        const V xx = x * x, yy = y * y, zz = z * z, xy = x * y, xz = x * z, yz = y * z;
        const V p9 = real(3 * A3) * P[9], p15 = real(3 * A3) * P[15], p10 = real(B3) * P[10], p14 = real(E3) * P[14];
        const V p11 = real(C3) * P[11], p13 = real(C3) * P[13], p12 = real(3 * D3) * P[12], difference = xx - yy;
        const V two = every<real>(2);
        wx += two * xy * p9 + yz * p10 - two * xy * p11 - two * xz * p12 + (real(4) * zz - real(3) * xx - yy) * p13 +
              two * xz * p14 + difference * p15;
        wy += difference * p9 + xz * p10 + (real(4) * zz - xx - real(3) * yy) * p11 - two * yz * p12 - two * xy * p13 -
              two * yz * p14 - two * xy * p15;
        wz += xy * p10 + real(8) * yz * p11 + (two * zz - xx - yy) * p12 + real(8) * xz * p13 + difference * p14;
      }
      const V radial = along - inverse * (x * wx + y * wy + z * wz);
      store<real>(&e.gx[m], x * radial + wx * inverse);
      store<real>(&e.gy[m], y * radial + wy * inverse);
      store<real>(&e.gz[m], z * radial + wz * inverse);
    }
  }

  // ---- core repulsion (nets/repulsion.py), a few edges at most ------------------------------------------------------------
  int pair_of(const Edges &e, int m, int s) const {
    int t = 0;
    while (m >= e.ends[t]) ++t;
    return s * species + t;
  }

  void add_core(int s, const std::vector<double> &limit, Edges &e) const;
};

template <class real, int R, int D, int C, int H>
void Spline<real, R, D, C, H>::add_core(int s, const std::vector<double> &limit, Edges &e) const {
  for (int m = 0; m < e.count; ++m) {
    const int pair = pair_of(e, m, s);
    const double r = 1.0 / double(e.inverse[m]);
    if (limit[pair] > 0) e.closest = std::min(e.closest, r / limit[pair]);
    if (r >= outer[pair]) continue;
    double screened = 0, slope = 0;
    for (int n = 0; n < 4; ++n) {
      const double part = charge[n] * std::exp(-decay[4 * pair + n] * r);
      screened += part, slope -= decay[4 * pair + n] * part;
    }
    const double inner = 0.8, ratio = (r / outer[pair] - inner) / (1.0 - inner), u = std::min(std::max(ratio, 0.0), 1.0);
    const double keep = 1.0 - u * u * u * (10.0 - 15.0 * u + 6.0 * u * u);
    const double drop = -30.0 * u * u * (1.0 - u) * (1.0 - u) / (outer[pair] * (1.0 - inner));
    const double bare = strength[pair] / r;
    const double rate = 0.5 * bare * (drop * screened + keep * (slope - screened / r));
    e.core += 0.5 * keep * bare * screened;
    e.gx[m] += real(rate * double(e.x[m])), e.gy[m] += real(rate * double(e.y[m])), e.gz[m] += real(rate * double(e.z[m]));
  }
}

}  // namespace mdistill
