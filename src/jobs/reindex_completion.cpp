// How a reindex job ends: the store is listed and compared with the chunks, a sample is looked at,
// and what differs is more work or the job's failure.
#include "pg/postgres.hpp"

#include <algorithm>
#include <string_view>

#include "core/error.hpp"
#include "jobs/reindex_run_impl.hpp"
#include "pg/wait.hpp"

namespace jobs {
namespace {

// How often what the verification found too much is deleted before that counts as a failure.
constexpr int kMaxCorrections = 3;

}  // namespace

void ReindexRun::find_damage() {
  if (job_.verified) {
    return;
  }
  if (!job_.repair) {
    const VectorVerdict verdict = verify();
    step([&] { note_differences(verdict.check); });
    return;
  }
  const VectorCheck check = compare([this] { return waiting_chunks(extension_, job_); });
  step([&] {
    note_differences(check);
    job_.total = count_changes(extension_, job_.space);
    job_.processed = 0;
    update_reindex_job(extension_, job_.id, "total_chunks = $2::bigint, processed_chunks = 0",
                       {std::to_string(job_.total)});
  });
}

void ReindexRun::list_target() {
  drop_listing();
  step_as_role([] { begin_listing(ListingSpan::kSession); });
  listing_ = true;
  if (store_->is_table()) {
    step_as_role([this] { list_ids(*store_, job_.target, add_listed); });
  } else {
    list_ids(*store_, job_.target, [this](const std::vector<std::string>& ids) {
      step_as_role([&] { add_listed(ids); });
    });
  }
  step_as_role([] { finish_listing(); });
}

void ReindexRun::drop_listing() {
  if (std::exchange(listing_, false)) {
    step_as_role([] { end_listing(); });
  }
}

VectorCheck ReindexRun::compare(const std::function<std::vector<std::string>()>& left_out) {
  VectorCheck check;
  list_target();
  step_as_role([&] { check = compare_listed(*reader_, job_.space, left_out); });
  drop_listing();
  return check;
}

VectorVerdict ReindexRun::verify() {
  VectorVerdict verdict;
  std::vector<Chunk> sample;
  list_target();
  step_as_role([&] {
    verdict = compare_target(extension_, job_, *reader_, *store_);
    sample = choose_sample(extension_, job_, *reader_);
  });
  drop_listing();
  if (!verdict.may_come) {
    std::vector<providers::VectorRecord> found;
    ask_store([&] { found = store_->fetch(job_.target, ids_of(sample)); });
    step_as_role([&] {
      judge_sample(extension_, job_, sample, found, *embedder_, *store_, services_.loop, verdict);
    });
  }
  return verdict;
}

void ReindexRun::note_differences(const VectorCheck& check) {
  std::vector<std::string> ids = check.missing_ids;
  ids.insert(ids.end(), check.extra_ids.begin(), check.extra_ids.end());
  if (!ids.empty()) {
    add_changes(extension_, job_.space, ids);
  }
}

void ReindexRun::end_capture() {
  if (is_quiet(extension_, job_.space)) {
    update_reindex_job(extension_, job_.id, "capturing = false");
    stop_capture_if_idle(extension_);
  }
}

bool ReindexRun::complete() {
  if (job_.status == "completed") {
    // A table that was truncated after the swap does not tell the ids that have to go.
    bool more = false;
    if (job_.swapped && intake_->walks_again()) {
      VectorCheck check = compare(nothing);
      check.missing_ids.clear();
      more = !check.extra_ids.empty() && corrections_++ < kMaxCorrections;
      step([&] { note_differences(check); });
    }
    if (!more) {
      step([this] {
        if (job_.swapped || job_.repair) {
          end_capture();
        }
      });
    }
    return !more;
  }
  VectorVerdict verdict;
  step([this] {
    require_same_table();
    update_reindex_job(extension_, job_.id,
                       "status = CASE status WHEN 'running' THEN 'verifying' ELSE status END");
  });
  Patience patience;
  for (;;) {
    try {
      verdict = verify();
    } catch (const core::Error& e) {
      // What is stored may wait for its verification as long as a batch may wait to be stored.
      if (std::string_view(e.sqlstate()) != core::sqlstate::kConnectionFailure ||
          outages_.failures() >= kReindexMaxOutages) {
        throw;
      }
      begin_rest(e.message(), false);
      return false;
    }
    if (!verdict.may_come || patience.is_over()) {
      break;
    }
    pg::wait_interruptibly(std::min(patience.next_us(), to_microseconds(kReindexLook) * 4));
    look();
    if (stopping_) {
      return true;
    }
  }
  bool again = false;
  step([&] {
    end_outage();
    const bool changed = count_changes(extension_, job_.space) > 0;
    if (!verdict.ok()) {
      note_differences(verdict.check);
    }
    // What a repair finds is its work; of any other job, vectors that are missing are a store's
    // failure, which somebody has to hear of.
    const bool mends = job_.repair ? !verdict.ok() : verdict.only_extra();
    again = changed || (mends && corrections_++ < kMaxCorrections);
    if (again) {
      if (job_.repair) {
        job_.total = job_.processed + count_changes(extension_, job_.space);
      }
      update_reindex_job(extension_, job_.id,
                         "status = CASE status WHEN 'verifying' THEN 'running' ELSE status END,"
                         " total_chunks = $2::bigint",
                         {std::to_string(job_.total)});
    } else {
      record_verdict(extension_, job_, verdict);
      if (verdict.ok() && job_.repair) {
        end_capture();
      }
    }
  });
  if (!again && !verdict.ok()) {
    throw core::Error(core::sqlstate::kRaiseException, verdict.problem(job_), {},
                      "SELECT bacmr_reindex_resume(" + std::to_string(job_.id) +
                          ") puts that right and verifies again.");
  }
  return !again;
}

}  // namespace jobs
