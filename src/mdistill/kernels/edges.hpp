// Edges of a block of atoms: lengths, directions, radial functions and harmonics; sums over them, and the way back.
#pragma once

#include <vector>

#include "products.hpp"

namespace mdistill {

constexpr int degree_of(int lm) { return lm < 1 ? 0 : lm < 4 ? 1 : lm < 9 ? 2 : 3; }

// What is known of every pair of species.
template <class real>
struct Pairs {
  int species = 0;
  double cutoff = 0, freeze = 0;
  std::vector<real> closest, inverse_range;
  std::vector<char> met;
  std::vector<double> charge, strength, decay, outer;  // core repulsion
};

// Edges of the atoms of a block, by species of the neighbour and, within these, by atom. The edges to one species fill whole
// vectors: behind them stand fillers at the cutoff.
template <class real, int RADIAL, int DEGREE>
struct Edges {
  using V = Lanes<real>;
  static constexpr int W = LANES<real>, WIDE = BLOCK<real>, LM = (DEGREE + 1) * (DEGREE + 1), LP = padded<real>(LM), LV = LP / W;

  int atoms = 0, species = 0, capacity = 0;
  std::vector<int> begin, end;   // [species of the neighbour][atom] edges from here to there
  std::vector<int> range;        // [species + 1] where the edges to each one begin, in whole vectors
  std::vector<int32_t> sender;
  Array<real> vector;            // [edge][4] edge vector (Å) and 0, then energy's derivative in it and 0
  Array<real> x, y, z, inverse;  // direction; 1/length
  Array<real> radial, slope;     // [vector of edges][k][edge]
  Array<real> on_sphere;         // [edge][lm] harmonics, then weights of their gradients
  Array<real> along;             // [edge][W] parts of the derivative along the edge
  V virial[9];                   // Σ d ⊗ g of the block, in parts
  double closest = 0;            // smallest of length / allowed length

  // Room for this many edges; what is there is lost.
  void reserve(int edges, int n_species) {
    species = n_species;
    begin.resize(species * WIDE), end.resize(species * WIDE), range.resize(species + 1);
    const int needed = edges + species * W;
    if (needed <= capacity) return;
    capacity = padded<real>(needed + needed / 4);
    sender.assign(capacity, 0);
    for (auto *a : {&x, &y, &z, &inverse}) a->resize(capacity);
    vector.resize(static_cast<size_t>(4) * capacity);
    radial.resize(static_cast<size_t>(RADIAL) * capacity), slope.resize(static_cast<size_t>(RADIAL) * capacity);
    on_sphere.resize(static_cast<size_t>(LP) * capacity), along.resize(static_cast<size_t>(W) * capacity);
  }

  // Fillers behind the edges to species t, of which there are `count` from range[t] on.
  void fill(int t, int count, double cutoff) {
    range[t + 1] = range[t] + padded<real>(count);
    for (int m = range[t] + count; m < range[t + 1]; ++m) {
      std::fill(&vector[4 * size_t(m)], &vector[4 * size_t(m) + 4], real(0));
      vector[4 * size_t(m)] = real(cutoff), sender[m] = 0;
    }
  }

  // Of the edges to species t: lengths, directions, radial functions with slopes, harmonics. Whether one is shorter than `near`.
  bool expand(const Pairs<real> &pairs, int pair, int t, real near) {
    const real rc = real(pairs.cutoff), width = real(pairs.freeze), start = pairs.closest[pair], scale = pairs.inverse_range[pair];
    const real here = pairs.met[pair] ? real(1) : real(0);
    const V zero = every<real>(0), one = every<real>(1);
    V shortest = every<real>(rc);
    for (int m = range[t]; m < range[t + 1]; m += W) {
      V dx, dy, dz;
      columns_of<real>(&vector[4 * size_t(m)], dx, dy, dz);
      const V r = root<real>(dx * dx + dy * dy + dz * dz + real(1e-18)), over = real(1) / r;
      dx *= over, dy *= over, dz *= over;
      store<real>(&x[m], dx), store<real>(&y[m], dy), store<real>(&z[m], dz), store<real>(&inverse[m], over);
      shortest = smaller<real>(shortest, r);
      const V beyond = r - start, u = smaller<real>(larger<real>(beyond * (real(1) / width) + real(1), zero), one);
      const V felt = start + width * (u * u * u * (real(1) - real(0.5) * u) - real(0.5)) + larger<real>(beyond, zero);
      const V rate = u * u * (real(3) - real(2) * u);
      const V left = larger<real>(real(1) - felt * felt * (real(1) / (rc * rc)), zero);
      const V envelope = left * left * left * here, fall = felt * left * left * rate * (here * real(-6) / (rc * rc));
      V sine, cosine;
      sine_cosine<real>((felt - start) * (scale * real(0.5 * 3.14159265358979323846)), sine, cosine);
      const V s1 = real(2) * sine * cosine, c1 = one - real(2) * sine * sine, twice = c1 + c1;
      const V frequency = (scale * real(3.14159265358979323846)) * envelope * rate;
      V s_before = zero, s_now = s1, c_before = one, c_now = c1;
      real *R = &radial[static_cast<size_t>(m) * RADIAL], *S = &slope[static_cast<size_t>(m) * RADIAL];
      store<real>(R, envelope), store<real>(S, fall);
      for (int k = 1; k < RADIAL; ++k) {
        store<real>(R + k * W, c_now * envelope);
        store<real>(S + k * W, c_now * fall - real(k) * s_now * frequency);
        const V s_next = twice * s_now - s_before, c_next = twice * c_now - c_before;
        s_before = s_now, s_now = s_next, c_before = c_now, c_now = c_next;
      }
      harmonics(dx, dy, dz, m);
    }
    const auto close = shortest < near;
    bool any = false;
    for (int i = 0; i < W; ++i) any |= close[i] != 0;
    return any;
  }

  // to[k, atom][lm] = Σ over the atom's edges to species t of R_k Y, in a block of WIDTH atoms.
  template <int WIDTH>
  void accumulate(int t, real *to) const {
    for (int b = 0; b < atoms; ++b) {
      const int from = begin[t * WIDE + b], until = end[t * WIDE + b];
      constexpr int tile = rows_at_once(RADIAL, LV), rest = RADIAL % tile;
      for (int k = 0; k + tile <= RADIAL; k += tile) some<tile, WIDTH>(from, until, k, b, to);
      if constexpr (rest > 0) some<rest, WIDTH>(from, until, RADIAL - rest, b, to);
    }
  }

  // Of the edges to species t: g = u (P'·Y) + (w − u (u·w)) / r with P = Σ_k pull R_k, P' = Σ_k pull R_k', w = Σ P ∇Y, where
  // pull[atom][k][lm].
  void contract(int t, const real *pull) {
    constexpr int group = std::max(1, std::min(4, (REGISTERS - LV - 1) / (2 * LV + 1)));
    int m = range[t];
    for (int b = 0; b < atoms; ++b, pull += RADIAL * LP) {
      const int until = end[t * WIDE + b];
      for (m = begin[t * WIDE + b]; m + group <= until; m += group) weigh<group>(m, pull);
      m += some_less<group - 1>(until - m, m, pull);
    }
    std::memset(&on_sphere[static_cast<size_t>(m) * LP], 0, static_cast<size_t>(range[t + 1] - m) * LP * sizeof(real));
    std::memset(&along[static_cast<size_t>(m) * W], 0, static_cast<size_t>(range[t + 1] - m) * W * sizeof(real));
    for (m = range[t]; m < range[t + 1]; m += W) differentiate(m);
  }

  // Core repulsion (nets/repulsion.py) of those edges to species t that are nearer than `near`, and how they stand to the limit.
  // Adds to the atoms' energies.
  void add_core(const Pairs<real> &pairs, int pair, int t, real near, double limit, double *energy) {
    for (int b = 0; b < atoms; ++b)
      for (int m = begin[t * WIDE + b]; m < end[t * WIDE + b]; ++m) {
        if (inverse[m] * near < real(1)) continue;
        const double r = 1.0 / double(inverse[m]);
        if (limit > 0) closest = std::min(closest, r / limit);
        if (r < pairs.outer[pair]) energy[b] += core_of(pairs, pair, m, r);
      }
  }

 private:
  static constexpr double A0 = 0.28209479177387814, A1 = 0.4886025119029199, A2 = 1.0925484305920792;
  static constexpr double B2 = 0.31539156525252005, C2 = 0.5462742152960396;
  static constexpr double A3 = 0.5900435899266435, B3 = 2.890611442640554, C3 = 0.4570457994644658;
  static constexpr double D3 = 0.3731763325901154, E3 = 1.445305721320277;

  // Radial function 0 of edge m in `radial` or `slope`; number k stands k W further.
  static size_t place(int m) { return static_cast<size_t>(m) / W * (RADIAL * W) + static_cast<size_t>(m) % W; }

  // COUNT radial functions from k on, atom b.
  template <int COUNT, int WIDTH>
  void some(int from, int until, int k, int b, real *to) const {
    V total[COUNT][LV] = {};
    for (int m = from; m < until; ++m) {
      const real *Y = &on_sphere[static_cast<size_t>(m) * LP], *R = &radial[place(m) + k * W];
      MDISTILL_UNROLL
      for (int i = 0; i < COUNT; ++i) {
        const V value = every<real>(R[i * W]);
        MDISTILL_UNROLL
        for (int v = 0; v < LV; ++v) total[i][v] += value * load(Y + v * W);
      }
    }
    MDISTILL_UNROLL
    for (int i = 0; i < COUNT; ++i) {
      MDISTILL_UNROLL
      for (int v = 0; v < LV; ++v) store<real>(to + static_cast<size_t>(spot_of<real, WIDTH>(k + i, b)) * LP + v * W, total[i][v]);
    }
  }

  // P of COUNT edges in the place of their harmonics, products of P' and these in `along`.
  template <int COUNT>
  void weigh(int m, const real *pull) {
    V P[COUNT][LV] = {}, Q[COUNT][LV] = {};
    const real *R[COUNT], *S[COUNT];
    MDISTILL_UNROLL
    for (int e = 0; e < COUNT; ++e) R[e] = &radial[place(m + e)], S[e] = &slope[place(m + e)];
    for (int k = 0; k < RADIAL; ++k) {
      V g[LV];
      MDISTILL_UNROLL
      for (int v = 0; v < LV; ++v) g[v] = load(pull + k * LP + v * W);
      MDISTILL_UNROLL
      for (int e = 0; e < COUNT; ++e) {
        const V value = every<real>(R[e][k * W]), rate = every<real>(S[e][k * W]);
        MDISTILL_UNROLL
        for (int v = 0; v < LV; ++v) P[e][v] += value * g[v], Q[e][v] += rate * g[v];
      }
    }
    MDISTILL_UNROLL
    for (int e = 0; e < COUNT; ++e) {
      real *at = &on_sphere[static_cast<size_t>(m + e) * LP];
      V total = {};
      MDISTILL_UNROLL
      for (int v = 0; v < LV; ++v) total += Q[e][v] * load(at + v * W), store<real>(at + v * W, P[e][v]);
      store<real>(&along[static_cast<size_t>(m + e) * W], total);
    }
  }

  // `weigh` for the `count` edges from m on, of which there are at most MOST; gives their number.
  template <int MOST>
  int some_less(int count, int m, const real *pull) {
    if constexpr (MOST > 0) {
      if (count < MOST) return some_less<MOST - 1>(count, m, pull);
      weigh<MOST>(m, pull);
    }
    return count;
  }

  // Derivatives in the vectors of W edges from m on; adds d ⊗ g to the virial.
  void differentiate(int m) {
    V P[LP], rows[W];
    for (int v = 0; v < LV; ++v) {
      MDISTILL_UNROLL
      for (int i = 0; i < W; ++i) P[v * W + i] = load(&on_sphere[static_cast<size_t>(m + i) * LP + v * W]);
      transpose<real>(P + v * W);
    }
    MDISTILL_UNROLL
    for (int i = 0; i < W; ++i) rows[i] = load(&along[static_cast<size_t>(m + i) * W]);
    transpose<real>(rows);
    V inward = rows[0];
    MDISTILL_UNROLL
    for (int i = 1; i < W; ++i) inward += rows[i];
    const V ux = load(&x[m]), uy = load(&y[m]), uz = load(&z[m]), over = load(&inverse[m]);
    V wx = real(A1) * P[3], wy = real(A1) * P[1], wz = real(A1) * P[2];
    if constexpr (DEGREE >= 2) {
      const V p4 = real(A2) * P[4], p5 = real(A2) * P[5], p7 = real(A2) * P[7], p6 = real(2 * B2) * P[6], p8 = real(2 * C2) * P[8];
      wx += uy * p4 + uz * p7 + ux * (p8 - p6);
      wy += ux * p4 + uz * p5 - uy * (p8 + p6);
      wz += uy * p5 + ux * p7 + real(2) * uz * p6;
    }
    if constexpr (DEGREE >= 3) {
      const V xx = ux * ux, yy = uy * uy, zz = uz * uz, xy = ux * uy, xz = ux * uz, yz = uy * uz;
      const V p9 = real(3 * A3) * P[9], p15 = real(3 * A3) * P[15], p10 = real(B3) * P[10], p14 = real(E3) * P[14];
      const V p11 = real(C3) * P[11], p13 = real(C3) * P[13], p12 = real(3 * D3) * P[12], difference = xx - yy;
      const V two = every<real>(2);
      wx += two * xy * p9 + yz * p10 - two * xy * p11 - two * xz * p12 + (real(4) * zz - real(3) * xx - yy) * p13 +
            two * xz * p14 + difference * p15;
      wy += difference * p9 + xz * p10 + (real(4) * zz - xx - real(3) * yy) * p11 - two * yz * p12 - two * xy * p13 -
            two * yz * p14 - two * xy * p15;
      wz += xy * p10 + real(8) * yz * p11 + (two * zz - xx - yy) * p12 + real(8) * xz * p13 + difference * p14;
    }
    const V radial = inward - over * (ux * wx + uy * wy + uz * wz), length = real(1) / over;
    const V g[3] = {ux * radial + wx * over, uy * radial + wy * over, uz * radial + wz * over};
    const V d[3] = {ux * length, uy * length, uz * length};
    store_rows<real>(&vector[4 * size_t(m)], g[0], g[1], g[2]);
    MDISTILL_UNROLL
    for (int c = 0; c < 9; ++c) virial[c] += d[c / 3] * g[c % 3];
  }

  // Core energy of the receiver by edge m; its derivative is added.
  double core_of(const Pairs<real> &pairs, int pair, int m, double r) {
    double screened = 0, slope = 0;
    for (int n = 0; n < 4; ++n) {
      const double part = pairs.charge[n] * std::exp(-pairs.decay[4 * pair + n] * r);
      screened += part, slope -= pairs.decay[4 * pair + n] * part;
    }
    const double inner = 0.8, ratio = (r / pairs.outer[pair] - inner) / (1.0 - inner), u = std::min(std::max(ratio, 0.0), 1.0);
    const double keep = 1.0 - u * u * u * (10.0 - 15.0 * u + 6.0 * u * u);
    const double drop = -30.0 * u * u * (1.0 - u) * (1.0 - u) / (pairs.outer[pair] * (1.0 - inner));
    const double bare = pairs.strength[pair] / r;
    const double rate = 0.5 * bare * (drop * screened + keep * (slope - screened / r));
    const double u3[3] = {double(x[m]), double(y[m]), double(z[m])};
    for (int c = 0; c < 3; ++c) vector[4 * size_t(m) + c] += real(rate * u3[c]);
    for (int c = 0; c < 9; ++c) virial[c][0] += real(r * u3[c / 3] * rate * u3[c % 3]);
    return 0.5 * keep * bare * screened;
  }

  // Harmonics of W directions, for edges from m on.
  void harmonics(V x, V y, V z, int m) {
    V Y[LP];
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
    for (int lm = LM; lm < LP; ++lm) Y[lm] = every<real>(0);
    for (int v = 0; v < LV; ++v) {
      transpose<real>(Y + v * W);
      MDISTILL_UNROLL
      for (int i = 0; i < W; ++i) store<real>(&on_sphere[static_cast<size_t>(m + i) * LP + v * W], Y[v * W + i]);
    }
  }
};

}  // namespace mdistill
