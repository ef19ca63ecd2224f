// bacmr_grant: the documented privilege profiles, granted as the caller (who needs the right to).
#include "pg/postgres.hpp"

#include <string>
#include <vector>

#include "core/error.hpp"
#include "pg/entry.hpp"
#include "pg/extension.hpp"
#include "pg/guard.hpp"
#include "pg/lock.hpp"
#include "pg/security.hpp"
#include "pg/spi.hpp"

extern "C" {
#include "catalog/namespace.h"
#include "nodes/makefuncs.h"
#include "storage/lockdefs.h"
#include "utils/acl.h"
}

namespace jobs {
namespace {

struct Profile {
  const char* name;
  std::vector<const char*> readable;   // tables and views
  std::vector<const char*> functions;  // with their argument types
  std::vector<const char*> procedures;
  std::vector<const char*> sequences;
  std::vector<const char*> foreign;  // wrappers and servers, which have no schema
};

const std::vector<Profile>& profiles() {
  static const std::vector<Profile> list = {
      {"app",
       {},
       {"bacmr_log(text, text, jsonb)", "bacmr_active_namespace(text)",
        "bacmr_record_ingestion_job(text, text, float8)",
        "bacmr_record_pinecone_query(text, float8)",
        "bacmr_record_pinecone_upsert(text, float8, bigint)",
        "bacmr_record_openai_request(text, text, float8, bigint)",
        "bacmr_record_wallet_reservation(text)", "bacmr_set_circuit_breaker_state(text, int)",
        "bacmr_set_active_reservations(bigint)", "bacmr_record_rate_limit_rejection(text, text)",
        "bacmr_metric_define(text, text, text, text[], float8[])",
        "bacmr_metric_inc(text, jsonb, float8)", "bacmr_metric_set(text, jsonb, float8)",
        "bacmr_metric_observe(text, jsonb, float8)"},
       {},
       {},
       {}},
      {"monitor",
       {"bacmr_sources", "bacmr_status", "bacmr_metrics", "bacmr_reindex_status"},
       {"bacmr_source_status()", "bacmr_worker_status()", "bacmr_library_version()",
        "bacmr_metric_samples()", "bacmr_metric_series(text)", "bacmr_metrics_prometheus()",
        "bacmr_metrics_json()"},
       {},
       {},
       {}},
      {"operator",
       {"bacmr_sources", "bacmr_status", "bacmr_job_run", "bacmr_discrepancy", "bacmr_job_pause",
        "bacmr_metrics", "bacmr_metric_definition", "bacmr_namespace", "bacmr_reindex_status",
        "bacmr_reindex_job", "bacmr_reindex_batch", "bacmr_reindex_failure"},
       {"bacmr_attach(name)",
        "bacmr_attach(text, regclass, jsonb, jsonb)",
        "bacmr_detach(text)",
        "bacmr_source_status()",
        "bacmr_create_tables(name)",
        "bacmr_reconcile(interval)",
        "bacmr_reconcile_report(bigint)",
        "bacmr_expire_reservations(bigint)",
        "bacmr_expire_in(regclass, regclass, regclass, bigint)",
        "bacmr_schedule(text, text, text)",
        "bacmr_unschedule()",
        "bacmr_pause(text, text)",
        "bacmr_unpause(text)",
        "bacmr_worker_status()",
        "bacmr_library_version()",
        "bacmr_doctor()",
        "bacmr_log(text, text, jsonb)",
        "bacmr_export_chunks(text, text, text, text)",
        "bacmr_export(regclass, text, text, text)",
        "bacmr_import_chunks(text, text, text)",
        "bacmr_import(regclass, text, text, text)",
        "bacmr_verify_export(text)",
        "bacmr_restore_drill(text)",
        "bacmr_active_namespace(text)",
        "bacmr_reindex_plan(text, text, name)",
        "bacmr_reindex(text, text, name, name, text, int, int, numeric)",
        "bacmr_reindex_all(text, name, name, numeric)",
        "bacmr_reindex_pause(bigint)",
        "bacmr_reindex_resume(bigint, numeric)",
        "bacmr_reindex_cancel(bigint)",
        "bacmr_reindex_retry_failed(bigint)",
        "bacmr_reindex_discard(bigint)",
        "bacmr_reindex_cleanup(bigint)",
        "bacmr_reindex_verify(bigint)",
        "bacmr_vectors_verify(text, name)",
        "bacmr_vectors_repair(text, name, numeric)",
        "bacmr_reindex_compare(bigint, int, int)",
        "bacmr_reindex_swap(bigint, boolean)",
        "bacmr_reindex_rollback(text)",
        "bacmr_reindex_summary(bigint)",
        "bacmr_cosine(real[], real[])",
        "bacmr_metrics_reset()",
        "bacmr_metric_define(text, text, text, text[], float8[])",
        "bacmr_metric_undefine(text)",
        "bacmr_metric_samples()",
        "bacmr_metric_series(text)",
        "bacmr_metrics_prometheus()",
        "bacmr_metrics_json()"},
       {"bacmr_run_job(text, jsonb)", "bacmr_reindex_run(bigint, int)"},
       {},
       {"DATA WRAPPER bacmr_embedder", "DATA WRAPPER bacmr_vector_store",
        "DATA WRAPPER bacmr_blob_store", "SERVER bacmr_local", "SERVER bacmr_postgres",
        "SERVER bacmr_artifacts"}},
      // What pg_dump reads.
      {"backup",
       {"bacmr_source", "bacmr_job_pause", "bacmr_job_run", "bacmr_discrepancy",
        "bacmr_metric_definition", "bacmr_namespace", "bacmr_reindex_job", "bacmr_reindex_batch",
        "bacmr_reindex_failure", "bacmr_chunk_change", "bacmr_embedding_cache"},
       {},
       {},
       {"bacmr_job_run_run_id_seq", "bacmr_reindex_job_job_id_seq",
        "bacmr_chunk_change_change_id_seq"},
       {}}};
  return list;
}

const Profile& find_profile(const std::string& name) {
  for (const Profile& profile : profiles()) {
    if (name == profile.name) {
      return profile;
    }
  }
  throw core::Error(core::sqlstate::kInvalidParameterValue, "unknown profile \"" + name + "\"", {},
                    "The profiles are: app, monitor, operator, backup.");
}

Datum grant_function(pg::Args args) {
  const std::string wanted = args.text(0, "profile");
  const Profile& profile = find_profile(wanted);
  const std::string name = args.name(1, "role_name");
  if (name == "public") {
    throw core::Error("42939", "a profile cannot be granted to PUBLIC", {},
                      "Grant it to the roles that need it.");
  }
  pg::call([&name] { get_role_oid(name.c_str(), false); });  // an error where there is none
  const std::string role = pg::quote_identifier(name);
  const pg::PinnedSettings settings;
  const pg::Extension extension = pg::require_extension();
  const std::string schema = pg::quote_identifier(extension.schema);
  pg::Spi spi;
  // Of two that grant on the same object at once the server ends one: "tuple concurrently updated".
  constexpr std::uint32_t kGrant = 1001;
  pg::JobLock::for_job(kGrant).acquire();
  spi.query("GRANT USAGE ON SCHEMA " + schema + " TO " + role);
  auto grant = [&](const char* what, const std::vector<const char*>& objects) {
    for (const char* object : objects) {
      spi.query(std::string("GRANT ") + what + " " + schema + "." + object + " TO " + role);
    }
  };
  for (const char* object : profile.foreign) {
    spi.query(std::string("GRANT USAGE ON FOREIGN ") + object + " TO " + role);
  }
  // Nor must VACUUM FULL or DDL be at work on the table.
  for (const char* object : profile.readable) {
    pg::call([&] {
      RangeVarGetRelid(makeRangeVar(pstrdup(extension.schema.c_str()), pstrdup(object), -1),
                       AccessShareLock, true);
    });
  }
  grant("SELECT ON TABLE", profile.readable);
  grant("SELECT ON SEQUENCE", profile.sequences);
  grant("EXECUTE ON FUNCTION", profile.functions);
  grant("EXECUTE ON PROCEDURE", profile.procedures);
  return pg::void_result();
}

}  // namespace
}  // namespace jobs

BACMR_FUNCTION(bacmr_grant, jobs::grant_function);
