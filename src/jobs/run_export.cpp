#include "pg/postgres.hpp"

#include "jobs/run_export.hpp"

#include <chrono>
#include <cstdlib>

#include "core/backoff.hpp"
#include "core/error.hpp"
#include "core/json.hpp"
#include "jobs/attempt.hpp"
#include "jobs/gauges.hpp"
#include "jobs/retention.hpp"
#include "jobs/verify.hpp"
#include "net/service.hpp"
#include "pg/encoding.hpp"
#include "pg/log.hpp"
#include "pg/security.hpp"
#include "pg/snapshot.hpp"
#include "pg/wait.hpp"

extern "C" {
#include "common/pg_prng.h"
#include "mb/pg_wchar.h"
#include "utils/timestamp.h"
}

namespace jobs {
namespace {

// A step that fails for a reason that may pass is tried this often. Requests to a service have been
// repeated by the client before.
constexpr int kAttempts = 3;
constexpr std::chrono::seconds kFirstPause{5};
constexpr std::chrono::seconds kLongestPause{60};

std::string sqlstate_of(const Failure& failure) {
  try {
    std::rethrow_exception(failure.error);
  } catch (const pg::Error& e) {
    return e.sqlstate();
  } catch (const core::Error& e) {
    return e.sqlstate();
  } catch (...) {
    return "";
  }
}

// A notification takes less than 8,000 bytes, and escapes take more than what they stand for.
std::string shortened(const std::string& text) {
  constexpr int kBytes = 1000;
  return text.substr(0, static_cast<std::size_t>(
                            pg_mbcliplen(text.c_str(), static_cast<int>(text.size()), kBytes)));
}

// Connections, conflicts with other transactions, locks, input and output.
bool may_pass(const Failure& failure) {
  const std::string code = sqlstate_of(failure);
  return code.starts_with("08") || code.starts_with("40") ||
         code == core::sqlstate::kLockNotAvailable || code == core::sqlstate::kIoError;
}

class ScheduledExport {
 public:
  ScheduledExport(pg::Spi& spi, const pg::Extension& extension,
                  const std::function<ExportRequest()>& request)
      : extension_(extension), make_request_(request), run_(spi, extension, Job::kExport) {}

  void perform() {
    if (!run_.begun()) {
      return;
    }
    step("export", [this] { write_and_drill(); });
    written_ = true;
    if (exported_->uploads()) {
      step("upload", [this] { exported_->upload(); });
      add_step("upload", exported_->upload_figures());
    }
    step("verify", [this] { verify(); });
    step("retention", [this] { remove_old(); });
    step("record", [this] { record(); });
    if (!drilled_.ok()) {
      throw core::Error(
          core::sqlstate::kRaiseException, *drill_result(*local_, drilled_).error,
          "Both were read in one snapshot, so the export lacks something that the table "
          "holds. It is kept and verified all the same.",
          "Compare the column types with what JSON can hold: docs/exports.md.");
    }
  }

 private:
  template <class Work>
  void step(const char* name, Work work) {
    core::Backoff backoff(kFirstPause, kLongestPause);
    for (int attempt_number = 1;; ++attempt_number) {
      std::optional<Failure> failure;
      {
        const pg::ExportSettings settings;
        failure = attempt(work);
      }
      if (!failure) {
        run_.commit();
        return;
      }
      if (attempt_number == kAttempts || is_interrupt(*failure) || !may_pass(*failure)) {
        give_up(name, *failure);
      }
      ++retries_;
      pg::log_line(
          pg::LogLevel::kWarning,
          std::string("step ") + name + " of the export failed and is tried again",
          core::JsonObject().number("run_id", run_.id()).text("error", failure->text).str(),
          run_.request_id());
      run_.commit();
      const std::chrono::microseconds pause = backoff.next(pg_prng_uint32(&pg_global_prng_state));
      if (const auto cancelled = attempt([&] { pg::wait_interruptibly(pause.count()); })) {
        give_up(name, *cancelled);
      }
    }
  }

  [[noreturn]] void give_up(const char* name, const Failure& failure) {
    // That nobody can be told must not keep the run's row from saying so.
    attempt([&] {
      const pg::PinnedSettings settings;
      pg::Spi spi;
      spi.query("SELECT pg_notify('bacmr_alert', $1)",
                {pg::Param::text(core::JsonObject()
                                     .text("alert", "export_failed")
                                     .number("run_id", run_.id())
                                     .text("step", name)
                                     .text("error", shortened(failure.text))
                                     .str())});
    });
    run_.fail(Failure{std::string("step ") + name + ": " + failure.text, failure.error}, detail());
  }

  // Both under one snapshot, so that the drill has to find not the least difference.
  void write_and_drill() {
    local_.reset();
    exported_.reset();
    request_ = make_request_();
    exported_.emplace(request_, run_.request_id());
    // A store that is gone is no reason to be without an export: the step upload raises it.
    if (const auto failure = attempt([this] { exported_->open_store(); });
        failure && is_interrupt(*failure)) {
      std::rethrow_exception(failure->error);
    }
    const pg::ActiveSnapshot snapshot;
    exported_->write();
    local_.emplace(pg::to_database_text(exported_->local_source()), run_.request_id());
    local_->require_sound();
    drill_.began = GetCurrentTimestamp();
    drilled_ = drill(*local_);
    drill_.ended = GetCurrentTimestamp();
    add_step("export", exported_->write_figures());
    add_step("drill", drilled_.figures());
  }

  // What would have to be restored from: the copy in the store, where there is one.
  void verify() {
    const auto start = std::chrono::steady_clock::now();
    verification_.began = GetCurrentTimestamp();
    if (exported_->uploads()) {
      stored_.emplace(pg::to_database_text(exported_->remote_source()), run_.request_id());
      stored_->require_sound();
    } else {
      local_->require_sound();
    }
    verification_.ended = GetCurrentTimestamp();
    char seconds[32];
    std::snprintf(seconds, sizeof seconds, "%.3f",
                  std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
    add_step("verify", core::JsonObject()
                           .boolean("ok", true)
                           .text("source", pg::to_utf8(verified().name()).value_or("?"))
                           .raw("seconds", seconds)
                           .str());
  }

  // An old export that cannot be removed is no reason to call the new one failed.
  void remove_old() {
    const std::optional<Failure> failure = attempt([this] {
      int removed = 0;
      if (exported_->in_database_folder()) {
        removed += remove_old_exports(extension_, exported_->folder(), request_.name,
                                      exported_->manifest());
      }
      if (providers::BlobStore* store = exported_->store()) {
        removed += remove_old_objects(extension_, *store, object_prefix(), request_.name,
                                      exported_->manifest());
      }
      add_step("retention", core::JsonObject().number("removed", removed).str());
    });
    if (failure && is_interrupt(*failure)) {
      std::rethrow_exception(failure->error);
    }
    if (failure) {
      add_step("retention", core::JsonObject().text("error", failure->text).str());
      pg::warn_client("old exports could not be removed: " + failure->text, {},
                      "Remove them by hand, or grant the right to delete.");
    }
  }

  void record() {
    record_run(extension_, Job::kDrill, run_.request_id(), drill_.began,
               drill_result(*local_, drilled_), drill_.ended);
    record_run(extension_, Job::kVerify, run_.request_id(), verification_.began,
               verify_result(verified(), std::nullopt), verification_.ended);
    const RunResult proof = drill_result(*local_, drilled_);
    finish_run(extension_, run_.id(), {proof.status, detail(), proof.error});
    publish_exports(extension_);
    publish_last_success(extension_);
    tidy_history(extension_, run_.request_id());
    pg::log_line(pg::LogLevel::kInfo, "export written, drilled and verified", detail(),
                 run_.request_id());
  }

  const ArtifactSource& verified() const { return stored_ ? *stored_ : *local_; }

  void add_step(const char* name, const std::string& figures) { steps_.raw(name, figures); }

  std::string detail() const {
    core::JsonObject detail;
    if (written_) {
      exported_->describe(detail);
    }
    return detail.raw("steps", steps_.str()).number("retries", retries_).str();
  }

  const pg::Extension& extension_;
  const std::function<ExportRequest()>& make_request_;
  ExportRequest request_;
  RecordedRun run_;
  // Each a run of its own in the history, which was over before this one is.
  struct Span {
    TimestampTz began = 0;
    TimestampTz ended = 0;
  };
  Span drill_;
  Span verification_;
  std::optional<Export> exported_;
  std::optional<ArtifactSource> local_;
  std::optional<ArtifactSource> stored_;
  DrillResult drilled_;
  core::JsonObject steps_;
  bool written_ = false;
  int retries_ = 0;
};

}  // namespace

void run_export(pg::Spi& spi, const pg::Extension& extension,
                const std::function<ExportRequest()>& request) {
  ScheduledExport(spi, extension, request).perform();
}

}  // namespace jobs
