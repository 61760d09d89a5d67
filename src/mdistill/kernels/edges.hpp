// Edges of one atom: lengths, directions, radial functions and harmonics; sums over them, and the way back.
#pragma once

#include <vector>

#include "lanes.hpp"

namespace mdistill {

constexpr int degree_of(int lm) { return lm < 1 ? 0 : lm < 4 ? 1 : lm < 9 ? 2 : 3; }

// What is known of every pair of species.
template <class real>
struct Pairs {
  int species = 0;
  double cutoff = 0, freeze = 0;
  Array<real> closest, inverse_range, met;
  std::vector<double> charge, strength, decay, outer;  // core repulsion
};

// Edges of one atom, sorted by species of the neighbour; `size` is a multiple of 16, `count` are real.
template <class real, int RADIAL, int DEGREE>
struct Edges {
  using V = Lanes<real>;
  static constexpr int LM = (DEGREE + 1) * (DEGREE + 1);

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

  void reserve(int edges, int n_species) {
    if (edges < capacity) return;
    capacity = padded(edges + edges / 4 + LANES);
    ends.assign(n_species, 0);
    sender.assign(capacity, 0);
    for (auto *a : {&x, &y, &z, &inverse, &r0, &range, &met, &near, &gx, &gy, &gz}) a->resize(capacity);
    radial.resize(static_cast<size_t>(RADIAL) * capacity), slope.resize(static_cast<size_t>(RADIAL) * capacity);
    harmonic.resize(static_cast<size_t>(LANES) * capacity), turned.resize(static_cast<size_t>(LANES) * capacity);
  }

  // Pair parameters of each edge, and filler edges at the cutoff up to a whole vector.
  void complete(const Pairs<real> &pairs, int s, const Array<real> &nearby) {
    size = padded(count);
    int from = 0;
    for (int t = 0; t < pairs.species; ++t) {
      const int pair = s * pairs.species + t;
      for (int m = from; m < ends[t]; ++m) {
        r0[m] = pairs.closest[pair], range[m] = pairs.inverse_range[pair], met[m] = pairs.met[pair], near[m] = nearby[pair];
      }
      from = ends[t];
    }
    for (int m = count; m < size; ++m) {
      x[m] = real(pairs.cutoff), y[m] = z[m] = 0, r0[m] = 0, range[m] = 0, met[m] = 0, near[m] = 0;
    }
  }

  // Lengths, directions, radial functions with slopes, harmonics.
  void expand(const Pairs<real> &pairs) {
    const real rc = real(pairs.cutoff), width = real(pairs.freeze);
    any_near = false;
    for (int m = 0; m < size; m += LANES) {
      V dx = load(&x[m]), dy = load(&y[m]), dz = load(&z[m]);
      const V r = root<real>(dx * dx + dy * dy + dz * dz + real(1e-18)), over = real(1) / r;
      dx *= over, dy *= over, dz *= over;
      store<real>(&x[m], dx), store<real>(&y[m], dy), store<real>(&z[m], dz), store<real>(&inverse[m], over);
      const V start = load(&r0[m]), scale = load(&range[m]), zero = every<real>(0), one = every<real>(1);
      const auto close = r < load(&near[m]);
      for (int i = 0; i < LANES; ++i) any_near |= close[i] != 0;
      const V beyond = r - start, u = smaller<real>(larger<real>(beyond * (real(1) / width) + real(1), zero), one);
      const V felt = start + width * (u * u * u * (real(1) - real(0.5) * u) - real(0.5)) + larger<real>(beyond, zero);
      const V rate = u * u * (real(3) - real(2) * u);
      const V left = larger<real>(real(1) - felt * felt * (real(1) / (rc * rc)), zero), here = load(&met[m]);
      const V envelope = left * left * left * here, fall = felt * left * left * rate * here * (real(-6) / (rc * rc));
      V sine, cosine;
      sine_cosine<real>((felt - start) * scale * real(0.5 * 3.14159265358979323846), sine, cosine);
      const V s1 = real(2) * sine * cosine, c1 = one - real(2) * sine * sine, twice = c1 + c1;
      const V frequency = scale * real(3.14159265358979323846) * envelope * rate;
      V s_before = zero, s_now = s1, c_before = one, c_now = c1;
      store<real>(&radial[m], envelope), store<real>(&slope[m], fall);
      for (int k = 1; k < RADIAL; ++k) {
        const size_t at = static_cast<size_t>(k) * capacity + m;
        store<real>(&radial[at], c_now * envelope);
        store<real>(&slope[at], c_now * fall - real(k) * s_now * frequency);
        const V s_next = twice * s_now - s_before, c_next = twice * c_now - c_before;
        s_before = s_now, s_now = s_next, c_before = c_now, c_now = c_next;
      }
      harmonics(dx, dy, dz, m);
    }
  }

  // sums[sk] = Σ over the edges to species s of R_k Y.
  void accumulate(int species, real *sums) const {
    int from = 0;
    for (int t = 0; t < species; ++t) {
      V total[RADIAL] = {};
      for (int m = from; m < ends[t]; ++m) {
        const V Y = load(&turned[static_cast<size_t>(m) * LANES]);
#pragma GCC unroll 64
        for (int k = 0; k < RADIAL; ++k) total[k] += radial[static_cast<size_t>(k) * capacity + m] * Y;
      }
      for (int k = 0; k < RADIAL; ++k) store<real>(sums + (t * RADIAL + k) * LANES, total[k]);
      from = ends[t];
    }
  }

  // g = u (P'·Y) + (w − u (u·w)) / r with P = Σ_k pull R_k, P' = Σ_k pull R_k', w = Σ P ∇Y.
  void contract(int species, const real *pull) {
    int t = 0;
    for (int m = 0; m < size; m += LANES) {
      V P[LANES], Q[LANES];
      for (int i = 0; i < LANES; ++i) {
        while (t < species - 1 && m + i >= ends[t]) ++t;
        const real *G = pull + t * RADIAL * LANES;
        V p = {}, q = {};
#pragma GCC unroll 64
        for (int k = 0; k < RADIAL; ++k) {
          const V g = load(G + k * LANES);
          p += radial[static_cast<size_t>(k) * capacity + m + i] * g;
          q += slope[static_cast<size_t>(k) * capacity + m + i] * g;
        }
        P[i] = p, Q[i] = q;
      }
      transpose<real>(P);
      transpose<real>(Q);
      V along = {};
#pragma GCC unroll 16
      for (int lm = 0; lm < LM; ++lm) along += Q[lm] * load(&harmonic[static_cast<size_t>(lm) * capacity + m]);
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
      const V radial = along - over * (ux * wx + uy * wy + uz * wz);
      store<real>(&gx[m], ux * radial + wx * over);
      store<real>(&gy[m], uy * radial + wy * over);
      store<real>(&gz[m], uz * radial + wz * over);
    }
  }

  // Core repulsion (nets/repulsion.py) of the few edges that are near, and how they stand to the limits.
  void add_core(const Pairs<real> &pairs, int s, const std::vector<double> &limit) {
    closest = 1e30, core = 0;
    if (!any_near) return;
    for (int m = 0; m < count; ++m) {
      const int pair = pair_of(m, s, pairs.species);
      const double r = 1.0 / double(inverse[m]);
      if (limit[pair] > 0) closest = std::min(closest, r / limit[pair]);
      if (r >= pairs.outer[pair]) continue;
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
      core += 0.5 * keep * bare * screened;
      gx[m] += real(rate * double(x[m])), gy[m] += real(rate * double(y[m])), gz[m] += real(rate * double(z[m]));
    }
  }

 private:
  static constexpr double A0 = 0.28209479177387814, A1 = 0.4886025119029199, A2 = 1.0925484305920792;
  static constexpr double B2 = 0.31539156525252005, C2 = 0.5462742152960396;
  static constexpr double A3 = 0.5900435899266435, B3 = 2.890611442640554, C3 = 0.4570457994644658;
  static constexpr double D3 = 0.3731763325901154, E3 = 1.445305721320277;

  void harmonics(V x, V y, V z, int m) {
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
    for (int lm = 0; lm < LM; ++lm) store<real>(&harmonic[static_cast<size_t>(lm) * capacity + m], Y[lm]);
    transpose<real>(Y);
    for (int i = 0; i < LANES; ++i) store<real>(&turned[static_cast<size_t>(m + i) * LANES], Y[i]);
  }

  int pair_of(int m, int s, int species) const {
    int t = 0;
    while (m >= ends[t]) ++t;
    return s * species + t;
  }
};

}  // namespace mdistill
