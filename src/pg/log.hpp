// Lines in the server's log: JSON (or text, by bacmr.log_format), one a line, with the request id.
#pragma once

#include <optional>
#include <string>
#include <string_view>

namespace pg {

enum class LogLevel { kDebug, kInfo, kWarning, kError };

std::optional<LogLevel> parse_log_level(std::string_view name);

// `fields`: a JSON object, or empty. Never raises an error in the caller's transaction by its
// level: kError writes a line like the others.
void log_line(LogLevel level, const std::string& message, const std::string& fields = {},
              const std::string& request_id = {});

// A WARNING for the session's client, which the server's log gets too.
void warn_client(const std::string& message, const std::string& detail = {},
                 const std::string& hint = {});
void notice_client(const std::string& message, const std::string& hint = {});

}  // namespace pg
