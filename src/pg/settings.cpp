// Each setting's context says who may change it, and when; the reason stands beside it.
#include "pg/postgres.hpp"

#include "pg/settings.hpp"

#include <climits>

#include "pg/guard.hpp"

extern "C" {
#include "utils/guc.h"
#include "utils/varlena.h"
}

namespace pg::settings {
namespace {

char* request_id_value;
int reconcile_memory_kb;
int log_format_value;
char* databases_value;
bool worker_enabled_value;
int expire_interval_value;
int expire_batch_size_value;
char* artifact_directory_value;
int history_retention_value;
char* embedder_value;
char* vector_store_value;
char* blob_store_value;
double reindex_cost_limit_value;
int export_keep_value;
int export_keep_age_value;
int http_timeout_value;
int http_max_retries_value;
int breaker_threshold_value;
int breaker_cooldown_value;
char* metrics_listen_value;
char* metrics_token_file_value;
constexpr int kDefaultSeries = 2000;
int metrics_max_series_value = kDefaultSeries;

constexpr int kMaxRequestId = 200;

const config_enum_entry kLogFormats[] = {{"json", static_cast<int>(LogFormat::kJson), false},
                                         {"text", static_cast<int>(LogFormat::kText), false},
                                         {nullptr, 0, false}};

// It is written into every log line, job run and ledger row: keep it short and printable.
bool check_request_id(char** value, void**, GucSource) {
  const std::size_t length = strlen(*value);
  if (length > kMaxRequestId) {
    GUC_check_errdetail("A request id has %d bytes at the most.", kMaxRequestId);
    return false;
  }
  for (std::size_t i = 0; i < length; ++i) {
    const auto c = static_cast<unsigned char>((*value)[i]);
    if (c < 0x20 || c == 0x7F) {
      GUC_check_errdetail("A request id holds no control characters.");
      return false;
    }
  }
  return true;
}

bool check_databases(char** value, void**, GucSource) {
  char* copy = pstrdup(*value);
  List* names = NIL;
  const bool good =
      strcmp(*value, "*") == 0 || (SplitIdentifierString(copy, ',', &names) && names != NIL);
  if (!good) {
    GUC_check_errdetail("Expected \"*\" or a list of database names separated by commas.");
  }
  list_free(names);
  pfree(copy);
  return good;
}

bool check_artifact_directory(char** value, void**, GucSource) {
  if (**value == '\0') {
    GUC_check_errdetail("Name a directory, absolute or relative to the data directory.");
    return false;
  }
  return true;
}

// host:port, as the endpoint takes it apart.
bool check_metrics_listen(char** value, void**, GucSource) {
  const char* colon = strrchr(*value, ':');
  bool good = **value == '\0';
  if (colon != nullptr && colon != *value && colon[1] >= '0' && colon[1] <= '9') {
    char* end = nullptr;
    const long port = strtol(colon + 1, &end, 10);
    good = *end == '\0' && port >= 1 && port <= 65535;
  }
  if (!good) {
    GUC_check_errdetail("Expected an address and a port, such as \"127.0.0.1:9188\", or nothing.");
  }
  return good;
}

}  // namespace

void define() {
  // Any session: it only labels what that session does.
  DefineCustomStringVariable("bacmr.request_id", "Request id written into log lines and job runs.",
                             "Empty: each job run makes its own.", &request_id_value, "",
                             PGC_USERSET, 0, check_request_id, nullptr, nullptr);
  // Any session, as work_mem is.
  DefineCustomIntVariable(
      "bacmr.reconcile_memory", "Memory that a reconciliation may use before it spills to disk.",
      "The scan takes 32 bytes a user at 5/8 load in each process; beyond this limit the run goes "
      "through SQL.",
      &reconcile_memory_kb, 256 * 1024, 64, MAX_KILOBYTES, PGC_USERSET, GUC_UNIT_KB, nullptr,
      nullptr, nullptr);
  // Superusers: a session must not hide from the log collector.
  DefineCustomEnumVariable("bacmr.log_format", "Form of the lines that bacmr_ops logs.", nullptr,
                           &log_format_value, static_cast<int>(LogFormat::kJson), kLogFormats,
                           PGC_SUSET, 0, nullptr, nullptr, nullptr);
  // Reload: these four steer the background workers, which have no session of anybody's.
  DefineCustomStringVariable("bacmr.databases", "Databases in which the workers run.",
                             "\"*\": every database that has the extension.", &databases_value, "*",
                             PGC_SIGHUP, GUC_LIST_INPUT, check_databases, nullptr, nullptr);
  DefineCustomBoolVariable("bacmr.worker_enabled", "Whether the background workers run.", nullptr,
                           &worker_enabled_value, true, PGC_SIGHUP, 0, nullptr, nullptr, nullptr);
  DefineCustomIntVariable("bacmr.expire_interval", "Longest time between two expiry ticks.",
                          nullptr, &expire_interval_value, 60, 1, 24 * 3600, PGC_SIGHUP, GUC_UNIT_S,
                          nullptr, nullptr, nullptr);
  DefineCustomIntVariable("bacmr.expire_batch_size", "Reservations that expire in one transaction.",
                          nullptr, &expire_batch_size_value, 1000, 1, 100'000, PGC_SIGHUP, 0,
                          nullptr, nullptr, nullptr);
  // Reload: whoever chooses it chooses where the server writes files.
  DefineCustomStringVariable("bacmr.artifact_directory", "Directory of reports and exports.",
                             "Relative names are taken from the data directory.",
                             &artifact_directory_value, "bacmr_artifacts", PGC_SIGHUP, 0,
                             check_artifact_directory, nullptr, nullptr);
  // Reload: how long evidence is kept is the operator's decision.
  DefineCustomIntVariable("bacmr.history_retention", "How long finished job runs are kept.",
                          "0 keeps them for ever.", &history_retention_value, 90 * 24 * 3600, 0,
                          INT_MAX, PGC_SIGHUP, GUC_UNIT_S, nullptr, nullptr, nullptr);
  // Any session: they name servers, on which it needs USAGE all the same.
  DefineCustomStringVariable("bacmr.embedder", "Server that embeds texts where none is named.",
                             "Empty: bacmr_local, unless a server of that kind was declared.",
                             &embedder_value, "", PGC_USERSET, 0, nullptr, nullptr, nullptr);
  DefineCustomStringVariable("bacmr.vector_store", "Server that keeps vectors where none is named.",
                             "Empty: bacmr_postgres, unless a server of that kind was declared.",
                             &vector_store_value, "", PGC_USERSET, 0, nullptr, nullptr, nullptr);
  DefineCustomStringVariable("bacmr.blob_store", "Server that scheduled exports are uploaded to.",
                             "Empty: bacmr_artifacts, unless a server of that kind was declared.",
                             &blob_store_value, "", PGC_USERSET, 0, nullptr, nullptr, nullptr);
  // Superusers: it guards the bill against everybody else.
  DefineCustomRealVariable(
      "bacmr.reindex_cost_limit", "Estimated cost from which a reindex job needs max_cost.",
      "In the unit of the embedder's price_per_million_tokens.", &reindex_cost_limit_value, 10, 0,
      1e12, PGC_SUSET, 0, nullptr, nullptr, nullptr);
  // Reload: how many exports are kept, and for how long, is the operator's decision.
  DefineCustomIntVariable("bacmr.export_keep", "Exports of each table that stay on disk.",
                          "The latest ones; the last verified one stays in any case.",
                          &export_keep_value, 8, 1, INT_MAX, PGC_SIGHUP, 0, nullptr, nullptr,
                          nullptr);
  DefineCustomIntVariable("bacmr.export_keep_age", "Exports younger than this stay on disk.",
                          nullptr, &export_keep_age_value, 35 * 24 * 3600, 0, INT_MAX, PGC_SIGHUP,
                          GUC_UNIT_S, nullptr, nullptr, nullptr);
  // Reload: they protect the services and the server from every session alike.
  DefineCustomIntVariable("bacmr.http_timeout", "Longest silence of a service before a retry.",
                          nullptr, &http_timeout_value, 60, 1, 3600, PGC_SIGHUP, GUC_UNIT_S,
                          nullptr, nullptr, nullptr);
  DefineCustomIntVariable("bacmr.http_max_retries", "How often a failed request is tried again.",
                          nullptr, &http_max_retries_value, 6, 0, 100, PGC_SIGHUP, 0, nullptr,
                          nullptr, nullptr);
  DefineCustomIntVariable(
      "bacmr.breaker_threshold", "Failures in a row after which a service is left alone.", nullptr,
      &breaker_threshold_value, 5, 1, 1000, PGC_SIGHUP, 0, nullptr, nullptr, nullptr);
  DefineCustomIntVariable("bacmr.breaker_cooldown", "How long a failing service is left alone.",
                          nullptr, &breaker_cooldown_value, 30, 1, 3600, PGC_SIGHUP, GUC_UNIT_S,
                          nullptr, nullptr, nullptr);
  // Reload: they open the server to the network, and name a file that it reads.
  DefineCustomStringVariable(
      "bacmr.metrics_listen", "Address and port where metrics are served over HTTP.",
      "Empty: nowhere. For example \"127.0.0.1:9188\".", &metrics_listen_value, "", PGC_SIGHUP, 0,
      check_metrics_listen, nullptr, nullptr);
  DefineCustomStringVariable("bacmr.metrics_token_file",
                             "File with the bearer token that a scrape must bring.",
                             "Empty: none is asked for.", &metrics_token_file_value, "", PGC_SIGHUP,
                             GUC_SUPERUSER_ONLY, nullptr, nullptr, nullptr);
  // Server start: it sizes shared memory. Defined only while the server preloads the library: in
  // any other session defining it would be an error.
  if (process_shared_preload_libraries_in_progress) {
    DefineCustomIntVariable("bacmr.metrics_max_series",
                            "Series of metrics that shared memory holds, of all databases.",
                            "A quarter of them may be histograms, a quarter is kept for the "
                            "extension's own.",
                            &metrics_max_series_value, kDefaultSeries, 100, 100'000, PGC_POSTMASTER,
                            0, nullptr, nullptr, nullptr);
  }
}

std::string request_id() { return request_id_value != nullptr ? request_id_value : ""; }

std::size_t reconcile_memory() { return static_cast<std::size_t>(reconcile_memory_kb) * 1024; }

LogFormat log_format() { return static_cast<LogFormat>(log_format_value); }

std::string databases() { return databases_value; }

bool worker_enabled() { return worker_enabled_value; }

int expire_interval_s() { return expire_interval_value; }

int expire_batch_size() { return expire_batch_size_value; }

std::string artifact_directory() {
  const std::string directory = artifact_directory_value;
  return directory.front() == '/' ? directory : std::string(DataDir) + "/" + directory;
}

std::string metrics_listen() { return metrics_listen_value; }

std::string metrics_token_file() { return metrics_token_file_value; }

std::uint32_t metrics_max_series() { return static_cast<std::uint32_t>(metrics_max_series_value); }

std::string embedder() { return embedder_value; }

std::string vector_store() { return vector_store_value; }

std::string blob_store() { return blob_store_value; }

double reindex_cost_limit() { return reindex_cost_limit_value; }

int export_keep() { return export_keep_value; }

int export_keep_age_s() { return export_keep_age_value; }

int http_timeout_s() { return http_timeout_value; }

int http_max_retries() { return http_max_retries_value; }

int breaker_threshold() { return breaker_threshold_value; }

int breaker_cooldown_s() { return breaker_cooldown_value; }

int history_retention_s() { return history_retention_value; }

bool works_on(const std::string& database) {
  if (databases() == "*") {
    return true;
  }
  return call([&] {
    char* copy = pstrdup(databases_value);
    List* names = NIL;
    SplitIdentifierString(copy, ',', &names);
    bool found = false;
    ListCell* cell = nullptr;
    foreach (cell, names) {
      found = found || strcmp(static_cast<const char*>(lfirst(cell)), database.c_str()) == 0;
    }
    list_free(names);
    pfree(copy);
    return found;
  });
}

}  // namespace pg::settings
