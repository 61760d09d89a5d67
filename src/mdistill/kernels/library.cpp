// The functions that Python calls, for one size of student. Sizes are fixed when this is compiled:
// MDISTILL_REAL, MDISTILL_RADIAL, MDISTILL_DEGREE, MDISTILL_CHANNELS, MDISTILL_HIDDEN.
#include "dynamics.hpp"
#include "strides.hpp"

using Net = mdistill::Spline<MDISTILL_REAL, MDISTILL_RADIAL, MDISTILL_DEGREE, MDISTILL_CHANNELS, MDISTILL_HIDDEN>;
using Engine = mdistill::Engine<Net>;

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

int64_t mdistill_run(Engine *engine, const mdistill::Plan *plan, const double *cell, const int32_t *pbc, const double *masses,
                     int32_t known, double *positions, double *momenta, double *middle, double *forces, double *energy,
                     double *virial, double *sums) {
  return engine->run(*plan, cell, pbc, masses, known != 0, positions, momenta, middle, forces, energy, virial, sums);
}

void mdistill_counts(const Engine *engine, int64_t *searches, int64_t *edges, double *search_seconds) {
  *searches = engine->pairs->searches, *edges = engine->edges, *search_seconds = engine->pairs->seconds;
}

double mdistill_closest(const Engine *engine) { return engine->closest; }
mdistill::SkinList *mdistill_pairs(Engine *engine) { return engine->pairs; }
void mdistill_share(Engine *engine, mdistill::SkinList *pairs) { engine->pairs = pairs; }

mdistill::Strides *mdistill_strides(const mdistill::Map *map) { return new mdistill::Strides(*map); }
void mdistill_strides_free(mdistill::Strides *strides) { delete strides; }
int64_t mdistill_fallbacks(const mdistill::Strides *strides) { return strides->fallbacks; }

int64_t mdistill_strides_run(mdistill::Strides *strides, const mdistill::Plan *plan, const double *cell, const int32_t *pbc,
                             const double *masses, int32_t, double *positions, double *momenta, double *, double *forces,
                             double *energy, double *virial, double *sums) {
  return strides->run(*plan, cell, pbc, masses, positions, momenta, forces, energy, virial, sums);
}

// Pairs within a reach by the engine's own search: first[atoms + 1], then sender and offset are filled up to `room`. Up to
// `few` atoms all pairs are gone through; negative: the usual number.
int64_t mdistill_search(int64_t atoms, const double *positions, const double *cell, const int32_t *pbc, double reach, int32_t threads,
                        int64_t few, int64_t room, int64_t *first, int32_t *sender, double *offset) {
  mdistill::Candidates list;
  const std::vector<int32_t> alike(atoms, 0);
  mdistill::Search(mdistill::Box(cell, pbc), reach, atoms, positions).find(
      positions, alike.data(), threads, list, few < 0 ? mdistill::Search::FEW : few);
  std::copy(list.first.begin(), list.first.end(), first);
  const int64_t pairs = first[atoms];
  if (pairs <= room)
    for (int64_t m = 0; m < pairs; ++m) {
      sender[m] = list.sender[m];
      std::copy(list.offset[m].begin(), list.offset[m].end(), offset + 3 * m);
    }
  return pairs;
}
}
