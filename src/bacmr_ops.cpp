// The module: what happens when the server loads the library. The SQL functions stand in the files
// that hold their jobs (BACMR_FUNCTION).
#include "pg/postgres.hpp"

#include "metrics/registry.hpp"
#include "net/breakers.hpp"
#include "pg/library.hpp"
#include "pg/settings.hpp"
#include "pg/transaction_end.hpp"
#include "worker/launcher.hpp"

extern "C" {
PG_MODULE_MAGIC;

PGDLLEXPORT void _PG_init(void);
void _PG_init(void) {
  pg::settings::define();
  pg::watch_transactions();
  if (process_shared_preload_libraries_in_progress) {
    pg::note_preloaded();
    metrics::install();
    net::install_breakers();
    worker::install();
  }
}
}
