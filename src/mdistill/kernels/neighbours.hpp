// Neighbour pairs within a cutoff, by bins or, of few atoms, by going through all of them: any cell, mixed periodicity, cells
// smaller than the cutoff.
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <numeric>
#include <vector>

#include "crew.hpp"

namespace mdistill {

struct Pair {
  int32_t receiver, sender;
  std::array<int32_t, 3> image;  // of the sender
};

// Pairs of each receiver i in slots first[i] … first[i + 1]: sender, and the lattice vector to add to its position.
// Sorted by species, number and image of the sender: the order is a property of the structure, not of the search.
struct Candidates {
  std::vector<int64_t> first;
  std::vector<int32_t> sender;
  std::vector<std::array<double, 3>> offset;

  struct Room {  // of a search, kept for the next one, which need not ask the system for memory
    std::vector<std::vector<Pair>> pairs;      // by thread
    std::vector<std::vector<int64_t>> slot;    // by thread and receiver
    std::vector<std::array<int32_t, 3>> image;
  } room;
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
  static constexpr int64_t FEW = 100;  // atoms up to which going through all pairs of them is faster than bins

  Search(const Box &box, double cutoff, int64_t atoms, const double *positions) : box(box), cutoff(cutoff), atoms(atoms) {
    place(positions);
  }

  // The pairs of all atoms; `species` orders them. Senders are visited in that order and handed to their neighbours, so that
  // the list of each receiver comes out sorted without being sorted.
  void find(const double *positions, const int32_t *species, int threads, Candidates &out, int64_t few = FEW) const {
    const int parts = std::max(1, threads);
    const std::vector<int32_t> order = by_species(species);
    if (atoms <= few) return among_few(positions, order, out);
    auto &pairs = out.room.pairs;
    auto &slot = out.room.slot;
    auto &image = out.room.image;
    pairs.resize(parts), slot.resize(parts);
    Crew::run(parts, [&](int part) {
      Near near;
      pairs[part].clear();
      slot[part].assign(atoms, 0);
      for (int64_t k = atoms * part / parts; k < atoms * (part + 1) / parts; ++k) around(order[k], positions, near, pairs[part]);
      for (const Pair &pair : pairs[part]) ++slot[part][pair.receiver];
    });
    out.first.resize(atoms + 1);
    int64_t total = 0;
    for (int64_t i = 0; i < atoms; ++i) {
      out.first[i] = total;
      for (auto &count : slot) std::swap(count[i], total), total += count[i];
    }
    out.first[atoms] = total;
    out.sender.resize(total), out.offset.resize(total);
    image.resize(total);
    Crew::run(parts, [&](int part) {
      std::vector<int32_t> filled(atoms, 0);
      for (const Pair &pair : pairs[part]) {
        const int64_t begin = slot[part][pair.receiver];
        int64_t m = begin + filled[pair.receiver]++;
        out.sender[m] = pair.sender;
        for (; m > begin && out.sender[m - 1] == pair.sender && pair.image < image[m - 1]; --m) image[m] = image[m - 1];
        image[m] = pair.image;
      }
    });
    Crew::split(total, parts, [&](int64_t from, int64_t to) {
      for (int64_t m = from; m < to; ++m)
        for (int b = 0; b < 3; ++b)
          out.offset[m][b] = image[m][0] * box.rows[0][b] + image[m][1] * box.rows[1][b] + image[m][2] * box.rows[2][b];
    });
  }

 private:
  static constexpr double MARGIN = 1e-9;  // of squares; between them the positions as they were given decide

  struct Near {  // atoms of one run, and the squares of their distances
    std::vector<double> square;
    std::vector<int32_t> atom;
  };

  const Box box;
  const double cutoff;
  const int64_t atoms;
  int bins[3], range[3];
  double origin[3], width[3];                    // of the bins, in fractions of the cell
  std::vector<std::array<int32_t, 3>> turns, at;  // whole cells each atom lies outside; its bin
  std::vector<int32_t> first, members;            // atoms by bin
  std::vector<double> inside[3];                  // positions within the cell, in the order of `members`
  std::vector<int32_t> place_of;                  // where an atom stands in that order
  std::vector<std::array<double, 3>> fraction;    // positions within the cell, as fractions of it

  void place(const double *positions) {
    fraction.resize(atoms);
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
      bins[a] = static_cast<int>(std::max(1.0, std::min(std::floor(2.0 * extent * box.height[a] / cutoff), most)));
      origin[a] = box.periodic[a] ? 0.0 : low;
      width[a] = extent / bins[a];
      const double crossed = std::ceil(cutoff * (1.0 + 1e-12) / (width[a] * box.height[a]));
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
    for (auto &component : inside) component.resize(atoms);
    place_of.resize(atoms);
    for (int64_t m = 0; m < atoms; ++m) {
      const int32_t i = members[m];
      place_of[i] = static_cast<int32_t>(m);
      for (int c = 0; c < 3; ++c)
        inside[c][m] = positions[3 * i + c] - (turns[i][0] * box.rows[0][c] + turns[i][1] * box.rows[1][c] + turns[i][2] * box.rows[2][c]);
    }
  }

  // Every sender for every receiver, in the images that can be near: visited in the order of the list, so nothing is sorted.
  void among_few(const double *positions, const std::vector<int32_t> &order, Candidates &out) const {
    out.first.assign(1, 0), out.sender.clear(), out.offset.clear();
    for (int32_t i = 0; i < atoms; ++i) {
      for (const int32_t j : order) images_of(i, j, positions, out);
      out.first.push_back(static_cast<int64_t>(out.sender.size()));
    }
  }

  // The pairs of receiver i and sender j: a plane of the lattice further off than the cutoff holds none.
  void images_of(int32_t i, int32_t j, const double *positions, Candidates &out) const {
    int low[3], high[3], turn[3];
    double vector[3], lattice[3];
    for (int a = 0; a < 3; ++a) {
      const double between = fraction[j][a] - fraction[i][a], most = cutoff * (1.0 + 1e-9) / box.height[a];
      low[a] = box.periodic[a] ? static_cast<int>(std::ceil(-most - between)) : 0;
      high[a] = box.periodic[a] ? static_cast<int>(std::floor(most - between)) : 0;
      turn[a] = turns[i][a] - turns[j][a];
      vector[a] = positions[3 * j + a] - positions[3 * i + a];
    }
    for (int x = turn[0] + low[0]; x <= turn[0] + high[0]; ++x)
      for (int y = turn[1] + low[1]; y <= turn[1] + high[1]; ++y)
        for (int z = turn[2] + low[2]; z <= turn[2] + high[2]; ++z) {
          double square = 0;
          for (int c = 0; c < 3; ++c) {
            lattice[c] = x * box.rows[0][c] + y * box.rows[1][c] + z * box.rows[2][c];
            square += (vector[c] + lattice[c]) * (vector[c] + lattice[c]);
          }
          if (square >= cutoff * cutoff || (i == j && !x && !y && !z)) continue;
          out.sender.push_back(j), out.offset.push_back({lattice[0], lattice[1], lattice[2]});
        }
  }

  size_t number(int x, int y, int z) const { return (static_cast<size_t>(x) * bins[1] + y) * bins[2] + z; }

  std::vector<int32_t> by_species(const int32_t *species) const {
    std::vector<int32_t> order(atoms);
    std::iota(order.begin(), order.end(), 0);
    std::stable_sort(order.begin(), order.end(), [species](int32_t a, int32_t b) { return species[a] < species[b]; });
    return order;
  }

  // The bin `step` bins on along axis a, and the cells crossed on the way; false outside an open direction.
  bool shifted(int from, int step, int a, int &bin, int &image) const {
    const int to = from + step;
    image = to >= 0 ? to / bins[a] : -((bins[a] - 1 - to) / bins[a]);
    bin = to - image * bins[a];
    return box.periodic[a] || image == 0;
  }

  // All pairs with atom j as sender. Bins in a row along the third axis are one run of `members` in each image.
  void around(int32_t j, const double *positions, Near &near, std::vector<Pair> &out) const {
    int bin[3], image[3];
    for (int sx = -range[0]; sx <= range[0]; ++sx) {
      if (!shifted(at[j][0], sx, 0, bin[0], image[0])) continue;
      for (int sy = -range[1]; sy <= range[1]; ++sy) {
        if (!shifted(at[j][1], sy, 1, bin[1], image[1])) continue;
        for (int sz = -range[2]; sz <= range[2];) {
          const bool there = shifted(at[j][2], sz, 2, bin[2], image[2]);
          const int run = std::min(range[2] - sz, bins[2] - 1 - bin[2]);
          if (there) one_run(j, number(bin[0], bin[1], bin[2]), run, image, positions, near, out);
          sz += run + 1;
        }
      }
    }
  }

  // Atoms of `run` + 1 bins from bin b on, in one image of the cell, that are near atom j.
  void one_run(int32_t j, size_t b, int run, const int *image, const double *positions, Near &near, std::vector<Pair> &out) const {
    const int32_t begin = first[b], count = first[b + run + 1] - begin, here = place_of[j];
    if (static_cast<size_t>(count) > near.square.size()) near.square.resize(count), near.atom.resize(count);
    double from[3];
    for (int c = 0; c < 3; ++c)
      from[c] = image[0] * box.rows[0][c] + image[1] * box.rows[1][c] + image[2] * box.rows[2][c] - inside[c][here];
    const double *x = &inside[0][begin], *y = &inside[1][begin], *z = &inside[2][begin];
    const double most = cutoff * cutoff * (1.0 + MARGIN), sure = cutoff * cutoff * (1.0 - MARGIN);
    int32_t near_count = 0, *atom = near.atom.data();
    double *square = near.square.data();
    for (int32_t m = 0; m < count; ++m) {
      const double dx = x[m] + from[0], dy = y[m] + from[1], dz = z[m] + from[2];
      atom[near_count] = m, square[near_count] = dx * dx + dy * dy + dz * dz;
      near_count += square[near_count] < most;
    }
    for (int32_t k = 0; k < near_count; ++k) {
      const int32_t i = members[begin + atom[k]];
      Pair pair{i, j, {}};
      for (int a = 0; a < 3; ++a) pair.image[a] = turns[i][a] - turns[j][a] - image[a];
      if ((i != j && square[k] < sure) || close(pair, positions)) out.push_back(pair);
    }
  }

  // Whether a pair is closer than the cutoff, judged from the positions as they were given: the answer depends on the structure
  // alone. An atom is not its own neighbour.
  bool close(const Pair &pair, const double *positions) const {
    const int32_t i = pair.receiver, j = pair.sender;
    const auto &s = pair.image;
    double square = 0;
    for (int c = 0; c < 3; ++c) {
      const double d = positions[3 * j + c] - positions[3 * i + c] + s[0] * box.rows[0][c] + s[1] * box.rows[1][c] + s[2] * box.rows[2][c];
      square += d * d;
    }
    return square < cutoff * cutoff && (j != i || s[0] || s[1] || s[2]);
  }
};

}  // namespace mdistill
