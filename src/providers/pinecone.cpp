#include "pg/postgres.hpp"

#include "providers/pinecone.hpp"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <limits>
#include <map>
#include <utility>

#include "core/error.hpp"
#include "core/json.hpp"
#include "core/pinecone_reply.hpp"
#include "core/uri.hpp"
#include "core/vector_metadata.hpp"
#include "net/service_options.hpp"
#include "providers/pinecone_connection.hpp"

namespace providers {
namespace {

constexpr std::size_t kMostVectors = 1000;           // in one upsert
constexpr std::size_t kMostUpsertBytes = 1'900'000;  // 2 MB, and some room
constexpr std::size_t kMostDeletes = 1000;
constexpr std::size_t kMostFetched = 100;
constexpr std::size_t kMostUrlBytes = 6000;
constexpr std::size_t kMostIdBytes = 512;
constexpr const char* kPageSize = "100";
constexpr std::size_t kReplyLimit = std::size_t{64} << 20;

std::string encoded(const std::string& text) { return core::encode_query_component(text); }

// With the fewest digits that give the same float again.
void append_floats(std::string& json, const std::vector<float>& values) {
  constexpr std::size_t kLongestFloat = 20;
  json += '[';
  for (const float value : values) {
    char digits[kLongestFloat];
    const auto [end, error] = std::to_chars(std::begin(digits), std::end(digits), value);
    json.append(digits, end);
    json += ',';
  }
  if (!values.empty()) {
    json.pop_back();
  }
  json += ']';
}

// Why it cannot be sent; '' where it can.
std::string fault_of(const std::vector<float>& values) {
  if (!std::all_of(values.begin(), values.end(),
                   [](float value) { return std::isfinite(value); })) {
    return "its vector holds something that is no number";
  }
  if (std::all_of(values.begin(), values.end(), [](float value) { return value == 0; })) {
    return "its vector is zero";
  }
  return {};
}

class Pinecone : public VectorStore, private BatchCalls::Owner {
 public:
  Pinecone(const net::Service& service, const std::string& request_id, net::HttpLoop& loop,
           net::HttpObserver& observer)
      : connection_(service, request_id), calls_(connection_.options(), observer, loop, *this) {
    if (service.has("dimension")) {
      declared_dimension_ = static_cast<int>(net::number_option(service, "dimension", 0));
    }
  }

  std::optional<int> dimension() override;
  std::optional<std::string> refusal(const std::string& id,
                                     const std::string& metadata) const override;

  Ticket upsert(const std::string& space, std::vector<VectorRecord> records) override;
  Ticket remove(const std::string& space, std::vector<std::string> ids) override;
  void pump() override { calls_.pump(); }
  bool done(Ticket ticket) const override { return calls_.done(ticket); }
  StoreResult take(Ticket ticket) override {
    BatchCalls::End end = calls_.take(ticket);
    writes_.erase(ticket);
    return {std::move(end.refused), std::move(end.failure)};
  }
  void cancel(Ticket ticket) noexcept override {
    calls_.cancel(ticket);
    writes_.erase(ticket);
  }

  std::uint64_t count(const std::string& space) override;
  std::optional<bool> caught_up(const std::string& space) const override {
    return progress_.caught_up(space);
  }
  void list(const std::string& space,
            const std::function<void(const std::string& id)>& each) override;
  std::vector<VectorRecord> fetch(const std::string& space,
                                  const std::vector<std::string>& ids) override;
  std::vector<Match> query(const std::string& space, const std::vector<float>& vector,
                           int k) override;
  void delete_namespace(const std::string& space) override;

 private:
  // An upsert, or a removal.
  struct Write {
    std::string space;
    bool removal = false;
    std::vector<std::string> pieces;  // of JSON, one a record or an id
  };

  net::HttpCall make_call(Ticket ticket, const BatchCalls::Items& items) override;
  BatchCalls::Outcome take_reply(Ticket ticket, const BatchCalls::Items& items,
                                 const net::HttpReply& reply) override;

  static std::string frame(const std::string& space) {
    return "\"namespace\":" + core::json_string(space) + "}";
  }
  // The reply with status 2xx, or 404 where `absent` is no error.
  net::HttpReply ask(const char* what, net::HttpCall call, bool absent = false);
  template <class Value>
  Value read(const char* what, const net::HttpReply& reply, std::optional<Value> value) const {
    if (!value) {
      raise(connection_.unreadable(connection_.action(what), reply));
    }
    return std::move(*value);
  }

  PineconeConnection connection_;
  PineconeProgress progress_;
  std::optional<int> declared_dimension_;
  std::map<Ticket, Write> writes_;
  // Last: it goes first, since its calls refer to the rest.
  BatchCalls calls_;
};

net::HttpReply Pinecone::ask(const char* what, net::HttpCall call, bool absent) {
  call.body_limit = kReplyLimit;
  net::HttpReply reply = calls_.client().perform(std::move(call));
  const bool is_absent =
      absent && reply.failure == net::HttpReply::Failure::kNone && reply.status == 404;
  if (!reply.ok && !is_absent) {
    raise(connection_.failure(connection_.action(what), reply));
  }
  return reply;
}

std::optional<int> Pinecone::dimension() {
  constexpr const char* kWhat = "read the dimension of";
  const net::HttpReply reply = ask(kWhat, connection_.call("POST", "/describe_index_stats", "{}"));
  const auto dimension = read(kWhat, reply, core::read_pinecone_dimension(reply.body));
  if (dimension == 0 || dimension > std::numeric_limits<int>::max()) {
    throw core::Error(
        core::sqlstate::kFeatureNotSupported,
        "the index of the vector store \"" + connection_.server() + "\" has no dimension", {},
        "Name an index of dense vectors as the server's option host.");
  }
  const int actual = static_cast<int>(dimension);
  if (declared_dimension_ && *declared_dimension_ != actual) {
    throw core::Error(core::sqlstate::kInvalidParameterValue,
                      "the index of the vector store \"" + connection_.server() + "\" has " +
                          std::to_string(actual) + " dimensions, not " +
                          std::to_string(*declared_dimension_),
                      {}, "Correct the server's option dimension, or its host.");
  }
  return actual;
}

std::optional<std::string> Pinecone::refusal(const std::string& id,
                                             const std::string& metadata) const {
  const bool ascii =
      std::all_of(id.begin(), id.end(), [](unsigned char c) { return c >= 0x20 && c < 0x7F; });
  if (id.empty() || id.size() > kMostIdBytes || !ascii) {
    return "Pinecone takes ids of 1 to 512 printable ASCII characters";
  }
  return core::metadata_problem(metadata);
}

Ticket Pinecone::upsert(const std::string& space, std::vector<VectorRecord> records) {
  const Ticket ticket = calls_.begin();
  Write& write = writes_[ticket];
  write.space = space;
  write.pieces.resize(records.size());
  const std::size_t room = kMostUpsertBytes - frame(space).size() - 32;
  std::size_t bytes = 0;
  BatchCalls::Items items;
  for (std::size_t i = 0; i < records.size(); ++i) {
    if (std::string fault = fault_of(records[i].values); !fault.empty()) {
      calls_.refuse(ticket, i, std::move(fault));
      continue;
    }
    std::string& piece = write.pieces[i];
    piece = "{\"id\":" + core::json_string(records[i].id) + ",\"values\":";
    append_floats(piece, records[i].values);
    piece += ",\"metadata\":" + core::flat_metadata(records[i].metadata) + "}";
    records[i] = {};
    if (!items.empty() && (items.size() == kMostVectors || bytes + piece.size() + 1 > room)) {
      calls_.send(ticket, std::exchange(items, {}));
      bytes = 0;
    }
    bytes += piece.size() + 1;
    items.push_back(i);
  }
  if (!items.empty()) {
    calls_.send(ticket, std::move(items));
  }
  return ticket;
}

Ticket Pinecone::remove(const std::string& space, std::vector<std::string> ids) {
  const Ticket ticket = calls_.begin();
  Write& write = writes_[ticket];
  write.space = space;
  write.removal = true;
  for (const std::string& id : ids) {
    write.pieces.push_back(core::json_string(id));
  }
  for (std::size_t first = 0; first < ids.size(); first += kMostDeletes) {
    BatchCalls::Items items;
    for (std::size_t i = first; i < std::min(first + kMostDeletes, ids.size()); ++i) {
      items.push_back(i);
    }
    calls_.send(ticket, std::move(items));
  }
  return ticket;
}

net::HttpCall Pinecone::make_call(Ticket ticket, const BatchCalls::Items& items) {
  const Write& write = writes_.at(ticket);
  std::string body = write.removal ? "{\"ids\":[" : "{\"vectors\":[";
  for (const std::size_t item : items) {
    body += write.pieces[item];
    body += ',';
  }
  body.back() = ']';
  body += "," + frame(write.space);
  return connection_.call("POST", write.removal ? "/vectors/delete" : "/vectors/upsert",
                          std::move(body));
}

BatchCalls::Outcome Pinecone::take_reply(Ticket ticket, const BatchCalls::Items& items,
                                         const net::HttpReply& reply) {
  const Write& write = writes_.at(ticket);
  const std::string action = connection_.action(write.removal ? "delete from" : "write to");
  // A namespace that is not there holds none of them.
  const bool gone =
      write.removal && reply.failure == net::HttpReply::Failure::kNone && reply.status == 404;
  if (!reply.ok && !gone) {
    return connection_.outcome(action, reply);
  }
  progress_.note_written(write.space, reply);
  BatchCalls::Outcome outcome;
  if (!write.removal) {
    const auto written = core::read_pinecone_upserted(reply.body);
    if (!written || (*written != 0 && *written < items.size())) {
      outcome.kind = BatchCalls::Outcome::Kind::kFailed;
      outcome.failure = connection_.unreadable(action, reply);
    }
  }
  return outcome;
}

std::uint64_t Pinecone::count(const std::string& space) {
  constexpr const char* kWhat = "count vectors of";
  const net::HttpReply reply =
      ask(kWhat, connection_.call("GET", "/namespaces/" + encoded(space)), true);
  progress_.note_read(space, reply);
  return reply.ok ? read(kWhat, reply, core::read_pinecone_record_count(reply.body)) : 0;
}

void Pinecone::list(const std::string& space,
                    const std::function<void(const std::string& id)>& each) {
  constexpr const char* kWhat = "list ids of";
  const std::string path =
      std::string("/vectors/list?limit=") + kPageSize + "&namespace=" + encoded(space);
  std::string token;
  do {
    const std::string next = token.empty() ? "" : "&paginationToken=" + encoded(token);
    const net::HttpReply reply = ask(kWhat, connection_.call("GET", path + next), true);
    progress_.note_read(space, reply);
    if (!reply.ok) {
      return;
    }
    core::PineconePage page = read(kWhat, reply, core::read_pinecone_page(reply.body));
    for (const std::string& id : page.ids) {
      each(id);
    }
    if (!page.next.empty() && page.next == token) {
      raise(connection_.unreadable(connection_.action(kWhat), reply));
    }
    token = std::move(page.next);
  } while (!token.empty());
}

std::vector<VectorRecord> Pinecone::fetch(const std::string& space,
                                          const std::vector<std::string>& ids) {
  constexpr const char* kWhat = "fetch vectors of";
  std::vector<VectorRecord> records;
  for (std::size_t i = 0; i < ids.size();) {
    std::string path = "/vectors/fetch?namespace=" + encoded(space);
    for (std::size_t n = 0; i < ids.size() && n < kMostFetched; ++i, ++n) {
      const std::string id = "&ids=" + encoded(ids[i]);
      if (n > 0 && path.size() + id.size() > kMostUrlBytes) {
        break;
      }
      path += id;
    }
    const net::HttpReply reply = ask(kWhat, connection_.call("GET", path), true);
    progress_.note_read(space, reply);
    if (!reply.ok) {
      return {};
    }
    for (auto& each : read(kWhat, reply, core::read_pinecone_vectors(reply.body))) {
      records.push_back({std::move(each.id), std::move(each.values), std::move(each.metadata)});
    }
  }
  return records;
}

std::vector<Match> Pinecone::query(const std::string& space, const std::vector<float>& vector,
                                   int k) {
  constexpr const char* kWhat = "search";
  std::string body = "{\"topK\":" + std::to_string(k) + ",\"vector\":";
  append_floats(body, vector);
  body += ",\"includeValues\":false,\"includeMetadata\":false," + frame(space);
  const net::HttpReply reply =
      ask(kWhat, connection_.call("POST", "/query", std::move(body)), true);
  progress_.note_read(space, reply);
  std::vector<Match> matches;
  if (reply.ok) {
    for (auto& each : read(kWhat, reply, core::read_pinecone_matches(reply.body))) {
      matches.push_back({std::move(each.id), each.score});
    }
  }
  return matches;
}

void Pinecone::delete_namespace(const std::string& space) {
  ask("delete a namespace of", connection_.call("DELETE", "/namespaces/" + encoded(space)), true);
}

}  // namespace

std::unique_ptr<VectorStore> open_pinecone(const net::Service& service,
                                           const std::string& request_id, net::HttpLoop& loop,
                                           net::HttpObserver& observer) {
  return std::make_unique<Pinecone>(service, request_id, loop, observer);
}

}  // namespace providers
