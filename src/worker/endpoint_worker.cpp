// The process that serves the metrics of all databases over HTTP. It has no database of its own.
#include "pg/postgres.hpp"

#include <chrono>
#include <fstream>
#include <string>

#include "core/error.hpp"
#include "metrics/endpoint.hpp"
#include "metrics/registry.hpp"
#include "pg/entry.hpp"
#include "pg/guard.hpp"
#include "pg/log.hpp"
#include "pg/settings.hpp"
#include "worker/databases.hpp"

extern "C" {
#include "mb/pg_wchar.h"
#include "pgstat.h"
#include "postmaster/bgworker.h"
#include "postmaster/interrupt.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "tcop/tcopprot.h"
#include "utils/guc.h"
#include "utils/wait_event.h"
}

namespace worker {
namespace {

using Clock = std::chrono::steady_clock;

constexpr std::chrono::seconds kNamesLast{10};

std::string read_token(const std::string& path) {
  if (path.empty()) {
    return {};
  }
  std::ifstream file(path);
  std::string token;
  std::getline(file, token);
  token.erase(token.find_last_not_of(" \t\r") + 1);
  // Never without a token because the file could not be read.
  if (token.empty()) {
    throw core::Error(core::sqlstate::kUndefinedFile,
                      "could not read a token from \"" + path + "\"", {},
                      "Put the token into the first line of bacmr.metrics_token_file, readable for "
                      "the server's operating-system user.");
  }
  return token;
}

// A name is bytes, in the encoding of whoever made the database.
std::string as_utf8(const std::string& name) {
  if (pg_verify_mbstr(PG_UTF8, name.data(), static_cast<int>(name.size()), true)) {
    return name;
  }
  std::string escaped;
  for (const char c : name) {
    const auto byte = static_cast<unsigned char>(c);
    if (byte < 0x80) {
      escaped += c;
    } else {
      constexpr const char* kDigits = "0123456789ABCDEF";
      escaped.append("\\x").append(1, kDigits[byte >> 4]).append(1, kDigits[byte & 0x0F]);
    }
  }
  return escaped;
}

class Server {
 public:
  [[noreturn]] void run() {
    const std::string listen = pg::settings::metrics_listen();
    const std::string token_file = pg::settings::metrics_token_file();
    metrics::Endpoint endpoint(listen, read_token(token_file),
                               {[this] { return metrics::all_as_prometheus(names_); },
                                [this] { return metrics::all_as_json(names_); }});
    pg::log_line(pg::LogLevel::kInfo, "metrics are served at " + listen);
    for (;;) {
      read_names();
      wait(endpoint.wait_fd(), endpoint.patience_ms());
      if (ConfigReloadPending) {
        ConfigReloadPending = false;
        pg::call([] { ProcessConfigFile(PGC_SIGHUP); });
        // The launcher starts the next one, as the configuration is now. (A token that changed in
        // its file takes effect this way too.)
        proc_exit(0);
      }
      endpoint.run();
    }
  }

 private:
  void read_names() {
    if (Clock::now() < names_due_) {
      return;
    }
    names_.clear();
    for (const Database& database : read_databases()) {
      names_[database.oid] = as_utf8(database.name);
    }
    names_due_ = Clock::now() + kNamesLast;
  }

  static void wait(int socket, std::int64_t milliseconds) {
    pg::call([&] {
      WaitLatchOrSocket(MyLatch,
                        WL_LATCH_SET | WL_SOCKET_READABLE | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
                        socket, static_cast<long>(milliseconds), PG_WAIT_EXTENSION);
      ResetLatch(MyLatch);
      CHECK_FOR_INTERRUPTS();
    });
  }

  metrics::DatabaseNames names_;
  Clock::time_point names_due_{};
};

void endpoint_main() {
  pg::call([] {
    pqsignal(SIGHUP, SignalHandlerForConfigReload);
    pqsignal(SIGTERM, die);
    // A reader that goes away in the middle of an answer.
    pqsignal(SIGPIPE, SIG_IGN);
    BackgroundWorkerUnblockSignals();
    BackgroundWorkerInitializeConnection(nullptr, nullptr, 0);
    pgstat_report_appname("bacmr_ops endpoint");
  });
  if (pg::settings::metrics_listen().empty()) {
    proc_exit(0);
  }
  try {
    Server().run();
  } catch (const core::Error& e) {
    pg::log_line(pg::LogLevel::kError, e.message() + " (" + e.hint() + ")");
    proc_exit(1);
  }
}

}  // namespace
}  // namespace worker

extern "C" {
PGDLLEXPORT void bacmr_endpoint_main(Datum argument);
void bacmr_endpoint_main(Datum) {
  pg::from_postgres([] { worker::endpoint_main(); });
}
}
