// The moment network (nets/moment.py holds its equations) for one atom by one warp: energy, and its derivative in the vector of
// every edge. CUDA, compiled for one size of student: MDISTILL_REAL, _RADIAL, _DEGREE, _CHANNELS, _HIDDEN.
//
// A lane holds an edge in the geometry and on the way back, a harmonic lm in sums over neighbours (two lanes each: they share
// edges and channels), a point of the sphere, or a unit of the MLP. Nothing is added by atomics: the order of sums is fixed.
#pragma once

namespace mdistill {

using real = MDISTILL_REAL;
constexpr int RADIAL = MDISTILL_RADIAL, DEGREE = MDISTILL_DEGREE, CHANNELS = MDISTILL_CHANNELS, HIDDEN = MDISTILL_HIDDEN;
constexpr int WARP = 32, LM = (DEGREE + 1) * (DEGREE + 1), ROWS = 16, ROW = ROWS + 1;  // lanes of the harmonics; odd: no bank conflicts
constexpr int SHARE = (CHANNELS + 1) / 2, FEATURES = (DEGREE + 3) * CHANNELS, UNITS = HIDDEN > 0 ? HIDDEN : 1;
constexpr int POINTS = DEGREE < 3 ? 13 : 19;  // of the sphere, one of each antipodal pair
constexpr unsigned ALL = 0xffffffffu;

__host__ __device__ constexpr int degree_of(int lm) { return lm < 1 ? 0 : lm < 4 ? 1 : lm < 9 ? 2 : 3; }

__device__ inline float root(float x) { return sqrtf(x); }
__device__ inline double root(double x) { return sqrt(x); }
__device__ inline float exponential(float x) { return expf(x); }
__device__ inline double exponential(double x) { return exp(x); }
__device__ inline void sine_cosine_pi(float x, float *s, float *c) { sincospif(x, s, c); }
__device__ inline void sine_cosine_pi(double x, double *s, double *c) { sincospi(x, s, c); }
template <class T>
__device__ inline T larger(T a, T b) { return a > b ? a : b; }
template <class T>
__device__ inline T smaller(T a, T b) { return a < b ? a : b; }
template <class T>
__device__ inline T warp_sum(T x) {
  for (int o = WARP / 2; o > 0; o /= 2) x += __shfl_xor_sync(ALL, x, o);
  return x;
}
template <class T>
__device__ inline T warp_least(T x) {
  for (int o = WARP / 2; o > 0; o /= 2) x = smaller(x, __shfl_xor_sync(ALL, x, o));
  return x;
}

// Weights in the order that kernels/replicas.py writes them; s species of the atom, t of the neighbour, pair = s species + t.
struct Net {
  long long species;
  double cutoff, freeze, scale;
  const double *reference, *rest;                   // [s] E0; MLP of an isolated atom
  const double *charge, *strength, *decay, *outer;  // core repulsion: [4], [pair], [pair][4], [pair]
  const real *closest, *inverse_range, *met;        // [pair]
  const real *mixing;                               // [s][t][l][k][c]
  const real *first, *bias1, *second, *bias2, *last;  // [s][feature][unit], [s][unit], [s][unit][unit], [s][unit], [s][unit or feature]
  const real *first_back, *second_back;             // transposes within s
  const real *sphere, *sphere_back;                 // [lm][point], [point][ROWS]: harmonics times the cube root of a point's weight
};

struct Room {  // shared memory of a warp
  union {
    struct {
      real radial[WARP][RADIAL | 1], on_sphere[WARP][ROW];  // of 32 edges
    } edges;
    real at_points[2][CHANNELS][POINTS];  // e² + o², 2 e o with even and odd part
    real pull[RADIAL][ROWS];
  };
  real moments[CHANNELS][ROW], slopes[CHANNELS][ROW];
  real features[FEATURES], units[2][UNITS];
};

// One edge: direction, 1/r, and what the recurrences of its radial functions R_k and slopes R_k' begin with.
struct Edge {
  real x, y, z, inverse, envelope, fall, frequency, sine, cosine;

  __device__ Edge(const Net &net, int pair, double dx, double dy, double dz) {
    x = real(dx), y = real(dy), z = real(dz);
    const real r = root(x * x + y * y + z * z + real(1e-18)), rc = real(net.cutoff), width = real(net.freeze);
    inverse = real(1) / r;
    x *= inverse, y *= inverse, z *= inverse;
    const real beyond = r - net.closest[pair], u = smaller(larger(beyond / width + real(1), real(0)), real(1));
    const real more = width * (u * u * u * (real(1) - real(0.5) * u) - real(0.5)) + larger(beyond, real(0));
    const real felt = net.closest[pair] + more, rate = u * u * (real(3) - real(2) * u);
    const real left = larger(real(1) - felt * felt / (rc * rc), real(0)), scale = net.inverse_range[pair];
    envelope = left * left * left * net.met[pair];
    fall = felt * left * left * rate * net.met[pair] * real(-6) / (rc * rc);
    frequency = real(3.14159265358979323846) * scale * envelope * rate;
    sine_cosine_pi(more * scale, &sine, &cosine);
  }

  // visit(k, R_k, R_k') for every k.
  template <class Visit>
  __device__ void radial(Visit visit) const {
    real s_before = 0, s_now = sine, c_before = 1, c_now = cosine;
    visit(0, envelope, fall);
#pragma unroll
    for (int k = 1; k < RADIAL; ++k) {
      visit(k, c_now * envelope, c_now * fall - real(k) * s_now * frequency);
      const real s_next = real(2) * cosine * s_now - s_before, c_next = real(2) * cosine * c_now - c_before;
      s_before = s_now, s_now = s_next, c_before = c_now, c_now = c_next;
    }
  }

  __device__ void harmonics(real *Y) const {
    const real xx = x * x, yy = y * y, zz = z * z;
    Y[0] = real(A0), Y[1] = real(A1) * y, Y[2] = real(A1) * z, Y[3] = real(A1) * x;
    if constexpr (DEGREE >= 2) {
      Y[4] = real(A2) * x * y, Y[5] = real(A2) * y * z, Y[7] = real(A2) * x * z;
      Y[6] = real(B2) * (real(2) * zz - xx - yy), Y[8] = real(C2) * (xx - yy);
    }
    if constexpr (DEGREE >= 3) {
      const real around = real(4) * zz - xx - yy;
      Y[9] = real(A3) * y * (real(3) * xx - yy), Y[15] = real(A3) * x * (xx - real(3) * yy);
      Y[10] = real(B3) * x * y * z, Y[14] = real(E3) * z * (xx - yy);
      Y[11] = real(C3) * y * around, Y[13] = real(C3) * x * around;
      Y[12] = real(D3) * z * (real(2) * zz - real(3) * xx - real(3) * yy);
    }
  }

  // w = Σ_lm P_lm ∇Y_lm, Y as polynomials.
  __device__ void slope(const real *P, real *w) const {
    w[0] = real(A1) * P[3], w[1] = real(A1) * P[1], w[2] = real(A1) * P[2];
    if constexpr (DEGREE >= 2) {
      const real p4 = real(A2) * P[4], p5 = real(A2) * P[5], p7 = real(A2) * P[7], p6 = real(2 * B2) * P[6], p8 = real(2 * C2) * P[8];
      w[0] += y * p4 + z * p7 + x * (p8 - p6);
      w[1] += x * p4 + z * p5 - y * (p8 + p6);
      w[2] += y * p5 + x * p7 + real(2) * z * p6;
    }
    if constexpr (DEGREE >= 3) {
      const real xx = x * x, yy = y * y, zz = z * z, xy = real(2) * x * y, xz = x * z, yz = y * z;
      const real p9 = real(3 * A3) * P[9], p15 = real(3 * A3) * P[15], p10 = real(B3) * P[10], p14 = real(E3) * P[14];
      const real p11 = real(C3) * P[11], p13 = real(C3) * P[13], p12 = real(3 * D3) * P[12];
      w[0] += xy * (p9 - p11) + yz * p10 + real(2) * xz * (p14 - p12) + (real(4) * zz - real(3) * xx - yy) * p13 + (xx - yy) * p15;
      w[1] += (xx - yy) * p9 + xz * p10 + (real(4) * zz - xx - real(3) * yy) * p11 - real(2) * yz * (p12 + p14) - xy * (p13 + p15);
      w[2] += x * y * p10 + real(8) * (yz * p11 + xz * p13) + (real(2) * zz - xx - yy) * p12 + (xx - yy) * p14;
    }
  }

 private:
  static constexpr double A0 = 0.28209479177387814, A1 = 0.4886025119029199, A2 = 1.0925484305920792;
  static constexpr double B2 = 0.31539156525252005, C2 = 0.5462742152960396;
  static constexpr double A3 = 0.5900435899266435, B3 = 2.890611442640554, C3 = 0.4570457994644658;
  static constexpr double D3 = 0.3731763325901154, E3 = 1.445305721320277;
};

// Core repulsion (nets/repulsion.py) of a receiver by one edge of length r, eV, and its derivative.
__device__ inline double core_energy(const Net &net, int pair, double r, double *rate) {
  double screened = 0, slope = 0;
  for (int n = 0; n < 4; ++n) {
    const double part = net.charge[n] * exp(-net.decay[4 * pair + n] * r);
    screened += part, slope -= net.decay[4 * pair + n] * part;
  }
  const double inner = 0.8, u = smaller(larger((r / net.outer[pair] - inner) / (1.0 - inner), 0.0), 1.0);
  const double keep = 1.0 - u * u * u * (10.0 - 15.0 * u + 6.0 * u * u), bare = net.strength[pair] / r;
  const double drop = -30.0 * u * u * (1.0 - u) * (1.0 - u) / (net.outer[pair] * (1.0 - inner));
  *rate = 0.5 * bare * (drop * screened + keep * (slope - screened / r));
  return 0.5 * keep * bare * screened;
}

template <int OUT>
struct Units {  // numbers of a layer, every 32nd in one lane
  static constexpr int COUNT = (OUT + WARP - 1) / WARP;
  real value[COUNT];
};

// to[o] = start[o] + Σ_i x[i] matrix[i][o]; start may be null.
template <int IN, int OUT>
__device__ inline void multiply(const real *matrix, const real *x, const real *start, int lane, Units<OUT> &to) {
#pragma unroll
  for (int q = 0; q < to.COUNT; ++q) to.value[q] = start && lane + q * WARP < OUT ? start[lane + q * WARP] : real(0);
#pragma unroll 4
  for (int i = 0; i < IN; ++i) {
    const real from = x[i];
#pragma unroll
    for (int q = 0; q < to.COUNT; ++q)
      if (lane + q * WARP < OUT) to.value[q] += from * matrix[i * OUT + lane + q * WARP];
  }
}

// silu; its derivative besides.
template <int OUT>
__device__ inline void activate(Units<OUT> &x, Units<OUT> &rate) {
#pragma unroll
  for (int q = 0; q < x.COUNT; ++q) {
    const real a = x.value[q], gate = real(1) / (real(1) + exponential(-a));
    x.value[q] = a * gate, rate.value[q] = gate * (real(1) + a * (real(1) - gate));
  }
}

template <int OUT, class Value>
__device__ inline void publish(real *to, int lane, Value value) {
  __syncwarp();
#pragma unroll
  for (int q = 0; q < Units<OUT>::COUNT; ++q)
    if (lane + q * WARP < OUT) to[lane + q * WARP] = value(q);
  __syncwarp();
}

// The MLP: gives its output summed over lanes; the features become their weights in the energy.
__device__ inline real head(const Net &net, int s, Room &room, int lane) {
  real energy = 0;
  if constexpr (HIDDEN > 0) {
    Units<UNITS> one, two, rate1, rate2;
    multiply<FEATURES, UNITS>(net.first + s * FEATURES * UNITS, room.features, net.bias1 + s * UNITS, lane, one);
    activate(one, rate1);
    publish<UNITS>(room.units[0], lane, [&](int q) { return one.value[q]; });
    multiply<UNITS, UNITS>(net.second + s * UNITS * UNITS, room.units[0], net.bias2 + s * UNITS, lane, two);
    activate(two, rate2);
    publish<UNITS>(room.units[1], lane, [&](int q) {
      const real w = net.last[s * UNITS + lane + q * WARP];
      energy += w * two.value[q];
      return real(net.scale) * w * rate2.value[q];
    });
    multiply<UNITS, UNITS>(net.second_back + s * UNITS * UNITS, room.units[1], nullptr, lane, one);
    publish<UNITS>(room.units[0], lane, [&](int q) { return one.value[q] * rate1.value[q]; });
    Units<FEATURES> weights;
    multiply<UNITS, FEATURES>(net.first_back + s * FEATURES * UNITS, room.units[0], nullptr, lane, weights);
    publish<FEATURES>(room.features, lane, [&](int q) { return weights.value[q]; });
  } else {
    for (int f = lane; f < FEATURES; f += WARP) {
      const real w = net.last[s * FEATURES + f];
      energy += w * room.features[f];
      room.features[f] = real(net.scale) * w;
    }
    __syncwarp();
  }
  return warp_sum(energy);
}

// Derivatives of the cubes in the moments. At a point n of the sphere f = e + o, f(n)³ + f(−n)³ = 2 e³ + 6 e o².
__device__ inline void cubes(const Net &net, Room &room, int lane, int lm, int part, real *D) {
  __syncwarp();
  if (lane < POINTS) {
    real Y[LM];
#pragma unroll
    for (int h = 0; h < LM; ++h) Y[h] = net.sphere[h * POINTS + lane];
    for (int c = 0; c < CHANNELS; ++c) {
      real e = 0, o = 0;
#pragma unroll
      for (int h = 0; h < LM; ++h) (degree_of(h) % 2 ? o : e) += Y[h] * room.moments[c][h];
      room.at_points[0][c][lane] = e * e + o * o, room.at_points[1][c][lane] = real(2) * e * o;
    }
  }
  __syncwarp();
#pragma unroll
  for (int q = 0; q < SHARE; ++q) D[q] = 0;
  const int odd = degree_of(lm) % 2;
  for (int p = 0; p < POINTS; ++p) {
    const real Y = real(6) * net.sphere_back[p * ROWS + lm];
#pragma unroll
    for (int q = 0; q < SHARE; ++q)
      if (part * SHARE + q < CHANNELS) D[q] += Y * room.at_points[odd][part * SHARE + q][p];
  }
}

// Features from the moments A and the derivatives D of the cubes, which are in `room`.
__device__ inline void invariants(Room &room, int lane) {
  for (int f = lane; f < FEATURES; f += WARP) {
    const int group = f / CHANNELS, c = f % CHANNELS, l = group - 1;
    real total = 0;
    if (group == 0) total = room.moments[c][0];
    else if (l <= DEGREE)
      for (int lm = l * l; lm < (l + 1) * (l + 1); ++lm) total += room.moments[c][lm] * room.moments[c][lm];
    else
      for (int lm = 0; lm < LM; ++lm) total += room.moments[c][lm] * room.slopes[c][lm] * real(1.0 / 3.0);
    room.features[f] = total;
  }
  __syncwarp();
}

// Energy (eV, without core) of an atom of species s, the same in all lanes. Edges come from `list`: count(t) gives how many go to
// species t, called for every t in turn; edge(m, pair) is number m of these. back(m, pair, inward, across, edge) takes the parts
// of the derivative in the vector of an edge.
template <class List>
__device__ double atom_energy(const Net &net, int s, Room &room, int lane, List &list) {
  const int lm = lane % ROWS, part = lane / ROWS, n = int(net.species);
  real A[SHARE], D[SHARE];
#pragma unroll
  for (int q = 0; q < SHARE; ++q) A[q] = 0;
  for (int t = 0; t < n; ++t) {
    const int count = list.count(t);
    real M[RADIAL];
#pragma unroll
    for (int k = 0; k < RADIAL; ++k) M[k] = 0;
    for (int m = 0; m < count; m += WARP) {
      __syncwarp();
      if (m + lane < count) {
        const Edge edge = list.edge(m + lane, s * n + t);
        edge.harmonics(room.edges.on_sphere[lane]);
        edge.radial([&](int k, real value, real) { room.edges.radial[lane][k] = value; });
      }
      __syncwarp();
      const int until = smaller(WARP, count - m);
      if (lm < LM)
        for (int e = part; e < until; e += 2) {
          const real Y = room.edges.on_sphere[e][lm];
#pragma unroll
          for (int k = 0; k < RADIAL; ++k) M[k] += Y * room.edges.radial[e][k];
        }
    }
    if (count == 0) continue;
    const real *W = net.mixing + ((s * n + t) * (DEGREE + 1) + smaller(degree_of(lm), DEGREE)) * (RADIAL * CHANNELS);
#pragma unroll
    for (int k = 0; k < RADIAL; ++k) {
      const real sum = M[k] + __shfl_xor_sync(ALL, M[k], ROWS);
#pragma unroll
      for (int q = 0; q < SHARE; ++q)
        if (part * SHARE + q < CHANNELS) A[q] += W[k * CHANNELS + part * SHARE + q] * sum;
    }
  }
#pragma unroll
  for (int q = 0; q < SHARE; ++q)
    if (part * SHARE + q < CHANNELS) room.moments[part * SHARE + q][lm] = A[q];
  cubes(net, room, lane, lm, part, D);
#pragma unroll
  for (int q = 0; q < SHARE; ++q)
    if (part * SHARE + q < CHANNELS) room.slopes[part * SHARE + q][lm] = D[q];
  __syncwarp();
  invariants(room, lane);
  const real energy = head(net, s, room, lane);
#pragma unroll
  for (int q = 0; q < SHARE; ++q) {  // weights of the moments, in the place of these
    const int c = smaller(part * SHARE + q, CHANNELS - 1), l = smaller(degree_of(lm), DEGREE);
    A[q] = real(2) * room.features[(1 + l) * CHANNELS + c] * A[q] + room.features[(DEGREE + 2) * CHANNELS + c] * D[q];
    if (lm == 0) A[q] += room.features[c];
    if (part * SHARE + q >= CHANNELS) A[q] = 0;
  }
  for (int t = 0; t < n; ++t) {
    const int count = list.count(t);
    if (count == 0) continue;
    const real *W = net.mixing + ((s * n + t) * (DEGREE + 1) + smaller(degree_of(lm), DEGREE)) * (RADIAL * CHANNELS);
    __syncwarp();
#pragma unroll
    for (int k = 0; k < RADIAL; ++k) {
      real sum = 0;
#pragma unroll
      for (int q = 0; q < SHARE; ++q) sum += W[k * CHANNELS + smaller(part * SHARE + q, CHANNELS - 1)] * A[q];
      sum += __shfl_xor_sync(ALL, sum, ROWS);
      if (part == 0) room.pull[k][lm] = sum;
    }
    __syncwarp();
    for (int m = lane; m < count; m += WARP) {
      const Edge edge = list.edge(m, s * n + t);
      real Y[LM], P[LM], w[3], inward = 0;
      edge.harmonics(Y);
#pragma unroll
      for (int h = 0; h < LM; ++h) P[h] = 0;
      edge.radial([&](int k, real value, real rate) {
        real along = 0;
#pragma unroll
        for (int h = 0; h < LM; ++h) P[h] += value * room.pull[k][h], along += room.pull[k][h] * Y[h];
        inward += rate * along;
      });
      edge.slope(P, w);
      list.back(m, s * n + t, inward, w, edge);
    }
  }
  return net.reference[s] + net.scale * (double(energy) - net.rest[s]);
}

}  // namespace mdistill
