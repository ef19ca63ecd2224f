// The eight recording functions of the Phase F document. They never fail the application's
// transaction: what cannot be recorded is counted in bacmr_metrics_rejected_total, by reason, and
// of such a call nothing is recorded.
#include "pg/postgres.hpp"

#include <array>
#include <cmath>
#include <initializer_list>

#include "metrics/label_text.hpp"
#include "metrics/registry.hpp"
#include "pg/entry.hpp"

namespace metrics {
namespace {

// Reads a call's arguments, and remembers the first that is no good.
class Reading {
 public:
  explicit Reading(const pg::Args& args) : args_(args) {}

  LabelValues labels(std::initializer_list<int> positions) {
    LabelValues values;
    for (const int i : positions) {
      note(add_label(values, args_.text_view(i)));
    }
    return values;
  }
  // A finite number that is not negative.
  double number(int i) { return check(i, DatumGetFloat8(args_.datum(i))); }
  double count(int i) { return check(i, static_cast<double>(DatumGetInt64(args_.datum(i)))); }
  double state(int i, int highest) {
    const double value = check(i, DatumGetInt32(args_.datum(i)));
    note(value > highest ? "bad_number" : nullptr);
    return value;
  }

  const char* problem() const { return problem_; }

 private:
  double check(int i, double value) {
    note(args_.is_null(i) ? "null" : nullptr);
    note(std::isfinite(value) && value >= 0 ? nullptr : "bad_number");
    return value;
  }
  void note(const char* problem) {
    if (problem_ == nullptr) {
      problem_ = problem;
    }
  }

  const pg::Args& args_;
  const char* problem_ = nullptr;
};

struct Recording {
  Metric metric;
  Change change;
  double amount;
  LabelValues labels;
};

// `recordings` is called with a Reading and returns what to record.
template <class Recordings>
Datum helper(const pg::Args& args, Recordings recordings) {
  if (available()) {
    Reading reading(args);
    const auto list = recordings(reading);
    if (reading.problem() != nullptr) {
      reject(reading.problem());
      return pg::void_result();
    }
    for (const Recording& each : list) {
      record(each.metric, each.labels, each.change, each.amount);
    }
  }
  return pg::void_result();
}

template <std::size_t n>
using List = std::array<Recording, n>;

Datum ingestion_job(pg::Args args) {
  if (args.is_null(2)) {
    return helper(args, [](Reading& r) {
      return List<1>{{{Metric::kIngestionJobs, Change::kAdd, 1, r.labels({0, 1})}}};
    });
  }
  return helper(args, [](Reading& r) {
    const LabelValues labels = r.labels({0, 1});
    return List<2>{{{Metric::kIngestionJobs, Change::kAdd, 1, labels},
                    {Metric::kIngestionDuration, Change::kObserve, r.number(2), labels}}};
  });
}

Datum pinecone_query(pg::Args args) {
  return helper(args, [](Reading& r) {
    return List<1>{
        {{Metric::kPineconeQueryDuration, Change::kObserve, r.number(1), r.labels({0})}}};
  });
}

Datum pinecone_upsert(pg::Args args) {
  return helper(args, [](Reading& r) {
    const LabelValues labels = r.labels({0});
    return List<2>{{{Metric::kPineconeUpsertDuration, Change::kObserve, r.number(1), labels},
                    {Metric::kPineconeVectors, Change::kAdd, r.count(2), labels}}};
  });
}

Datum openai_request(pg::Args args) {
  return helper(args, [](Reading& r) {
    return List<2>{{{Metric::kOpenaiDuration, Change::kObserve, r.number(2), r.labels({0, 1})},
                    {Metric::kOpenaiTokens, Change::kAdd, r.count(3), r.labels({0})}}};
  });
}

Datum wallet_reservation(pg::Args args) {
  return helper(args, [](Reading& r) {
    return List<1>{{{Metric::kWalletReservations, Change::kAdd, 1, r.labels({0})}}};
  });
}

Datum circuit_breaker_state(pg::Args args) {
  constexpr int kHalfOpen = 2;
  return helper(args, [](Reading& r) {
    return List<1>{{{Metric::kBreakerState, Change::kSet, r.state(1, kHalfOpen), r.labels({0})}}};
  });
}

Datum active_reservations(pg::Args args) {
  return helper(args, [](Reading& r) {
    return List<1>{{{Metric::kActiveReservations, Change::kSet, r.count(0), {}}}};
  });
}

Datum rate_limit_rejection(pg::Args args) {
  return helper(args, [](Reading& r) {
    return List<1>{{{Metric::kRateLimitRejections, Change::kAdd, 1, r.labels({0, 1})}}};
  });
}

}  // namespace
}  // namespace metrics

BACMR_FUNCTION(bacmr_record_ingestion_job, metrics::ingestion_job);
BACMR_FUNCTION(bacmr_record_pinecone_query, metrics::pinecone_query);
BACMR_FUNCTION(bacmr_record_pinecone_upsert, metrics::pinecone_upsert);
BACMR_FUNCTION(bacmr_record_openai_request, metrics::openai_request);
BACMR_FUNCTION(bacmr_record_wallet_reservation, metrics::wallet_reservation);
BACMR_FUNCTION(bacmr_set_circuit_breaker_state, metrics::circuit_breaker_state);
BACMR_FUNCTION(bacmr_set_active_reservations, metrics::active_reservations);
BACMR_FUNCTION(bacmr_record_rate_limit_rejection, metrics::rate_limit_rejection);
