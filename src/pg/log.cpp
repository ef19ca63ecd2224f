#include "pg/postgres.hpp"

#include "pg/log.hpp"

#include <sys/time.h>

#include <cstdio>
#include <ctime>

#include "core/json.hpp"
#include "pg/guard.hpp"
#include "pg/settings.hpp"

namespace pg {
namespace {

const char* name_of(LogLevel level) {
  switch (level) {
    case LogLevel::kDebug:
      return "DEBUG";
    case LogLevel::kInfo:
      return "INFO";
    case LogLevel::kWarning:
      return "WARNING";
    case LogLevel::kError:
      return "ERROR";
  }
  return "INFO";
}

std::string utc_timestamp() {
  timeval now{};
  ::gettimeofday(&now, nullptr);
  std::tm parts{};
  ::gmtime_r(&now.tv_sec, &parts);
  char date[32];
  std::strftime(date, sizeof date, "%Y-%m-%dT%H:%M:%S", &parts);
  char stamp[48];
  std::snprintf(stamp, sizeof stamp, "%s.%03dZ", date, static_cast<int>(now.tv_usec / 1000));
  return stamp;
}

}  // namespace

std::optional<LogLevel> parse_log_level(std::string_view name) {
  std::string upper;
  for (const char c : name) {
    upper += static_cast<char>(c >= 'a' && c <= 'z' ? c - 'a' + 'A' : c);
  }
  for (const LogLevel level :
       {LogLevel::kDebug, LogLevel::kInfo, LogLevel::kWarning, LogLevel::kError}) {
    if (upper == name_of(level)) {
      return level;
    }
  }
  return std::nullopt;
}

void log_line(LogLevel level, const std::string& message, const std::string& fields,
              const std::string& request_id) {
  const std::string id = request_id.empty() ? settings::request_id() : request_id;
  std::string line;
  if (settings::log_format() == settings::LogFormat::kJson) {
    core::JsonObject object;
    object.text("timestamp", utc_timestamp())
        .text("level", name_of(level))
        .text("logger", "bacmr_ops")
        .text("message", message)
        .text("request_id", id)
        .raw("fields", fields.empty() ? "{}" : fields);
    line = object.str();
  } else {
    line = "bacmr_ops: " + message;
    if (!fields.empty() && fields != "{}") {
      line += " " + fields;
    }
    if (!id.empty()) {
      line += " request_id=" + core::json_string(id);
    }
  }
  // The level is a field of the line: as an elevel it could raise, or reach the client.
  const int elevel = level == LogLevel::kDebug ? DEBUG1 : LOG_SERVER_ONLY;
  call([&] {
    ereport(elevel, errmsg_internal("%s", line.c_str()), errhidestmt(true), errhidecontext(true));
  });
}

void warn_client(const std::string& message, const std::string& detail, const std::string& hint) {
  call([&] {
    ereport(WARNING, errmsg_internal("%s", message.c_str()),
            detail.empty() ? 0 : errdetail_internal("%s", detail.c_str()),
            hint.empty() ? 0 : errhint("%s", hint.c_str()), errhidestmt(true));
  });
}

void notice_client(const std::string& message, const std::string& hint) {
  call([&] {
    ereport(NOTICE, errmsg_internal("%s", message.c_str()),
            hint.empty() ? 0 : errhint("%s", hint.c_str()));
  });
}

}  // namespace pg
