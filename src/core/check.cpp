#include "core/check.hpp"

#include <string>

#include "core/error.hpp"

namespace core {

void throw_broken(const char* what, const char* file, int line) {
  // From the checkout on, whatever way to it the compiler was given.
  const std::string path = file;
  const std::size_t start = path.rfind("src/");
  throw Error(sqlstate::kInternalError, std::string("a check of bacmr_ops failed: ") + what,
              "At " + path.substr(start == std::string::npos ? 0 : start) + ":" +
                  std::to_string(line) + ".",
              "This is a defect of the extension, or of this machine's memory. Please report it.");
}

}  // namespace core
