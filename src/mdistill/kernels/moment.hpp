// The moment network (nets/moment.py holds its equations): energy and its derivatives in the edge vectors, for a block of
// atoms of one species at a time. Knows nothing of cells, engines or threads.
//
// Vectors run over the harmonics lm of one edge in sums over neighbours, over edges in the geometry, over atoms in all else.
#pragma once

#include <vector>

#include "edges.hpp"

namespace mdistill {

template <class real_, int RADIAL, int DEGREE, int CHANNELS, int HIDDEN>
struct MomentNet {
  using real = real_;
  using V = Lanes<real>;
  static constexpr int W = LANES<real>, WIDE = BLOCK<real>;
  static constexpr int LM = (DEGREE + 1) * (DEGREE + 1), LP = padded<real>(LM);
  static constexpr int GROUPS = DEGREE + 3, FEATURES = GROUPS * CHANNELS;  // first order, squares per degree, cubes
  static constexpr int UNITS = HIDDEN > 0 ? HIDDEN : 1;
  static constexpr int POINTS = DEGREE < 3 ? 13 : 19;  // of the sphere, one of each antipodal pair
  static constexpr int EVEN = DEGREE < 2 ? 1 : 6, ODD = LM - EVEN;  // harmonics by parity
  using Edges = mdistill::Edges<real, RADIAL, DEGREE>;
  using Mix = Product<real, CHANNELS>;
  using Unmix = Product<real, RADIAL>;
  using Layer = Product<real, UNITS>;
  using Back = Product<real, FEATURES>;
  using Sphere = Product<real, POINTS, 1>;
  using Even = Product<real, EVEN, 1>;
  using Odd = Product<real, ODD, 1>;
  static constexpr bool HAS_NARROW = CHANNELS % 4 == 0 && UNITS % SHARED == 0;  // whether there are narrow blocks
  static constexpr int LEAST = HAS_NARROW ? NARROW<real> : WIDE;                // atoms of the smallest block

  // ---- weights ----------------------------------------------------------------------------------------------------------
  int species = 0;
  double cutoff = 0, scale = 0;
  std::vector<double> reference, rest;  // E0; MLP of an isolated atom, per species
  Pairs<real> pairs;
  Array<real> mix, unmix;  // [species][species of the neighbour][l] matrices
  Array<real> first, first_back, second, second_back, last, bias1, bias2;
  Array<real> even, odd, even_back, odd_back;  // harmonics at the points, times the cube root of a point's weight

  // Read from one list of float64 in the order that kernels/moment.py writes.
  explicit MomentNet(int n_species, const double *w) : species(n_species) {
    const int n = species;
    auto take = [&w] { return *w++; };
    auto take_list = [&w](auto &to, int count) { to.assign(w, w + count), w += count; };
    pairs.species = n;
    cutoff = pairs.cutoff = take(), pairs.freeze = take(), scale = take();
    take_list(reference, n);
    take_list(rest, n);
    for (int p = 0; p < n * n; ++p) {
      const double r0 = take();
      pairs.closest.push_back(real(r0));
      pairs.inverse_range.push_back(real(1.0 / std::max(cutoff - r0, pairs.freeze)));
      pairs.met.push_back(r0 < cutoff);
    }
    take_list(pairs.charge, 4);
    take_list(pairs.strength, n * n);
    take_list(pairs.decay, 4 * n * n);
    take_list(pairs.outer, n * n);
    mix.resize(mixing(n, 0, 0)), unmix.resize(unmixing(n, 0, 0));
    for (int s = 0; s < n; ++s)
      for (int l = 0; l <= DEGREE; ++l)
        for (int t = 0; t < n; ++t)
          for (int k = 0; k < RADIAL; ++k)
            for (int c = 0; c < CHANNELS; ++c) {
              mix[mixing(s, t, l) + Mix::place(c, k, RADIAL)] = unmix[unmixing(s, t, l) + Unmix::place(k, c, CHANNELS)] = real(take());
            }
    if constexpr (HIDDEN > 0) {
      matrix<Layer, Back>(w, FEATURES, HIDDEN, first, first_back);
      vector(w, HIDDEN, bias1);
      matrix<Layer, Layer>(w, HIDDEN, HIDDEN, second, second_back);
      vector(w, HIDDEN, bias2);
    }
    vector(w, HIDDEN > 0 ? HIDDEN : FEATURES, last);
    even.resize(Sphere::size(EVEN)), odd.resize(Sphere::size(ODD));
    even_back.resize(Even::size(POINTS)), odd_back.resize(Odd::size(POINTS));
    for (int p = 0; p < POINTS; ++p) {
      const double third = std::cbrt(take());
      for (int lm = 0, e = 0, o = 0; lm < LM; ++lm) {
        const double Y = third * take();
        if (degree_of(lm) % 2 == 0) {
          even[Sphere::place(p, e, EVEN)] = real(Y), even_back[Even::place(e, p, POINTS)] = real(6 * Y), ++e;
        } else {
          odd[Sphere::place(p, o, ODD)] = real(Y), odd_back[Odd::place(o, p, POINTS)] = real(6 * Y), ++o;
        }
      }
    }
  }

  // ---- room for one block -----------------------------------------------------------------------------------------------
  struct Workspace {
    Edges edges;
    double energy[WIDE];
    alignas(128) real sums[LM * RADIAL * WIDE], turned[RADIAL * WIDE * LP];  // [lm][k, atom]; [k, atom][lm] or [atom][k][lm]
    alignas(128) real moments[LM * CHANNELS * WIDE], slopes[LM * CHANNELS * WIDE], features[FEATURES * WIDE];
    alignas(128) real hidden1[UNITS * WIDE], hidden2[UNITS * WIDE], rate1[UNITS * WIDE], rate2[UNITS * WIDE];
    std::vector<double> limit;  // closest distance per pair that is still allowed; 0: none
    std::vector<real> near;     // edges shorter than this are looked at one by one
    std::vector<char> close;    // whether there are any, by species of the neighbour
    explicit Workspace(const MomentNet &net) : limit(net.pairs.outer.size(), 0.0), near(limit.size()), close(net.species) { set_limits(net, limit.data()); }
    void set_limits(const MomentNet &net, const double *distances) {
      for (size_t p = 0; p < limit.size(); ++p) {
        limit[p] = distances[p];
        near[p] = real(std::max(net.pairs.outer[p], limit[p]));
      }
    }
  };

  // ---- the block --------------------------------------------------------------------------------------------------------
  // Energies and edge derivatives of the atoms of species s whose edges are set.
  void evaluate(int s, Workspace &work) const {
    if (HAS_NARROW && work.edges.atoms <= LEAST)
      evaluate_block<LEAST>(s, work);
    else
      evaluate_block<WIDE>(s, work);
  }

 private:
  template <int WIDTH>
  void evaluate_block(int s, Workspace &work) const {
    constexpr int radial = (WIDTH == WIDE ? RADIAL : shared(RADIAL)) * WIDTH, channels = CHANNELS * WIDTH;
    Edges &edges = work.edges;
    std::fill(edges.virial, edges.virial + 9, V{});
    edges.closest = 1e30;
    std::fill_n(work.moments, LM * channels, real(0));
    for (int t = 0; t < species; ++t) {
      work.close[t] = edges.expand(pairs, s * species + t, t, work.near[s * species + t]);
      edges.template accumulate<WIDTH>(t, work.turned);
      turn<radial>(work.turned, work.sums);
      for (int lm = 0; lm < LM; ++lm)
        Mix::template run<Mix::ADD, WIDTH>(&mix[mixing(s, t, degree_of(lm))], RADIAL, work.sums + lm * radial, work.moments + lm * channels);
    }
    invariants<channels>(work);
    if constexpr (HIDDEN > 0) {
      head<WIDTH>(s, work);
    } else {
      linear_head<WIDTH>(s, work);
    }
    back_invariants<channels>(work);
    for (int b = 0; b < edges.atoms; ++b) work.energy[b] = reference[s] + scale * (work.energy[b] - rest[s]);
    for (int t = 0; t < species; ++t) {
      for (int lm = 0; lm < LM; ++lm)
        Unmix::template run<Unmix::ZERO, WIDTH>(&unmix[unmixing(s, t, degree_of(lm))], CHANNELS, work.moments + lm * channels, work.sums + lm * radial);
      turn_back<WIDTH, radial>(work.sums, work.turned);
      edges.contract(t, work.turned);
      const int pair = s * species + t;
      if (work.close[t]) edges.add_core(pairs, pair, t, work.near[pair], work.limit[pair], work.energy);
    }
  }

  size_t mixing(int s, int t, int l) const {
    return ((static_cast<size_t>(s) * species + t) * (DEGREE + 1) + l) * Mix::size(RADIAL);
  }
  size_t unmixing(int s, int t, int l) const {
    return ((static_cast<size_t>(s) * species + t) * (DEGREE + 1) + l) * Unmix::size(CHANNELS);
  }

  void vector(const double *&w, int size, Array<real> &to) {
    to.resize(static_cast<size_t>(species) * size);
    for (size_t h = 0; h < to.size(); ++h) to[h] = real(*w++);
  }

  // A matrix [in][out] of each species, and its transpose.
  template <class To, class From>
  void matrix(const double *&w, int in, int out, Array<real> &plain, Array<real> &turned) {
    const size_t size = To::size(in), turned_size = From::size(out);
    plain.resize(species * size), turned.resize(species * turned_size);
    for (int s = 0; s < species; ++s)
      for (int i = 0; i < in; ++i)
        for (int o = 0; o < out; ++o) plain[s * size + To::place(o, i, in)] = turned[s * turned_size + From::place(i, o, out)] = real(*w++);
  }

  // [k, atom][lm] to [lm][k, atom], of so many k and atoms.
  template <int ROWS>
  static void turn(const real *from, real *to) {
    for (int row = 0; row < ROWS; row += W)
      for (int v = 0; v < LP; v += W) {
        V x[W];
        MDISTILL_UNROLL
        for (int i = 0; i < W; ++i) x[i] = load(from + static_cast<size_t>(row + i) * LP + v);
        transpose<real>(x);
        MDISTILL_UNROLL
        for (int i = 0; i < W; ++i)
          if (v + i < LM) store<real>(to + static_cast<size_t>(v + i) * ROWS + row, x[i]);
      }
  }

  // [lm][k, atom] to [atom][k][lm].
  template <int WIDTH, int ROWS>
  static void turn_back(const real *from, real *to) {
    constexpr int together = WIDTH == WIDE ? 1 : SHARED;
    for (int row = 0; row < ROWS; row += W)
      for (int v = 0; v < LP; v += W) {
        V x[W];
        MDISTILL_UNROLL
        for (int i = 0; i < W; ++i) x[i] = v + i < LM ? load(from + static_cast<size_t>(v + i) * ROWS + row) : every<real>(0);
        transpose<real>(x);
        const int k = row / (together * WIDTH) * together, atom = row % (together * WIDTH) / together;
        MDISTILL_UNROLL
        for (int i = 0; i < W; ++i)
          if (k + i % together < RADIAL) store<real>(to + (static_cast<size_t>(atom + i / together) * RADIAL + k + i % together) * LP + v, x[i]);
      }
  }

  // Features, and the derivatives of the cubes in the moments, of COUNT channels of atoms. At a point n of the sphere
  // f = even + odd; f(n)³ + f(−n)³ = 2 even³ + 6 even odd².
  template <int COUNT>
  void invariants(Workspace &work) const {
    alignas(128) real A[LM * WIDE], D[LM * WIDE], on_even[POINTS * WIDE], on_odd[POINTS * WIDE];
    for (int c = 0; c < COUNT; c += WIDE) {
      for (int lm = 0, e = 0, o = EVEN; lm < LM; ++lm)
        std::memcpy(A + (degree_of(lm) % 2 ? o++ : e++) * WIDE, work.moments + lm * COUNT + c, WIDE * sizeof(real));
      Sphere::template run<Sphere::ZERO>(even.begin(), EVEN, A, on_even);
      Sphere::template run<Sphere::ZERO>(odd.begin(), ODD, A + EVEN * WIDE, on_odd);
      for (int i = 0; i < POINTS * WIDE; i += W) {
        const V e = load(on_even + i), o = load(on_odd + i);
        store<real>(on_even + i, e * e + o * o), store<real>(on_odd + i, (e + e) * o);
      }
      Even::template run<Even::ZERO>(even_back.begin(), POINTS, on_even, D);
      Odd::template run<Odd::ZERO>(odd_back.begin(), POINTS, on_odd, D + EVEN * WIDE);
      for (int v = 0; v < WIDE; v += W) {
        V square[DEGREE + 1] = {}, cube = {};
        MDISTILL_UNROLL
        for (int lm = 0, e = 0, o = EVEN; lm < LM; ++lm) {
          const int at = (degree_of(lm) % 2 ? o++ : e++) * WIDE + v;
          const V a = load(A + at), d = load(D + at);
          square[degree_of(lm)] += a * a, cube += a * d;
          store<real>(work.slopes + lm * COUNT + c + v, d);
        }
        real *to = work.features + c + v;
        store<real>(to, load(A + v));
        for (int l = 0; l <= DEGREE; ++l) store<real>(to + (1 + l) * COUNT, square[l]);
        store<real>(to + (DEGREE + 2) * COUNT, cube * real(1.0 / 3.0));
      }
    }
  }

  // silu in place; its derivative besides.
  template <int COUNT>
  static void activate(real *x, real *rate) {
    for (int i = 0; i < COUNT; i += W) {
      const V a = load(x + i), gate = real(1) / (real(1) + exponential<real>(-a));
      store<real>(x + i, a * gate);
      store<real>(rate + i, gate * (real(1) + a * (real(1) - gate)));
    }
  }

  // The MLP and its gradient: work.energy and, in place of the features, their weights in the energy.
  template <int WIDTH>
  void head(int s, Workspace &work) const {
    constexpr int count = UNITS * WIDTH;
    const size_t narrow = static_cast<size_t>(s) * UNITS;
    const real *to_first = &first[s * Layer::size(FEATURES)], *to_second = &second[s * Layer::size(UNITS)];
    Layer::template run<Layer::BIAS, WIDTH>(to_first, FEATURES, work.features, work.hidden1, &bias1[narrow]);
    activate<count>(work.hidden1, work.rate1);
    Layer::template run<Layer::BIAS, WIDTH>(to_second, UNITS, work.hidden1, work.hidden2, &bias2[narrow]);
    activate<count>(work.hidden2, work.rate2);
    weigh<WIDTH, UNITS>(&last[narrow], work.hidden2, work.energy, [&](int i, V weight) {
      store<real>(work.hidden2 + i, real(scale) * weight * load(work.rate2 + i));
    });
    Layer::template run<Layer::ZERO, WIDTH>(&second_back[s * Layer::size(UNITS)], UNITS, work.hidden2, work.hidden1);
    for (int i = 0; i < count; i += W) store<real>(work.hidden1 + i, load(work.hidden1 + i) * load(work.rate1 + i));
    Back::template run<Back::ZERO, WIDTH>(&first_back[s * Back::size(UNITS)], UNITS, work.hidden1, work.features);
  }

  // Without an MLP the gradient is the weights themselves.
  template <int WIDTH>
  void linear_head(int s, Workspace &work) const {
    weigh<WIDTH, FEATURES>(&last[static_cast<size_t>(s) * FEATURES], work.features, work.energy, [&](int i, V weight) {
      store<real>(work.features + i, real(scale) * weight);
    });
  }

  // Energies: Σ weight x of each atom. visit(i, weight) for the vectors of x at i.
  template <int WIDTH, int ROWS, class Visit>
  static void weigh(const real *weights, const real *x, double *energy, const Visit &visit) {
    constexpr int together = WIDTH == WIDE ? 1 : SHARED;
    for (int v = 0; v < together * WIDTH; v += W) {
      V total = {};
      for (int h = 0; h < ROWS; h += together) {
        const V weight = repeated<together>(weights + h);
        total += weight * load(x + h * WIDTH + v);
        visit(h * WIDTH + v, weight);
      }
      for (int i = 0; i < W; i += together) {
        double &to = energy[(v + i) / together] = 0;
        for (int r = 0; r < together; ++r) to += double(total[i + r]);
      }
    }
  }

  // From weights of the features to weights of the moments, in the place of these.
  template <int COUNT>
  static void back_invariants(Workspace &work) {
    for (int i = 0; i < COUNT; i += W) {
      const V cube = load(work.features + (DEGREE + 2) * COUNT + i);
      MDISTILL_UNROLL
      for (int lm = 0; lm < LM; ++lm) {
        const V square = load(work.features + (1 + degree_of(lm)) * COUNT + i);
        real *at = work.moments + lm * COUNT + i;
        V G = (square + square) * load(at) + cube * load(work.slopes + lm * COUNT + i);
        if (lm == 0) G += load(work.features + i);
        store<real>(at, G);
      }
    }
  }
};

}  // namespace mdistill
