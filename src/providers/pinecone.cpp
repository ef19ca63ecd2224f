#include "pg/postgres.hpp"

#include "providers/pinecone.hpp"

#include <algorithm>
#include <cmath>
#include <map>
#include <numeric>
#include <utility>

#include "core/batch_packer.hpp"
#include "core/byte_buffer.hpp"
#include "core/error.hpp"
#include "core/pinecone_messages.hpp"
#include "core/uri.hpp"
#include "core/vector_metadata.hpp"
#include "net/service_options.hpp"
#include "providers/pinecone_connection.hpp"
#include "providers/service_client.hpp"

namespace providers {
namespace {

constexpr std::size_t kMostFetched = 100;
constexpr std::size_t kMostUrlBytes = 6000;
constexpr const char* kPageSize = "100";
constexpr std::size_t kReplyLimit = std::size_t{64} << 20;

std::string encoded(const std::string& text) { return core::encode_query_component(text); }

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
  // An upsert or a removal, by what it is about.
  struct Write {
    std::string space;
    bool removal = false;
    std::vector<std::string> ids;      // of a removal
    std::vector<std::string> records;  // of an upsert, as JSON
  };

  net::HttpCall make_call(Ticket ticket, const BatchCalls::Items& items) override;
  BatchCalls::Outcome take_reply(Ticket ticket, const BatchCalls::Items& items,
                                 const net::HttpReply& reply) override;

  // The reply with status 2xx, or 404 where `absent` is no error.
  net::HttpReply ask(const char* what, net::HttpCall call, bool absent = false);
  template <class Value>
  Value read(const char* what, const net::HttpReply& reply, std::optional<Value> value) const {
    if (!value) {
      throw_failure(connection_.unreadable(connection_.action(what), reply));
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
    throw_failure(connection_.failure(connection_.action(what), reply));
  }
  return reply;
}

std::optional<int> Pinecone::dimension() {
  constexpr const char* kWhat = "read the dimension of";
  const net::HttpReply reply =
      ask(kWhat, connection_.call("POST", "/describe_index_stats",
                                  std::string(core::kDescribeIndexStatsBody)));
  const std::uint64_t dimension = read(kWhat, reply, core::read_index_stats(reply.body)).dimension;
  if (dimension == 0 || dimension > core::kPineconeMaxDimension) {
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
  if (auto problem = core::pinecone_id_problem(id)) {
    return problem;
  }
  const core::VectorMetadata flat = core::flatten_metadata(metadata);
  return flat.reason.empty() ? std::nullopt : std::optional(flat.reason);
}

Ticket Pinecone::upsert(const std::string& space, std::vector<VectorRecord> records) {
  const Ticket ticket = calls_.begin();
  Write& write = writes_[ticket];
  write.space = space;
  write.records.resize(records.size());
  BatchCalls::Items items;
  std::vector<core::ItemSize> sizes;
  core::ByteBuffer json;
  for (std::size_t i = 0; i < records.size(); ++i) {
    const VectorRecord& record = records[i];
    const core::VectorMetadata metadata = core::flatten_metadata(record.metadata);
    std::string fault = metadata.reason.empty() ? fault_of(record.values) : metadata.reason;
    if (!fault.empty()) {
      calls_.refuse(ticket, i, std::move(fault));
      continue;
    }
    json.clear();
    core::append_record(json, {record.id, record.values, metadata.json});
    write.records[i] = json.view();
    items.push_back(i);
    sizes.push_back({json.size(), 0});
  }
  core::BatchLimits limits;
  limits.max_items = std::min(core::kPineconeMaxVectors, calls_.learnt_limit());
  limits.max_bytes = core::kPineconeMaxBytes;
  limits.frame_bytes = core::upsert_frame_bytes(space);
  limits.separator_bytes = 1;
  for (const core::Batch& each : core::pack_batches(sizes, limits)) {
    const auto first = items.begin() + static_cast<std::ptrdiff_t>(each.first);
    calls_.send(ticket, {first, first + static_cast<std::ptrdiff_t>(each.count)});
  }
  return ticket;
}

Ticket Pinecone::remove(const std::string& space, std::vector<std::string> ids) {
  const Ticket ticket = calls_.begin();
  Write& write = writes_[ticket];
  write.space = space;
  write.removal = true;
  write.ids = std::move(ids);
  for (std::size_t first = 0; first < write.ids.size(); first += core::kPineconeMaxVectors) {
    BatchCalls::Items items(std::min(core::kPineconeMaxVectors, write.ids.size() - first));
    std::iota(items.begin(), items.end(), first);
    calls_.send(ticket, std::move(items));
  }
  return ticket;
}

net::HttpCall Pinecone::make_call(Ticket ticket, const BatchCalls::Items& items) {
  const Write& write = writes_.at(ticket);
  if (write.removal) {
    std::vector<std::string> ids;
    ids.reserve(items.size());
    for (const std::size_t item : items) {
      ids.push_back(write.ids[item]);
    }
    return connection_.call("POST", "/vectors/delete", core::delete_body(write.space, ids));
  }
  std::vector<std::string_view> records;
  records.reserve(items.size());
  for (const std::size_t item : items) {
    records.emplace_back(write.records[item]);
  }
  return connection_.call("POST", "/vectors/upsert", core::upsert_body(write.space, records));
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
    const auto written = core::read_upserted_count(reply.body);
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
  return reply.ok ? read(kWhat, reply, core::read_record_count(reply.body)) : 0;
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
    core::PineconeIdPage page = read(kWhat, reply, core::read_id_page(reply.body));
    for (const std::string& id : page.ids) {
      each(id);
    }
    if (!page.next.empty() && page.next == token) {
      throw_failure(connection_.unreadable(connection_.action(kWhat), reply));
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
    for (auto& each : read(kWhat, reply, core::read_fetched_vectors(reply.body))) {
      records.push_back({std::move(each.id), std::move(each.values), std::move(each.metadata)});
    }
  }
  return records;
}

std::vector<Match> Pinecone::query(const std::string& space, const std::vector<float>& vector,
                                   int k) {
  constexpr const char* kWhat = "search";
  std::string body = core::query_body(space, vector, static_cast<std::uint64_t>(std::max(k, 1)));
  const net::HttpReply reply =
      ask(kWhat, connection_.call("POST", "/query", std::move(body)), true);
  progress_.note_read(space, reply);
  std::vector<Match> matches;
  if (reply.ok) {
    for (auto& each : read(kWhat, reply, core::read_query_matches(reply.body))) {
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
