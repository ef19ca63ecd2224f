// bacmr_cosine(real[], real[]): what the postgres store sorts by where there is no pgvector.
#include "pg/postgres.hpp"

#include <span>

#include "core/cosine.hpp"
#include "core/error.hpp"
#include "pg/args.hpp"
#include "pg/entry.hpp"
#include "pg/real_array.hpp"

namespace providers {
namespace {

Datum cosine_function(pg::Args args) {
  const std::span<const float> a = pg::real_array(args.datum(0));
  const std::span<const float> b = pg::real_array(args.datum(1));
  if (a.size() != b.size()) {
    throw core::Error("22000", "vectors of different dimensions: " + std::to_string(a.size()) +
                                   " and " + std::to_string(b.size()));
  }
  const auto result = core::cosine(a, b);
  return result ? Float8GetDatum(*result) : args.null();
}

}  // namespace
}  // namespace providers

BACMR_FUNCTION(bacmr_cosine, providers::cosine_function);
