#include "pg/library.hpp"

namespace pg {
namespace {

bool loaded_by_postmaster = false;

}  // namespace

bool preloaded() { return loaded_by_postmaster; }

void note_preloaded() { loaded_by_postmaster = true; }

}  // namespace pg
