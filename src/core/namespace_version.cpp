#include "core/namespace_version.hpp"

#include <charconv>
#include <cstdint>

#include "core/error.hpp"

namespace core {

std::string next_version(std::string_view name) {
  constexpr std::string_view kMark = "-v";
  constexpr std::size_t kMaxDigits = 15;
  std::string_view base = name;
  std::uint64_t version = 1;
  const std::size_t mark = name.rfind(kMark);
  if (mark != std::string_view::npos && mark > 0) {
    const std::string_view digits = name.substr(mark + kMark.size());
    if (!digits.empty() && digits.size() <= kMaxDigits && digits.front() != '0' &&
        digits.find_first_not_of("0123456789") == std::string_view::npos) {
      base = name.substr(0, mark);
      std::from_chars(digits.data(), digits.data() + digits.size(), version);
    }
  }
  return std::string(base) + std::string(kMark) + std::to_string(version + 1);
}

std::string next_version(std::string_view name,
                         const std::function<bool(const std::string&)>& taken) {
  constexpr int kMaxTries = 10'000;
  std::string next(name);
  for (int tries = 0; tries < kMaxTries; ++tries) {
    next = next_version(next);
    if (!taken(next)) {
      return next;
    }
  }
  throw Error(sqlstate::kProgramLimitExceeded,
              "no free version of namespace \"" + std::string(name) + "\" was found",
              "All versions up to \"" + next + "\" are taken.", "Name the target yourself.");
}

}  // namespace core
