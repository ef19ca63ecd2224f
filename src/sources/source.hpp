// The application's tables as the jobs see them: which table a source names, what its columns are
// called, and what, if anything, is wrong with it. Resolved afresh for every run, by name.
#pragma once

#include "pg/extension.hpp"
#include "pg/spi.hpp"

#include <cstdint>
#include <initializer_list>
#include <map>
#include <optional>
#include <string>
#include <vector>

namespace sources {

struct Column {
  std::string name;       // as it is, unquoted
  std::string quoted;     // for SQL text
  Oid type = InvalidOid;  // a domain's base type
  std::int32_t typmod = -1;
  std::int16_t number = 0;
};

// How to come back to a row that was just read: by its place in the heap where the table is a
// single heap, which saves a descent of the index, else by its key. A row that was updated since is
// no longer at its place: it is then not found.
struct RowHandle {
  std::string table;  // for FROM and UPDATE, with ONLY where `column` is a place
  std::string column;
  std::string type;  // for a cast in SQL text
};

struct Source {
  std::string source;  // 'wallet', …
  std::string schema;
  std::string relation;
  std::string columns_json;
  std::string options_json;

  Oid oid = InvalidOid;       // InvalidOid: no table has that name now
  char kind = '\0';           // pg_class.relkind
  bool has_children = false;  // inheritance
  bool has_triggers = false;  // its own; those of its partitions are not counted
  Oid owner = InvalidOid;
  Oid attached_oid = InvalidOid;  // the table, and the role that owned it, when it was attached
  std::string attached_owner;
  bool owner_is_superuser = false;
  std::map<std::string, Column> columns;  // by the contract's name; absent ones are left out
  std::vector<std::string> lost_columns;  // attached with the table, but no longer there
  bool refund = true;                     // reservations: see bacmr_attach
  std::string since;                      // reservations: a timestamptz, as text
  std::string foreign_member;             // itself or one below it that is a foreign table, or ''
  // reservations: an id is unique only together with its user, as across partitions or shards.
  bool id_with_user = false;
  bool given = false;  // named by the caller of a job, in place of the attached

  // What is wrong for every job, and what is wrong for expiry alone; '' if nothing.
  std::string problem;
  std::string expiry_problem;

  bool exists() const { return OidIsValid(oid); }
  // Another table than the one that was attached, and of another role: anybody may have put it
  // there, and its code would run with rights that its owner does not have. (A superuser has them
  // anyway; a table that changes hands is the same table.)
  bool is_a_strangers() const;
  bool has(const std::string& column) const { return columns.count(column) != 0; }
  // A column's quoted name. It must be there.
  const std::string& col(const std::string& column) const { return columns.at(column).quoted; }
  Oid type(const std::string& column) const { return columns.at(column).type; }
  std::string type_name(const std::string& column) const;  // for a cast in SQL text
  // SQL condition: the amount is a number greater than 0, so that it can be refunded.
  // `prefix`: "r." where the table has the alias r.
  std::string payable(const std::string& column, const std::string& prefix = "") const;
  // `key`: the column that identifies a row.
  RowHandle row_handle(const std::string& key) const;
  std::string sql_name() const;  // schema.relation, quoted
  std::string status() const;    // as bacmr_sources shows it
};

// Tables that a caller names in place of the attached ones, for instance one shard of each.
struct GivenTables {
  std::optional<Oid> reservations;
  std::optional<Oid> wallet;
  std::optional<Oid> ledger;
};

// What is attached in this database.
class Sources {
 public:
  // Reads and checks the attachments, as the extension's owner. Needs an SPI connection.
  static Sources load(const pg::Extension& extension);

  // The same, with each table locked in ACCESS SHARE mode until the transaction ends, so that what
  // was checked stays true.
  static Sources load_locked(const pg::Extension& extension);

  // The given tables under the same checks. Names of columns and options are those of the attached
  // sources, where there are any: a shard has its parent's columns.
  static Sources load_given(const pg::Extension& extension, const GivenTables& tables);

  const std::vector<Source>& all() const { return all_; }
  // nullptr where the source is not attached.
  const Source* find(const std::string& source) const;
  // The source, fit for any job; or an error (55000) that says what to do. `job` is for its text.
  const Source& require(const std::string& source, const std::string& job) const;
  // The same, fit for expiry, which writes.
  const Source& require_for_expiry(const std::string& source) const;

 private:
  // Reads the rows of a query of ours, and checks what they say.
  static Sources read(const pg::Extension& extension, const std::string& query,
                      std::initializer_list<pg::Param> params);

  std::vector<Source> all_;
  bool given_ = false;
};

// The columns that the contract knows for a source.
struct ColumnRule {
  const char* source;
  const char* name;
  bool required;
};
const std::vector<ColumnRule>& column_rules();
bool is_source(const std::string& name);

// Fills `problem` and `expiry_problem` of each source (validate.cpp).
void validate(std::vector<Source>& all);

}  // namespace sources
