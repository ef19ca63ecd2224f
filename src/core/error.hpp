// What the extension's own code throws: an SQLSTATE and the three texts a Postgres user expects.
// Knows nothing of Postgres; src/pg/entry.hpp turns it into an ERROR.
#pragma once

#include <exception>
#include <string>
#include <utility>

namespace core {

class Error : public std::exception {
 public:
  // `sqlstate` is the five-character code; `message` starts in lower case and has no full stop,
  // `detail` and `hint` are sentences.
  Error(const char* sqlstate, std::string message, std::string detail = {}, std::string hint = {})
      : sqlstate_{sqlstate[0], sqlstate[1], sqlstate[2], sqlstate[3], sqlstate[4], '\0'},
        message_(std::move(message)),
        detail_(std::move(detail)),
        hint_(std::move(hint)) {}

  const char* sqlstate() const noexcept { return sqlstate_; }
  const std::string& message() const noexcept { return message_; }
  const std::string& detail() const noexcept { return detail_; }
  const std::string& hint() const noexcept { return hint_; }
  const char* what() const noexcept override { return message_.c_str(); }

 private:
  char sqlstate_[6];
  std::string message_;
  std::string detail_;
  std::string hint_;
};

// The codes that are used in more than one place, by their names in the Postgres manual.
namespace sqlstate {
inline constexpr const char* kConnectionFailure = "08006";
inline constexpr const char* kInvalidAuthorization = "28000";
inline constexpr const char* kConfigurationLimitExceeded = "53400";
inline constexpr const char* kInvalidParameterValue = "22023";
inline constexpr const char* kNullValueNotAllowed = "22004";
inline constexpr const char* kActiveSqlTransaction = "25001";
inline constexpr const char* kInvalidTransactionTermination = "2D000";
inline constexpr const char* kInsufficientPrivilege = "42501";
inline constexpr const char* kUndefinedObject = "42704";
inline constexpr const char* kUndefinedTable = "42P01";
inline constexpr const char* kInvalidTableDefinition = "42P16";
inline constexpr const char* kDiskFull = "53100";
inline constexpr const char* kOutOfMemory = "53200";
inline constexpr const char* kObjectNotInPrerequisiteState = "55000";
inline constexpr const char* kLockNotAvailable = "55P03";
inline constexpr const char* kIoError = "58030";
inline constexpr const char* kBadFileFormat = "22P04";
inline constexpr const char* kProgramLimitExceeded = "54000";
inline constexpr const char* kUndefinedFile = "58P01";
inline constexpr const char* kDuplicateFile = "58P02";
inline constexpr const char* kWrongObjectType = "42809";
inline constexpr const char* kInsufficientResources = "53000";
inline constexpr const char* kFeatureNotSupported = "0A000";
inline constexpr const char* kRaiseException = "P0001";
inline constexpr const char* kInternalError = "XX000";
}  // namespace sqlstate

}  // namespace core
