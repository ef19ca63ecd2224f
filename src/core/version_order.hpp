// Which of two versions of the extension is the older: 0.9.0 comes before 0.10.0.
#pragma once

#include <string_view>

namespace core {

// Compares the numbers between the dots, from the left; a missing one counts as 0. What follows the
// first character that is neither digit nor dot plays no part.
bool is_older(std::string_view version, std::string_view than);

}  // namespace core
