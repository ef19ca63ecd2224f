// The isolation level of the transaction.
#pragma once

#include <string>

namespace pg {

// An error (25001), with this message and detail, under REPEATABLE READ and SERIALIZABLE: for what
// has to see what others commit meanwhile.
void require_read_committed(const std::string& message, const std::string& detail);

}  // namespace pg
