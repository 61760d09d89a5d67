// The student on one rank of an engine with its own neighbour list and ghost atoms.
#pragma once

#include <algorithm>

#include "gather.hpp"
#include "moment.hpp"
#include "rank.hpp"

namespace mdistill {

template <class Net>
class Domain {
 public:
  explicit Domain(const Net &net) : net(net), work(net), spots(net.cutoff) { spots.shifts.resize(1); }

  // Takes the neighbours of the centres, sorted by species; holds until the engine makes its list anew.
  void take(const RankNeighbours &from) {
    species.assign(from.species, from.species + from.all);
    blocks = blocks_of(net, from.centres, [&](int64_t k) { return from.atoms[k]; }, species.data());
    const auto mask = static_cast<int32_t>(from.mask);
    list.first.assign(from.local * net.species + 1, 0), list.pairs.clear();
    std::vector<std::vector<Candidate>> kinds(net.species);
    std::vector<int64_t> place(from.local, -1);
    for (int64_t k = 0; k < from.centres; ++k) place[from.atoms[k]] = k;
    for (int64_t i = 0; i < from.local; ++i) {
      for (int32_t m = 0; place[i] >= 0 && m < from.count[i]; ++m)
        if (const int32_t j = from.lists[i][m] & mask; species[j] >= 0) kinds[species[j]].push_back({j, 0});
      for (int t = 0; t < net.species; ++t) {
        list.pairs.insert(list.pairs.end(), kinds[t].begin(), kinds[t].end()), kinds[t].clear();
        list.first[i * net.species + t + 1] = static_cast<int64_t>(list.pairs.size());
      }
    }
    spots.spots.resize(from.all);
  }

  // Whether the atoms are still of these species.
  bool knows(int64_t all, const int32_t *now) const {
    return static_cast<int64_t>(species.size()) == all && std::equal(now, now + all, species.begin());
  }

  void evaluate(const double *r, RankAnswers &out) {
    for (size_t i = 0; i < species.size(); ++i) {
      spots.spots[i] = spots.of(r + 3 * i);
      for (int c = 0; c < 3; ++c) out.energy += 0.0 * r[3 * i + c];  // not finite where a position is not
    }
    for (const Block<Net> &block : blocks) {
      auto &e = work.edges;
      gather(net, block, list, spots, e);
      net.evaluate(block.species, work);
      scatter<3>(net, block, e, out.forces);
      for (int c = 0; c < 9; ++c) out.virial[c] += double(sum<typename Net::real>(e.virial[c]));
      for (int b = 0; b < block.count; ++b) {
        out.energy += work.energy[b];
        if (out.atomic) out.atomic[block.atoms[b]] += work.energy[b];
      }
      if (out.halves || out.senders) spread(block, out);
    }
  }

 private:
  const Net &net;
  typename Net::Workspace work;
  std::vector<int32_t> species;
  Candidates list;
  Spots<typename Net::real> spots;
  std::vector<Block<Net>> blocks;

  // d ⊗ g of every edge to the atoms, as `RankAnswers` says; x, y, z are directions by now.
  void spread(const Block<Net> &block, RankAnswers &out) const {
    const auto &e = work.edges;
    for (int t = 0; t < net.species; ++t)
      for (int b = 0; b < block.count; ++b)
        for (int m = e.begin[t * Net::WIDE + b]; m < e.end[t * Net::WIDE + b]; ++m) {
          const double length = 1.0 / double(e.inverse[m]), d[3] = {length * e.x[m], length * e.y[m], length * e.z[m]};
          const auto *g = &e.vector[4 * size_t(m)];
          const size_t i = 9 * size_t(block.atoms[b]), j = 9 * size_t(e.sender[m]);
          for (int c = 0; c < 9; ++c) {
            const double part = d[c / 3] * double(g[c % 3]);
            if (out.halves) out.halves[i + c] += 0.5 * part, out.halves[j + c] += 0.5 * part;
            if (out.senders) out.senders[j + c] += part;
          }
        }
  }
};

}  // namespace mdistill
