// The functions that Python calls, for one size of student. Sizes are fixed when this is compiled:
// MDISTILL_REAL, MDISTILL_RADIAL, MDISTILL_DEGREE, MDISTILL_CHANNELS, MDISTILL_HIDDEN.
#include "domain.hpp"
#include "dynamics.hpp"
#include "splitting_map.hpp"

using Net = mdistill::MomentNet<MDISTILL_REAL, MDISTILL_RADIAL, MDISTILL_DEGREE, MDISTILL_CHANNELS, MDISTILL_HIDDEN>;
using Engine = mdistill::Engine<Net>;
using Domain = mdistill::Domain<Net>;
using mdistill::Map, mdistill::Plan, mdistill::Point, mdistill::RankAnswers, mdistill::RankNeighbours, mdistill::SkinList, mdistill::Strides;

extern "C" {

Net *mdistill_net(int32_t species, const double *weights) { return new Net(species, weights); }
void mdistill_net_free(Net *net) { delete net; }

Engine *mdistill_engine(const Net *net, int64_t atoms, const int32_t *species, int32_t threads, double skin) {
  return new Engine(*net, atoms, species, threads, skin);
}
void mdistill_limits(Engine *engine, const double *distances) { engine->set_limits(distances); }
void mdistill_engine_free(Engine *engine) { delete engine; }

double mdistill_graph(Engine *engine, const int64_t *first, const int32_t *sender, const double *offset, const double *positions,
                      double *forces, double *virial, double *atomic) {
  engine->take(first, sender, offset);
  return engine->evaluate(positions, forces, virial, atomic);
}

double mdistill_evaluate(Engine *engine, const double *positions, const double *cell, const int32_t *pbc, double *forces,
                         double *virial, double *atomic) {
  engine->follow(positions, cell, pbc);
  return engine->evaluate(positions, forces, virial, atomic);
}

int64_t mdistill_run(Engine *engine, const Plan *plan, Point *point) { return engine->run(*plan, *point); }

// Neighbour searches so far and edges at the last evaluation; seconds of the searches.
void mdistill_counts(const Engine *engine, int64_t *numbers, double *seconds) {
  numbers[0] = engine->pairs->searches, numbers[1] = engine->edges, *seconds = engine->pairs->seconds;
}

double mdistill_closest(const Engine *engine) { return engine->closest; }
SkinList *mdistill_pairs(Engine *engine) { return engine->pairs; }
void mdistill_share(Engine *engine, SkinList *pairs) { engine->pairs = pairs; }

Domain *mdistill_domain(const Net *net) { return new Domain(*net); }
void mdistill_domain_free(Domain *domain) { delete domain; }
void mdistill_domain_take(Domain *domain, const RankNeighbours *neighbours) { domain->take(*neighbours); }
int32_t mdistill_domain_knows(const Domain *domain, int64_t all, const int32_t *species) { return domain->knows(all, species); }
void mdistill_domain_evaluate(Domain *domain, const double *positions, RankAnswers *answers) { domain->evaluate(positions, *answers); }

Strides *mdistill_strides(const Map *map) { return new Strides(*map); }
void mdistill_strides_free(Strides *strides) { delete strides; }
int64_t mdistill_fallbacks(const Strides *strides) { return strides->fallbacks; }
int64_t mdistill_strides_run(Strides *strides, const Plan *plan, Point *point) { return strides->run(*plan, *point); }

// Pairs within a cutoff by the engine's own search: first[atoms + 1], then sender and offset are filled up to `room`.
int64_t mdistill_search(int64_t atoms, const double *positions, const double *cell, const int32_t *pbc, double cutoff, int32_t threads,
                        int64_t room, int64_t *first, int32_t *sender, double *offset) {
  mdistill::Candidates list;
  const std::vector<int32_t> alike(atoms, 0);
  mdistill::Search(mdistill::Box(cell, pbc), cutoff, atoms, positions).find(positions, alike.data(), 1, threads, list);
  std::copy(list.first.begin(), list.first.end(), first);
  const int64_t pairs = first[atoms];
  if (pairs <= room)
    for (int64_t i = 0; i < atoms; ++i)
      for (int64_t m = first[i]; m < first[i + 1]; ++m) {
        const int32_t j = sender[m] = list.pairs[m].sender;
        const auto &image = list.images[list.pairs[m].shift];
        for (int c = 0; c < 3; ++c) {
          offset[3 * m + c] = 0;
          for (int a = 0; a < 3; ++a) offset[3 * m + c] += (image[a] + list.turns[i][a] - list.turns[j][a]) * cell[3 * a + c];
        }
      }
  return pairs;
}
}
