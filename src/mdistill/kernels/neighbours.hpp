// Neighbour pairs within a reach by binning: any cell, mixed periodicity, cells smaller than the reach.
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <vector>

namespace mdistill {

// Pairs of each receiver i in slots first[i] … first[i + 1]: sender, and the lattice vector to add to its position.
// Sorted by species, number and image of the sender: the order is a property of the structure, not of the search.
struct Candidates {
  std::vector<int64_t> first;
  std::vector<int32_t> sender;
  std::vector<std::array<double, 3>> offset;
};

struct Box {
  double rows[3][3], inverse[3][3], height[3];
  bool periodic[3];

  Box(const double *cell, const int32_t *pbc) {
    for (int a = 0; a < 3; ++a) {
      periodic[a] = pbc[a] != 0;
      for (int b = 0; b < 3; ++b) rows[a][b] = cell[3 * a + b];
    }
    double determinant = 0;
    for (int a = 0; a < 3; ++a) {
      const double *p = rows[(a + 1) % 3], *q = rows[(a + 2) % 3];
      const double cross[3] = {p[1] * q[2] - p[2] * q[1], p[2] * q[0] - p[0] * q[2], p[0] * q[1] - p[1] * q[0]};
      for (int b = 0; b < 3; ++b) inverse[b][a] = cross[b];
      determinant = rows[a][0] * cross[0] + rows[a][1] * cross[1] + rows[a][2] * cross[2];
    }
    for (int a = 0; a < 3; ++a) {
      double square = 0;
      for (int b = 0; b < 3; ++b) {
        inverse[b][a] /= determinant;
        square += inverse[b][a] * inverse[b][a];
      }
      height[a] = 1.0 / std::sqrt(square);
    }
  }

  double along(const double *r, int a) const { return r[0] * inverse[0][a] + r[1] * inverse[1][a] + r[2] * inverse[2][a]; }
};

class Search {
 public:
  Search(const Box &box, double reach, int64_t atoms, const double *positions) : box(box), reach(reach), atoms(atoms) {
    place(positions);
  }

  // The pairs of all atoms; `species` orders them.
  void find(const double *positions, const int32_t *species, int threads, Candidates &out) const {
    const int parts = std::max(1, threads);
    std::vector<std::vector<Pair>> found(parts);
    std::vector<int64_t> count(atoms, 0);
#pragma omp parallel for schedule(static, 1) num_threads(parts)
    for (int part = 0; part < parts; ++part) {
      std::vector<Pair> mine;
      for (int64_t i = atoms * part / parts; i < atoms * (part + 1) / parts; ++i) {
        mine.clear();
        around(i, positions, species, mine);
        std::sort(mine.begin(), mine.end());
        found[part].insert(found[part].end(), mine.begin(), mine.end());
        count[i] = static_cast<int64_t>(mine.size());
      }
    }
    out.first.assign(atoms + 1, 0);
    for (int64_t i = 0; i < atoms; ++i) out.first[i + 1] = out.first[i] + count[i];
    out.sender.resize(out.first[atoms]);
    out.offset.resize(out.first[atoms]);
    int64_t slot = 0;
    for (const auto &part : found)
      for (const Pair &pair : part) {
        out.sender[slot] = static_cast<int32_t>(pair.order & 0xffffffffu);
        for (int b = 0; b < 3; ++b)
          out.offset[slot][b] = pair.image[0] * box.rows[0][b] + pair.image[1] * box.rows[1][b] + pair.image[2] * box.rows[2][b];
        ++slot;
      }
  }

 private:
  struct Pair {
    uint64_t order;  // species and number of the sender
    int32_t image[3];
    bool operator<(const Pair &other) const {
      if (order != other.order) return order < other.order;
      return std::lexicographical_compare(image, image + 3, other.image, other.image + 3);
    }
  };

  const Box box;
  const double reach;
  const int64_t atoms;
  int bins[3], range[3];
  double origin[3], width[3];                    // of the bins, in fractions of the cell
  std::vector<std::array<int32_t, 3>> turns, at;  // whole cells each atom lies outside; its bin
  std::vector<int32_t> first, members;            // atoms by bin
  std::vector<std::array<double, 3>> inside;      // positions within the cell, in the order of `members`
  std::vector<int32_t> place_of;                  // where an atom stands in that order

  void place(const double *positions) {
    std::vector<std::array<double, 3>> fraction(atoms);
    turns.assign(atoms, {0, 0, 0});
    for (int a = 0; a < 3; ++a) {
      double low = 1e300, high = -1e300;
      for (int64_t i = 0; i < atoms; ++i) {
        double f = box.along(positions + 3 * i, a);
        if (box.periodic[a]) {
          const double whole = std::floor(f);
          turns[i][a] = static_cast<int32_t>(whole);
          f -= whole;
        }
        fraction[i][a] = f;
        low = std::min(low, f), high = std::max(high, f);
      }
      const double extent = box.periodic[a] ? 1.0 : std::max(high - low, 1e-9);
      const double most = std::cbrt(8.0 * static_cast<double>(atoms)) + 1.0;
      bins[a] = static_cast<int>(std::max(1.0, std::min(std::floor(2.0 * extent * box.height[a] / reach), most)));
      origin[a] = box.periodic[a] ? 0.0 : low;
      width[a] = extent / bins[a];
      const double crossed = std::ceil(reach * (1.0 + 1e-12) / (width[a] * box.height[a]));
      range[a] = static_cast<int>(box.periodic[a] ? crossed : std::min(crossed, bins[a] - 1.0));
    }
    at.resize(atoms);
    first.assign(static_cast<size_t>(bins[0]) * bins[1] * bins[2] + 1, 0);
    for (int64_t i = 0; i < atoms; ++i) {
      for (int a = 0; a < 3; ++a) {
        const int b = static_cast<int>(std::floor((fraction[i][a] - origin[a]) / width[a]));
        at[i][a] = std::min(std::max(b, 0), bins[a] - 1);
      }
      ++first[number(at[i][0], at[i][1], at[i][2]) + 1];
    }
    for (size_t b = 1; b < first.size(); ++b) first[b] += first[b - 1];
    members.resize(atoms);
    std::vector<int32_t> next(first.begin(), first.end() - 1);
    for (int64_t i = 0; i < atoms; ++i) members[next[number(at[i][0], at[i][1], at[i][2])]++] = static_cast<int32_t>(i);
    inside.resize(atoms), place_of.resize(atoms);
    for (int64_t m = 0; m < atoms; ++m) {
      const int32_t i = members[m];
      place_of[i] = static_cast<int32_t>(m);
      for (int c = 0; c < 3; ++c)
        inside[m][c] = positions[3 * i + c] - (turns[i][0] * box.rows[0][c] + turns[i][1] * box.rows[1][c] + turns[i][2] * box.rows[2][c]);
    }
  }

  size_t number(int x, int y, int z) const { return (static_cast<size_t>(x) * bins[1] + y) * bins[2] + z; }

  // The bin `step` bins on along axis a, and the cells crossed on the way; false outside an open direction.
  bool shifted(int from, int step, int a, int &bin, int &image) const {
    const int to = from + step;
    image = to >= 0 ? to / bins[a] : -((bins[a] - 1 - to) / bins[a]);
    bin = to - image * bins[a];
    return box.periodic[a] || image == 0;
  }

  void around(int64_t i, const double *positions, const int32_t *species, std::vector<Pair> &out) const {
    int bin[3], image[3];
    const std::array<double, 3> &own = inside[place_of[i]];
    const double generous = reach * reach * (1.0 + 1e-9);
    for (int sx = -range[0]; sx <= range[0]; ++sx) {
      if (!shifted(at[i][0], sx, 0, bin[0], image[0])) continue;
      for (int sy = -range[1]; sy <= range[1]; ++sy) {
        if (!shifted(at[i][1], sy, 1, bin[1], image[1])) continue;
        for (int sz = -range[2]; sz <= range[2]; ++sz) {
          if (!shifted(at[i][2], sz, 2, bin[2], image[2])) continue;
          const size_t b = number(bin[0], bin[1], bin[2]);
          double from[3];
          for (int c = 0; c < 3; ++c)
            from[c] = image[0] * box.rows[0][c] + image[1] * box.rows[1][c] + image[2] * box.rows[2][c] - own[c];
          for (int32_t m = first[b]; m < first[b + 1]; ++m) {
            const double x = inside[m][0] + from[0], y = inside[m][1] + from[1], z = inside[m][2] + from[2];
            if (x * x + y * y + z * z < generous) consider(i, members[m], image, positions, species, out);
          }
        }
      }
    }
  }

  // Add a pair that is close, judged from the positions as they were given: the answer depends on the structure alone.
  void consider(int64_t i, int32_t j, const int *image, const double *positions, const int32_t *species, std::vector<Pair> &out) const {
    Pair pair{static_cast<uint64_t>(static_cast<uint32_t>(species[j])) << 32 | static_cast<uint32_t>(j), {}};
    for (int a = 0; a < 3; ++a) pair.image[a] = image[a] + turns[i][a] - turns[j][a];
    const int32_t *s = pair.image;
    double square = 0;
    for (int c = 0; c < 3; ++c) {
      const double d = positions[3 * j + c] - positions[3 * i + c] + s[0] * box.rows[0][c] + s[1] * box.rows[1][c] + s[2] * box.rows[2][c];
      square += d * d;
    }
    if (square < reach * reach && (j != i || s[0] || s[1] || s[2])) out.push_back(pair);
  }
};

}  // namespace mdistill
