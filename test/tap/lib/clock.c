/* A wall clock that a test can set: preloaded into a server, it shifts what the server takes for the
 * time, and leaves the monotonic clock alone, as setting a machine's clock does. (libfaketime does not
 * reach what the postmaster forks in a signal handler, the background workers up to PostgreSQL 15.)
 *
 * The file that BACMR_TEST_CLOCK names holds two 64-bit numbers: by how many microseconds the clock
 * is ahead, and, when it is not 0, the microsecond since 1970 at which it stands still. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static volatile int64_t* setting;
static int (*real_clock)(clockid_t, struct timespec*);

static void prepare(void) {
  if (real_clock != NULL) {
    return;
  }
  const char* path = getenv("BACMR_TEST_CLOCK");
  const int fd = path != NULL ? open(path, O_RDONLY | O_CLOEXEC) : -1;
  if (fd >= 0) {
    void* mapped = mmap(NULL, 2 * sizeof *setting, PROT_READ, MAP_SHARED, fd, 0);
    setting = mapped != MAP_FAILED ? mapped : NULL;
    close(fd);
  }
  real_clock = (int (*)(clockid_t, struct timespec*))dlsym(RTLD_NEXT, "clock_gettime");
}

__attribute__((constructor)) static void begin(void) { prepare(); }

int clock_gettime(clockid_t clock, struct timespec* now) {
  prepare();
  const int result = real_clock(clock, now);
  if (result == 0 && setting != NULL && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE)) {
    int64_t us = setting[1];
    if (us == 0) {
      us = (int64_t)now->tv_sec * 1000000 + now->tv_nsec / 1000 + setting[0];
    }
    now->tv_sec = us / 1000000;
    now->tv_nsec = us % 1000000 * 1000;
  }
  return result;
}

int gettimeofday(struct timeval* restrict now, void* restrict zone) {
  (void)zone;
  struct timespec precise;
  clock_gettime(CLOCK_REALTIME, &precise);
  now->tv_sec = precise.tv_sec;
  now->tv_usec = precise.tv_nsec / 1000;
  return 0;
}

time_t time(time_t* now) {
  struct timespec precise;
  clock_gettime(CLOCK_REALTIME, &precise);
  if (now != NULL) {
    *now = precise.tv_sec;
  }
  return precise.tv_sec;
}
