// The moment network (nets/moment.py holds its equations): energy and its derivatives in the edge vectors, for a few atoms of
// one species at a time. Knows nothing of cells, engines or threads.
//
// Vectors run over the harmonics lm of one edge where sums over neighbours are taken, over channels where these are mixed
// and made into invariants, over hidden units in the MLP, over edges in the geometry.
#pragma once

#include <algorithm>
#include <vector>

#include "edges.hpp"

namespace mdistill {

constexpr int BLOCK = 4;  // atoms worked on together

template <class real, int RADIAL, int DEGREE, int CHANNELS, int HIDDEN>
struct MomentNet {
  using real_type = real;
  using V = Lanes<real>;
  static constexpr int LM = (DEGREE + 1) * (DEGREE + 1);
  static constexpr int CV = padded(CHANNELS) / LANES, CP = CV * LANES;  // channels in vectors
  static constexpr int GROUPS = DEGREE + 3;                             // first order, squares per degree, cubes
  static constexpr int HV = padded(HIDDEN > 0 ? HIDDEN : 1) / LANES, HP = HV * LANES;
  static constexpr int POINTS = DEGREE < 3 ? 13 : 19;  // of the sphere, one of each antipodal pair
  using Edges = mdistill::Edges<real, RADIAL, DEGREE>;

  // ---- weights ----------------------------------------------------------------------------------------------------------
  int species = 0;
  double cutoff = 0, scale = 0;
  std::vector<double> reference, rest;  // E0; MLP of an isolated atom, per species
  Pairs<real> pairs;
  Array<real> mix, unmix;  // [species][l][sk][CP], [species][sk][c][16]
  Array<real> first, first_back, second, second_back, last, bias1, bias2;
  Array<real> sphere, sphere_weight;

  // Read from one list of float64 in the order that kernels/moment.py writes.
  explicit MomentNet(int n_species, const double *w) : species(n_species) {
    const int n = species, basis = n * RADIAL;
    auto take = [&w] { return *w++; };
    auto take_list = [&w](std::vector<double> &to, int count) { to.assign(w, w + count), w += count; };
    pairs.species = n;
    cutoff = pairs.cutoff = take(), pairs.freeze = take(), scale = take();
    take_list(reference, n);
    take_list(rest, n);
    pairs.closest.resize(n * n), pairs.inverse_range.resize(n * n), pairs.met.resize(n * n);
    for (int p = 0; p < n * n; ++p) {
      const double r0 = take();
      pairs.closest[p] = real(r0);
      pairs.inverse_range[p] = real(1.0 / std::max(cutoff - r0, pairs.freeze));
      pairs.met[p] = r0 < cutoff ? 1 : 0;
    }
    take_list(pairs.charge, 4);
    take_list(pairs.strength, n * n);
    take_list(pairs.decay, 4 * n * n);
    take_list(pairs.outer, n * n);
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
  struct Workspace {
    Edges edges[BLOCK];
    double energy[BLOCK];
    Array<real> sums, pull;  // [BLOCK][sk][16]
    alignas(128) V moments[BLOCK][LANES][CV], slopes[BLOCK][LANES][CV];
    alignas(128) real features[BLOCK][GROUPS * CP], hidden1[BLOCK][HP], hidden2[BLOCK][HP], rate1[BLOCK][HP], rate2[BLOCK][HP];
    alignas(128) V mixed[BLOCK][CP];
    std::vector<double> limit;  // closest distance per pair that is still allowed; 0: none
    Array<real> near;           // edges shorter than this are looked at one by one
    explicit Workspace(const MomentNet &net)
        : sums(BLOCK * net.species * RADIAL * LANES), pull(sums.size()), limit(net.pairs.outer.size(), 0.0), near(limit.size()) {
      set_limits(net, limit.data());
    }
    void set_limits(const MomentNet &net, const double *distances) {
      for (size_t p = 0; p < limit.size(); ++p) {
        limit[p] = distances[p];
        near[p] = real(std::max(net.pairs.outer[p], limit[p]));
      }
    }
  };

  // ---- the block --------------------------------------------------------------------------------------------------------
  // Energies and edge derivatives of `atoms` ≤ BLOCK atoms of species s whose edges (x, y, z, sender, ends, count) are set.
  void evaluate(int s, int atoms, Workspace &work) const {
    for (int b = 0; b < atoms; ++b) {
      real *sums = &work.sums[static_cast<size_t>(b) * species * RADIAL * LANES];
      work.edges[b].complete(pairs, s, work.near);
      work.edges[b].expand(pairs);
      work.edges[b].accumulate(species, sums);
      project(s, sums, work.moments[b]);
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
      edges.contract(species, &work.pull[static_cast<size_t>(b) * species * RADIAL * LANES]);
      edges.add_core(pairs, s, work.limit);
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
};

}  // namespace mdistill
