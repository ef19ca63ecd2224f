# What the extension (Makefile) and the test module (test/module/Makefile) share:
# which server to build against, the list of sources, and the compiler's flags.
# TOP is the way from the including Makefile to the checkout's root.

# PG=17 picks another installed major version; PG_CONFIG=/path/to/pg_config anything else.
# Without either, a pg_config on the PATH will do; a version asked for is never replaced by it.
PG ?= 15
PG_CONFIG ?= $(firstword $(wildcard /usr/lib/postgresql/$(PG)/bin/pg_config) \
	$(if $(filter file,$(origin PG)),pg_config,/usr/lib/postgresql/$(PG)/bin/pg_config))

# `pg_config --pgxs` prints a path even where the file is absent (libpq-dev brings a pg_config
# of its own), so only a file that exists counts. Empty: this machine cannot build yet.
PGXS := $(wildcard $(shell $(PG_CONFIG) --pgxs 2>/dev/null))
PG_SERVER_HEADERS := $(shell $(PG_CONFIG) --includedir-server 2>/dev/null)
ifeq ($(wildcard $(PG_SERVER_HEADERS)/postgres.h),)
PGXS :=
endif

# BITCODE=no leaves out the second compilation of every source, by clang, which serves the server's
# JIT alone. (The server's Makefile.global sets the variable, hence override.)
ifeq ($(BITCODE),no)
override with_llvm := no
endif

# sources.txt is the one list of sources; CMakeLists.txt reads it too.
SOURCES := $(shell sed -e 's/\#.*//' $(TOP)/sources.txt 2>/dev/null)

# The library knows its version: the control file is the one place where it is written.
EXT_VERSION := $(shell sed -n "s/^default_version *= *'\(.*\)'.*/\1/p" $(TOP)/bacmr_ops.control)

# Packagers and newer compilers: `make WERROR=` turns errors back into warnings.
WERROR ?= -Werror
CXX_WARNINGS = -Wall -Wextra $(WERROR) -Wshadow -Wnon-virtual-dtor -Woverloaded-virtual \
	-Wextra-semi -Wvla

# Headers of the server are system headers: warnings stay on for our own code only.
# (GCC and clang drop the -I that PGXS gives for the same folder.)
PG_CPPFLAGS = -I$(TOP)/src -isystem $(PG_SERVER_HEADERS)

# SANITIZE=yes, for scripts/asan.sh: with sanitizers, and the standard library's own checks. Flags of
# the preprocessor come last on the command line: so -fwrapv, one of the server's, is off again.
ifeq ($(SANITIZE),yes)
override with_llvm := no
SANITIZERS = -fsanitize=address,undefined,float-cast-overflow
PG_CPPFLAGS += $(SANITIZERS) -fno-sanitize-recover=all -fno-omit-frame-pointer -O1 -fno-wrapv \
	-U_FORTIFY_SOURCE -D_GLIBCXX_ASSERTIONS -D_GLIBCXX_SANITIZE_VECTOR=1 \
	-D_GLIBCXX_SANITIZE_STD_ALLOCATOR=1
SHLIB_LINK += $(SANITIZERS)
endif

# exports.map decides what is visible outside, so calls within the library may be bound and inlined.
CXX_COMMON = -std=c++20 -fno-semantic-interposition -DBACMR_OPS_VERSION='"$(EXT_VERSION)"'

# -Wno-register: headers up to PostgreSQL 15 use the keyword, which C++17 took away.
# -MMD -MP: header dependencies, included at the end of the Makefiles.
PG_CXXFLAGS = $(CXX_COMMON) $(CXX_WARNINGS) -Wno-register -MMD -MP

# PGXS links with the C compiler. (-fvisibility=hidden in place of the map would hide the SQL
# functions too: up to PostgreSQL 15 neither PG_FUNCTION_INFO_V1 nor PGDLLEXPORT exports them.)
SHLIB_LINK += -lcurl -lmicrohttpd -lcrypto -lzstd -lz -lstdc++ -Wl,--version-script=$(TOP)/exports.map
