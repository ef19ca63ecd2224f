#include "metrics/at_commit.hpp"

#include "metrics/label_text.hpp"
#include "pg/transaction_end.hpp"

namespace metrics {

void record_at_commit(Metric metric, std::initializer_list<std::string_view> labels, Change change,
                      double amount) {
  if (!is_loaded()) {
    return;
  }
  LabelValues values;
  for (const std::string_view label : labels) {
    if (const char* problem = add_label(values, label)) {
      reject(problem);
      return;
    }
  }
  pg::at_commit([=] { record(metric, values, change, amount); });
}

}  // namespace metrics
