// CALL bacmr_run_job(…): a job with its book-keeping committed step by step, so that a crash, a
// failure and a finding all leave a row; the error that tells pg_cron comes last.
#include "pg/postgres.hpp"

#include <algorithm>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "core/error.hpp"
#include "jobs/attempt.hpp"
#include "jobs/expire.hpp"
#include "jobs/gauges.hpp"
#include "jobs/import_run.hpp"
#include "jobs/job_run.hpp"
#include "jobs/pacing.hpp"
#include "jobs/pause.hpp"
#include "jobs/reconcile.hpp"
#include "jobs/reconcile_standby.hpp"
#include "jobs/reindex_work.hpp"
#include "jobs/run_export.hpp"
#include "jobs/verify.hpp"
#include "net/service.hpp"
#include "pg/entry.hpp"
#include "pg/log.hpp"
#include "pg/security.hpp"
#include "pg/snapshot.hpp"
#include "pg/spi.hpp"
#include "sources/identity.hpp"

extern "C" {
#include "utils/timestamp.h"
}

namespace jobs {
namespace {

// The arguments of a job, by name: those of its function. `relation`: another table than the
// chunks.
std::vector<std::string> argument_names(Job job) {
  switch (job) {
    case Job::kReconcile:
      return {"recheck_after"};
    case Job::kExpire:
      return {"max_reservations"};
    case Job::kExport:
      return {"destination", "namespace", "compression", "file_name", "relation"};
    case Job::kImport:
      return {"source", "on_conflict", "unknown_columns", "relation"};
    case Job::kVerify:
    case Job::kDrill:
      return {"source"};
    case Job::kReindex:
      return {"job_id", "max_batches"};
  }
  return {};
}

using Arguments = std::map<std::string, std::optional<std::string>>;

[[noreturn]] void unknown_argument(Job job, const std::string& key) {
  std::string list;
  for (const std::string& name : argument_names(job)) {
    list.append(list.empty() ? "" : ", ").append(name);
  }
  throw core::Error(core::sqlstate::kInvalidParameterValue,
                    std::string("the job \"") + name_of(job) + "\" has no argument \"" + key + "\"",
                    {}, "It takes: " + list + ".");
}

Arguments parse_arguments(Job job, const std::string& json) {
  const pg::PinnedSettings settings;
  pg::Spi spi;
  const pg::Param given = pg::Param::text(json);
  if (spi.query("SELECT jsonb_typeof($1::jsonb)", {given}).text(0, 0) != "object") {
    throw core::Error(core::sqlstate::kInvalidParameterValue,
                      "argument \"arguments\" must be a JSON object", {},
                      "For example: '{\"recheck_after\": \"5 seconds\"}'.");
  }
  const std::vector<std::string> names = argument_names(job);
  Arguments result;
  const pg::Rows rows = spi.query("SELECT key, value FROM jsonb_each_text($1::jsonb)", {given});
  for (std::uint64_t i = 0; i < rows.size(); ++i) {
    if (std::ranges::find(names, rows.text(i, 0)) == names.end()) {
      unknown_argument(job, rows.text(i, 0));
    }
    result[rows.text(i, 0)] = rows.maybe_text(i, 1);
  }
  return result;
}

std::optional<std::string> find(const Arguments& arguments, const std::string& name) {
  const auto found = arguments.find(name);
  return found == arguments.end() ? std::nullopt : found->second;
}

std::optional<std::int64_t> as_number(const std::string& sql, const std::string& value) {
  const pg::PinnedSettings settings;
  pg::Spi spi;
  return spi.query(sql, {pg::Param::text(value)}).int8(0, 0);
}

std::int64_t recheck_after_us(const Arguments& arguments) {
  if (arguments.count("recheck_after") == 0) {
    return 0;
  }
  const auto given = find(arguments, "recheck_after");
  return checked_recheck_after(
      given ? as_number("SELECT (extract(epoch FROM $1::interval) * 1000000)::bigint", *given)
            : std::nullopt);
}

std::optional<std::int64_t> number_of(const Arguments& arguments, const std::string& name) {
  const auto given = find(arguments, name);
  return given ? as_number("SELECT $1::bigint", *given) : std::nullopt;
}

std::optional<std::int64_t> max_reservations(const Arguments& arguments) {
  return checked_limit(number_of(arguments, "max_reservations"));
}

// The caller's search_path counts, as it does for a function's argument.
Oid relation_of(const Arguments& arguments) {
  const auto given = find(arguments, "relation");
  if (!given) {
    return InvalidOid;
  }
  pg::Spi spi;
  return spi.query("SELECT $1::pg_catalog.regclass::pg_catalog.oid", {pg::Param::text(*given)})
      .oid(0, 0);
}

std::string source_of(const Arguments& arguments) {
  const auto given = find(arguments, "source");
  if (!given) {
    throw core::Error(core::sqlstate::kNullValueNotAllowed, "argument \"source\" must be given", {},
                      "For example: '{\"source\": \"dr_export_chunks_20260101_030000.ndjson\"}'.");
  }
  return *given;
}

ExportRequest export_request(const pg::Extension& extension, Oid relation,
                             const Arguments& arguments) {
  const auto space = find(arguments, "namespace");
  if (OidIsValid(relation) && space) {
    throw core::Error(core::sqlstate::kInvalidParameterValue,
                      "only chunks can be exported by namespace", {},
                      "Leave out \"relation\" or \"namespace\".");
  }
  const core::Compression compression = checked_compression(find(arguments, "compression"));
  const pg::PinnedSettings settings;
  ExportRequest request =
      OidIsValid(relation) ? export_of_table(relation) : export_of_chunks(extension);
  request.space = space;
  request.compression = compression;
  request.file_name = find(arguments, "file_name");
  request.destination = arguments.count("destination") != 0
                            ? find(arguments, "destination")
                            : net::default_service(net::ServiceKind::kBlobStore);
  return request;
}

ImportRequest import_request(const Arguments& arguments) {
  ImportRequest request;
  request.relation = relation_of(arguments);
  request.source = source_of(arguments);
  request.on_conflict = checked_on_conflict(find(arguments, "on_conflict"));
  request.unknown_columns = checked_unknown_columns(find(arguments, "unknown_columns"));
  return request;
}

bool is_paused(const pg::Extension& extension, Job job) {
  return pause_reason(extension, name_of(job)).has_value();
}

void run_reconcile(pg::Spi& spi, const pg::Extension& extension, std::int64_t recheck_after) {
  RecordedRun run(spi, extension, Job::kReconcile);
  if (!run.begun()) {
    return;
  }
  Reconciliation result;
  Look first;
  const auto end = [&] {
    result = sum_up(extension, run.id(), first);
    conclude(extension, result, run.request_id());
  };
  if (recheck_after == 0) {
    run.perform([&] {
      first = look(extension, run.id());
      end();
    });
  } else {
    run.perform([&] { first = look(extension, run.id()); });
    try {
      run.perform([&] {
        look_again(extension, run.id(), recheck_after);
        end();
      });
    } catch (...) {
      forget_findings(extension, run.id());
      spi.commit();
      throw;
    }
  }
  if (result.discrepancies > 0) {
    throw core::Error(core::sqlstate::kRaiseException, summary(result),
                      "By kind: " + result.kinds + "." +
                          (result.report_path.empty() ? "" : " Report: " + result.report_path),
                      "SELECT * FROM bacmr_discrepancy WHERE run_id = " + std::to_string(run.id()));
  }
}

// Where nothing can be written, a reconciliation is all that is of use.
void run_on_standby(pg::Spi& spi, const pg::Extension& extension, Job job,
                    std::int64_t recheck_after) {
  if (job != Job::kReconcile) {
    throw core::Error("25006",
                      std::string("the job \"") + name_of(job) + "\" cannot run on a standby",
                      "It writes into the database.",
                      "Run it on the primary. On a standby there are bacmr_reconcile(), "
                      "bacmr_export_chunks(), bacmr_export(), and this job for reconcile.");
  }
  Reconciliation result;
  std::string request_id;
  {
    const pg::PinnedSettings settings;
    if (const auto paused = pause_reason(extension, name_of(job))) {
      pg::notice_client("the job \"reconcile\" was skipped: it is paused: " + *paused);
      return;
    }
    request_id = new_request_id();
    result = reconcile_on_standby(extension, recheck_after, request_id);
  }
  spi.commit();
  if (result.discrepancies > 0) {
    throw core::Error(core::sqlstate::kRaiseException, summary(result),
                      "By kind: " + result.kinds + ".",
                      "The findings are in this server's log, request id " + request_id + ".");
  }
}

void run_import_job(pg::Spi& spi, const pg::Extension& extension, const ImportRequest& request) {
  RecordedRun run(spi, extension, Job::kImport);
  if (run.begun()) {
    run.perform([&] {
      const pg::ExportSettings settings;
      run_import(extension, request, run.id(), run.request_id());
    });
  }
}

// Verification and drill: the run's own result is what is raised.
void run_proof(pg::Spi& spi, const pg::Extension& extension, Job job, const std::string& name) {
  RecordedRun run(spi, extension, job);
  if (!run.begun()) {
    return;
  }
  RunResult result;
  run.perform([&] {
    const pg::ExportSettings settings;
    if (job == Job::kVerify) {
      result = verify(name, run.request_id()).result;
    } else {
      const ArtifactSource source(name, run.request_id());
      source.require_sound();
      const pg::ActiveSnapshot snapshot;
      result = drill_result(source, drill(source));
    }
    finish_run(extension, run.id(), result);
    publish_exports(extension);
    publish_last_success(extension);
  });
  if (result.error) {
    throw core::Error(
        job == Job::kVerify ? core::sqlstate::kBadFileFormat : core::sqlstate::kRaiseException,
        *result.error, {},
        "SELECT * FROM bacmr_job_run WHERE run_id = " + std::to_string(run.id()));
  }
}

void run_expire(pg::Spi& spi, const pg::Extension& extension, std::optional<std::int64_t> limit) {
  const std::int64_t started_at = GetCurrentTimestamp();
  const std::string request_id = new_request_id();
  ExpiryTick tick(extension, request_id, limit, Deferred::kWithBatch);
  std::optional<Failure> failure;
  Pacing pacing;
  for (bool more = true; more && !failure;) {
    pacing.begin();
    failure = attempt([&] {
      // Who pauses in the middle of a backlog means now.
      more = !is_paused(extension, Job::kExpire) && tick.step();
    });
    try {
      spi.commit();
      tick.confirm();
    } catch (const pg::Error& e) {
      // A commit that fails has rolled back and begun the next transaction.
      failure = Failure{e.summary(), std::current_exception()};
    }
    if (more && !failure) {
      pacing.rest();
    }
  }
  RunResult result = run_result(tick.totals());
  if (failure) {
    result.status = RunStatus::kFailed;
    result.error = failure->text;
  }
  std::int64_t run_id = 0;
  if (tick.totals().did_something() || failure) {
    const pg::PinnedSettings settings;
    run_id = record_run(extension, Job::kExpire, request_id, started_at, result);
  }
  spi.commit();
  if (run_id != 0) {
    tidy_history(extension, request_id);
    spi.commit();
  }
  if (failure) {
    std::rethrow_exception(failure->error);
  }
  if (result.error) {
    throw core::Error(core::sqlstate::kRaiseException, *result.error, {},
                      "The others have been expired. SELECT * FROM bacmr_job_run WHERE run_id = " +
                          std::to_string(run_id));
  }
}

// What the arguments ask for is checked before anything is recorded.
struct Request {
  std::int64_t recheck_after_us = 0;
  std::optional<std::int64_t> max_reservations;
  Oid exported = InvalidOid;  // InvalidOid: the chunks
  ImportRequest import;
  std::string source;
  std::optional<std::int64_t> reindex_job;
  std::optional<int> max_batches;
};

Request check_arguments(Job job, const Arguments& arguments) {
  Request request;
  switch (job) {
    case Job::kReconcile:
      request.recheck_after_us = recheck_after_us(arguments);
      break;
    case Job::kExpire:
      request.max_reservations = max_reservations(arguments);
      break;
    case Job::kExport:
      checked_compression(find(arguments, "compression"));
      request.exported = relation_of(arguments);
      break;
    case Job::kImport:
      request.import = import_request(arguments);
      break;
    case Job::kVerify:
      request.source = source_of(arguments);
      break;
    case Job::kDrill:
      request.source = find(arguments, "source").value_or("");
      break;
    case Job::kReindex:
      request.reindex_job = number_of(arguments, "job_id");
      request.max_batches = checked_max_batches(number_of(arguments, "max_batches"));
      break;
  }
  return request;
}

Datum run_job(pg::Args args) {
  pg::require_commit_allowed(args.fcinfo(), "bacmr_run_job");
  const Job job = parse_job(args.text(0, "job"));
  const Arguments arguments = parse_arguments(job, args.json(1).value_or("{}"));
  const Request request = check_arguments(job, arguments);
  pg::Spi spi(pg::Spi::Commit::kAllowed);
  const pg::Extension extension = pg::require_extension();
  if (pg::in_recovery()) {
    run_on_standby(spi, extension, job, request.recheck_after_us);
    return pg::void_result();
  }
  std::optional<std::string> paused;
  {
    const pg::PinnedSettings settings;
    sources::settle_identity(extension);
    paused = pause_reason(extension, name_of(job));
    if (paused) {
      skip_run(extension, job, "it is paused: " + *paused);
    }
  }
  spi.commit();
  if (paused) {
    return pg::void_result();
  }
  switch (job) {
    case Job::kReconcile:
      run_reconcile(spi, extension, request.recheck_after_us);
      break;
    case Job::kExpire:
      run_expire(spi, extension, request.max_reservations);
      break;
    case Job::kExport:
      run_export(spi, extension,
                 [&] { return export_request(extension, request.exported, arguments); });
      break;
    case Job::kImport:
      run_import_job(spi, extension, request.import);
      break;
    case Job::kVerify:
      run_proof(spi, extension, job, request.source);
      break;
    case Job::kDrill:
      run_proof(spi, extension, job,
                request.source.empty() ? latest_export(extension) : request.source);
      break;
    case Job::kReindex:
      work_on_reindex_jobs(spi, extension, request.reindex_job, request.max_batches);
      break;
  }
  return pg::void_result();
}

}  // namespace
}  // namespace jobs

BACMR_FUNCTION(bacmr_run_job, jobs::run_job);
