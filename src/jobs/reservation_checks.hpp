// The checks of the reconciliation that look at reservations one by one. All by SQL.
#pragma once

#include "jobs/finding.hpp"

#include <cstdint>
#include <functional>

#include "jobs/balance_scan.hpp"
#include "sources/source.hpp"

namespace jobs {

// Reads under the active snapshot. `now`: the moment against which expires_at is held. `filter`:
// nullptr, or the users to look at.
void check_reservations(const sources::Sources& all, std::int64_t now, const UserFilter* filter,
                        const std::function<void(Finding)>& report);

}  // namespace jobs
