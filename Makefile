# bacmr_ops: build with PGXS, and the everyday targets (`make help`).

TOP := .
include build.mk

MODULE_big = bacmr_ops
EXTENSION = bacmr_ops
OBJS = $(SOURCES:.cpp=.o)
DATA = $(sort $(wildcard sql/bacmr_ops--*.sql))   # full scripts and upgrade steps alike
DEPFILES = $(OBJS:.o=.d)
EXTRA_CLEAN = $(DEPFILES) build

.DEFAULT_GOAL := all

ifneq ($(PGXS),)
include $(PGXS)
BITCODE_CXXFLAGS += $(CXX_COMMON) -Wno-register   # the rule for .bc ignores PG_CXXFLAGS

# A changed flag, version or server rebuilds: header dependencies leave out system headers,
# and objects of two major versions must never meet in one library.
SERVER_STAMP = build/server-$(VERSION)$(if $(filter yes,$(SANITIZE)),-sanitized)
$(OBJS): Makefile build.mk bacmr_ops.control $(SERVER_STAMP)
$(MODULE_big)$(DLSUFFIX): sources.txt exports.map
$(SERVER_STAMP):
	@mkdir -p build && rm -f build/server-* && touch $@

-include $(DEPFILES)

# Objects of sources that have left sources.txt would stay behind.
clean: clean-strays
clean-strays:
	find src test/module -name '*.o' -o -name '*.bc' -o -name '*.d' 2>/dev/null | xargs -r rm -f
	rm -f test/module/*.so
.PHONY: clean-strays
else
# No PGXS: the targets that install what is missing still work; these say what is missing.
all install uninstall installcheck:
	@echo "bacmr_ops: '$(PG_CONFIG)' brings no server headers and no pgxs.mk (PG=$(PG))." >&2
	@echo "Install them:  sudo apt-get install build-essential libmicrohttpd-dev postgresql-server-dev-$(PG)" >&2
	@echo "or:            make deps" >&2
	@echo "Elsewhere:     make PG_CONFIG=/path/to/pg_config" >&2
	@exit 1
clean:
	rm -rf build bacmr_ops.so
	find src test/module -name '*.o' -o -name '*.bc' -o -name '*.d' -o -name '*.so' 2>/dev/null | xargs -r rm -f
.PHONY: all install uninstall installcheck clean
endif

# Everyday targets. The scripts install what they need first, so a fresh machine needs only make.
# PG and PG_CONFIG given on the command line reach them through the environment.

help:
	@echo 'make              build the extension (PG=$(PG); PG=17 or PG_CONFIG=... for another server)'
	@echo 'make deps         install the packages that building and testing need (apt)'
	@echo 'make install      build and install into the server (as root)'
	@echo 'make test         every test: build, install, unit, SQL, isolation, whole-server'
	@echo '     test-unit | test-monitoring | test-sql | test-isolation | test-tap'
	@echo 'make test-asan    the SQL tests in servers with the extension under sanitizers (ASAN="sql tap")'
	@echo 'make test-contract  official clients (npm) against the stand-ins for OpenAI and Pinecone'
	@echo 'make demo         a tour on a throwaway cluster (KEEP=1 leaves it running)'
	@echo 'make bench        measurements on a throwaway cluster'
	@echo 'make fuzz         what reads bytes from outside, on inputs that libFuzzer makes (FUZZ_SECONDS=60)'
	@echo 'make stress       every function at random from eight sessions (STRESS_SECONDS=600 STRESS_SEED=1)'
	@echo 'make lint         format, warnings of two compilers, clang-tidy, shellcheck, house rules'
	@echo 'make format       rewrite the sources with clang-format'
	@echo 'make deb          a Debian package for each server version, into build/deb'
	@echo 'make test-deb     and its test in a clean root folder (as root, with debootstrap)'
	@echo 'make dist         the archive for PGXN, of what is committed, into build/dist'
	@echo 'make clean        remove everything built'

deps:
	@scripts/deps.sh

test:
	@scripts/test.sh
test-unit test-monitoring test-sql test-isolation test-tap test-contract test-asan:
	@scripts/test.sh $(@:test-%=%)

demo:
	@KEEP=$(KEEP) demo/run.sh

bench:
	@bench/run.sh

fuzz:
	@FUZZ_SECONDS=$(FUZZ_SECONDS) scripts/fuzz.sh
stress:
	@STRESS_SECONDS=$(or $(STRESS_SECONDS),600) STRESS_SEED=$(STRESS_SEED) TESTS=stress scripts/test.sh tap

deb:
	@scripts/deb.sh
test-deb:
	@scripts/test-deb.sh
dist:
	@scripts/dist.sh

lint:
	@scripts/lint.sh
format:
	@scripts/lint.sh --format

# `test`, `demo` and `bench` are folders too.
.PHONY: help deps test test-unit test-monitoring test-sql test-isolation test-tap test-contract test-asan demo bench fuzz stress deb test-deb dist lint format
