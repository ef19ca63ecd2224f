// Where vectors are kept: one small interface, a file for each implementation (pinecone.cpp,
// postgres_store.cpp), and the list of them in vector_store.cpp. Tickets as in embedder.hpp.
#pragma once

#include "net/http_loop.hpp"
#include "net/http_observer.hpp"
#include "net/service.hpp"

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "providers/batch_result.hpp"

namespace providers {

struct VectorRecord {
  std::string id;
  std::vector<float> values;
  std::string metadata;  // a JSON object, as the chunk has it
};

struct StoreResult {
  std::vector<Refusal> refused;  // records that the store cannot take, by index
  std::optional<ServiceFailure> failure;
};

struct Match {
  std::string id;
  double score = 0;  // cosine similarity
};

class VectorStore {
 public:
  VectorStore() = default;
  VectorStore(const VectorStore&) = delete;
  VectorStore& operator=(const VectorStore&) = delete;
  virtual ~VectorStore() = default;

  // What the namespace's vectors have to have; nothing where it takes any.
  virtual std::optional<int> dimension() = 0;
  // Why the store could not take a record with this id and metadata; asked before its text is paid
  // for.
  virtual std::optional<std::string> refusal(const std::string& id,
                                             const std::string& metadata) const = 0;

  // Whether it is a table of this database, whose calls are SQL in the current transaction; those
  // of any other need neither a snapshot nor a transaction.
  virtual bool is_table() const { return false; }
  // Before the first vectors are written to a namespace, in a transaction of its own: what makes
  // searching it fast. May do nothing.
  virtual void prepare(const std::string& /*space*/, int /*dimensions*/) {}

  // Done when the store has acknowledged all of them. Replaces what has the same id; no id may
  // occur twice. A store that is a table writes at once, in the current transaction, and throws
  // what SQL throws.
  virtual Ticket upsert(const std::string& space, std::vector<VectorRecord> records) = 0;
  virtual Ticket remove(const std::string& space, std::vector<std::string> ids) = 0;
  virtual void pump() = 0;
  virtual bool done(Ticket ticket) const = 0;
  virtual StoreResult take(Ticket ticket) = 0;
  virtual void cancel(Ticket ticket) noexcept = 0;

  // These wait, and throw core::Error for what fails for good.
  virtual std::uint64_t count(const std::string& space) = 0;  // may lag behind
  // Whether all that this object has written to the namespace can be seen by now, as far as replies
  // told. Nothing where they do not, or where it has written nothing. Ask after list(), fetch() or
  // query(), which bring the news.
  virtual std::optional<bool> caught_up(const std::string& space) const = 0;
  // All ids of the namespace, in no order.
  virtual void list(const std::string& space,
                    const std::function<void(const std::string& id)>& each) = 0;
  // Those that are there.
  virtual std::vector<VectorRecord> fetch(const std::string& space,
                                          const std::vector<std::string>& ids) = 0;
  virtual std::vector<Match> query(const std::string& space, const std::vector<float>& vector,
                                   int k) = 0;
  // One that is not there is no error.
  virtual void delete_namespace(const std::string& space) = 0;
};

std::unique_ptr<VectorStore> open_vector_store(const net::Service& service,
                                               const std::string& request_id, net::HttpLoop& loop,
                                               net::HttpObserver& observer);

}  // namespace providers
