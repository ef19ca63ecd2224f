// Names of the namespaces that reindex jobs write to: grade-12-math, grade-12-math-v2, -v3, …
#pragma once

#include <functional>
#include <string>
#include <string_view>

namespace core {

// The next version of a name. It is counted on where the name ends in "-v" and a number that this
// function could have written: from 1 on, without a leading zero, of 15 digits at most, with a name
// in front. Otherwise "-v2" is added: "x-v0", "x-v01" and "-v7" are names like any other.
std::string next_version(std::string_view name);

// The first following version that `taken` does not refuse. Throws core::Error (54000) after ten
// thousand that are taken: then the predicate says so of all.
std::string next_version(std::string_view name,
                         const std::function<bool(const std::string&)>& taken);

}  // namespace core
