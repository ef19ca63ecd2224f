// Pausing a job's scheduled runs: by hand, or because this database turns out to be a copy (see
// sources/identity.hpp).
#pragma once

#include "jobs/job_run.hpp"

#include <optional>
#include <string>

namespace jobs {

// Why the job is paused, or nothing.
std::optional<std::string> pause_reason(const pg::Extension& extension, const std::string& job);

}  // namespace jobs
