// The extension's settings (bacmr.*), defined once, when the library is loaded.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

namespace pg::settings {

enum class LogFormat { kJson, kText };

void define();

std::string request_id();        // '' where none is set
std::size_t reconcile_memory();  // bytes
LogFormat log_format();
std::string databases();  // '*' or a list of names
bool worker_enabled();
int expire_interval_s();
int expire_batch_size();
std::string artifact_directory();  // absolute
std::uint32_t metrics_max_series();
std::string metrics_listen();      // '' or host:port
std::string metrics_token_file();  // '' where no token is asked for
int history_retention_s();         // 0: for ever
std::string embedder();            // the default servers; '' where none is named
std::string vector_store();
std::string blob_store();
double reindex_cost_limit();  // in the unit of price_per_million_tokens
int export_keep();            // exports of a table that stay on disk at the least
int export_keep_age_s();      // exports younger than this stay
int http_timeout_s();         // without any progress
int http_max_retries();       // of one request
int breaker_threshold();      // failures in a row that open the breaker
int breaker_cooldown_s();     // how long it stays open

// Whether bacmr.databases lets the worker work on `database`.
bool works_on(const std::string& database);

}  // namespace pg::settings
