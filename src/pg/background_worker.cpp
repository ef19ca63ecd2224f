#include "pg/background_worker.hpp"

#include <cstring>

namespace pg {

BackgroundWorker describe_worker(const char* function, const char* type, const std::string& name,
                                 BgWorkerStartTime start, Datum argument) {
  BackgroundWorker worker;
  std::memset(&worker, 0, sizeof worker);
  worker.bgw_flags = BGWORKER_SHMEM_ACCESS | BGWORKER_BACKEND_DATABASE_CONNECTION;
  worker.bgw_start_time = start;
  worker.bgw_restart_time = BGW_NEVER_RESTART;
  worker.bgw_main_arg = argument;
  strlcpy(worker.bgw_library_name, "bacmr_ops", BGW_MAXLEN);
  strlcpy(worker.bgw_function_name, function, BGW_MAXLEN);
  strlcpy(worker.bgw_type, type, BGW_MAXLEN);
  strlcpy(worker.bgw_name, name.c_str(), BGW_MAXLEN);
  return worker;
}

}  // namespace pg
