// Acting as somebody else, and under settings that the caller cannot bend.
#pragma once

#include "pg/scope.hpp"

#include <string>
#include <utility>

namespace pg {

// Runs what follows as `user`, with SET ROLE and SET SESSION AUTHORIZATION forbidden meanwhile. The
// change ends with the object, or with the abort of the (sub)transaction.
class AsUser {
 public:
  // `more`: further SECURITY_ flags.
  explicit AsUser(Oid user, int more = 0) {
    GetUserIdAndSecContext(&outer_user_, &outer_context_);
    SetUserIdAndSecContext(user, outer_context_ | SECURITY_LOCAL_USERID_CHANGE | more);
  }
  AsUser(const AsUser&) = delete;
  AsUser& operator=(const AsUser&) = delete;
  ~AsUser() { SetUserIdAndSecContext(outer_user_, outer_context_); }

 private:
  Oid outer_user_;
  int outer_context_;
};

// Lifts SECURITY_RESTRICTED_OPERATION for a statement of our own that it forbids, CREATE TEMPORARY
// TABLE, and that runs nobody else's code. Nothing more may happen during its life.
class Unrestricted {
 public:
  Unrestricted() {
    GetUserIdAndSecContext(&user_, &outer_context_);
    SetUserIdAndSecContext(user_, outer_context_ & ~SECURITY_RESTRICTED_OPERATION);
  }
  Unrestricted(const Unrestricted&) = delete;
  Unrestricted& operator=(const Unrestricted&) = delete;
  ~Unrestricted() { SetUserIdAndSecContext(user_, outer_context_); }

 private:
  Oid user_;
  int outer_context_;
};

// Settings that hold for the life of the object, whatever code inside does to them, like a
// function's SET clause (which a procedure that commits may not have). Always pinned: search_path,
// to pg_catalog with pg_temp last, so that no operator or function of the caller's can slip into
// our SQL; row_security = off, so that a policy raises an error rather than hide rows of the money
// tables; and DateStyle, so that a timestamp that passes through text comes back the same.
class PinnedSettings : Scope {
 public:
  PinnedSettings();
  ~PinnedSettings();

  void set(const char* name, const char* value);

 private:
  int nest_level_;
};

// What values are printed and read under, so that an export of the same rows is the same everywhere
// and can be read back: the settings that the contract names, and those that an output or input
// function of the server's depends on besides.
class ExportSettings : public PinnedSettings {
 public:
  ExportSettings();
};

// SET LOCAL: until the transaction ends.
void set_local(const char* name, const char* value);

// Runs what follows as the extension's owner, a superuser, for the book-keeping: under a pin of its
// own, since code of the caller's (a view, a trigger) may have changed the settings that a pin
// further out had set; and with everything forbidden that could outlast the object.
class AsExtensionOwner {
 public:
  explicit AsExtensionOwner(Oid owner) : user_(owner, SECURITY_RESTRICTED_OPERATION) {}

 private:
  AsUser user_;
  PinnedSettings settings_;
};

// Whether the current user may use the rights of `role` (superusers may use all).
bool has_privileges_of(Oid role);
std::string role_name(Oid role);

}  // namespace pg
